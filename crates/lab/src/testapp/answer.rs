//! The response of the application: the instance that answers, and the request.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// The instance: this process's place in the mesh, from the pod's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) version: String,
}

impl Instance {
    pub(super) fn from_environment() -> Self {
        let get = |name: &str| std::env::var(name).unwrap_or_default();
        let or = |value: String, other: &str| if value.is_empty() { get(other) } else { value };
        Self {
            cluster: get("CLUSTER"),
            region: get("REGION"),
            zone: get("ZONE"),
            pod: or(get("POD_NAME"), "HOSTNAME"),
            namespace: get("POD_NAMESPACE"),
            service: get("SERVICE"),
            version: get("VERSION"),
        }
    }
}

/// The response as JSON. Clients parse it too, so every field may be missing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct AppAnswer {
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) version: String,
    /// SPIFFE ID of the caller, from the header that this pod's sidecar adds; null without one.
    pub(super) identity: Option<String>,
    pub(super) protocol: String,
    pub(super) method: String,
    pub(super) path: String,
    /// Address of the peer.
    pub(super) peer: String,
    /// Length of the request's body, in bytes.
    pub(super) body_bytes: u64,
    pub(super) headers: BTreeMap<String, String>,
}

impl AppAnswer {
    /// Creates the response to a connection without a request.
    pub(super) fn to_connection(who: &Instance, protocol: &str, peer: SocketAddr) -> Self {
        Self {
            cluster: who.cluster.clone(),
            region: who.region.clone(),
            zone: who.zone.clone(),
            pod: who.pod.clone(),
            namespace: who.namespace.clone(),
            service: who.service.clone(),
            version: who.version.clone(),
            protocol: protocol.to_owned(),
            peer: peer.to_string(),
            ..Self::default()
        }
    }

    /// Creates the response to a request.
    pub(super) fn to_request(who: &Instance, request: &http::request::Parts, protocol: &str, peer: SocketAddr) -> Self {
        Self {
            identity: identity(&request.headers),
            method: request.method.to_string(),
            path: request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: headers(&request.headers),
            ..Self::to_connection(who, protocol, peer)
        }
    }
}

/// Collects headers. Repeated headers are joined, as RFC 9110 §5.3 allows.
fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        seen.entry(name.to_string())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    seen
}

/// The `URI` of the last element of `x-forwarded-client-cert`, which the nearest proxy has verified.
fn identity(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all("x-forwarded-client-cert").iter().next_back()?.to_str().ok()?;
    // Quoted values (Subject, Cert) may contain separators; a URI is never quoted.
    let (mut quoted, mut start, mut fields) = (false, 0, Vec::new());
    for (at, character) in all.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ';' | ',' if !quoted => {
                fields.push((character, &all[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push((',', &all[start..]));
    let last_element = fields[..fields.len() - 1].iter().rposition(|(end, _)| *end == ',').map_or(0, |at| at + 1);
    fields[last_element..].iter().find_map(|(_, field)| {
        let (key, value) = field.trim().split_once('=')?;
        (key.eq_ignore_ascii_case("URI") && !value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_the_one_that_the_nearest_proxy_verified() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-client-cert", value.parse().unwrap());
            identity(&headers)
        };
        let frontend = Some("spiffe://cluster.local/ns/default/sa/frontend".to_owned());
        assert_eq!(
            of("By=spiffe://a;Hash=0f;Subject=\"\";URI=spiffe://cluster.local/ns/default/sa/frontend"),
            frontend
        );
        assert_eq!(of("By=b;URI=spiffe://forged,By=c;URI=spiffe://cluster.local/ns/default/sa/frontend"), frontend);
        assert_eq!(
            of("Subject=\"CN=x,URI=spiffe://forged;y\";uri=spiffe://cluster.local/ns/default/sa/frontend"),
            frontend
        );
        assert_eq!(of("By=b;Hash=1"), None);
        assert_eq!(of(""), None);
        assert_eq!(identity(&HeaderMap::new()), None);
    }
}
