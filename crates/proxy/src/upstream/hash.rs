//! The hash of a request, by which algorithms of consistent hashing choose an endpoint.
//!
//! Source: Envoy's route hash policies. Values are hashed as they are, so that equal values lead to one endpoint from every
//! proxy.

use std::fmt::Write;
use std::net::SocketAddr;

use balance::stable_hash as hash;
use http::{HeaderMap, HeaderValue, Uri, header};

use crate::mesh::{HashCookie, HashKey};

/// The hash of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// The hash; `None` if the request lacks what it is hashed by.
    pub hash: Option<u64>,
    /// The `Set-Cookie` header of the response, if the cookie was generated. Boxed: few requests have one, and each is moved.
    pub cookie: Option<Box<HeaderValue>>,
}

/// Returns the hash of a request. `client` and `destination` are the addresses of its connection.
pub fn request_hash(
    key: &HashKey,
    uri: &Uri,
    headers: &HeaderMap,
    client: SocketAddr,
    destination: SocketAddr,
) -> RequestHash {
    let of = |value: Option<&[u8]>| RequestHash { hash: value.map(hash), cookie: None };
    match key {
        HashKey::Header(name) => of(headers.get(name).map(HeaderValue::as_bytes)),
        HashKey::SourceAddress => connection_hash(client),
        HashKey::QueryParameter(name) => {
            let pairs =
                uri.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            of(pairs.into_iter().find(|(key, _)| **key == **name).map(|(_, value)| value.as_bytes()))
        }
        HashKey::Cookie(cookie) => match (value_of(headers, &cookie.name), cookie.ttl) {
            (Some(value), _) => of(Some(value.as_bytes())),
            (None, Some(_)) => {
                let value = format!("{:016x}", hash(format!("{client}{destination}").as_bytes()));
                RequestHash { hash: Some(hash(value.as_bytes())), cookie: set_cookie(cookie, &value) }
            }
            (None, None) => RequestHash::default(),
        },
    }
}

/// Returns the hash of a connection, for the only key that connections have.
pub fn connection_hash(client: SocketAddr) -> RequestHash {
    RequestHash { hash: Some(hash(client.ip().to_canonical().to_string().as_bytes())), cookie: None }
}

/// Returns the value of a cookie.
fn value_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.find(|(key, _)| *key == name)?.1;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// Returns the header that sets a cookie, in Envoy's form. A policy with characters that a header cannot have sets none.
fn set_cookie(cookie: &HashCookie, value: &str) -> Option<Box<HeaderValue>> {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    // Writing to a string cannot fail.
    if let Some(ttl) = cookie.ttl.filter(|ttl| !ttl.is_zero()) {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = if value.is_empty() { write!(text, "; {name}") } else { write!(text, "; {name}={value}") };
    }
    text.push_str("; HttpOnly");
    HeaderValue::try_from(text).ok().map(Box::new)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn client() -> SocketAddr {
        "10.0.0.7:40000".parse().unwrap()
    }

    fn of(key: &HashKey, uri: &str, headers: &[(&str, &str)]) -> RequestHash {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        request_hash(key, &uri.parse().unwrap(), &headers, client(), "10.96.0.1:80".parse().unwrap())
    }

    fn cookie(ttl: Option<Duration>) -> HashKey {
        let attributes = [("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
        HashKey::Cookie(Arc::new(HashCookie {
            name: "user".into(),
            path: "/".into(),
            ttl,
            attributes: attributes.into(),
        }))
    }

    #[test]
    fn equal_values_have_equal_hashes() {
        let header = HashKey::Header("x-user".parse().unwrap());
        let query = HashKey::QueryParameter("user".into());
        for (key, one, same, other, without) in [
            (
                &header,
                ("/", [("x-user", "ann")]),
                ("/b", [("x-user", "ann")]),
                ("/", [("x-user", "bob")]),
                ("/", [("x", "")]),
            ),
            (
                &query,
                ("/?user=ann", [("x", "1")]),
                ("/b?a=b&user=ann&c", [("x", "2")]),
                ("/?user=bob", [("x", "1")]),
                ("/?users=ann", [("x", "")]),
            ),
            (
                &cookie(None),
                ("/", [("cookie", "a=b; user=ann")]),
                ("/", [("cookie", "user=\"ann\"")]),
                ("/", [("cookie", "user=bob")]),
                ("/", [("cookie", "users=ann")]),
            ),
        ] {
            let hash = |(uri, headers): (&str, [(&str, &str); 1])| of(key, uri, &headers);
            let found = hash(one);
            assert!(found.hash.is_some() && found.cookie.is_none(), "{key:?}");
            assert_eq!(hash(same), found, "{key:?}");
            assert_ne!(hash(other), found, "{key:?}");
            assert_eq!(hash(without), RequestHash::default(), "{key:?}");
        }
        let source = of(&HashKey::SourceAddress, "/", &[]);
        assert_eq!(source, connection_hash("10.0.0.7:1".parse().unwrap()), "whatever the port is");
        assert_ne!(source, connection_hash("10.0.0.8:40000".parse().unwrap()));
    }

    #[test]
    fn a_cookie_is_generated_once() {
        let key = cookie(Some(Duration::from_secs(60)));
        let first = of(&key, "/", &[]);
        let set = first.cookie.as_ref().expect("a cookie").to_str().unwrap().to_owned();
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/; SameSite=Strict; Secure; HttpOnly");
        let second = of(&key, "/", &[("cookie", pair)]);
        assert_eq!((second.hash, second.cookie), (first.hash, None), "the client sends it back");
        let session = of(&cookie(Some(Duration::ZERO)), "/", &[]).cookie.unwrap();
        assert!(!session.to_str().unwrap().contains("Max-Age"), "{session:?}");
        assert_eq!(of(&cookie(None), "/", &[]), RequestHash::default());
    }
}
