//! Connections that stop being HTTP: WebSocket, `CONNECT`, and whatever else is agreed on by `Upgrade`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;

use super::Ending;
use crate::relay;
use crate::upstream::Lease;

/// An upgrade that a client asks for.
pub struct Asked {
    client: OnUpgrade,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Takes the client's side of an upgrade out of a request, before its hop-by-hop fields go.
pub fn asked<B>(request: &mut Request<B>) -> Option<Asked> {
    if request.version() == Version::HTTP_2 {
        return None;
    }
    let by_header =
        request.headers().get(header::CONNECTION).is_some_and(|value| super::headers::mentions(value, "upgrade"))
            && request.headers().contains_key(header::UPGRADE);
    if !by_header && request.method() != Method::CONNECT {
        return None;
    }
    let headers = upgrade_fields(request.headers());
    Some(Asked { client: on(request), headers })
}

/// The fields that an upgrade needs on the next hop as well.
fn upgrade_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let Some(protocol) = headers.get(header::UPGRADE) else { return Vec::new() };
    vec![(header::CONNECTION, HeaderValue::from_static("upgrade")), (header::UPGRADE, protocol.clone())]
}

impl Asked {
    /// Asks the upstream for the same.
    pub fn ask(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    /// Whether this response agrees to it.
    pub fn agreed<B>(&self, response: &Response<B>, method: &Method) -> bool {
        response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (method == Method::CONNECT && response.status().is_success())
    }

    /// Relays between both sides once they have switched, and tells `ending` when it is over. `upstream` is the connection
    /// whose response agreed. `keep` lives as long as the relay.
    pub fn carry(self, upstream: Lease, mut ending: Box<dyn Ending>, keep: impl Sized + 'static) {
        tokio::task::spawn_local(async move {
            let _keep = keep;
            let (Ok(client), Some(mut server)) = tokio::join!(self.client, upstream.into_upgraded()) else {
                ending.broken(0);
                return;
            };
            let moved = relay::Moved::default();
            let relayed = relay::both_ways(&mut TokioIo::new(client), &mut server, &moved).await;
            match relayed {
                Ok(()) => ending.complete(moved.back.get(), None),
                Err(_) => ending.broken(moved.back.get()),
            }
        });
    }
}

/// The fields of a response that agrees to an upgrade, kept over [`super::headers::end_here`].
pub fn kept(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    upgrade_fields(headers)
}
