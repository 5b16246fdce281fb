use std::net::{IpAddr, Ipv4Addr};

use api::compatibility::{GROUPS, WITHOUT_EFFECT};
use api::names::{INJECTION_WEBHOOK, WARNING_WEBHOOK};
use serde_json::json;

use super::components::{CONTROLLER, GATEWAY, WEBHOOKS};
use super::*;

const GATEWAY_OF_WEST: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));

fn installation(cluster: &str, control_plane: ControlPlane) -> Installation {
    Installation {
        cluster: cluster.to_owned(),
        network: format!("net-{cluster}"),
        trust_domain: "cluster.local".to_owned(),
        namespace: "isthmus-system".to_owned(),
        root_namespace: "istio-system".to_owned(),
        control_plane,
        images: Images::default(),
        gateway_address: None,
        expose_gateway_health: false,
        gateways: Vec::new(),
        proxy_container: None,
        roots_pem: "roots".to_owned(),
        controller_issuer_pem: "issuer".to_owned(),
        key_servers: None,
        mesh_config: serde_json::Map::new(),
        injected_namespaces: vec!["default".to_owned()],
    }
}

pub(crate) fn primary() -> Installation {
    let signing = ["cacerts", "cacerts-east"].map(|name| SigningSecret {
        name: name.to_owned(),
        entries: [("ca-key.pem".to_owned(), name.to_owned())].into(),
    });
    Installation {
        gateway_address: Some(GATEWAY_OF_WEST),
        ..installation("west", ControlPlane::Local { signing: signing.into() })
    }
}

pub(crate) fn remote() -> Installation {
    installation("east", ControlPlane::Remote { primary: "west".to_owned(), gateway: GATEWAY_OF_WEST })
}

pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

