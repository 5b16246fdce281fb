use api::names;

use super::*;
use crate::tests::{find, primary, remote};

fn ingress() -> Gateway {
    Gateway {
        kind: GatewayKind::Ingress,
        namespace: "istio-system".to_owned(),
        ports: [GatewayPort::defaults(), vec![GatewayPort::new("tcp-mongo", 31400)]].concat(),
        address: Some("203.0.113.11".parse().expect("an address")),
    }
}

fn egress() -> Gateway {
    Gateway { kind: GatewayKind::Egress, namespace: "edge".to_owned(), ports: GatewayPort::defaults(), address: None }
}

#[test]
fn an_ingress_gateway_has_istios_names_labels_and_ports_and_no_privileges() {
    let of = Installation { gateways: vec![ingress()], ..primary() };
    let objects = of.objects();
    let service = find(&objects, "Service", "istio-ingressgateway").expect("a Service");
    assert_eq!(service["metadata"]["namespace"], "istio-system");
    assert_eq!(
        (&service["spec"]["type"], &service["spec"]["loadBalancerIP"]),
        (&json!("LoadBalancer"), &json!("203.0.113.11"))
    );
    assert_eq!(
        service["spec"]["ports"],
        json!([
            {"name": "status-port", "port": 15021, "targetPort": 15021},
            {"name": "http2", "port": 80, "targetPort": 8080},
            {"name": "https", "port": 443, "targetPort": 8443},
            {"name": "tcp-mongo", "port": 31400, "targetPort": 31400},
        ])
    );
    let deployment = find(&objects, "Deployment", "istio-ingressgateway").expect("a Deployment");
    let pod = &deployment["spec"]["template"];
    for (label, value) in service["spec"]["selector"].as_object().expect("a selector") {
        assert_eq!(pod["metadata"]["labels"][label], *value, "{label}");
    }
    assert_eq!(pod["metadata"]["labels"]["istio"], "ingressgateway");
    assert!(pod["metadata"]["labels"][names::NETWORK_LABEL].is_null(), "it is no gateway between networks");
    let container = &pod["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["image"]), (&json!("istio-proxy"), &json!("isthmus/router")));
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    let mount =
        json!({"name": "ingressgateway-ca-certs", "mountPath": "/etc/istio/ingressgateway-ca-certs", "readOnly": true});
    assert!(container["volumeMounts"].as_array().expect("mounts").contains(&mount));
    let secret = json!({"secretName": GatewayKind::Ingress.authorities_secret(), "optional": true});
    assert!(pod["spec"]["volumes"].as_array().expect("volumes").iter().any(|volume| volume["secret"] == secret));
    assert_eq!(
        find(&objects, "ServiceAccount", "istio-ingressgateway").map(|it| &it["metadata"]["namespace"]),
        Some(&json!("istio-system"))
    );
}

#[test]
fn an_egress_gateway_is_reached_inside_of_the_cluster_and_its_namespace_is_made() {
    let of = Installation { gateways: vec![egress()], ..primary() };
    let objects = of.objects();
    let service = find(&objects, "Service", "istio-egressgateway").expect("a Service");
    assert!(service["spec"]["type"].is_null() && service["spec"]["loadBalancerIP"].is_null());
    assert!(find(&objects, "Namespace", "edge").is_some());
    let roots = objects.iter().filter(|it| it["kind"] == "ConfigMap" && it["metadata"]["namespace"] == "edge");
    assert_eq!(roots.count(), 1, "the roots are where the gateway mounts them");
}

#[test]
fn only_the_controller_that_serves_a_gateway_reads_secrets_in_its_namespace() {
    for (of, account) in [(primary(), CONTROLLER), (remote(), READER)] {
        let objects = Installation { gateways: vec![ingress(), egress()], ..of }.objects();
        for namespace in ["istio-system", "edge"] {
            let in_namespace = |kind: &str| {
                let found = objects.iter().find(|it| {
                    it["kind"] == kind
                        && it["metadata"]["namespace"] == namespace
                        && it["metadata"]["name"] == CREDENTIAL_READER
                });
                found.unwrap_or_else(|| panic!("no {kind} in {namespace}"))
            };
            assert_eq!(in_namespace("Role")["rules"][0]["verbs"], json!(["get", "list", "watch"]));
            assert_eq!(in_namespace("RoleBinding")["subjects"][0]["name"], account);
        }
        let cluster_wide = objects.iter().filter(|it| it["kind"] == "ClusterRole");
        let rules = cluster_wide.flat_map(|role| role["rules"].as_array().into_iter().flatten());
        let secrets = json!("secrets");
        assert!(!rules.into_iter().any(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&secrets))));
    }
}

/// `ISTHMUS_UPDATE_GOLDEN=1` rewrites the file.
#[test]
fn the_manifests_for_kind_are_those_of_an_installation() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kind-clusters/edges/gateways.yaml");
    let [ingress, egress] = [GatewayKind::Ingress, GatewayKind::Egress].map(|kind| Gateway {
        kind,
        namespace: "istio-system".to_owned(),
        ports: GatewayPort::defaults(),
        address: None,
    });
    let head =
        "# The ingress and the egress gateway of cluster west, as crates/install makes them, which tests this file.\n";
    let objects = all(&Installation { gateways: vec![ingress, egress], ..primary() });
    let documents = objects.iter().map(|object| format!("---\n{}", serde_saphyr::to_string(object).expect("YAML")));
    let text: String = std::iter::once(head.to_owned()).chain(documents).collect();
    if std::env::var_os("ISTHMUS_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let found = std::fs::read_to_string(&path).expect("the file");
    assert!(found == text, "{} differs; rewrite it with ISTHMUS_UPDATE_GOLDEN=1", path.display());
}

#[test]
fn targets_of_low_ports_need_no_privileges() {
    let target = |port| GatewayPort::new("p", port).target;
    assert_eq!([80, 443, 1023, 1024, 15443].map(target), [8080, 8443, 9023, 1024, 15443]);
}
