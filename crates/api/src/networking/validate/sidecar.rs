//! Sidecars.

use std::collections::HashSet;

use super::{Check, names, traffic_policy};
use crate::networking::service_entry::is_unix;
use crate::networking::sidecar::{
    CaptureMode, DefaultEndpoint, EgressHost, EgressListener, IngressListener, IngressTls, OutboundMode,
    OutboundTraffic, Sidecar, SidecarPort,
};
use crate::networking::traffic_policy::ConnectionPool;

/// The number of listeners of an object, and of hosts of one of them.
const MAX_LISTENERS: usize = 256;
const MAX_HOSTS: usize = 4096;

pub(super) fn check(sidecar: &Sidecar, check: &mut Check) {
    let spec = &sidecar.spec;
    check.some("workloadSelector", &spec.workload_selector, |selector, check| {
        names::label_map(check, "labels", &selector.labels);
    });
    let empty = spec.egress.is_empty() && spec.ingress.is_empty();
    if empty && spec.outbound_traffic_policy.is_none() && spec.inbound_connection_pool.is_none() {
        check.error("is empty; write egress, ingress, outboundTrafficPolicy or inboundConnectionPool");
    }
    for (field, count) in [("egress", spec.egress.len()), ("ingress", spec.ingress.len())] {
        if count > MAX_LISTENERS {
            check.error_of(field, format!("has {count} listeners, but at most {MAX_LISTENERS} are possible"));
        }
    }
    egress(&spec.egress, check);
    let mut ports = HashSet::new();
    check.each("ingress", &spec.ingress, |listener, check| {
        ingress(listener, check);
        if listener.port.as_ref().is_some_and(|port| !ports.insert(port.number)) {
            check.error_of("port.number", "is the port of another listener; remove one");
        }
    });
    check.some("inboundConnectionPool", &spec.inbound_connection_pool, inbound_pool);
    check.some("outboundTrafficPolicy", &spec.outbound_traffic_policy, outbound);
}

fn egress(listeners: &[EgressListener], check: &mut Check) {
    let mut ports = HashSet::new();
    let last = listeners.len().saturating_sub(1);
    let without_port = |of: &EgressListener| of.port.is_none();
    let misplaced = listeners.iter().position(without_port).is_some_and(|at| at != last);
    if misplaced {
        check
            .error_of("egress", "has a listener without a port that is not the last one; write it last, and only once");
    }
    check.each("egress", listeners, |listener, check| {
        match &listener.port {
            None => {}
            // At a Unix socket.
            Some(of) if of.number == 0 && is_unix(&listener.bind) => {}
            Some(of) => {
                port(of, check);
                if !ports.insert(of.number) {
                    check.error_of("port.number", "is the port of another listener; write the hosts of both into one");
                }
            }
        }
        if !listener.bind.is_empty() || listener.capture_mode == CaptureMode::None {
            check.warn_of(
                "bind",
                "and captureMode NONE open no listener: the hosts are reached by their own names and addresses",
            );
        }
        match listener.hosts.len() {
            0 => check.error_of("hosts", "is empty; write <namespace>/<name>, such as \"./*\""),
            1..=MAX_HOSTS => {}
            count => check.error_of("hosts", format!("has {count} hosts, but at most {MAX_HOSTS} are possible")),
        }
        check.each("hosts", &listener.hosts, |text, check| host(text, check));
    });
}

fn host(text: &str, check: &mut Check) {
    let Some(EgressHost { namespace, host, .. }) = EgressHost::parse(text) else {
        check.error(format!("is {:?}, but must be <namespace>/<name>, such as \"./*\" or \"*/*\"", names::shown(text)));
        return;
    };
    let name = names::is_label(namespace) && !namespace.bytes().any(|byte| byte.is_ascii_uppercase());
    if !name && !matches!(namespace, "*" | ".") {
        check.error(format!("has namespace {:?}; write a name, \"*\", \".\" or \"~\"", names::shown(namespace)));
    }
    check.accept(names::wildcard_host(host));
    if host != "*" && !host.contains('.') {
        check.error("has a short name, which no host is; write <name>.<namespace>.svc.cluster.local");
    }
}

