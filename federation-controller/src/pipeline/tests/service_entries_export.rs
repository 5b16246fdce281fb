//! Which ServiceEntries clusters are to have, as their exports and pods change.

use serde_json::{Value, json};

use super::*;
use crate::service_entries_export::plan::{Known, Plan, plan};

/// The east-west gateway of a cluster.
fn gateway(cluster: &str, last: u8) -> Object {
    let mut gateway = service("gateway", 8);
    gateway.namespace = "isthmus-system".into();
    gateway.network = Some(format!("net-{cluster}").into());
    gateway.external_ips = [[203, 0, 113, last].into()].into();
    gateway.ports = vec![ServicePort { name: "tls".into(), number: 15443, ..Default::default() }];
    Object::Service(gateway)
}

fn exported_to(name: &str, clusters: &[&str]) -> Object {
    Object::Export(Export { to: clusters.iter().map(|of| Text::from(*of)).collect(), ..export(name) })
}

/// Returns a world with `west`, which has the controller, `east` with ratings, and `central`.
fn world() -> World {
    let mut world = World::new();
    for (cluster, last) in [("west", 10), ("east", 20), ("central", 30)] {
        world.cluster(cluster);
        world.put(cluster, Object::Node(node("node-1", &format!("us-{cluster}-1"))));
        world.put(cluster, gateway(cluster, last));
    }
    add_ratings(&mut world, "east");
    world.compile();
    world
}

fn add_ratings(world: &mut World, cluster: &str) {
    world.put(cluster, Object::Service(service("ratings", 2)));
    world.put(cluster, Object::Pod(pod("ratings", 2)));
    world.put(cluster, Object::Slice(slice("ratings", &[(2, true)])));
}

fn planned(world: &mut World) -> Plan {
    world.compile();
    let joined = world.inventory.clusters().map(|cluster| (cluster.info.name.clone(), true)).collect();
    plan(&world.inventory, &world.store, Known { listed: true, joined })
}

/// Returns the objects of a cluster by kind and name.
fn objects(plan: &Plan, cluster: &str) -> BTreeMap<String, Value> {
    let wanted = plan.of(&cluster.into());
    let named = |object: Value| (format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', ""), object);
    wanted.objects.into_values().flatten().map(named).collect()
}

fn notices(plan: &Plan) -> Vec<String> {
    let all = plan.notices(&BTreeMap::new()).into_iter();
    all.map(|notice| format!("{}: {}", notice.cluster, notice.message)).collect()
}

#[test]
fn an_export_is_kept_in_the_clusters_that_it_names() {
    let mut world = world();
    world.put("east", exported_to("ratings", &["central"]));
    let plan = planned(&mut world);
    assert!(objects(&plan, "west").is_empty() && notices(&plan).is_empty(), "{:?}", notices(&plan));
    let central = objects(&plan, "central");
    assert_eq!(
        central.keys().collect::<Vec<_>>(),
        ["DestinationRule ratings-exported-by-west", "ServiceEntry ratings-exported-by-west"]
    );
    let entry = &central["ServiceEntry ratings-exported-by-west"];
    assert_eq!(entry["metadata"]["labels"]["federation.isthmus.dev/exported-by"], "west");
    assert_eq!(entry["metadata"]["annotations"]["federation.isthmus.dev/exported-from"], "east");
    assert_eq!(
        entry["spec"],
        json!({
            "hosts": ["ratings.default.svc.cluster.local"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{
                "address": "203.0.113.20", "ports": {"http": 15443}, "locality": "us-east/us-east-1", "weight": 1,
                "labels": {"security.istio.io/tlsMode": "istio", "topology.istio.io/cluster": "east"},
            }],
            "subjectAltNames": ["spiffe://cluster.local/ns/default/sa/ratings"],
        })
    );
    world.delete("east", Kind::Export, "default", "ratings");
    let plan = planned(&mut world);
    assert!(plan.of(&"central".into()).is_empty(), "it is no longer exported");
}

#[test]
fn exports_of_several_clusters_are_one_entry() {
    let mut world = world();
    add_ratings(&mut world, "west");
    for cluster in ["west", "east"] {
        world.put(cluster, exported_to("ratings", &["central"]));
    }
    let plan = planned(&mut world);
    let entry = &objects(&plan, "central")["ServiceEntry ratings-exported-by-west"];
    let addresses: Vec<_> = entry["spec"]["endpoints"].as_array().unwrap().iter().map(|of| &of["address"]).collect();
    assert_eq!(addresses, ["203.0.113.20", "203.0.113.10"]);
    assert_eq!(entry["metadata"]["annotations"]["federation.isthmus.dev/exported-from"], "east,west");
}

#[test]
fn what_cannot_be_written_is_reported() {
    let mut world = world();
    world.put("east", exported_to("ratings", &["east", "nowhere", "west"]));
    add_ratings(&mut world, "west");
    let plan = planned(&mut world);
    assert!(objects(&plan, "west").is_empty());
    let said = notices(&plan);
    let begin = "east: ServiceExport default/ratings: no ServiceEntry of it is kept in cluster";
    assert_eq!(
        said,
        [
            format!("{begin} east: it is the cluster that exports it"),
            format!("{begin} nowhere: no cluster of that name is joined; joined are central, east, west"),
            format!(
                "{begin} west: it has a Service default/ratings of its own, whose pods the DestinationRule would apply to as well; delete that Service"
            ),
        ]
    );
    let failed =
        BTreeMap::from([(("central".into(), Key::new("default", "ratings-exported-by-west")), "no".to_owned())]);
    world.put("east", exported_to("ratings", &["central"]));
    let said = planned(&mut world).notices(&failed);
    assert_eq!(said.first().map(|of| of.message.ends_with("central: no")), Some(true), "{said:?}");
}

#[test]
fn a_service_that_loses_its_gateway_keeps_its_entries() {
    let mut world = world();
    world.put("east", exported_to("ratings", &["central"]));
    assert_eq!(objects(&planned(&mut world), "central").len(), 2);
    world.delete("east", Kind::Service, "isthmus-system", "gateway");
    let plan = planned(&mut world);
    let wanted = plan.of(&"central".into());
    assert!(wanted.objects.is_empty() && wanted.kept.contains(&Key::new("default", "ratings-exported-by-west")));
    assert!(notices(&plan)[0].contains("has no east-west gateway with an address"), "{:?}", notices(&plan));
}

#[test]
fn a_cluster_with_a_controller_keeps_its_own_exports() {
    let mut world = world();
    world.put("east", exported_to("ratings", &["central"]));
    let controller = Service { namespace: "isthmus-system".into(), ..service("isthmus-controller", 7) };
    world.put("east", Object::Service(controller));
    assert!(objects(&planned(&mut world), "central").is_empty());
}

#[test]
fn a_cluster_cannot_have_any_number_of_objects_written() {
    let mut world = world();
    let many: Vec<String> = (0..40).map(|i| format!("cluster-{i:02}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    // The record has at most one name more than is possible.
    let export =
        Export { to: names.iter().take(MAX_TARGETS + 1).map(|of| Text::from(*of)).collect(), ..export("ratings") };
    world.put("east", Object::Export(export));
    let said = notices(&planned(&mut world));
    assert_eq!(said.len(), MAX_TARGETS + 1);
    assert!(said.iter().any(|line| line.ends_with("export-to names more than 32 clusters")), "{said:?}");
}
