//! Connections that switch protocols, to WebSocket. [`crate::http::settle`] refuses all others, and `CONNECT`.

use std::rc::Rc;

use http::Request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use runtime::admission::{Admitted, Use};

use super::Ending;
use crate::relay;
use crate::upstream::Lease;

/// An upgrade that the downstream requested.
pub struct UpgradeRequest {
    downstream: OnUpgrade,
    headers: Vec<(HeaderName, HeaderValue)>,
    admitted: Rc<Admitted>,
}

/// Takes the downstream's side of an upgrade out of a request. To be called before hop-by-hop headers are removed.
pub fn requested<B>(request: &mut Request<B>, admitted: &Rc<Admitted>) -> UpgradeRequest {
    let headers = upgrade_headers(request.headers());
    UpgradeRequest { downstream: on(request), headers, admitted: admitted.clone() }
}

/// Returns the headers of an upgrade that the next hop needs as well. [`crate::http::headers::end_hop`] removes them, so a
/// response that agrees to an upgrade needs them again.
pub fn upgrade_headers(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let Some(protocol) = headers.get(header::UPGRADE) else { return Vec::new() };
    vec![(header::CONNECTION, HeaderValue::from_static("upgrade")), (header::UPGRADE, protocol.clone())]
}

impl UpgradeRequest {
    /// Adds the upgrade's headers to the request to the upstream.
    pub fn forward(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    /// Relays between both connections once they have switched protocols, and reports the end to `ending`. `upstream` is
    /// the connection whose response agreed; `keep` is dropped with the relay.
    pub fn carry(self, upstream: Lease, mut ending: Box<dyn Ending>, keep: impl Sized + 'static) {
        tokio::task::spawn_local(async move {
            let _keep = (keep, Use::of(self.admitted));
            let (Ok(downstream), Some(mut upstream)) = tokio::join!(self.downstream, upstream.into_upgraded()) else {
                ending.broken(0);
                return;
            };
            let bytes = relay::RelayedBytes::default();
            let relayed = relay::both_ways(&mut TokioIo::new(downstream), &mut upstream, &bytes).await;
            match relayed {
                Ok(()) => ending.complete(bytes.back.get(), None),
                Err(_) => ending.broken(bytes.back.get()),
            }
        });
    }
}
