//! What a request to a gateway says of its origin: `x-forwarded-for`, `-proto` and `-client-cert`.
//!
//! A client can send any of these headers. What is in them counts only as far as trusted proxies in front of the gateway added
//! it: [`Edge::trusted_proxies`] of them. The semantics are those of Envoy with `use_remote_address` and
//! `xff_num_trusted_hops`, as Istio configures its gateways.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::headers;

/// The address of the original client.
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Headers by which a request changes how Envoys treat it. Clients outside of the mesh may not.
const COMMANDS: [HeaderName; 13] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
];

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// It is removed.
    Sanitize,
    /// That of a client with a certificate is forwarded.
    ForwardOnly,
    /// The client's own certificate is added to it.
    AppendForward,
    /// It is that of the client's own certificate.
    #[default]
    SanitizeSet,
    /// It is forwarded.
    AlwaysForwardOnly,
}

/// The certificate of a client, as `x-forwarded-client-cert` shows it: Envoy's `Hash=…;Cert=…;Subject=…;URI=…;DNS=…`.
#[derive(Debug, Clone)]
pub struct ClientCertificate(pub Arc<str>);

/// What a gateway believes of a request's origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edge {
    /// The number of proxies in front of the gateway that it trusts.
    pub trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
}

impl Edge {
    /// Makes the headers of a request those that the gateway vouches for. Returns the address of the original client; `None` if
    /// that is the peer.
    pub(super) fn receive(&self, headers: &mut HeaderMap, peer: IpAddr, scheme: &'static str) -> Option<IpAddr> {
        for name in COMMANDS {
            headers.remove(name);
        }
        let client = self.client(headers);
        append_forwarded_for(headers, peer);
        let trusted = self.trusted_proxies > 0
            && headers.get(headers::FORWARDED_PROTO).is_some_and(|proto| proto == "http" || proto == "https");
        if !trusted {
            headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        if let Ok(address) = HeaderValue::try_from(client.unwrap_or(peer).to_string()) {
            headers.insert(EXTERNAL_ADDRESS, address);
        }
        client
    }

    /// Returns the address that the first trusted proxy received the request from.
    fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let nth = usize::try_from(self.trusted_proxies).ok()?.checked_sub(1)?;
        let lines = headers.get_all(headers::FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let addresses: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        let address = addresses.iter().rev().nth(nth)?.trim();
        address.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }

    /// Returns the value of `x-forwarded-client-cert`. `received` is the value that the request had, and `own` the client's
    /// certificate.
    pub(super) fn client_certificate(
        &self,
        received: Option<HeaderValue>,
        own: Option<&ClientCertificate>,
    ) -> Option<HeaderValue> {
        let value = |own: &ClientCertificate| HeaderValue::from_str(&own.0).ok();
        match self.forward_client_cert {
            ForwardClientCert::Sanitize => None,
            ForwardClientCert::ForwardOnly => received.filter(|_| own.is_some()),
            ForwardClientCert::SanitizeSet => own.and_then(value),
            ForwardClientCert::AlwaysForwardOnly => received,
            ForwardClientCert::AppendForward => {
                let own = value(own?)?;
                match received {
                    None => Some(own),
                    Some(received) => {
                        HeaderValue::from_bytes(&[received.as_bytes(), b",", own.as_bytes()].concat()).ok()
                    }
                }
            }
        }
    }
}

/// Adds an address to `x-forwarded-for`, as one line.
fn append_forwarded_for(headers: &mut HeaderMap, address: IpAddr) {
    let mut line: Vec<u8> = Vec::new();
    for value in headers.get_all(headers::FORWARDED_FOR) {
        line.extend_from_slice(value.as_bytes());
        line.push(b',');
    }
    line.extend_from_slice(address.to_string().as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(headers::FORWARDED_FOR, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_client_is_as_far_back_as_trusted_proxies_reach() {
        let peer: IpAddr = [10, 0, 0, 9].into();
        for (trusted, lines, client, forwarded) in [
            (0, &[][..], None, "10.0.0.9"),
            (0, &["1.1.1.1"], None, "1.1.1.1,10.0.0.9"),
            (1, &["6.6.6.6, 1.1.1.1"], Some("1.1.1.1"), "6.6.6.6, 1.1.1.1,10.0.0.9"),
            (2, &["6.6.6.6", "1.1.1.1, 2.2.2.2"], Some("1.1.1.1"), "6.6.6.6,1.1.1.1, 2.2.2.2,10.0.0.9"),
            (3, &["1.1.1.1, 2.2.2.2"], None, "1.1.1.1, 2.2.2.2,10.0.0.9"),
            (1, &["nonsense"], None, "nonsense,10.0.0.9"),
            (1, &["::ffff:1.1.1.1"], Some("1.1.1.1"), "::ffff:1.1.1.1,10.0.0.9"),
        ] {
            let of: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let mut headers = map(&of);
            let edge = Edge { trusted_proxies: trusted, ..Edge::default() };
            let found = edge.receive(&mut headers, peer, "http");
            assert_eq!(found, client.map(|ip| ip.parse().unwrap()), "{trusted} {lines:?}");
            assert_eq!(headers["x-forwarded-for"], forwarded, "{trusted} {lines:?}");
            assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            assert_eq!(headers["x-envoy-external-address"], client.unwrap_or("10.0.0.9"));
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_which_scheme_its_client_used() {
        for (trusted, sent, expected) in
            [(0, Some("https"), "http"), (1, Some("https"), "https"), (1, Some("gopher"), "http"), (1, None, "http")]
        {
            let mut headers = map(&sent.map(|proto| ("x-forwarded-proto", proto)).into_iter().collect::<Vec<_>>());
            Edge { trusted_proxies: trusted, ..Edge::default() }.receive(&mut headers, [10, 0, 0, 9].into(), "http");
            assert_eq!(headers["x-forwarded-proto"], expected, "{trusted} {sent:?}");
        }
    }

    #[test]
    fn clients_do_not_command_retries() {
        let mut headers = map(&[("x-envoy-retry-on", "5xx"), ("x-envoy-upstream-rq-timeout-ms", "1"), ("x-mine", "1")]);
        Edge::default().receive(&mut headers, [10, 0, 0, 9].into(), "http");
        assert!(!headers.contains_key("x-envoy-retry-on") && !headers.contains_key("x-envoy-upstream-rq-timeout-ms"));
        assert!(headers.contains_key("x-mine"));
    }

    #[test]
    fn the_certificate_of_the_client_is_forwarded_as_configured() {
        use ForwardClientCert::*;
        let own = ClientCertificate("Hash=own".into());
        for (mode, received, has_own, expected) in [
            (Sanitize, Some("Hash=x"), true, None),
            (ForwardOnly, Some("Hash=x"), true, Some("Hash=x")),
            (ForwardOnly, Some("Hash=x"), false, None),
            (AppendForward, Some("Hash=x"), true, Some("Hash=x,Hash=own")),
            (AppendForward, Some("Hash=x"), false, None),
            (AppendForward, None, true, Some("Hash=own")),
            (SanitizeSet, Some("Hash=x"), true, Some("Hash=own")),
            (SanitizeSet, Some("Hash=x"), false, None),
            (AlwaysForwardOnly, Some("Hash=x"), false, Some("Hash=x")),
        ] {
            let edge = Edge { forward_client_cert: mode, ..Edge::default() };
            let value = edge.client_certificate(received.map(HeaderValue::from_static), has_own.then_some(&own));
            assert_eq!(value, expected.map(HeaderValue::from_static), "{mode:?} {received:?} {has_own}");
        }
    }
}
