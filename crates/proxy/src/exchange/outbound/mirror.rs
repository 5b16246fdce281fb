//! Mirrored requests: copies that another destination receives, whose responses are dropped.
//!
//! A mirror never delays the request: it is sent by a task of its own, and reads a copy of the body that is bounded. A mirror
//! that does not keep up fails.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Version as HttpVersion, header, request};

use super::{Destination, serves_http2};
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::http::{AttemptBody, RequestBody, Version, headers};
use crate::worker::Worker;

/// The number of mirrored requests of a worker that are in progress at a time. Further ones are not sent.
const MAX_MIRRORS: usize = 128;
/// How long a mirrored request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends a copy of a request.
pub(super) fn send(exchange: &Exchange, to: Destination, worker: &Rc<Worker>) {
    if Rc::strong_count(&worker.mirrors) > MAX_MIRRORS {
        return tracing::debug!(cluster = %to.cluster.name, "too many mirrored requests in progress; one is not sent");
    }
    let place = worker.mirrors.clone();
    let mut head = exchange.head.clone();
    let version = if serves_http2(&to, &head) { Version::Http2 } else { Version::Http1 };
    prepare(&mut head);
    if to.cluster.in_mesh() {
        head.headers.insert(headers::PEER, worker.own_party().header.clone());
    }
    headers::retarget(&mut head, version);
    let body = exchange.body.as_ref().map_or_else(AttemptBody::empty, RequestBody::copy);
    let to = to.for_host(&head, worker).unwrap_or(to);
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let request = Request::from_parts(head, body);
        match tokio::time::timeout(LIMIT, carry(request, &to, version, &worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, cluster = %to.cluster.name, "a mirrored request failed"),
            Err(_) => tracing::debug!(cluster = %to.cluster.name, "a mirrored request took too long"),
        }
        drop(place);
    });
}

/// Prepares the head of a copy. The host stays, as Istio configures it; Envoy's own default appends `-shadow`.
fn prepare(head: &mut request::Parts) {
    head.headers.remove(header::EXPECT);
    head.headers.entry(headers::FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if head.version == HttpVersion::HTTP_10 {
        head.version = HttpVersion::HTTP_11;
    }
}

async fn carry(
    request: Request<AttemptBody>,
    to: &Destination,
    version: Version,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let cluster = &to.cluster;
    let mut leased =
        cluster.lease(version, &mut Vec::new(), None, Instant::now(), || worker.dial_options(cluster)).await?;
    let lost = |error: String| Failure::Downstream(error.into());
    let response = leased.lease.send(request, false).await.map_err(|error| lost(error.cause.to_string()))?;
    let mut body = response.into_body();
    while let Some(frame) = poll_fn(|cx| leased.lease.poll_body(&mut body, cx)).await {
        frame.map_err(|error| lost(error.to_string()))?;
    }
    leased.lease.release();
    Ok(())
}
