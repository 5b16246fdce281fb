//! Gateways.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Check, names};
use crate::networking::gateway::{CIPHER_SUITES, Gateway, Port, Server, ServerTls, TlsMode, TlsProtocol};

/// The protocols of ports.
const PROTOCOLS: [&str; 10] = ["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "MYSQL", "REDIS"];

/// The port of east-west gateways.
const EAST_WEST: u32 = 15443;

/// The schemes of credentials that name no Secret.
const OTHER_SCHEMES: [&str; 5] = ["sds://", "configmap://", "kubernetes-gateway://", "file-cert:", "builtin://"];

pub(super) fn check(gateway: &Gateway, check: &mut Check) {
    let spec = &gateway.spec;
    if let Some(name) = gateway.metadata.name.as_deref().filter(|name| !names::is_label(name)) {
        let text = format!("is {:?}, but the name of a Gateway is a DNS label, without dots", names::shown(name));
        check.error_at("metadata.name", text);
    }
    if spec.servers.is_empty() {
        check.error_of("servers", "is empty; write a server");
    }
    names::label_map(check, "selector", &spec.selector);
    let mut known = HashSet::new();
    check.each("servers", &spec.servers, |of, check| {
        server(of, check);
        let Some(port) = &of.port else { return };
        if !port.name.is_empty() && !known.insert(&port.name) {
            let name = names::shown(&port.name);
            check.error_of("port.name", format!("is {name:?}, which the port of another server has; rename one"));
        }
    });
}

fn server(of: &Server, check: &mut Check) {
    if of.hosts.is_empty() {
        check.error_of("hosts", "is empty; write a host, or \"*\"");
    }
    check.each("hosts", &of.hosts, |of, check| check.accept(host(of)));
    match &of.port {
        None => check.error_of("port", "is missing; write number, name and protocol"),
        Some(of) => check.at(format_args!(".port"), |check| port(of, check)),
    }
    bind(&of.bind, check);
    if !of.default_endpoint.is_empty() {
        check.warn_of("defaultEndpoint", "has no effect; write a VirtualService");
    }
    if of.is_auto_passthrough() {
        auto_passthrough(of, check);
    }
    check.some("tls", &of.tls, tls);
    let Some(port) = &of.port else { return };
    let Some(tls) = &of.tls else {
        if port.is_tls() {
            check.error_of("tls", "is missing, which protocols HTTPS and TLS need; write a mode");
        }
        return;
    };
    if !port.is_tls() && !port.is_http() {
        check.error_of("tls", "cannot be set for the protocol; write protocol TLS, or remove it");
    } else if !port.is_tls() {
        let paths = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates];
        let passes = matches!(tls.mode, TlsMode::Passthrough | TlsMode::AutoPassthrough);
        if !passes || paths.iter().any(|path| !path.is_empty()) {
            check.error_of("tls", "cannot have more than httpsRedirect on a port without TLS; write protocol HTTPS");
        }
    }
    if tls.https_redirect && !port.is_http() {
        check.warn_of("tls.httpsRedirect", "has no effect: the port carries no requests");
    }
}

/// Checks a host with or without a namespace.
fn host(text: &str) -> Result<(), String> {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    if !matches!(namespace, "*" | ".") && !names::is_label(namespace) {
        return Err(format!("is {:?}, but before the \"/\" is a namespace, \"*\" or \".\"", names::shown(text)));
    }
    if host == "*" || host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    names::wildcard_host(host)?;
    match host.strip_prefix('*') {
        Some(rest) if !rest.starts_with('.') => {
            Err(format!("is {:?}, but a wildcard is \"*\" or begins with \"*.\"", names::shown(text)))
        }
        _ => Ok(()),
    }
}

fn port(of: &Port, check: &mut Check) {
    check.port("number", of.number);
    if of.name.is_empty() {
        check.error_of("name", "is missing; name the port");
    }
    if !PROTOCOLS.iter().any(|known| of.protocol.eq_ignore_ascii_case(known)) {
        let protocol = names::shown(&of.protocol);
        check.error_of("protocol", format!("is {protocol:?}, but must be one of {}", PROTOCOLS.join(", ")));
    }
    if of.target_port != 0 {
        check.error_of("targetPort", "has no effect: the Service says which port pods listen on; remove it");
    }
}

fn bind(text: &str, check: &mut Check) {
    if text.starts_with("unix://") {
        check.error_of("bind", "is a Unix socket, which gateways do not listen on; write an IP address, or remove it");
    } else if !text.is_empty() && text.parse::<IpAddr>().is_err() {
        check.error_of("bind", format!("is {:?}, but must be an IP address", names::shown(text)));
    }
}

