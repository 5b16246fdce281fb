//! Sidecar: what of the mesh a workload's proxy sees, and how it is reached.

use super::json::{message, object, words};
use super::service_entry::EntrySelector;
use super::traffic_policy::ConnectionPool;
use super::virtual_service::PortSelector;

object! {
    /// Istio's Sidecar resource.
    Sidecar: SidecarSpec, "networking.istio.io", "Sidecar", "sidecars"
}

message! {
    /// The spec of a Sidecar.
    SidecarSpec {
        /// The pods that it is for; unset: all of the namespace, or of the mesh in the root namespace.
        workload_selector: Option<EntrySelector> = "workloadSelector",
        /// The ports of the application; empty: those of the Services that select the pod.
        ingress: Vec<IngressListener> = "ingress",
        /// The hosts that the application reaches; empty: all.
        egress: Vec<EgressListener> = "egress",
        /// The limits of connections to the application; those of a listener take their place.
        inbound_connection_pool: Option<ConnectionPool> = "inboundConnectionPool",
        /// Traffic to other destinations; unset: as in the mesh settings.
        outbound_traffic_policy: Option<OutboundTraffic> = "outboundTrafficPolicy",
    }
}

message! {
    /// A port of the application.
    IngressListener {
        /// The port that clients connect to.
        port: Option<SidecarPort> = "port",
        /// The address that clients connect to.
        bind: String = "bind",
        /// How connections reach the proxy.
        capture_mode: CaptureMode = "captureMode",
        /// Where the application is: `127.0.0.1:PORT`, `[::1]:PORT`, `0.0.0.0:PORT`, `[::]:PORT` or `unix://PATH`;
        /// empty: at the port that clients connect to.
        default_endpoint: String = "defaultEndpoint",
        /// TLS that is not the mesh's.
        tls: Option<IngressTls> = "tls",
        /// The limits of connections to the port.
        connection_pool: Option<ConnectionPool> = "connectionPool",
    }
}

message! {
    /// Hosts that the application reaches.
    EgressListener {
        /// The port of these hosts; unset: all ports that no other listener has.
        port: Option<SidecarPort> = "port",
        /// The address that the application connects to.
        bind: String = "bind",
        /// How connections reach the proxy.
        capture_mode: CaptureMode = "captureMode",
        /// The hosts: `<namespace>/<name>`.
        hosts: Vec<String> = "hosts",
    }
}

message! {
    /// A port of a listener.
    SidecarPort {
        /// The number.
        number: u32 = "number",
        /// The protocol.
        protocol: String = "protocol",
        /// The name.
        name: String = "name",
        /// Not used by Istio.
        target_port: u32 = "targetPort",
    }
}

message! {
    /// TLS of a port of the application that is not the mesh's.
    IngressTls {
        /// The mode.
        mode: String = "mode",
        /// The path of the certificate.
        server_certificate: String = "serverCertificate",
        /// The path of the key.
        private_key: String = "privateKey",
        /// The path of the roots of clients.
        ca_certificates: String = "caCertificates",
        /// The path of the revocation list.
        ca_crl: String = "caCrl",
        /// The Secret.
        credential_name: String = "credentialName",
        /// The names of clients.
        subject_alt_names: Vec<String> = "subjectAltNames",
        /// The hashes of the certificates of clients.
        verify_certificate_hash: Vec<String> = "verifyCertificateHash",
        /// The hashes of the keys of clients.
        verify_certificate_spki: Vec<String> = "verifyCertificateSpki",
        /// The lowest version.
        min_protocol_version: String = "minProtocolVersion",
        /// The highest version.
        max_protocol_version: String = "maxProtocolVersion",
        /// The cipher suites.
        cipher_suites: Vec<String> = "cipherSuites",
        /// Redirects.
        https_redirect: bool = "httpsRedirect",
    }
}

message! {
    /// What becomes of traffic to destinations outside of the scope.
    OutboundTraffic {
        /// Whether it passes.
        mode: OutboundMode = "mode",
        /// The service that it goes to.
        egress_proxy: Option<EgressProxy> = "egressProxy",
    }
}

message! {
    /// A port of a service.
    EgressProxy {
        /// The host; a short name is in the namespace of the Sidecar.
        host: String = "host",
        /// The subset.
        subset: String = "subset",
        /// The port.
        port: Option<PortSelector> = "port",
    }
}

words! {
    /// How connections reach the proxy.
    CaptureMode {
        /// As the pod was injected.
        #[default]
        Default = "DEFAULT",
        /// By packet rules.
        Iptables = "IPTABLES",
        /// The application connects to the proxy.
        None = "NONE",
    }
}

