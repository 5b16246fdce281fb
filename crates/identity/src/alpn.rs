//! Application protocols offered between proxies.
//!
//! The values are Istio's, so that a mesh can be migrated proxy by proxy: an Istio sidecar picks its inbound filter chain
//! by what the client *offers*, and an Istio east-west gateway forwards only connections that offer one of them. A server
//! never has to select one. Ours therefore prefers the plain names, and knows the `istio*` ones only so that a client that
//! offers nothing else is not turned away; `istio-peer-exchange` comes last, because selecting it makes an Envoy client
//! expect metadata at the head of the stream.

/// A list of protocol names, most preferred first.
pub type Alpn = &'static [&'static [u8]];

/// A client that sends opaque bytes.
pub const CLIENT_TCP: Alpn = &[b"istio-peer-exchange", b"istio"];
/// A client that speaks HTTP/1.0.
pub const CLIENT_HTTP10: Alpn = &[b"istio-http/1.0", b"istio", b"http/1.0"];
/// A client that speaks HTTP/1.1.
pub const CLIENT_HTTP1: Alpn = &[b"istio-http/1.1", b"istio", b"http/1.1"];
/// A client that speaks HTTP/2, gRPC included.
pub const CLIENT_HTTP2: Alpn = &[b"istio-h2", b"istio", b"h2"];

/// A sidecar's inbound side: accepts whatever any of the client lists offers.
pub const SERVER: Alpn = &[
    b"h2",
    b"http/1.1",
    b"http/1.0",
    b"istio",
    b"istio-h2",
    b"istio-http/1.1",
    b"istio-http/1.0",
    b"istio-peer-exchange",
];

/// Discovery and certificates, both gRPC.
pub const DISCOVERY: Alpn = &[b"h2"];
/// Webhooks.
pub const WEBHOOK: Alpn = &[b"h2", b"http/1.1"];

/// Whether a ClientHello's offer says that the client is a proxy of a mesh, as opposed to an application that speaks TLS
/// of its own to a permissive port.
pub fn offered_by_mesh<'a>(offered: impl IntoIterator<Item = &'a [u8]>) -> bool {
    offered.into_iter().any(|name| name == b"istio" || name.starts_with(b"istio-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_offer_meets_the_server_list() {
        for client in [CLIENT_TCP, CLIENT_HTTP10, CLIENT_HTTP1, CLIENT_HTTP2] {
            let chosen = SERVER.iter().find(|name| client.contains(name)).expect("a common protocol");
            assert_ne!(*chosen, b"istio-peer-exchange");
            assert!(offered_by_mesh(client.iter().copied()));
        }
        assert!(!offered_by_mesh([b"h2".as_slice(), b"http/1.1"]));
    }
}
