//! Envoy as a router by server name: TLS inspector, a filter chain per name, TCP proxy, with its standard statistics.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use crate::peers::SniRoute;
use crate::rig::Rig;
use crate::setup;

/// Returns the command that starts a gateway with this route.
pub fn gateway(rig: &Rig, name: &str, route: &SniRoute) -> Result<Command> {
    let address = |address: std::net::SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let bootstrap = json!({
        "static_resources": {
            "listeners": [{
                "name": "gateway",
                "address": address(route.gateway),
                "tcp_backlog_size": 4096,
                "listener_filters": [{
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                    },
                }],
                "filter_chains": [{
                    "filter_chain_match": { "server_names": [route.server_name] },
                    "filters": [{
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "gateway",
                            "cluster": "service",
                        },
                    }],
                }],
            }],
            "clusters": [{
                "name": "service",
                "type": "STATIC",
                "connect_timeout": "2s",
                // Envoy's default limit is 1,024 connections.
                "circuit_breakers": { "thresholds": [
                    { "max_connections": 50000, "max_pending_requests": 50000, "max_requests": 50000 },
                ] },
                "load_assignment": {
                    "cluster_name": "service",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(route.server) } }] }],
                },
            }],
        },
    });
    let file = rig.directory().join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec_pretty(&bootstrap)?)?;
    let mut command = Command::new(setup::peer("envoy")?);
    command.arg("--config-path").arg(file);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
    Ok(command)
}
