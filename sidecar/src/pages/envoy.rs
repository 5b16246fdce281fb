//! The configuration in the shape of Envoy's `/config_dump`, as far as it has one, for tools that read it (`istioctl
//! proxy-config`, `isthmus config`). Of services, those that a client uses are listed.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use identity::Identity;
use proxy::mesh::{MeshSnapshot, Published, Service};
use proxy::upstream::{ClusterKey, target};
use serde_json::{Value, json};

use super::{clusters, listeners, routes};

/// Returns the value of the key `configs`.
pub(super) fn config_dump(snapshot: &MeshSnapshot, node: &str, identity: Option<&Identity>) -> Value {
    let mut services: Vec<&Service> = snapshot.services.values().map(|service| &**service).collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    json!([
        {"@type": admin("BootstrapConfigDump"), "bootstrap": {"node": {"id": node}}},
        {"@type": admin("ClustersConfigDump"), "dynamic_active_clusters":
            services.iter().flat_map(|service| clusters::clusters(service, snapshot)).chain(clusters::own(snapshot))
                .collect::<Vec<_>>()},
        {"@type": admin("ListenersConfigDump"), "dynamic_listeners": listeners::listeners(&services, snapshot)},
        {"@type": admin("RoutesConfigDump"), "dynamic_route_configs":
            services.iter().flat_map(|service| routes::configurations(service)).collect::<Vec<_>>()},
        {"@type": admin("EcdsConfigDump"), "ecds_filters": []},
        {"@type": admin("SecretsConfigDump"), "dynamic_active_secrets":
            identity.map(secrets).unwrap_or_default()},
    ])
}

/// Returns the endpoints that outlier detection has ejected, by cluster. That of proxies without a DestinationRule is a
/// matter of each worker, and not among them.
pub(super) fn ejected(published: &Published, now: Instant) -> HashMap<String, HashSet<Arc<str>>> {
    let mut ejected = HashMap::new();
    published.each_cluster(|name, cluster| {
        let names: HashSet<_> = cluster.ejected(now).into_iter().collect();
        if !names.is_empty() {
            ejected.insert(name.to_owned(), names);
        }
    });
    ejected
}

/// Returns Envoy's `/clusters?format=json`: the endpoints of every cluster.
pub(super) fn endpoints(snapshot: &MeshSnapshot, ejected: &HashMap<String, HashSet<Arc<str>>>) -> Value {
    let mut statuses = Vec::new();
    for service in snapshot.services.values() {
        for (name, port, subset) in clusters::names(service) {
            let key = ClusterKey::of(service, port, subset.map(|subset| subset.name.clone()).unwrap_or_default());
            let hosts: Vec<Value> = target::targets(service, &key, snapshot)
                .iter()
                .map(|candidate| {
                    let mut status = json!({"eds_health_status": health(candidate.health)});
                    if ejected.get(&name).is_some_and(|ejected| ejected.contains(&candidate.id)) {
                        status["failed_outlier_check"] = json!(true);
                    }
                    json!({
                        "address": socket(candidate.target.address),
                        "weight": candidate.weight,
                        "health_status": status,
                        "locality": {
                            "region": &*candidate.locality.region,
                            "zone": &*candidate.locality.zone,
                            "sub_zone": &*candidate.locality.subzone,
                        },
                    })
                })
                .collect();
            statuses.push(json!({"name": name, "added_via_api": true, "host_statuses": hosts}));
        }
    }
    statuses.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    json!({ "cluster_statuses": statuses })
}

fn admin(message: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{message}")
}

pub(super) fn config(message: &str) -> String {
    format!("type.googleapis.com/envoy.{message}")
}

pub(super) fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn health(health: balance::Health) -> &'static str {
    match health {
        balance::Health::Ready => "HEALTHY",
        balance::Health::Degraded => "DEGRADED",
        balance::Health::Unready => "UNHEALTHY",
        balance::Health::Draining => "DRAINING",
    }
}

/// Returns the certificate and the roots. The key is never shown.
fn secrets(identity: &Identity) -> Vec<Value> {
    /// `[redacted]`, in base64.
    const REDACTED: &str = "W3JlZGFjdGVkXQ==";
    let encode = |pem: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let secret = |name: &str, content: (&str, Value)| {
        let mut secret = json!({
            "@type": config("extensions.transport_sockets.tls.v3.Secret"),
            "name": name,
        });
        secret[content.0] = content.1;
        json!({"name": name, "secret": secret})
    };
    let chain = encode(identity::certificates_to_pem(identity.credential().chain()));
    let roots = encode(identity::certificates_to_pem(identity.trust().roots()));
    let certificate = json!({"certificate_chain": {"inline_bytes": chain}, "private_key": {"inline_bytes": REDACTED}});
    vec![
        secret("default", ("tls_certificate", certificate)),
        secret("ROOTCA", ("validation_context", json!({"trusted_ca": {"inline_bytes": roots}}))),
    ]
}