words! {
    /// What becomes of traffic to unknown destinations.
    OutboundMode {
        /// It is refused. As in Istio, the mode of a policy without one.
        #[default]
        RegistryOnly = "REGISTRY_ONLY",
        /// It passes.
        AllowAny = "ALLOW_ANY",
        /// It passes, and names are resolved.
        AllowAnyDynamicDns = "ALLOW_ANY_DYNAMIC_DNS",
    }
}

/// Where an ingress listener's application is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultEndpoint<'a> {
    /// A port of the loopback address of a family.
    Loopback(std::net::SocketAddr),
    /// A port of the address that the client connected to.
    SameAddress(u16),
    /// A Unix socket.
    Unix(&'a str),
    /// A port without an address, which Istio accepts and which has no effect.
    Nowhere,
}

/// The longest path of a Unix socket, `sun_path` without the byte at its end.
const MAX_PATH: usize = 107;

impl<'a> DefaultEndpoint<'a> {
    /// Reads the value of `defaultEndpoint`.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = if path.starts_with("//") { path.trim_start_matches('/') } else { path };
            return match path.starts_with(['/', '@']) && path.len() <= MAX_PATH {
                true => Ok(DefaultEndpoint::Unix(path)),
                false => Err(format!("must have an absolute path of at most {MAX_PATH} bytes after unix://")),
            };
        }
        if text.strip_prefix(':').is_some_and(|port| port.parse().is_ok_and(|port: u16| port != 0)) {
            return Ok(DefaultEndpoint::Nowhere);
        }
        let expected = "must be 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///PATH";
        let address: std::net::SocketAddr = text.parse().map_err(|_| expected.to_owned())?;
        match address.ip() {
            _ if address.port() == 0 => Err("has port 0; write a port from 1 to 65535".to_owned()),
            ip if ip.is_unspecified() => Ok(DefaultEndpoint::SameAddress(address.port())),
            ip if ip.to_string() == "127.0.0.1" || ip.to_string() == "::1" => Ok(DefaultEndpoint::Loopback(address)),
            _ => Err(expected.to_owned()),
        }
    }
}

/// An entry of `egress[].hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressHost<'a> {
    /// The namespace: a name, `*` for any, or `.` for that of the workload.
    pub namespace: &'a str,
    /// A name, `*.example.com`, or `*`.
    pub host: &'a str,
    /// What it matches is left out.
    pub exclude: bool,
}

impl<'a> EgressHost<'a> {
    /// Splits an entry: `<namespace>/<name>`, with `~` before it to leave out what it matches; `~` alone is `~*`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let (exclude, namespace) = match namespace.strip_prefix('~') {
            Some("") => (true, "*"),
            Some(namespace) => (true, namespace),
            None => (false, namespace),
        };
        (!namespace.is_empty() && !host.is_empty() && !host.contains('/')).then_some(EgressHost {
            namespace,
            host,
            exclude,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_endpoints_are_on_this_pod() {
        let loopback = |text: &str| Ok(DefaultEndpoint::Loopback(text.parse().unwrap()));
        for (text, expected) in [
            ("127.0.0.1:80", loopback("127.0.0.1:80")),
            ("[::1]:80", loopback("[::1]:80")),
            ("0.0.0.0:8080", Ok(DefaultEndpoint::SameAddress(8080))),
            ("[::]:8080", Ok(DefaultEndpoint::SameAddress(8080))),
            ("unix:///run/app.sock", Ok(DefaultEndpoint::Unix("/run/app.sock"))),
            ("unix://@app", Ok(DefaultEndpoint::Unix("@app"))),
            (":8080", Ok(DefaultEndpoint::Nowhere)),
        ] {
            assert_eq!(DefaultEndpoint::parse(text), expected, "{text}");
        }
        for text in [
            "",
            ":0",
            ":http",
            "80",
            "10.0.0.1:80",
            "127.0.0.2:80",
            "127.0.0.1:0",
            "127.0.0.1",
            "unix://app",
            "localhost:80",
        ] {
            assert!(DefaultEndpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_egress_host_has_a_namespace_and_a_name() {
        let host = |namespace, host, exclude| Some(EgressHost { namespace, host, exclude });
        for (text, expected) in [
            ("./*", host(".", "*", false)),
            ("*/*.example.com", host("*", "*.example.com", false)),
            ("shop/a.shop.svc.cluster.local", host("shop", "a.shop.svc.cluster.local", false)),
            ("~/*", host("*", "*", true)),
            ("~shop/*", host("shop", "*", true)),
            ("reviews", None),
            ("a/b/c", None),
            ("/x", None),
            ("a/", None),
        ] {
            assert_eq!(EgressHost::parse(text), expected, "{text}");
        }
    }
}