fn auto_passthrough(of: &Server, check: &mut Check) {
    let Some(port) = &of.port else { return };
    if !port.is_tls() {
        check.warn_of("port.protocol", "should be TLS in mode AUTO_PASSTHROUGH");
    }
    if port.number != EAST_WEST {
        check.warn_of("port.number", "the east-west gateway listens on 15443; other numbers have no effect");
    }
}

fn tls(of: &ServerTls, check: &mut Check) {
    versions(of, check);
    ciphers(of, check);
    let paths = [&of.server_certificate, &of.private_key, &of.ca_certificates];
    let names = !of.credential_name.is_empty() || !of.credential_names.is_empty();
    match of.mode {
        TlsMode::IstioMutual => {
            let fields = [
                ("serverCertificate", !of.server_certificate.is_empty()),
                ("privateKey", !of.private_key.is_empty()),
                ("caCertificates", !of.ca_certificates.is_empty()),
                ("tlsCertificates", !of.tls_certificates.is_empty()),
                ("credentialName", !of.credential_name.is_empty()),
                ("credentialNames", !of.credential_names.is_empty()),
            ];
            for (field, _) in fields.iter().filter(|(_, set)| *set) {
                check.error_of(
                    field,
                    "cannot be set in mode ISTIO_MUTUAL, which has the mesh's certificates; remove it",
                );
            }
            return;
        }
        TlsMode::Passthrough | TlsMode::AutoPassthrough => {
            let set = names || !of.ca_crl.is_empty() || !of.tls_certificates.is_empty();
            if set || paths.iter().any(|path| !path.is_empty()) {
                let mode = of.mode.as_str();
                check.warn(format!("has certificates, which mode {mode} does not use: the gateway does not end TLS"));
            }
        }
        TlsMode::Simple | TlsMode::Mutual | TlsMode::OptionalMutual => certificates(of, names, check),
    }
    if !of.verifies_clients() {
        let fields = [
            ("subjectAltNames", !of.subject_alt_names.is_empty()),
            ("verifyCertificateSpki", !of.verify_certificate_spki.is_empty()),
            ("verifyCertificateHash", !of.verify_certificate_hash.is_empty()),
            ("caCertCredentialName", !of.ca_cert_credential_name.is_empty()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            check.warn_of(field, "has no effect: the mode requests no certificate of clients; write MUTUAL");
        }
    }
}

/// Checks where the certificates of a server come from.
fn certificates(of: &ServerTls, names: bool, check: &mut Check) {
    check.one_of(&[
        ("credentialName", !of.credential_name.is_empty()),
        ("credentialNames", !of.credential_names.is_empty()),
        ("serverCertificate", !of.server_certificate.is_empty() && !of.private_key.is_empty()),
        ("tlsCertificates", !of.tls_certificates.is_empty()),
    ]);
    let single = [("credentialName", &of.credential_name), ("caCertCredentialName", &of.ca_cert_credential_name)];
    single.into_iter().for_each(|(field, name)| credential(field, name, check));
    check.each("credentialNames", &of.credential_names, |name, check| {
        if name.is_empty() {
            check.error("is empty; write the name of a Secret");
        }
        credential("", name, check);
    });
    if !of.ca_crl.is_empty() {
        if !of.credential_name.is_empty() {
            check.error_of("caCrl", "cannot be set beside credentialName; put the list into the Secret, as ca.crl");
        }
        if of.mode == TlsMode::Simple {
            check.error_of("caCrl", "cannot be set in mode SIMPLE, which requests no certificate of clients");
        }
    }
    if names {
        return;
    }
    if of.verifies_clients() && of.ca_certificates.is_empty() {
        check.error_of("caCertificates", "is missing, which verifies the certificates of clients; write its path");
    }
    if of.tls_certificates.len() > 1 {
        check.warn_of(
            "tlsCertificates[1]",
            "has no effect: of certificates in files, the first is used; write credentialNames",
        );
    }
    let (certificate, key) = of.files();
    if certificate.is_empty() {
        check.error_of("serverCertificate", "is missing; write a credentialName, or the path of the certificate");
    }
    if key.is_empty() {
        check.error_of("privateKey", "is missing; write a credentialName, or the path of the key");
    }
}

/// Warns of a credential that is not a Secret.
fn credential(field: &str, name: &str, check: &mut Check) {
    if let Some(scheme) = OTHER_SCHEMES.iter().find(|scheme| name.starts_with(**scheme)) {
        let text = format!("names no Secret but a {scheme} source, which is not read: connections are refused");
        match field.is_empty() {
            true => check.warn(text),
            false => check.warn_of(field, text),
        }
    }
}

fn versions(of: &ServerTls, check: &mut Check) {
    let (oldest, newest) = (of.min_protocol_version, of.max_protocol_version);
    for (field, version) in [("minProtocolVersion", oldest), ("maxProtocolVersion", newest)] {
        if matches!(version, TlsProtocol::V1_0 | TlsProtocol::V1_1) {
            check.warn_of(field, "is a version that is not supported: TLS 1.2 takes its place");
        }
    }
    if oldest == TlsProtocol::V1_3 && matches!(newest, TlsProtocol::V1_0 | TlsProtocol::V1_1 | TlsProtocol::V1_2) {
        check.warn_of("maxProtocolVersion", "is older than minProtocolVersion: every connection is refused");
    }
}

fn ciphers(of: &ServerTls, check: &mut Check) {
    let mut seen = HashSet::new();
    check.each("cipherSuites", &of.cipher_suites, |name, check| {
        if !CIPHER_SUITES.contains(&&**name) {
            check.warn(format!("is {:?}, which is not known; it has no effect", names::shown(name)));
        } else if !seen.insert(name) {
            check.warn(format!("is {:?} a second time", names::shown(name)));
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::networking::Problem;

    fn problems(servers: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "g", "namespace": "a"}, "spec": {"selector": {"app": "gw"}, "servers": servers}});
        let shown = |problem: Problem| format!("{:?} {}: {}", problem.severity, problem.field, problem.message);
        Gateway::from_value(&object).validate().into_iter().map(shown).collect()
    }

    fn server(protocol: &str, tls: Value) -> Value {
        json!({"port": {"number": 443, "name": "p", "protocol": protocol}, "hosts": ["*.example.com"], "tls": tls})
    }

    #[test]
    fn istios_examples_are_valid() {
        for (protocol, tls) in [
            ("HTTP", Value::Null),
            ("grpc-web", Value::Null),
            ("TCP", Value::Null),
            ("HTTP", json!({"httpsRedirect": true})),
            ("HTTPS", json!({"mode": "SIMPLE", "credentialName": "a"})),
            ("HTTPS", json!({"mode": "SIMPLE", "credentialNames": ["a", "kubernetes://b"]})),
            (
                "HTTPS",
                json!({"mode": "MUTUAL", "credentialName": "a", "caCertCredentialName": "b",
                "subjectAltNames": ["c"], "verifyCertificateSpki": ["d"], "verifyCertificateHash": ["e"],
                "minProtocolVersion": "TLSV1_2", "maxProtocolVersion": "TLSV1_3",
                "cipherSuites": ["ECDHE-RSA-AES128-GCM-SHA256"]}),
            ),
            (
                "TLS",
                json!({"mode": "OPTIONAL_MUTUAL", "serverCertificate": "/a", "privateKey": "/b",
                "caCertificates": "/c", "caCrl": "/d"}),
            ),
            ("TLS", json!({"mode": "SIMPLE", "tlsCertificates": [{"serverCertificate": "/a", "privateKey": "/b"}]})),
            ("TLS", json!({"mode": "PASSTHROUGH"})),
            ("HTTPS", json!({"mode": "ISTIO_MUTUAL"})),
        ] {
            assert_eq!(problems(json!([server(protocol, tls.clone())])), [""; 0], "{protocol} {tls}");
        }
        let east_west = json!([{"port": {"number": 15443, "name": "tls", "protocol": "TLS"}, "hosts": ["*.local"],
            "tls": {"mode": "AUTO_PASSTHROUGH"}}]);
        assert_eq!(problems(east_west), [""; 0]);
    }

    #[test]
    fn what_istio_refuses_is_refused_with_its_field() {
        let tls = |tls: Value| json!([server("HTTPS", tls)]);
        let port = |port: Value| json!([{"port": port, "hosts": ["*"]}]);
        let host = |host: &str| json!([{"port": {"number": 80, "name": "p", "protocol": "HTTP"}, "hosts": [host]}]);
        for (servers, expected) in [
            (json!([]), "Error spec.servers: is empty"),
            (json!([{"hosts": ["*"]}]), "Error spec.servers[0].port: is missing"),
            (
                json!([{"port": {"number": 80, "name": "p", "protocol": "HTTP"}}]),
                "Error spec.servers[0].hosts: is empty",
            ),
            (port(json!({"number": 0, "name": "p", "protocol": "HTTP"})), "Error spec.servers[0].port.number"),
            (port(json!({"number": 80, "protocol": "HTTP"})), "Error spec.servers[0].port.name"),
            (port(json!({"number": 80, "name": "p", "protocol": "UDP"})), "Error spec.servers[0].port.protocol"),
            (
                port(json!({"number": 80, "name": "p", "protocol": "HTTP", "targetPort": 1})),
                "Error spec.servers[0].port.targetPort",
            ),
            (json!([server("HTTP", Value::Null), server("HTTP", Value::Null)]), "Error spec.servers[1].port.name"),
            (host("a b"), "Error spec.servers[0].hosts[0]"),
            (host("A_/x.com"), "Error spec.servers[0].hosts[0]: is \"A_/x.com\""),
            (host("*foo.com"), "Error spec.servers[0].hosts[0]: is \"*foo.com\", but a wildcard"),
            (tls(Value::Null), "Error spec.servers[0].tls: is missing"),
            (tls(json!({"mode": "SIMPLE"})), "Error spec.servers[0].tls.serverCertificate: is missing"),
            (
                tls(json!({"mode": "SIMPLE", "serverCertificate": "/a"})),
                "Error spec.servers[0].tls.privateKey: is missing",
            ),
            (
                tls(json!({"mode": "MUTUAL", "serverCertificate": "/a", "privateKey": "/b"})),
                "tls.caCertificates: is missing",
            ),
            (
                tls(json!({"mode": "SIMPLE", "credentialName": "a", "credentialNames": ["b"]})),
                "tls.credentialNames: cannot be set beside",
            ),
            (
                tls(json!({"mode": "SIMPLE", "credentialName": "a", "caCrl": "/b"})),
                "tls.caCrl: cannot be set beside credentialName",
            ),
            (
                tls(json!({"mode": "ISTIO_MUTUAL", "credentialName": "a"})),
                "tls.credentialName: cannot be set in mode ISTIO_MUTUAL",
            ),
            (tls(json!({"mode": "SOMETHING"})), "Error spec.servers[0].tls.mode"),
            (
                json!([server("HTTP", json!({"mode": "SIMPLE", "credentialName": "a"}))]),
                "Error spec.servers[0].tls: cannot have more than httpsRedirect",
            ),
            (json!([server("TCP", json!({}))]), "Error spec.servers[0].tls: cannot be set for the protocol"),
            (
                json!([{"port": {"number": 80, "name": "p", "protocol": "HTTP"}, "hosts": ["*"], "bind": "unix:///x"}]),
                "Error spec.servers[0].bind: is a Unix socket",
            ),
            (
                json!([{"port": {"number": 80, "name": "p", "protocol": "HTTP"}, "hosts": ["*"], "bind": "x"}]),
                "Error spec.servers[0].bind",
            ),
        ] {
            let found = problems(servers.clone());
            assert!(found.iter().any(|of| of.contains(expected)), "{servers}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn fields_without_effect_are_warnings() {
        let tls = |tls: Value| json!([server("HTTPS", tls)]);
        for (servers, expected) in [
            (
                json!([{"port": {"number": 80, "name": "p", "protocol": "HTTP"}, "hosts": ["*"], "defaultEndpoint": "x"}]),
                "defaultEndpoint: has no effect",
            ),
            (tls(json!({"mode": "PASSTHROUGH", "credentialName": "a"})), "which mode PASSTHROUGH does not use"),
            (
                tls(json!({"mode": "SIMPLE", "credentialName": "a", "subjectAltNames": ["b"]})),
                "subjectAltNames: has no effect",
            ),
            (tls(json!({"mode": "SIMPLE", "credentialName": "sds://a"})), "connections are refused"),
            (
                tls(json!({"mode": "SIMPLE", "credentialName": "a", "minProtocolVersion": "TLSV1_0"})),
                "TLS 1.2 takes its place",
            ),
            (
                tls(json!({"mode": "SIMPLE", "credentialName": "a", "cipherSuites": ["x"]})),
                "cipherSuites[0]: is \"x\", which is not known",
            ),
            (
                json!([server("TLS", json!({"mode": "PASSTHROUGH", "httpsRedirect": true}))]),
                "tls.httpsRedirect: has no effect",
            ),
            (json!([server("HTTP", json!({"mode": "AUTO_PASSTHROUGH"}))]), "should be TLS in mode AUTO_PASSTHROUGH"),
        ] {
            let found = problems(servers.clone());
            let expected_one = |of: &String| of.starts_with("Warning") && of.contains(expected);
            assert!(found.iter().any(expected_one), "{servers}: {found:?}, not {expected:?}");
            assert!(found.iter().all(|of| of.starts_with("Warning")), "{found:?}");
        }
    }
}
