//! Tables of decisions.

use serde_json::{Value, json};

use super::*;

fn spec(value: Value) -> FederationPolicySpec {
    serde_json::from_value(value).unwrap()
}

fn selecting(specs: &[(bool, FederationPolicySpec)]) -> Vec<Selecting<'_>> {
    let policy = |everywhere: bool| Key::new(if everywhere { "istio-system" } else { "shop" }, "a");
    specs
        .iter()
        .map(|(everywhere, spec)| Selecting { policy: policy(*everywhere), spec, everywhere: *everywhere })
        .collect()
}

#[test]
fn an_export_needs_the_permission_of_every_policy() {
    let (cluster, service) = (Text::from("east"), Key::new("shop", "cart"));
    let facts = ExportFacts {
        cluster: &cluster,
        own: false,
        service: &service,
        hostname: "cart.shop.svc.cluster.local",
        ports: &[80, 443],
        endpoints: 10,
        bytes: 1_000,
        beyond: None,
    };
    let peer = |peer: Value| json!({"peers": [peer]});
    for (policies, expected) in [
        (vec![], None),
        (vec![(true, json!({"exporters": {"clusters": ["east"]}}))], None),
        (vec![(false, json!({"exporters": {"clusters": ["west"]}}))], Some("exporter")),
        (vec![(false, json!({"exporters": {"clusters": []}}))], Some("exporter")),
        (
            vec![
                (true, json!({"exporters": {"clusters": ["west"]}})),
                (false, json!({"exporters": {"clusters": ["east"]}})),
            ],
            Some("exporter"),
        ),
        (vec![(false, json!({"namespaceSameness": "SEPARATE"}))], Some("sameness")),
        (vec![(true, peer(json!({"cluster": "east", "namespaces": ["bank"]})))], Some("namespace")),
        // In another namespace than the root namespace, entries about peers have no effect.
        (vec![(false, peer(json!({"cluster": "east", "namespaces": ["bank"]})))], None),
        (vec![(true, peer(json!({"cluster": "east", "hosts": ["*.bank.svc.cluster.local"]})))], Some("host")),
        (vec![(true, peer(json!({"cluster": "east", "ports": [80]})))], Some("port")),
        (vec![(true, peer(json!({"cluster": "east", "ports": [80, 443]})))], None),
        (vec![(true, peer(json!({"cluster": "east", "limits": {"portsPerService": 1}})))], Some("ports_per_service")),
        (
            vec![(true, peer(json!({"cluster": "*", "limits": {"endpointsPerService": 9}})))],
            Some("endpoints_per_service"),
        ),
        // The entry that names the cluster, not the one of all others.
        (
            vec![(
                true,
                json!({"peers": [{"cluster": "*", "limits": {"bytesPerService": 1}},
                                 {"cluster": "east", "limits": {"bytesPerService": 1_000}}]}),
            )],
            None,
        ),
    ] {
        let specs: Vec<_> = policies.iter().map(|(everywhere, of)| (*everywhere, spec(of.clone()))).collect();
        let found = refusal(&facts, &selecting(&specs)).map(|(refusal, _)| refusal.label());
        assert_eq!(found, expected, "{policies:?}");
    }
    // The own cluster is no peer, but its exports are of policies too.
    let of_peers = [(true, spec(peer(json!({"cluster": "*", "namespaces": ["bank"]}))))];
    let of_exporters = [(true, spec(json!({"exporters": {"clusters": []}})))];
    let own = ExportFacts { own: true, beyond: Some(Beyond::Services(1)), ..facts };
    assert_eq!(refusal(&own, &selecting(&of_peers)), None);
    assert!(refusal(&own, &selecting(&of_exporters)).is_some());
    let beyond = ExportFacts { beyond: Some(Beyond::Services(7)), ..facts };
    assert_eq!(refusal(&beyond, &[]), Some((ExportRefusal::Cluster(Beyond::Services(7)), None)));
}

#[test]
fn consumers_are_those_that_every_policy_names() {
    let only = |names: &[&str]| Consumers::Only(names.iter().map(|name| Text::from(*name)).collect());
    let list = |names: &[&str]| json!({"consumers": {"clusters": names}});
    for (policies, expected) in [
        (vec![], Consumers::All),
        (vec![json!({"exporters": {"clusters": ["east"]}})], Consumers::All),
        (vec![list(&["a", "b"])], only(&["a", "b"])),
        (vec![list(&["a", "b"]), list(&["b", "c"])], only(&["b"])),
        (vec![list(&["a"]), list(&["c"])], only(&[])),
        (vec![list(&[])], only(&[])),
    ] {
        let specs: Vec<_> = policies.iter().map(|of| (false, spec(of.clone()))).collect();
        assert_eq!(consumers(&selecting(&specs)), expected, "{policies:?}");
    }
    assert!(only(&["a"]).include(&"a".into()) && !only(&["a"]).include(&"b".into()));
}

#[test]
fn refusals_have_a_sentence_and_a_label() {
    for (refusal, words) in [
        (ExportRefusal::Sameness, "each cluster's own"),
        (ExportRefusal::Exporter, "permitted exporters"),
        (ExportRefusal::Port(80), "port 80"),
        (ExportRefusal::Endpoints(7), "more than 7 endpoints"),
        (ExportRefusal::Cluster(Beyond::Services(7)), "7 older services"),
    ] {
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
}
