//! Security policies in random histories.

use api::security;
use serde_json::{Value, json};

use super::*;
use crate::objects::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};

fn object(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec})
}

fn selector(variant: u8) -> Value {
    match variant % 3 {
        0 => json!({"matchLabels": {"app": "reviews"}}),
        1 => json!({"matchLabels": {"app": "details"}}),
        _ => Value::Null,
    }
}

pub(super) fn authorization(name: &str, namespace: u8, variant: u8) -> AuthorizationPolicy {
    let mut spec = json!({"selector": selector(variant), "rules": [{"from": [{"source": {"principals": ["*"]}}]}]});
    match variant / 3 {
        1 => spec["action"] = json!("DENY"),
        2 => spec["targetRefs"] = json!([{"kind": "Service", "name": "a"}]),
        // Invalid: the last valid version stays in force.
        3 => spec["rules"] = json!([{"from": [{}]}]),
        _ => {}
    }
    if variant / 3 == 2 {
        spec["selector"] = Value::Null;
    }
    let object = object(NAMESPACES[usize::from(namespace)], name, spec);
    AuthorizationPolicy::extract(security::AuthorizationPolicy::from_value(&object)).unwrap()
}

pub(super) fn modes(name: &str, namespace: u8, variant: u8) -> PeerAuthentication {
    let mode = ["STRICT", "DISABLE", "PERMISSIVE", "UNSET"][usize::from(variant / 3)];
    let mut spec = json!({"selector": selector(variant), "mtls": {"mode": mode}});
    if variant % 3 < 2 {
        spec["portLevelMtls"] = json!({"9080": {"mode": "DISABLE"}});
    }
    let object = object(NAMESPACES[usize::from(namespace)], name, spec);
    let policy = PeerAuthentication::extract(security::PeerAuthentication::from_value(&object)).unwrap();
    PeerAuthentication { created: i64::from(variant), ..policy }
}

pub(super) fn tokens(name: &str, namespace: u8, variant: u8) -> RequestAuthentication {
    let rule = match variant / 3 {
        0 => json!({"issuer": "a", "jwks": "{\"keys\": []}"}),
        1 => json!({"issuer": "https://a.example"}),
        2 => json!({"issuer": "a", "jwksUri": "https://a.example/keys"}),
        _ => json!({}),
    };
    let object =
        object(NAMESPACES[usize::from(namespace)], name, json!({"selector": selector(variant), "jwtRules": [rule]}));
    RequestAuthentication::extract(security::RequestAuthentication::from_value(&object)).unwrap()
}

/// Returns the world of `west`, the controller's own, and `east`, each with a pod of reviews and details; details of west has
/// an opaque port as well. The mesh has a provider of gRPC and one of HTTP.
fn world() -> World {
    let mut world = World::new();
    for cluster in ["west", "east"] {
        world.cluster(cluster);
        for (name, ip) in [("reviews", 1), ("details", 2)] {
            let (mut service, mut slice) = (service(name, ip), slice(name, &[(ip, true)]));
            if (cluster, name) == ("west", "details") {
                let port =
                    ServicePort { name: "tcp-db".into(), number: 3306, protocol: Protocol::Tcp, ..Default::default() };
                service.ports.push(port);
                slice.ports = [slice.ports[0].clone(), ("tcp-db".into(), 13306)].into();
            }
            world.put(cluster, Object::Service(service));
            world.put(cluster, Object::Slice(slice));
            world.put(cluster, Object::Pod(pod(name, ip)));
        }
    }
    let providers = "extensionProviders:\n- name: grpc\n  envoyExtAuthzGrpc: {service: reviews.default.svc.cluster.local, port: 9080}\n\
                     - name: http\n  envoyExtAuthzHttp: {service: reviews.default.svc.cluster.local, port: 9080}\n";
    let (parsed, _) = api::mesh::MeshConfig::parse(providers).unwrap();
    let external_authorizations = parsed.external_authorizations;
    world.event(Event::Mesh(Mesh { external_authorizations, ..world.inventory.mesh().clone() }));
    world.sync();
    world
}

fn custom(namespace: &str, name: &str, provider: &str, app: Option<&str>, ports: &[&str]) -> Object {
    let mut spec = json!({"action": "CUSTOM", "provider": {"name": provider}, "rules": [{}]});
    if let Some(app) = app {
        spec["selector"] = json!({"matchLabels": {"app": app}});
    }
    if !ports.is_empty() {
        spec["rules"] = json!([{"to": [{"operation": {"ports": ports}}]}]);
    }
    let value = object(namespace, name, spec);
    Object::AuthorizationPolicy(
        AuthorizationPolicy::extract(security::AuthorizationPolicy::from_value(&value)).unwrap(),
    )
}

