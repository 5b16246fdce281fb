//! Policies of connections.

use std::collections::HashSet;

use super::{Check, envoy, load_balancer, names};
use crate::networking::traffic_policy::{
    ClientTls, ClientTlsMode, ConnectionPool, H2UpgradePolicy, HttpPool, OutlierDetection, PortTrafficPolicy,
    RetryBudget, TcpPool, TrafficPolicy, Tunnel,
};

pub(super) fn check(policy: &TrafficPolicy, check: &mut Check) {
    if *policy == TrafficPolicy::default() {
        check.error("is empty; write a policy, or remove it");
        return;
    }
    check.one_of(&[("tunnel", policy.tunnel.is_some()), ("proxyProtocol", policy.proxy_protocol.is_some())]);
    check.some("loadBalancer", &policy.load_balancer, load_balancer::check);
    check.some("connectionPool", &policy.connection_pool, pool);
    check.some("outlierDetection", &policy.outlier_detection, outliers);
    check.some("tls", &policy.tls, tls);
    let mut seen = HashSet::new();
    check.each("portLevelSettings", &policy.port_level_settings, |of, check| {
        let number = of.port.as_ref().map(|port| port.number);
        of_port(of, number.is_none_or(|number| seen.insert(number)), check);
    });
    check.some("tunnel", &policy.tunnel, tunnel);
    check.some("retryBudget", &policy.retry_budget, retry_budget);
}

fn of_port(policy: &PortTrafficPolicy, new: bool, check: &mut Check) {
    match &policy.port {
        None => check.error_of("port", "is missing; write the number of a port"),
        Some(port) => check.port("port.number", port.number),
    }
    if !new {
        check.warn_of("port.number", "appears a second time, and the first one has effect; remove one");
    }
    if (PortTrafficPolicy { port: None, ..policy.clone() }) == PortTrafficPolicy::default() {
        check.error("has a port alone; write a policy, or remove it");
    }
    check.some("loadBalancer", &policy.load_balancer, load_balancer::check);
    check.some("connectionPool", &policy.connection_pool, pool);
    check.some("outlierDetection", &policy.outlier_detection, outliers);
    check.some("tls", &policy.tls, tls);
}

pub(super) fn pool(pool: &ConnectionPool, check: &mut Check) {
    if pool.tcp.is_none() && pool.http.is_none() {
        check.error("is empty; write tcp or http, or remove it");
    }
    check.some("tcp", &pool.tcp, tcp);
    check.some("http", &pool.http, http);
}

fn tcp(pool: &TcpPool, check: &mut Check) {
    not_negative(check, "maxConnections", pool.max_connections);
    check.duration("connectTimeout", pool.connect_timeout);
    check.duration("maxConnectionDuration", pool.max_connection_duration);
    // Zero is no limit here.
    check.duration("idleTimeout", pool.idle_timeout.filter(|timeout| !timeout.is_zero()));
    check.some("tcpKeepalive", &pool.tcp_keepalive, |keepalive, check| {
        check.duration("time", keepalive.time);
        check.duration("interval", keepalive.interval);
    });
}

fn http(pool: &HttpPool, check: &mut Check) {
    for (field, number) in [
        ("http1MaxPendingRequests", pool.http1_max_pending_requests),
        ("http2MaxRequests", pool.http2_max_requests),
        ("maxRequestsPerConnection", pool.max_requests_per_connection),
        ("maxRetries", pool.max_retries),
        ("maxConcurrentStreams", pool.max_concurrent_streams),
    ] {
        not_negative(check, field, number);
    }
    check.duration("idleTimeout", pool.idle_timeout);
    if pool.h2_upgrade_policy == H2UpgradePolicy::Upgrade && pool.use_client_protocol {
        check.error_of("useClientProtocol", "is true, but h2UpgradePolicy UPGRADE changes the protocol; keep one");
    }
    check.some("http2KeepAlive", &pool.http2_keep_alive, |keepalive, check| {
        for (field, duration) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
            if duration.is_none() {
                check.error_of(field, "is missing; http2KeepAlive needs interval and timeout");
            }
        }
        check.duration("interval", keepalive.interval);
        check.duration("timeout", keepalive.timeout);
    });
}

