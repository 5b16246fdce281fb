//! The configuration in the shape of Envoy's `/config_dump`, as far as it has one, for tools that read it (`istioctl
//! proxy-config`, `isthmus config`). What a client uses is listed; the listeners that exist are the captured ones, and each
//! address of a service is shown as the listener that Istio would make of it.

use std::net::SocketAddr;

use identity::Identity;
use proxy::mesh::{MeshSnapshot, Protocol, Service};
use proxy::upstream::target;
use serde_json::{Value, json};

use super::{clusters, routes};

/// Returns the value of the key `configs`.
pub(super) fn config_dump(snapshot: &MeshSnapshot, node: &str, identity: Option<&Identity>) -> Value {
    let mut services: Vec<&Service> = snapshot.services.values().map(|service| &**service).collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    json!([
        {"@type": admin("BootstrapConfigDump"), "bootstrap": {"node": {"id": node}}},
        {"@type": admin("ClustersConfigDump"), "dynamic_active_clusters":
            services.iter().flat_map(|service| clusters::clusters(service, snapshot)).collect::<Vec<_>>()},
        {"@type": admin("ListenersConfigDump"), "dynamic_listeners": listeners(&services)},
        {"@type": admin("RoutesConfigDump"), "dynamic_route_configs":
            services.iter().flat_map(|service| routes::configurations(service)).collect::<Vec<_>>()},
        {"@type": admin("SecretsConfigDump"), "dynamic_active_secrets":
            identity.map(secrets).unwrap_or_default()},
    ])
}

/// Returns Envoy's `/clusters?format=json`: the endpoints of every cluster.
pub(super) fn endpoints(snapshot: &MeshSnapshot) -> Value {
    let mut statuses = Vec::new();
    for service in snapshot.services.values() {
        for (name, port, subset) in clusters::names(service) {
            let hosts: Vec<Value> = target::targets(service, port, subset, None, snapshot)
                .iter()
                .map(|candidate| {
                    json!({
                        "address": socket(candidate.target.address),
                        "weight": candidate.weight,
                        "health_status": {"eds_health_status": health(candidate.health)},
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

fn listeners(services: &[&Service]) -> Vec<Value> {
    let captured = [("virtualOutbound", 15001), ("virtualInbound", 15006)];
    let captured = captured.map(|(name, port)| listener(name, SocketAddr::from(([0, 0, 0, 0], port)), json!([])));
    let of_services = services.iter().flat_map(|service| {
        let addresses = service.addresses.iter().flat_map(|ip| service.ports.iter().map(move |port| (*ip, port)));
        addresses.map(|(ip, port)| {
            let address = SocketAddr::new(ip, port.number);
            let chain = match port.protocol {
                Protocol::Tcp => json!([{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                    "@type": config("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": routes::cluster_name(port.number, "", &service.hostname),
                    "cluster": routes::cluster_name(port.number, "", &service.hostname),
                }}]}]),
                _ => json!([{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                    "@type": config("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": format!("outbound_{address}"),
                    "rds": {"route_config_name": routes::configuration_name(service, port.number)},
                }}]}]),
            };
            listener(&format!("{ip}_{}", port.number), address, chain)
        })
    });
    captured.into_iter().chain(of_services).collect()
}

fn listener(name: &str, address: SocketAddr, filter_chains: Value) -> Value {
    json!({"name": name, "active_state": {"listener": {
        "@type": config("config.listener.v3.Listener"),
        "name": name,
        "address": socket(address),
        "filter_chains": filter_chains,
    }}})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn health(health: balance::Health) -> &'static str {
    match health {
        balance::Health::Ready => "HEALTHY",
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
