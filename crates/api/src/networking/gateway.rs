//! Gateway: what the proxies at the edge of the mesh listen on, and the services that east-west gateways export.

use std::collections::BTreeMap;

use super::json::{message, object, words};

object! {
    /// Istio's Gateway resource.
    Gateway: GatewaySpec, "networking.istio.io", "v1beta1", "Gateway", "gateways"
}

message! {
    /// The spec of a Gateway.
    GatewaySpec {
        /// The servers.
        servers: Vec<Server> = "servers",
        /// The labels of the gateway pods to configure, in any namespace; empty: all gateway pods.
        selector: BTreeMap<String, String> = "selector",
    }
}

message! {
    /// A server: a port, and the hosts that it serves.
    Server {
        /// The port. Required.
        port: Option<Port> = "port",
        /// The IP address that the port is bound to; empty: all addresses.
        bind: String = "bind",
        /// The hosts: names, wildcards `*.example.com`, or `*`, each with or without a leading `<namespace>/`: the
        /// namespace of the VirtualServices that may route it, `*` for any, or `.` for that of the Gateway.
        hosts: Vec<String> = "hosts",
        /// The TLS settings; absent: no TLS.
        tls: Option<ServerTls> = "tls",
        /// Not used by Istio's proxies either.
        default_endpoint: String = "defaultEndpoint",
        /// The name, for logs.
        name: String = "name",
    }
}

message! {
    /// The port of a server.
    Port {
        /// The number: the port of the Service that leads to the pods, else the one that they listen on.
        number: u32 = "number",
        /// The protocol: HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS.
        protocol: String = "protocol",
        /// The name, unique within the Gateway.
        name: String = "name",
        /// Without effect.
        target_port: u32 = "targetPort",
    }
}

message! {
    /// TLS settings of a server.
    ServerTls {
        /// Requests are redirected to HTTPS.
        https_redirect: bool = "httpsRedirect",
        /// The mode.
        mode: TlsMode = "mode",
        /// The path of the certificate in the pod.
        server_certificate: String = "serverCertificate",
        /// The path of the private key in the pod.
        private_key: String = "privateKey",
        /// The path of the certificates in the pod that verify those of clients.
        ca_certificates: String = "caCertificates",
        /// The path of the revocation list in the pod.
        ca_crl: String = "caCrl",
        /// The name of the Secret with the certificate, in the namespace of the pod.
        credential_name: String = "credentialName",
        /// The names of several such Secrets, with keys of different types.
        credential_names: Vec<String> = "credentialNames",
        /// The name of the Secret with the certificates that verify those of clients.
        ca_cert_credential_name: String = "caCertCredentialName",
        /// Several certificates, as paths in the pod.
        tls_certificates: Vec<TlsCertificate> = "tlsCertificates",
        /// The names of which a client's certificate has to have one; empty: any.
        subject_alt_names: Vec<String> = "subjectAltNames",
        /// Base64 of the SHA-256 of the public keys that clients may have; empty: any.
        verify_certificate_spki: Vec<String> = "verifyCertificateSpki",
        /// The SHA-256 of the certificates that clients may have, hexadecimal, with or without colons; empty: any.
        verify_certificate_hash: Vec<String> = "verifyCertificateHash",
        /// The oldest version.
        min_protocol_version: TlsProtocol = "minProtocolVersion",
        /// The newest version.
        max_protocol_version: TlsProtocol = "maxProtocolVersion",
        /// The cipher suites of TLS 1.2; empty: the defaults.
        cipher_suites: Vec<String> = "cipherSuites",
    }
}

message! {
    /// A certificate, as paths in the pod.
    TlsCertificate {
        /// The certificate.
        server_certificate: String = "serverCertificate",
        /// The private key.
        private_key: String = "privateKey",
        /// Not used.
        ca_certificates: String = "caCertificates",
    }
}

words! {
    /// The TLS mode of a server.
    TlsMode {
        /// Forward by SNI, as a VirtualService says.
        #[default]
        Passthrough = "PASSTHROUGH",
        /// Terminate TLS with a server certificate.
        Simple = "SIMPLE",
        /// Terminate TLS and require a client certificate.
        Mutual = "MUTUAL",
        /// Forward by SNI of the form `outbound_.<port>_.<subset>_.<hostname>` to that service.
        AutoPassthrough = "AUTO_PASSTHROUGH",
        /// Terminate TLS with the mesh's certificate.
        IstioMutual = "ISTIO_MUTUAL",
        /// Terminate TLS and request a client certificate.
        OptionalMutual = "OPTIONAL_MUTUAL",
    }
}

words! {
    /// A version of TLS.
    TlsProtocol {
        /// The default.
        #[default]
        Auto = "TLS_AUTO",
        /// TLS 1.0.
        V1_0 = "TLSV1_0",
        /// TLS 1.1.
        V1_1 = "TLSV1_1",
        /// TLS 1.2.
        V1_2 = "TLSV1_2",
        /// TLS 1.3.
        V1_3 = "TLSV1_3",
    }
}

