//! The question to a server, sent like any request to a service of the mesh, and its answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::{Outcome, Pick};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, request, response};

use crate::http::{AttemptBody, Incoming, Version, headers};
use crate::mesh::{Lookup, Protocol};
use crate::upstream::{ClusterKey, LeasedConnection, Target, UpstreamCluster};
use crate::worker::Worker;

/// The largest body of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// The number of idle connections that may turn out to be closed.
const MAX_STALE: u32 = 3;

/// What is sent to a server.
pub(in crate::exchange) struct Question {
    pub(super) head: request::Parts,
    pub(super) body: Bytes,
    /// HTTP/2, whatever the port declares.
    pub(super) http2_only: bool,
}

/// What a server sent.
pub(in crate::exchange) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// The endpoint that is being asked.
pub(in crate::exchange) type AskedEndpoint = RefCell<Option<Rc<Pick<Arc<Target>>>>>;

/// Why there is no answer.
pub(in crate::exchange) enum NoAnswer {
    /// The service or its port does not exist.
    NoService,
    /// The server did not answer, or not as it has to.
    Failed(String),
}

impl From<String> for NoAnswer {
    fn from(reason: String) -> Self {
        NoAnswer::Failed(reason)
    }
}

/// Asks a port of a service of the mesh. `asked` is the endpoint meanwhile.
///
/// # Errors
/// Returns the reason why there is no answer.
pub(in crate::exchange) async fn ask(
    host: &Arc<str>,
    port: u16,
    question: Question,
    asked: &AskedEndpoint,
    worker: &Rc<Worker>,
) -> Result<Answer, NoAnswer> {
    let service = match worker.view.by_name(host).await {
        Lookup::Found(service) => service,
        Lookup::Absent => return Err(NoAnswer::NoService),
        Lookup::Unanswered => return Err("the controller does not answer where it is".to_owned().into()),
    };
    let protocol = service.port(port).ok_or(NoAnswer::NoService)?.protocol;
    let cluster = worker.clusters.get(ClusterKey::of(&service, port, Arc::default()), &worker.view);
    let Some(_place) = worker.checks.place(host) else {
        return Err("too many questions to it are in progress".to_owned().into());
    };
    Ok(send(question, (&cluster, protocol), asked, worker).await?)
}

/// Sends a question, on another connection if an idle one turns out to be closed.
async fn send(
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
