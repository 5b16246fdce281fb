//! A pair of Envoys as sidecars: an outbound listener that originates mutual TLS, and an inbound one that terminates it and
//! authorizes by the client's identity. Standard statistics, no retries, limits that are never reached.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::chain::{CLIENT, Chain, PortProtocol, SERVER_ACCOUNT, address, await_status};
use crate::mesh::{Certificate, Mesh, service_account};
use crate::process::Process;
use crate::rig::Rig;
use crate::setup;

const CLIENT_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 1);
/// The address of the server's pod.
pub const SERVER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 4, 1);
const ADMIN: u16 = 15000;

/// The side of the pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EnvoySide {
    Outbound,
    Inbound,
}

/// Starts both Envoys and waits until they carry a request.
pub fn pair(mesh: &Mesh, rig: &Rig) -> Result<Chain> {
    let mut inbound = envoy(mesh, rig, EnvoySide::Inbound)?;
    let mut outbound = envoy(mesh, rig, EnvoySide::Outbound)?;
    for (process, ip) in [(&mut inbound, SERVER_POD), (&mut outbound, CLIENT_POD)] {
        await_status(address(ip, ADMIN), "/ready", 200, process, rig)?;
    }
    await_status(PortProtocol::Http1.at(CLIENT_POD), "/", 200, &mut outbound, rig)?;
    Ok(Chain { name: "envoy", ip: CLIENT_POD, processes: vec![outbound, inbound] })
}

fn envoy(mesh: &Mesh, rig: &Rig, side: EnvoySide) -> Result<Process> {
    let (name, ip, account) = match side {
        EnvoySide::Outbound => ("envoy-client", CLIENT_POD, CLIENT),
        EnvoySide::Inbound => ("envoy-server", SERVER_POD, SERVER_ACCOUNT),
    };
    let certificate = mesh.certificate(account)?;
    let ways = PortProtocol::ALL;
    let bootstrap = json!({
        "node": { "id": name, "cluster": name },
        "admin": { "address": socket(address(ip, ADMIN)) },
        "static_resources": {
            "listeners": ways.iter().map(|speaks| listener(side, *speaks, ip, &certificate)).collect::<Result<Vec<_>>>()?,
            "clusters": ways.iter().map(|speaks| cluster(side, *speaks, &certificate)).collect::<Result<Vec<_>>>()?,
        },
    });
    let file = rig.directory().join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec_pretty(&bootstrap)?)?;
    let mut command = Command::new(setup::peer("envoy")?);
    command.arg("--config-path").arg(file);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
    Process::start(name, command, &rig.log(name))
}

fn listener(side: EnvoySide, speaks: PortProtocol, ip: Ipv4Addr, certificate: &Certificate) -> Result<Value> {
    let carries = if speaks.is_http() { vec![http(side, speaks)?] } else { tcp(side, speaks)? };
    let mut chain = json!({ "filters": carries });
    if side == EnvoySide::Inbound {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": tls(certificate, speaks, &json!({ "prefix": "spiffe://cluster.local/" })),
            },
        });
    }
    Ok(json!({
        "name": speaks.name(),
        "address": socket(speaks.at(ip)),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }))
}

/// The HTTP connection manager, with the header that reports the client's identity to the application, as in an Istio sidecar.
fn http(side: EnvoySide, speaks: PortProtocol) -> Result<Value> {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let authorization = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": rules()?,
        },
    });
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": speaks.name(),
        "http_filters": if side == EnvoySide::Inbound { vec![authorization, router] } else { vec![router] },
        "route_config": {
            "name": speaks.name(),
            "virtual_hosts": [{
                "name": "server",
                "domains": ["*"],
                // Streams have no deadline.
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": speaks.name(), "timeout": "0s" } }],
            }],
        },
    });
    if side == EnvoySide::Inbound {
        manager["forward_client_cert_details"] = "SANITIZE_SET".into();
        manager["set_current_client_cert_details"] = json!({ "uri": true });
    }
    Ok(json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }))
}

fn tcp(side: EnvoySide, speaks: PortProtocol) -> Result<Vec<Value>> {
    let proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": speaks.name(),
            "cluster": speaks.name(),
        },
    });
    let authorization = json!({
        "name": "envoy.filters.network.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": speaks.name(),
            "rules": rules()?,
        },
    });
    Ok(if side == EnvoySide::Inbound { vec![authorization, proxy] } else { vec![proxy] })
}

/// The filter that allows the client by the identity of its certificate.
fn rules() -> Result<Value> {
    Ok(json!({
        "action": "ALLOW",
        "policies": {
            "client": {
                "permissions": [{ "any": true }],
                "principals": [
                    { "authenticated": { "principal_name": { "exact": service_account(CLIENT)?.as_str() } } },
                ],
            },
        },
    }))
}

fn cluster(side: EnvoySide, speaks: PortProtocol, certificate: &Certificate) -> Result<Value> {
    let target = if side == EnvoySide::Outbound { speaks.at(SERVER_POD) } else { speaks.server() };
    let mut cluster = json!({
        "name": speaks.name(),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
        }] },
        "load_assignment": {
            "cluster_name": speaks.name(),
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(target) } }] }],
        },
    });
    if side == EnvoySide::Outbound {
        let server = service_account(SERVER_ACCOUNT)?;
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "outbound_.9080_._.server.default.svc.cluster.local",
                "common_tls_context": tls(certificate, speaks, &json!({ "exact": server.as_str() })),
            },
        });
    }
    if speaks.is_http2() {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    Ok(cluster)
}

/// TLS 1.3 with the mesh's certificates, and a peer whose SPIFFE ID matches `expected`.
fn tls(certificate: &Certificate, speaks: PortProtocol, expected: &Value) -> Value {
    let alpn: &[&str] = match (speaks.is_http(), speaks.is_http2()) {
        (_, true) => &["h2"],
        (true, false) => &["http/1.1"],
        (false, false) => &["istio"],
    };
    json!({
        "alpn_protocols": alpn,
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": certificate.chain },
            "private_key": { "filename": certificate.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": certificate.root },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": expected }],
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