fn not_negative(check: &mut Check, field: &str, number: i32) {
    if number < 0 {
        check.error_of(field, format!("is {number}; write 0 or more"));
    }
}

fn outliers(detection: &OutlierDetection, check: &mut Check) {
    not_negative(check, "consecutiveErrors", detection.consecutive_errors);
    if !detection.split_external_local_origin_errors
        && detection.consecutive_local_origin_failures.is_some_and(|number| number > 0)
    {
        check.error_of(
            "consecutiveLocalOriginFailures",
            "has no effect unless splitExternalLocalOriginErrors is true; set that, or remove this",
        );
    }
    check.duration("interval", detection.interval);
    check.duration("baseEjectionTime", detection.base_ejection_time);
    for (field, percent) in
        [("maxEjectionPercent", detection.max_ejection_percent), ("minHealthPercent", detection.min_health_percent)]
    {
        if !(0..=100).contains(&percent) {
            check.error_of(field, format!("is {percent}, but must be from 0 to 100"));
        }
    }
    check.each("outlierDetectionHttpErrorCodes", &detection.http_error_codes, |status, check| {
        if !(100..=599).contains(status) {
            check.error(format!("is {status}, but must be a status from 100 to 599"));
        }
    });
}

fn tls(tls: &ClientTls, check: &mut Check) {
    let files = [
        ("clientCertificate", !tls.client_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
    ];
    let credential = ("credentialName", !tls.credential_name.is_empty());
    let names = ("subjectAltNames", !tls.subject_alt_names.is_empty());
    let set = |fields: &[(&'static str, bool)]| -> Vec<&'static str> {
        fields.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect()
    };
    envoy::server_name(&tls.sni, check);
    match tls.mode {
        ClientTlsMode::Disable => {}
        ClientTlsMode::IstioMutual => {
            for field in set(&files).into_iter().chain(set(&[credential])) {
                check.warn_of(field, "has no effect: mode ISTIO_MUTUAL uses the mesh's certificates; remove it");
            }
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual => {
            let simple = tls.mode == ClientTlsMode::Simple;
            if tls.insecure_skip_verify == Some(true) {
                // In mode MUTUAL the Secret has the client's certificate as well.
                for field in set(&[files[2], (credential.0, credential.1 && simple), names]) {
                    check.error_of(field, "is what insecureSkipVerify does not verify; remove one of them");
                }
            }
            if credential.1 {
                for field in set(&files) {
                    check.error_of(field, "cannot be set beside credentialName, whose Secret has it; remove one");
                }
            } else if !simple {
                for (field, _) in files[..2].iter().filter(|(_, set)| !set) {
                    check.error_of(
                        field,
                        "is missing; mode MUTUAL needs clientCertificate and privateKey, or credentialName",
                    );
                }
            }
        }
    }
}

fn tunnel(tunnel: &Tunnel, check: &mut Check) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        check.error_of("protocol", format!("is {:?}, but must be CONNECT or POST", names::shown(&tunnel.protocol)));
    }
    if !names::is_ip(&tunnel.target_host) {
        check.at(format_args!(".targetHost"), |check| check.accept(names::host(&tunnel.target_host)));
    }
    check.port("targetPort", tunnel.target_port);
}

fn retry_budget(budget: &RetryBudget, check: &mut Check) {
    if let Some(percent) = budget.percent
        && !(0.0..=100.0).contains(&percent)
    {
        check.error_of("percent", format!("is {percent}, but must be from 0 to 100"));
    }
    check.duration("budgetInterval", budget.budget_interval.filter(|interval| !interval.is_zero()));
}
