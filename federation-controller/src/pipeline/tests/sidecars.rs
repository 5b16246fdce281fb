//! Sidecars in random histories, and the workloads that they are for.

use api::networking;
use serde_json::{Value, json};

use super::*;
use crate::objects::Sidecar;

fn sidecar(namespace: &str, name: &str, created: i64, spec: Value) -> Sidecar {
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let sidecar = Sidecar::extract(networking::Sidecar::from_value(&object)).unwrap();
    Sidecar { created, ..sidecar }
}

pub(super) fn random(name: &str, namespace: u8, variant: u8) -> Sidecar {
    let mut spec = match variant % 4 {
        0 => json!({"egress": [{"hosts": ["./*", "istio-system/*"]}]}),
        1 => json!({"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}),
        2 => {
            json!({"ingress": [{"port": {"number": 8080, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "127.0.0.1:1"}]})
        }
        // Invalid: the last valid version stays in force.
        _ => json!({"egress": [{"hosts": ["reviews"]}]}),
    };
    if variant > 5 {
        spec["workloadSelector"] = json!({"labels": {"app": NAMES[usize::from(variant) % 3]}});
    }
    sidecar(NAMESPACES[usize::from(namespace)], name, variant.into(), spec)
}

fn workload(world: &World, name: &str) -> discovery::Workload {
    match world.body(wire::Kind::Workload, name) {
        Some(Body::Workload(workload)) => workload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sidecar_changes_the_workloads_that_it_is_for_and_no_others() {
    let mut world = World::new();
    for cluster in ["west", "east"] {
        world.cluster(cluster);
        for name in ["reviews", "details"] {
            world.put(cluster, Object::Pod(pod(name, 1)));
            let (published, _) = tokio::sync::oneshot::channel();
            let pod = Key::new("default", &format!("{name}-1"));
            world.event(Event::ProxyConnected { cluster: cluster.into(), pod, published });
        }
    }
    world.compile();
    let scopes = |world: &World| -> Vec<String> {
        let names = ["west/default/reviews-1", "west/default/details-1", "east/default/reviews-1"];
        names.iter().map(|name| workload(world, name).scope).collect()
    };
    assert_eq!(scopes(&world), ["", "", ""]);
    let own = |created| sidecar("default", "own", created, json!({"egress": [{"hosts": ["./*"]}]}));
    world.put("west", Object::Sidecar(own(5)));
    // The scope, and the workloads of four pods.
    assert_eq!(world.compile(), 5);
    assert_eq!(scopes(&world), ["west/default/own"; 3]);
    let selects = json!({"workloadSelector": {"labels": {"app": "reviews"}}, "egress": [{"hosts": ["~/*"]}]});
    world.put("west", Object::Sidecar(sidecar("default", "reviews", 9, selects)));
    assert_eq!(world.compile(), 3, "of two pods");
    assert_eq!(scopes(&world), ["west/default/reviews", "west/default/own", "west/default/reviews"]);
    let wider = json!({"egress": [{"hosts": ["./*", "bank/*"]}]});
    world.put("west", Object::Sidecar(sidecar("default", "own", 5, wider)));
    assert_eq!(world.compile(), 1, "the workloads share the scope");
    world.put("west", Object::Sidecar(sidecar("istio-system", "mesh", 1, json!({"outboundTrafficPolicy": {}}))));
    assert_eq!(world.compile(), 1, "the nearer one applies");
    world.delete("west", Kind::Sidecar, "default", "own");
    assert_eq!(world.compile(), 3);
    assert_eq!(scopes(&world)[1], "west/istio-system/mesh");
}
