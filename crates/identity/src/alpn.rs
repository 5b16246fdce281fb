//! Application protocols (ALPN) of connections between proxies.
//!
//! The values are Istio's, so that a mesh can be migrated proxy by proxy: an Istio sidecar selects its inbound filter
//! chain by the protocols that the client *offers*, and an Istio east-west gateway forwards only connections that offer
//! one of them. The server's choice has no effect on Istio. Isthmus therefore prefers the plain names, and accepts the
//! `istio*` names for clients that offer no others. `istio-peer-exchange` is last, because an Envoy client that
//! negotiates it expects metadata at the beginning of the stream.

/// A list of protocol names, most preferred first.
pub type Alpn = &'static [&'static [u8]];

/// The offer of a client that sends opaque bytes.
pub const CLIENT_TCP: Alpn = &[b"istio-peer-exchange", b"istio"];
/// The offer of an HTTP/1.0 client.
pub const CLIENT_HTTP10: Alpn = &[b"istio-http/1.0", b"istio", b"http/1.0"];
/// The offer of an HTTP/1.1 client.
pub const CLIENT_HTTP1: Alpn = &[b"istio-http/1.1", b"istio", b"http/1.1"];
/// The offer of an HTTP/2 client, including gRPC.
pub const CLIENT_HTTP2: Alpn = &[b"istio-h2", b"istio", b"h2"];

/// The protocols that a sidecar accepts inbound: all that the client lists offer.
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

/// The protocol of discovery and of the certificate API: gRPC.
pub const DISCOVERY: Alpn = &[b"h2"];
/// The protocols of webhooks.
pub const WEBHOOK: Alpn = &[b"h2", b"http/1.1"];

/// Returns whether the protocols offered in a ClientHello identify the client as a mesh proxy, as opposed to an
/// application with TLS of its own.
pub fn offered_by_mesh<'a>(offered: impl IntoIterator<Item = &'a [u8]>) -> bool {
    offered.into_iter().any(|name| name == b"istio" || name.starts_with(b"istio-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_offer_has_a_protocol_of_the_server_list() {
        for client in [CLIENT_TCP, CLIENT_HTTP10, CLIENT_HTTP1, CLIENT_HTTP2] {
            let chosen = SERVER.iter().find(|name| client.contains(name)).expect("a common protocol");
            assert_ne!(*chosen, b"istio-peer-exchange");
            assert!(offered_by_mesh(client.iter().copied()));
        }
        assert!(!offered_by_mesh([b"h2".as_slice(), b"http/1.1"]));
    }
}
