use serde_json::{Value, json};

use super::*;

fn policy(spec: &Value) -> FederationPolicy {
    FederationPolicy::from_value(&json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": spec}))
}

fn problems(spec: &Value) -> Vec<String> {
    policy(spec).validate().iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_selects_exports_by_cluster_namespace_and_name() {
    let selector = json!({"clusters": ["east"], "namespaces": ["shop", "team-*"], "services": ["*-api", "cart"]});
    let spec = policy(&json!({"selector": selector, "consumers": {"clusters": []}})).spec;
    for (everywhere, cluster, namespace, service, expected) in [
        (true, "east", "shop", "cart", true),
        (true, "east", "team-a", "items-api", true),
        (true, "west", "shop", "cart", false),
        (true, "east", "bank", "cart", false),
        (true, "east", "shop", "cart-2", false),
        // Of its own namespace, whatever it names.
        (false, "east", "bank", "cart", true),
        (false, "east", "bank", "ratings", false),
    ] {
        let found = spec.selects(everywhere, cluster, namespace, service);
        assert_eq!(found, expected, "{everywhere} {cluster} {namespace}/{service}");
    }
    assert!(policy(&json!({"consumers": {}})).spec.selects(true, "x", "y", "z"));
    assert_eq!(spec.fields_of_root().collect::<Vec<_>>(), ["spec.selector.namespaces"]);
}

#[test]
fn what_restricts_nothing_or_cannot_be_meant_is_refused() {
    let many: Vec<String> = (0..=MAX_ITEMS).map(|number| format!("c{number}")).collect();
    for (spec, expected) in [
        (json!({}), "spec: restricts nothing"),
        (json!({"selector": {"services": ["a"]}}), "spec: restricts nothing"),
        (json!({"exporters": {"clusters": ["*"]}}), "spec.exporters.clusters[0]: is \"*\""),
        (json!({"consumers": {"clusters": [""]}}), "spec.consumers.clusters[0]: is empty"),
        (json!({"consumers": {"clusters": many}}), "spec.consumers.clusters: has 257 items"),
        (json!({"consumers": {}, "selector": {"services": ["a*b"]}}), "spec.selector.services[0]: is \"a*b\""),
        (json!({"namespaceSameness": "NO"}), "spec.namespaceSameness: is \"NO\""),
        (json!({"peers": [{"cluster": ""}]}), "spec.peers[0].cluster: is \"\""),
        (json!({"peers": [{"cluster": "a", "ports": [0]}]}), "spec.peers[0].ports[0]: is 0"),
        (json!({"peers": [{"cluster": "a", "limits": {}}]}), "spec.peers[0].limits: is empty"),
        (json!({"peers": [{"cluster": "a", "egressAddresses": ["10.0.0.0/33"]}]}), "spec.peers[0].egressAddresses[0]"),
        (
            json!({"peers": [{"cluster": "*", "egressAddresses": ["10.0.0.1"]}]}),
            "spec.peers[0].egressAddresses: cannot",
        ),
    ] {
        let found = problems(&spec);
        assert!(found.iter().any(|of| of.starts_with(expected)), "{expected}: {found:?}");
    }
    let whole = json!({
        "selector": {"namespaces": ["shop"]}, "exporters": {"clusters": ["east"]}, "consumers": {"clusters": []},
        "namespaceSameness": "SEPARATE",
        "peers": [{"cluster": "*", "namespaces": ["shop"], "hosts": ["*.shop.svc.cluster.local"], "ports": [9080],
                   "limits": {"services": 1, "endpoints": 2, "endpointsPerService": 3, "portsPerService": 4, "bytesPerService": 5}},
                  {"cluster": "east", "egressAddresses": ["198.51.100.7", "2001:db8::/64"]}],
    });
    assert_eq!(problems(&whole), Vec::<String>::new());
    let blocks: Vec<(IpAddr, u8)> = policy(&whole).spec.peers[1].egress().collect();
    assert_eq!(blocks, [("198.51.100.7".parse().unwrap(), 32), ("2001:db8::".parse().unwrap(), 64)]);
}

#[test]
fn the_smallest_limit_that_is_stated_applies() {
    let spec = policy(&json!({"peers": [
        {"cluster": "east", "limits": {"services": 5, "endpoints": 500_000}},
        {"cluster": "east", "limits": {"services": 7}},
        {"cluster": "*", "limits": {"services": 1}},
    ]}))
    .spec;
    let limits = |cluster: &str| PeerLimits::of(spec.peers_of(cluster).filter_map(|peer| peer.limits.as_ref()));
    assert_eq!(limits("east"), PeerLimits { services: 5, endpoints: 500_000, ..PeerLimits::default() });
    assert_eq!(limits("rogue"), PeerLimits { services: 1, ..PeerLimits::default() });
}
