//! The question to a server, sent like any request to a service of the mesh, and its answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use balance::Outcome;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, request, response};

use super::AskedEndpoint;
use crate::http::{AttemptBody, Incoming, Version, headers};
use crate::mesh::Protocol;
use crate::upstream::{LeasedConnection, UpstreamCluster};
use crate::worker::Worker;

/// The largest body of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// The number of idle connections that may turn out to be closed.
const MAX_STALE: u32 = 3;

/// What is sent to a server.
pub(super) struct Question {
    pub(super) head: request::Parts,
    pub(super) body: Bytes,
    /// HTTP/2, whatever the port declares.
    pub(super) http2_only: bool,
}

/// What a server sent.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Sends a question, on another connection if an idle one turns out to be closed. `asked` is the endpoint meanwhile.
///
/// # Errors
/// Returns the reason why there is no answer.
pub(super) async fn send(
    question: Question,
    (cluster, protocol): (&Rc<UpstreamCluster>, Protocol),
    asked: &AskedEndpoint,
    worker: &Rc<Worker>,
) -> Result<Answer, String> {
    let Question { mut head, body, http2_only } = question;
    let declared = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
    let http2 = http2_only || cluster.speaks_http2(declared, false);
    let version = if http2 { Version::Http2 } else { Version::Http1 };
    if cluster.in_mesh() {
        head.headers.insert(headers::PEER, worker.own_party().header.clone());
    }
    headers::retarget(&mut head, version);
    let mut stale = 0;
    loop {
        let dial = || worker.dial_options(cluster);
        let leasing = cluster.lease(version, &mut Vec::new(), None, Instant::now(), dial).await;
        let mut leased = leasing.map_err(|failure| failure.to_string())?;
        asked.replace(Some(leased.pick.clone()));
        let request = Request::from_parts(head.clone(), AttemptBody::of(body.clone()));
        let error = match leased.lease.send(request, false).await {
            Ok(response) => return receive(response, leased).await,
            Err(error) => error,
        };
        let unsent = leased.lease.reused && (error.unprocessed || error.cause.is_closed());
        leased.pool.clear();
        if unsent && stale < MAX_STALE {
            stale += 1;
            continue;
        }
        leased.pick.report(Outcome::NoResponse, Instant::now());
        return Err(error.cause.to_string());
    }
}

/// Reads the body of an answer.
async fn receive(response: Response<Incoming>, mut leased: LeasedConnection) -> Result<Answer, String> {
    leased.pick.report(Outcome::of_status(response.status().as_u16()), Instant::now());
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = poll_fn(|cx| leased.lease.poll_body(&mut incoming, cx)).await {
        match frame.map_err(|error| format!("its answer is cut off: {error}"))?.into_data() {
            Ok(data) if body.len() + data.len() > MAX_ANSWER => {
                return Err(format!("its answer has more than {MAX_ANSWER} bytes"));
            }
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    leased.lease.release();
    Ok(Answer { head, body: body.freeze(), trailers })
}
