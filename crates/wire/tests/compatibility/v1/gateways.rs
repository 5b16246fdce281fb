//! Listeners of routers, and their certificates.

use bytes::Bytes;
use isthmus_wire::discovery::{
    Credential, ForwardClientCert, GatewayServer, Listener, Listeners, ServerProtocol, ServerTls, ServerTlsMode,
    TlsVersion,
};

use super::{ipv6, names};

pub(super) fn listeners() -> Listeners {
    let passthrough = ServerTls { mode: ServerTlsMode::Passthrough as i32, ..Default::default() };
    Listeners {
        listeners: vec![
            Listener {
                port: 8080,
                server_port: 80,
                servers: vec![GatewayServer { https_redirect: true, ..server("http") }],
                ..Default::default()
            },
            Listener {
                port: 8443,
                bind: ipv6(),
                server_port: 443,
                servers: vec![
                    GatewayServer { tls: Some(mutual_tls()), ..server("https") },
                    GatewayServer {
                        protocol: ServerProtocol::Tcp as i32,
                        tls: Some(passthrough),
                        ..server("passthrough")
                    },
                ],
                ..Default::default()
            },
        ],
        trusted_proxies: 2,
        forward_client_cert: ForwardClientCert::AppendForward as i32,
        proxy_protocol: true,
        ..Default::default()
    }
}

fn server(name: &str) -> GatewayServer {
    GatewayServer {
        gateway: "istio-system/public".into(),
        name: name.into(),
        hosts: names(&["shop.example.com", "*.example.com"]),
        routes: format!("istio-system/public/{name}"),
        ..Default::default()
    }
}

fn mutual_tls() -> ServerTls {
    ServerTls {
        mode: ServerTlsMode::Mutual as i32,
        credentials: names(&["west/istio-system/rsa", "west/istio-system/ecdsa"]),
        ca_credential: "west/istio-system/clients".into(),
        server_certificate: "/certs/server.pem".into(),
        private_key: "/certs/key.pem".into(),
        ca_certificates: "/certs/ca.pem".into(),
        ca_crl: "/certs/crl.pem".into(),
        subject_alt_names: names(&["client.example.com"]),
        certificate_hashes: names(&["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]),
        certificate_spki: names(&["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]),
        min_version: TlsVersion::TlsVersion12 as i32,
        max_version: TlsVersion::TlsVersion13 as i32,
        cipher_suites: names(&["ECDHE-ECDSA-AES256-GCM-SHA384"]),
        ..Default::default()
    }
}

pub(super) fn credential() -> Credential {
    Credential {
        certificate_chain: Bytes::from_static(b"a certificate"),
        private_key: Bytes::from_static(b"a key"),
        ca_certificates: Bytes::from_static(b"the roots of clients"),
        crl: Bytes::from_static(b"revoked certificates"),
        ..Default::default()
    }
}