#[test]
fn a_controller_has_the_authorities_and_addresses_of_key_servers() {
    let servers = KeyServers {
        authorities_pem: "authority".to_owned(),
        addresses: ["192.0.2.1/32", "2001:db8::/64"].map(|range| range.parse().expect("a range")).into(),
        refresh_seconds: 7,
    };
    let objects = Installation { key_servers: Some(servers), ..primary() }.objects();
    let authorities = find(&objects, "ConfigMap", "isthmus-key-servers").expect("authorities");
    assert_eq!(authorities["data"]["ca.pem"], "authority");
    let pod = &find(&objects, "Deployment", CONTROLLER).expect("a controller")["spec"]["template"]["spec"];
    let controller = &pod["containers"][0];
    for argument in [
        "--key-server-ca=/var/run/secrets/key-servers/ca.pem",
        "--key-server-addresses=192.0.2.1/32,2001:db8::/64",
        "--key-refresh=7",
    ] {
        assert!(controller["args"].as_array().expect("arguments").contains(&json!(argument)), "{controller}");
    }
    assert_eq!(controller["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], "isthmus-key-servers");
    let objects = primary().objects();
    assert!(find(&objects, "ConfigMap", "isthmus-key-servers").is_none());
    let pod = &find(&objects, "Deployment", CONTROLLER).expect("a controller")["spec"]["template"]["spec"];
    assert!(pod["volumes"].is_null() && pod["containers"][0]["volumeMounts"].is_null(), "{pod}");
}

#[test]
fn a_primary_gets_a_controller_and_every_signing_secret() {
    let objects = primary().objects();
    assert!(find(&objects, "Deployment", CONTROLLER).is_some());
    for name in ["cacerts", "cacerts-east"] {
        let secret = find(&objects, "Secret", name).expect(name);
        assert_eq!(secret["stringData"]["ca-key.pem"], name);
        assert_eq!(secret["metadata"]["namespace"], "istio-system");
    }
    let gateway = find(&objects, "Service", GATEWAY).expect("a gateway");
    assert_eq!(gateway["spec"]["loadBalancerIP"], "203.0.113.10");
    assert_eq!(gateway["metadata"]["labels"]["topology.istio.io/network"], "net-west");
    let settings = find(&objects, "ConfigMap", "istio").expect("mesh-wide settings");
    assert_eq!(settings["data"]["mesh"], "{\n  \"trustDomain\": \"cluster.local\"\n}");
}

/// Whoever reaches the port for readiness from other networks can take part in its connections.
#[test]
fn the_load_balancer_of_a_gateway_has_the_port_for_readiness_only_if_asked() {
    let ports = |of: Installation| {
        let objects = of.objects();
        let gateway = find(&objects, "Service", GATEWAY).expect("a gateway").clone();
        let ports = gateway["spec"]["ports"].as_array().cloned().unwrap_or_default();
        ports.iter().map(|port| port["port"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ports(primary()), [15443]);
    assert_eq!(ports(Installation { expose_gateway_health: true, ..primary() }), [15443, 15021]);
}

#[test]
fn a_remote_reaches_its_primary_through_the_gateway() {
    let objects = remote().objects();
    assert!(find(&objects, "Deployment", CONTROLLER).is_none());
    assert!(find(&objects, "Secret", "cacerts").is_none(), "signing keys stay with the primary");
    for (service, slice) in [(CONTROLLER, "isthmus-controller-of-west"), (WEBHOOKS, "isthmus-webhooks-of-west")] {
        let found = find(&objects, "Service", service).expect(service);
        assert!(found["spec"]["selector"].is_null());
        let slice = find(&objects, "EndpointSlice", slice).expect(slice);
        assert_eq!(slice["addressType"], "IPv4");
        assert_eq!(slice["endpoints"][0]["addresses"][0], "203.0.113.10");
        assert_eq!(slice["ports"][0]["name"], found["spec"]["ports"][0]["name"]);
        assert_eq!(slice["ports"][0]["port"], 15443);
    }
    let gateway = find(&objects, "Service", GATEWAY).expect("a gateway");
    assert!(gateway["spec"]["loadBalancerIP"].is_null(), "the cluster chooses");
    let hook = find(&objects, "MutatingWebhookConfiguration", INJECTION_WEBHOOK).expect("a webhook");
    assert_eq!(hook["webhooks"][0]["clientConfig"]["service"]["path"], "/inject/cluster/east/net/net-east");
    let hook = find(&objects, "ValidatingWebhookConfiguration", WARNING_WEBHOOK).expect("a webhook");
    assert_eq!(hook["webhooks"][0]["clientConfig"]["service"]["path"], "/validate/cluster/east");
    assert_eq!(hook["webhooks"][0]["failurePolicy"], "Ignore");
    assert_eq!(hook["webhooks"][0]["clientConfig"]["caBundle"], "cm9vdHM=");
}

#[test]
fn components_follow_the_namespaces_of_the_installation() {
    let elsewhere = Installation { namespace: "mesh".to_owned(), root_namespace: "mesh-root".to_owned(), ..primary() };
    let objects = elsewhere.objects();
    let text = serde_json::to_string(&objects).expect("JSON");
    assert!(!text.contains("isthmus-system") && !text.contains("istio-system"), "{text}");
    let gateway = find(&objects, "Deployment", GATEWAY).expect("a gateway");
    let env = gateway["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables");
    let address = env.iter().find(|entry| entry["name"] == "DISCOVERY_ADDRESS").expect("an address");
    assert_eq!(address["value"], "isthmus-controller.mesh.svc:15012");
}

/// The resources that a role's rules let an account read, by group.
fn readable(role: &Value) -> Vec<(String, String)> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rules = role["rules"].as_array().expect("rules").iter();
    let reads = rules.filter(|rule| words(&rule["verbs"]).contains(&"watch".to_owned()));
    reads
        .flat_map(|rule| {
            let group = words(&rule["apiGroups"])[0].clone();
            words(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource))
        })
        .collect()
}

#[test]
fn reader_may_read_no_secret_and_change_no_workload() {
    let objects = remote().objects();
    let role = find(&objects, "ClusterRole", api::reader::READER).expect("a role");
    for rule in role["rules"].as_array().expect("rules") {
        let resources: Vec<&str> =
            rule["resources"].as_array().expect("resources").iter().filter_map(Value::as_str).collect();
        assert!(!resources.contains(&"secrets") && rule["apiGroups"] != json!(["*"]));
        let writes = rule["verbs"]
            .as_array()
            .expect("verbs")
            .iter()
            .any(|verb| !["get", "list", "watch"].contains(&verb.as_str().unwrap_or("")));
        // It writes only objects of a given name, or reviews tokens, which changes nothing.
        let named = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
        assert!(!writes || named || resources == ["tokenreviews"], "{rule}");
    }
}

#[test]
fn a_controller_may_read_in_its_own_cluster_whatever_its_reader_may_read_elsewhere() {
    let objects = primary().objects();
    let own = readable(find(&objects, "ClusterRole", CONTROLLER).expect("a role"));
    for (group, resource) in readable(find(&objects, "ClusterRole", api::reader::READER).expect("a role")) {
        let covered = own.iter().any(|(g, r)| *g == group && (*r == resource || r == "*"));
        assert!(covered, "{group}/{resource}");
    }
    assert!(!own.iter().any(|(_, resource)| resource == "secrets"), "secrets are read in the root namespace alone");
}

#[test]
fn a_controller_may_watch_the_kinds_without_effect_and_each_is_defined() {
    let objects = primary().objects();
    let readable = readable(find(&objects, "ClusterRole", CONTROLLER).expect("a role"));
    for kind in WITHOUT_EFFECT {
        assert!(readable.contains(&(kind.group.to_owned(), "*".to_owned())), "{kind:?}");
        let name = format!("{}.{}", kind.plural, kind.group);
        let definition = find(&objects, "CustomResourceDefinition", &name).expect(&name);
        assert_eq!(definition["spec"]["names"]["kind"], kind.kind);
        let versions = definition["spec"]["versions"].as_array().expect("versions");
        assert!(versions.iter().any(|version| version["name"] == kind.version), "{kind:?}");
    }
    let definitions = objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition");
    assert!(definitions.into_iter().all(|of| GROUPS.contains(&of["spec"]["group"].as_str().unwrap_or_default())));
}

#[test]
fn every_object_is_complete_and_named_once() {
    for installation in [primary(), remote()] {
        let mut seen = std::collections::BTreeSet::new();
        for object in installation.objects() {
            let key = format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
            assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{object}");
            assert!(seen.insert(key.clone()), "{key} twice in {}", installation.cluster);
        }
    }
}