/// Returns `<namespace>/<name>: <text>` of the problems in the states of the own cluster's policies.
fn problems(world: &World) -> Vec<String> {
    let states = world.inventory.rule_states().into_iter();
    let mut lines: Vec<String> = states
        .flat_map(|state| {
            let object = state.object.clone();
            state.problems.into_iter().map(move |problem| format!("{object}: {}", problem.text))
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn policies_of_one_workload_that_ask_several_servers_are_named() {
    let mut world = world();
    world.put("west", custom("default", "a", "grpc", Some("reviews"), &[]));
    world.put("west", custom("default", "b", "http", Some("details"), &["8080"]));
    world.put("west", custom("other", "c", "http", None, &[]));
    assert_eq!(problems(&world), Vec::<String>::new(), "different workloads");
    world.put("west", custom("default", "d", "http", None, &["8080"]));
    let lines = problems(&world);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, parts) in lines
        .iter()
        .zip([["default/a: ", "grpc", "default/d names http"], ["default/d: ", "http", "default/a names grpc"]])
    {
        assert!(parts.iter().all(|part| line.contains(part)) && line.contains("at workload default/reviews"), "{line}");
    }
    let notices: Vec<String> = world.inventory.notices();
    assert!(
        notices.iter().any(|line| line.contains("default/a") && line.contains("one workload can ask one")),
        "{notices:?}"
    );
    world.delete("west", Kind::AuthorizationPolicy, "default", "d");
    // One of the root namespace is for all, and one of another cluster for its own workloads.
    world.put("west", custom("istio-system", "e", "grpc", None, &[]));
    let lines = problems(&world).join("\n");
    assert!(
        lines.contains("default/b: ") && lines.contains("istio-system/e: ") && !lines.contains("default/a: "),
        "{lines}"
    );
    world.delete("west", Kind::AuthorizationPolicy, "istio-system", "e");
    world.put("east", custom("default", "f", "http", Some("reviews"), &["8080"]));
    let lines = problems(&world);
    assert!(lines.len() == 1 && lines[0].starts_with("default/a: "), "{lines:?}");
    let notices = world.inventory.notices().join("\n");
    assert!(notices.contains("Cluster east: AuthorizationPolicy default/f"), "{notices}");
}

#[test]
fn a_provider_of_http_has_no_effect_on_opaque_ports() {
    let mut world = world();
    world.put("west", custom("default", "a", "http", Some("reviews"), &[]));
    assert_eq!(problems(&world), Vec::<String>::new());
    world.put("west", custom("default", "b", "http", Some("details"), &["8080"]));
    assert_eq!(problems(&world), Vec::<String>::new(), "another port");
    world.put("west", custom("default", "b", "http", Some("details"), &["13306"]));
    let lines = problems(&world);
    assert!(lines.len() == 1 && lines[0].contains("port 3306 of service default/details"), "{lines:?}");
    world.put("west", custom("default", "b", "grpc", Some("details"), &[]));
    assert_eq!(problems(&world), Vec::<String>::new());
}

#[test]
fn tokens_that_another_policy_of_the_workload_refuses_are_named() {
    let mut world = world();
    let policy = |name: &str, app: &str, header: Value| {
        let rule = json!({"issuer": name, "jwks": "{\"keys\": []}", "fromHeaders": header});
        let spec = json!({"selector": {"matchLabels": {"app": app}}, "jwtRules": [rule]});
        let value = object("default", name, spec);
        Object::RequestAuthentication(
            RequestAuthentication::extract(security::RequestAuthentication::from_value(&value)).unwrap(),
        )
    };
    let of = |world: &World| -> Vec<String> {
        problems(world).into_iter().filter(|line| line.contains("refuses the tokens")).collect()
    };
    world.put("west", policy("bearer", "reviews", json!([])));
    world.put("west", policy("bare", "details", json!([{"name": "Authorization"}])));
    world.put("west", policy("other", "reviews", json!([{"name": "x-token"}])));
    assert_eq!(of(&world), Vec::<String>::new(), "other workloads, or other headers");
    world.put("west", policy("bare", "reviews", json!([{"name": "Authorization"}])));
    let lines = of(&world);
    let parts = [
        "default/bare: ",
        "RequestAuthentication default/bearer at workload default/reviews",
        "header authorization without a prefix",
    ];
    assert!(lines.len() == 1 && parts.iter().all(|part| lines[0].contains(part)), "{lines:?}");
}
