//! What policies evaluate: the properties of a connection and of a request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use identity::SpiffeId;

/// The properties of a request or an opaque connection that policies match.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The peer's identity; `None` without mutual TLS.
    pub principal: Option<&'a SpiffeId>,
    /// The cluster whose intermediate issued the peer's certificate.
    pub cluster: Option<&'a str>,
    /// The peer's address.
    pub source: IpAddr,
    /// The address of the original client, as proxies on the way report it; the peer's own if none does.
    pub remote: IpAddr,
    /// The application's address.
    pub destination: IpAddr,
    /// The destination port of the application.
    pub port: u16,
    /// The server name of the TLS ClientHello (SNI).
    pub server_name: Option<&'a str>,
    /// The request; `None` on an opaque connection.
    pub request: Option<Request<'a>>,
}

/// The properties of an HTTP request that policies match.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, as received.
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The host, with the port if the request has one.
    pub host: &'a str,
    /// The headers.
    pub headers: &'a dyn Headers,
    /// The claims of the verified token; `None` without one.
    pub claims: Option<&'a dyn Claims>,
}

/// Returns a principal as policies write it: the SPIFFE ID without `spiffe://`.
pub(crate) fn principal_of(id: &SpiffeId) -> &str {
    id.as_str().strip_prefix("spiffe://").unwrap_or(id.as_str())
}

/// Access to the headers of a request.
pub trait Headers {
    /// Returns whether a value of the header of a lower-case name matches. Each line of a header is a value.
    fn any(&self, name: &str, matches: &mut dyn FnMut(Cow<'_, str>) -> bool) -> bool;
}

/// Access to the claims of a verified token.
pub trait Claims {
    /// The issuer.
    fn issuer(&self) -> Option<&str>;

    /// The subject.
    fn subject(&self) -> Option<&str>;

    /// Returns whether a value of the claim at a path matches. Each element of a list is a value.
    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool;
}