fn ingress(listener: &IngressListener, check: &mut Check) {
    match &listener.port {
        None => check.error_of("port", "is missing; write the port that clients connect to"),
        Some(of) => port(of, check),
    }
    if !listener.default_endpoint.is_empty() {
        check.at(format_args!(".defaultEndpoint"), |check| match DefaultEndpoint::parse(&listener.default_endpoint) {
            Ok(DefaultEndpoint::Nowhere) => {
                check.warn("has no address, and so no effect; write 127.0.0.1:PORT or 0.0.0.0:PORT");
            }
            parsed => check.accept(parsed.map(drop)),
        });
    }
    if !listener.bind.is_empty() || listener.capture_mode == CaptureMode::None {
        check.warn_of("bind", "and captureMode NONE have no effect: connections to the pod's address are captured");
    }
    check.some("tls", &listener.tls, |of, check| tls(of, listener, check));
    check.some("connectionPool", &listener.connection_pool, |pool, check| {
        inbound_pool(pool, check);
        if pool.http.is_some() && !speaks(listener, HTTP) {
            check.warn_of("http", "has no effect: the protocol of the port is not HTTP");
        }
        if pool.tcp.as_ref().is_some_and(|tcp| tcp.max_connections != 0) && speaks(listener, HTTP) {
            check.warn_of("tcp.maxConnections", "has no effect on a port of HTTP; write http.http2MaxRequests");
        }
    });
}

/// The protocols of requests.
const HTTP: &[&str] = &["HTTP", "HTTP2", "GRPC", "GRPC-WEB"];

/// Checks TLS of a port: Istio has a part of what it has for gateways.
fn tls(of: &IngressTls, listener: &IngressListener, check: &mut Check) {
    for (field, set) in [
        ("subjectAltNames", !of.subject_alt_names.is_empty()),
        ("httpsRedirect", of.https_redirect),
        ("credentialName", !of.credential_name.is_empty()),
    ] {
        if set {
            check.error_of(field, "cannot be set in a Sidecar; remove it");
        }
    }
    if matches!(&*of.mode, "ISTIO_MUTUAL" | "AUTO_PASSTHROUGH") {
        check.error_of("mode", "is a mode of gateways; write SIMPLE or MUTUAL");
    }
    if !speaks(listener, &["HTTPS", "TLS"]) {
        check.error("needs a port of protocol HTTPS or TLS");
    }
    check.warn("has no effect: the bytes of clients outside of the mesh reach the application as they are");
}

/// Returns whether the protocol of a listener's port is one of these.
fn speaks(listener: &IngressListener, protocols: &[&str]) -> bool {
    let protocol = listener.port.as_ref().map_or("", |port| &port.protocol);
    protocols.iter().any(|of| protocol.eq_ignore_ascii_case(of))
}

fn port(port: &SidecarPort, check: &mut Check) {
    check.port("port.number", port.number);
    if port.target_port != 0 {
        check.error_of("port.targetPort", "cannot be set; write defaultEndpoint");
    }
}

/// Checks the limits of connections to the application: their numbers have effect.
fn inbound_pool(pool: &ConnectionPool, check: &mut Check) {
    traffic_policy::pool(pool, check);
    let tcp = pool.tcp.clone().unwrap_or_default();
    let http = pool.http.clone().unwrap_or_default();
    let unused = "has no effect here: maxConnections and http2MaxRequests limit what is carried to the application";
    for (field, set) in [
        ("tcp.connectTimeout", tcp.connect_timeout.is_some()),
        ("tcp.tcpKeepalive", tcp.tcp_keepalive.is_some()),
        ("tcp.maxConnectionDuration", tcp.max_connection_duration.is_some()),
        ("tcp.idleTimeout", tcp.idle_timeout.is_some()),
        ("http.http1MaxPendingRequests", http.http1_max_pending_requests != 0),
        ("http.maxRequestsPerConnection", http.max_requests_per_connection != 0),
        ("http.maxRetries", http.max_retries != 0),
        ("http.idleTimeout", http.idle_timeout.is_some()),
        ("http.maxConcurrentStreams", http.max_concurrent_streams != 0),
        ("http.http2KeepAlive", http.http2_keep_alive.is_some()),
        ("http.useClientProtocol", http.use_client_protocol),
    ] {
        if set {
            check.warn_of(field, unused);
        }
    }
}

fn outbound(policy: &OutboundTraffic, check: &mut Check) {
    if policy.mode == OutboundMode::AllowAnyDynamicDns {
        check.warn_of("mode", "is ALLOW_ANY_DYNAMIC_DNS, which has the effect of ALLOW_ANY");
    }
    check.some("egressProxy", &policy.egress_proxy, |proxy, check| {
        if policy.mode == OutboundMode::RegistryOnly {
            check.error("cannot be set with mode REGISTRY_ONLY; write mode ALLOW_ANY");
        }
        check.at(format_args!(".host"), |check| check.accept(names::host(&proxy.host)));
        match &proxy.port {
            None => check.error_of("port", "is missing; write the number of a port"),
            Some(port) => check.port("port.number", port.number),
        }
    });
}