/// What a server does with the connections to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Requests, with TLS if the server terminates it.
    Http,
    /// Opaque bytes.
    Tcp,
    /// TLS connections that are forwarded by their server name.
    Tls,
}

/// The cipher suites that Istio knows.
pub const CIPHER_SUITES: [&str; 10] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
];

impl Port {
    fn is(&self, protocols: &[&str]) -> bool {
        protocols.iter().any(|protocol| self.protocol.eq_ignore_ascii_case(protocol))
    }

    /// Returns whether the port carries requests.
    pub fn is_http(&self) -> bool {
        self.is(&["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB"])
    }

    /// Returns whether the port carries TLS.
    pub fn is_tls(&self) -> bool {
        self.is(&["HTTPS", "TLS"])
    }
}

impl Server {
    /// Returns whether the server forwards by SNI (AUTO_PASSTHROUGH), as east-west gateways do.
    pub fn is_auto_passthrough(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::AutoPassthrough)
    }

    /// Returns the TLS settings of a server whose connections are TLS; on other ports, they can only redirect.
    pub fn tls_of_port(&self) -> Option<&ServerTls> {
        self.tls.as_ref().filter(|_| self.port.as_ref().is_some_and(Port::is_tls))
    }

    /// Returns what the server carries.
    pub fn carries(&self) -> Carries {
        let passes = self.tls_of_port().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
        match &self.port {
            _ if passes => Carries::Tls,
            Some(port) if port.is_http() => Carries::Http,
            _ => Carries::Tcp,
        }
    }
}

impl ServerTls {
    /// Returns whether the server terminates TLS with a certificate of its own, which [`ServerTls::credentials`] or paths
    /// name.
    pub fn has_certificate(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual | TlsMode::OptionalMutual)
    }

    /// Returns whether the server verifies certificates of clients.
    pub fn verifies_clients(&self) -> bool {
        matches!(self.mode, TlsMode::Mutual | TlsMode::OptionalMutual)
    }

    /// Returns the names of the Secrets with the certificates of the server.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        let single = Some(&self.credential_name).filter(|name| !name.is_empty());
        let names = single.into_iter().chain(&self.credential_names).filter(|_| self.has_certificate());
        names.map(|name| secret_name(name))
    }

    /// Returns the paths of the certificate and of the private key in the pod; empty: none.
    pub fn files(&self) -> (&str, &str) {
        match self.tls_certificates.first() {
            Some(first) if self.server_certificate.is_empty() => (&first.server_certificate, &first.private_key),
            _ => (&self.server_certificate, &self.private_key),
        }
    }

    /// Returns the name of the Secret with the certificates that verify those of clients, if it has one of its own.
    pub fn ca_credential(&self) -> Option<&str> {
        let named = !self.ca_cert_credential_name.is_empty() && self.verifies_clients();
        named.then(|| secret_name(&self.ca_cert_credential_name))
    }
}

/// Returns the Secret of a name, which may have a scheme.
fn secret_name(name: &str) -> &str {
    name.strip_prefix("kubernetes://").unwrap_or(name)
}

impl GatewaySpec {
    /// Returns the hosts of all servers with mode AUTO_PASSTHROUGH, in order.
    pub fn exported_hosts(&self) -> impl Iterator<Item = &str> {
        self.servers
            .iter()
            .filter(|server| server.is_auto_passthrough())
            .flat_map(|s| s.hosts.iter().map(String::as_str))
    }

    /// Returns whether any server is one of an ingress or egress gateway.
    pub fn has_listeners(&self) -> bool {
        self.servers.iter().any(|server| !server.is_auto_passthrough())
    }
}

/// Returns the namespace and the name of a gateway that a VirtualService of a namespace names: `name`, `namespace/name`, or
/// the legacy form `name.namespace.svc.cluster.local`.
pub fn gateway_of<'a>(name: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    if let Some(full) = name.split_once('/') {
        return full;
    }
    let mut labels = name.split('.');
    match (labels.next(), labels.next()) {
        (Some(gateway), Some(of)) => (of, gateway),
        _ => (namespace, name),
    }
}

/// Splits the host of a server into the namespace of the VirtualServices that may route it (`None`: any) and the host.
/// `namespace` is that of the Gateway.
pub fn host_of<'a>(host: &'a str, namespace: &'a str) -> (Option<&'a str>, &'a str) {
    match host.split_once('/') {
        None | Some(("*", _)) => (None, host.rsplit_once('/').map_or(host, |(_, host)| host)),
        Some((".", host)) => (Some(namespace), host),
        Some((of, host)) => (Some(of), host),
    }
}
