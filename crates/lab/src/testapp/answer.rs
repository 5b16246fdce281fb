//! Who answers, and what was seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// What this process knows of itself, from the pod's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) version: String,
}

impl Who {
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

/// What the application answers. Clients read it back, so all fields may be missing there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) version: String,
    /// The caller's SPIFFE id, as this pod's sidecar tells it; null where there is none.
    pub(super) identity: Option<String>,
    pub(super) protocol: String,
    pub(super) method: String,
    pub(super) path: String,
    /// Where the connection came from.
    pub(super) peer: String,
    /// Bytes of the request's body.
    pub(super) body_bytes: u64,
    pub(super) headers: BTreeMap<String, String>,
}

impl Answer {
    /// An answer to a connection that has no request.
    pub(super) fn to_connection(who: &Who, protocol: &str, peer: SocketAddr) -> Self {
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

    /// An answer to a request.
    pub(super) fn to_request(who: &Who, request: &http::request::Parts, protocol: &str, peer: SocketAddr) -> Self {
        Self {
            identity: identity(&request.headers),
            method: request.method.to_string(),
            path: request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: headers(&request.headers),
            ..Self::to_connection(who, protocol, peer)
        }
    }
}

/// Repeated headers are joined, as RFC 9110 §5.3 allows.
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

/// The `URI` of the last element of `x-forwarded-client-cert`: that is what the nearest proxy has verified.
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
    fn the_nearest_proxys_word_counts() {
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
