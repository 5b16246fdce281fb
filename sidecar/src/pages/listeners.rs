//! Listeners in the shape of Envoy's. Those that exist are the captured ones; each address of a service is shown as the
//! listener that Istio would make of it.

use std::net::SocketAddr;

use proxy::mesh::{InboundPort, MeshSnapshot, OutboundPolicy, Protocol, Service};
use serde_json::{Value, json};

use super::{clusters, envoy, routes};

/// Returns the listeners of captured connections, and those of services.
pub(super) fn listeners(services: &[&Service], snapshot: &MeshSnapshot) -> Vec<Value> {
    let unknown = match snapshot.outbound_policy() {
        OutboundPolicy::AllowAny => clusters::PASSTHROUGH,
        OutboundPolicy::RegistryOnly => clusters::BLACK_HOLE,
    };
    let outbound = json!([{"name": "virtualOutbound-catchall-tcp", "filters": [tcp(unknown)]}]);
    let ports = snapshot.own.iter().flat_map(|own| &own.ports);
    let inbound: Vec<Value> = ports
        .map(inbound)
        .chain([json!({"name": "virtualInbound", "filters": [tcp(clusters::INBOUND_PASSTHROUGH)]})])
        .collect();
    let captured = [("virtualOutbound", 15001, outbound), ("virtualInbound", 15006, json!(inbound))];
    let captured = captured.map(|(name, port, chains)| listener(name, SocketAddr::from(([0, 0, 0, 0], port)), chains));
    let of_services = services.iter().flat_map(|service| {
        let addresses = service.addresses.iter().flat_map(|ip| service.ports.iter().map(move |port| (*ip, port)));
        addresses.map(|(ip, port)| {
            let address = SocketAddr::new(ip, port.number);
            let filter = match port.protocol {
                Protocol::Tcp => tcp(&routes::cluster_name(port.number, "", &service.hostname)),
                _ => http(json!({
                    "stat_prefix": format!("outbound_{address}"),
                    "rds": {"route_config_name": routes::configuration_name(service, port.number)},
                })),
            };
            listener(&format!("{ip}_{}", port.number), address, json!([{"filters": [filter]}]))
        })
    });
    captured.into_iter().chain(of_services).collect()
}

/// Returns the filter chain of a port of the application.
fn inbound(port: &InboundPort) -> Value {
    let cluster = clusters::inbound_name(port.number);
    let filter = match port.protocol {
        Protocol::Tcp => tcp(&cluster),
        _ => http(json!({
            "stat_prefix": cluster,
            "route_config": {"name": cluster, "virtual_hosts": [{
                "name": format!("inbound|http|{}", port.number),
                "domains": ["*"],
                "routes": [{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
            }]},
        })),
    };
    json!({
        "name": format!("0.0.0.0_{}", port.number),
        "filter_chain_match": {"destination_port": port.number},
        "filters": [filter],
    })
}

fn tcp(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": envoy::config("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": cluster,
        "cluster": cluster,
    }})
}

fn http(mut manager: Value) -> Value {
    manager["@type"] =
        json!(envoy::config("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"));
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
}

fn listener(name: &str, address: SocketAddr, filter_chains: Value) -> Value {
    json!({"name": name, "active_state": {"listener": {
        "@type": envoy::config("config.listener.v3.Listener"),
        "name": name,
        "address": envoy::socket(address),
        "filter_chains": filter_chains,
    }}})
}
