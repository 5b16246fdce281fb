//! Requests to the application.
//!
//! A request is sent again only where a kept connection turned out to be closed before the request was on it; anything
//! else is the caller's decision, who may have other endpoints. Where the application was not reached at all, the answer
//! says so ([`headers::UNPROCESSED`]), so that the caller's sidecar may send even a POST elsewhere.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt::Write;
use std::pin::pin;
use std::rc::Rc;

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderValue, Request, Response, Version as HttpVersion, request};
use policy::authorization;
use policy::{Decision, Facts};
use telemetry::istio::Party;

use super::Arrived;
use proxy::failure::Failure;
use proxy::http::{Handler, Incoming, AttemptBody, ResponseBody, RequestBody, headers, local_reply, upgrade};
use proxy::io::Io;
use proxy::report::{self, RequestReport};
use proxy::upstream::{Lease, Version};
use proxy::worker::Worker;

/// Kept connections that may turn out to be closed, for one request.
const STALE: u32 = 8;

/// Serves a connection to the application.
pub async fn serve(io: Io, version: Version, arrived: Arrived, worker: &Rc<Worker>) -> Result<(), Failure> {
    let xfcc = xfcc(&arrived, worker);
    let handler = Rc::new(Requests { arrived, worker: worker.clone(), xfcc, party: OnceCell::new() });
    let served = proxy::http::serve(io, version, handler, &worker.drain).await;
    served.map_err(|error| Failure::Client(error.to_string().into()))
}

/// The requests of one connection.
struct Requests {
    arrived: Arrived,
    worker: Rc<Worker>,
    /// What the application is told of the client's identity.
    xfcc: Option<HeaderValue>,
    /// The client, to metrics: the same for all requests of a connection between sidecars.
    party: OnceCell<Rc<Party>>,
}

struct Unreached {
    failure: Failure,
    /// Nothing of the request reached the application.
    unprocessed: bool,
}

impl Handler for Requests {
    async fn handle(self: Rc<Self>, mut request: Request<Incoming>) -> Response<ResponseBody> {
        // Before it is logged.
        headers::identify(request.headers_mut());
        let mut report = self.begin(&request);
        let from_sidecar = self.arrived.peer.is_some() && request.headers().contains_key(headers::PEER);
        if let Err(failure) = self.authorize(&request) {
            return refuse(&failure, false, report);
        }
        let version = if request.version() == HttpVersion::HTTP_2 { Version::Http2 } else { Version::Http1 };
        let upgrade = upgrade::asked(&mut request);
        let (head, uploaded) = self.outgoing(request, upgrade.as_ref(), version);
        report.uploaded.clone_from(&uploaded);
        match self.send(&head, uploaded.as_ref(), version).await {
            Ok((response, lease)) => self.reply(response, lease, &head, uploaded, upgrade, from_sidecar, report),
            Err(Unreached { failure, unprocessed }) => {
                tracing::debug!(error = %failure, "the application was not reached");
                refuse(&failure, unprocessed && from_sidecar, report)
            }
        }
    }
}

fn refuse(failure: &Failure, unprocessed: bool, mut report: RequestReport) -> Response<ResponseBody> {
    let answer = failure.answer();
    report.failed(&answer);
    let mut response = local_reply(&answer, report.is_grpc(), Some(Box::new(report)));
    if unprocessed {
        response.headers_mut().insert(headers::UNPROCESSED, HeaderValue::from_static(answer.flag));
    }
    response
}

impl Requests {
    fn begin(&self, request: &Request<Incoming>) -> RequestReport {
        let worker = &self.worker;
        let mut seen = worker.telemetry.log.begin(&worker.view.snapshot().settings.log);
        if let Some(seen) = &mut seen {
            seen.request(request);
            self.arrived.remember(seen);
        }
        let grpc = headers::is_grpc(request.headers());
        let mut report = RequestReport::begin(&worker.telemetry, &self.arrived.route, grpc, seen);
        let party = self.party.get_or_init(|| {
            let peer = self.arrived.peer.as_deref();
            let said = request.headers().get(headers::PEER).filter(|_| peer.is_some());
            worker.telemetry.intern(report::party_from(said, peer))
        });
        report.party = Some(party.clone());
        report
    }

    fn authorize(&self, request: &Request<Incoming>) -> Result<(), Failure> {
        // Of now, not of when the connection came: it may be kept for days.
        let snapshot = self.worker.view.snapshot();
        if snapshot.authorization.as_ref().is_some_and(|authorization| authorization.is_empty()) {
            return Ok(());
        }
        let asked = authorization::Request {
            method: request.method().as_str(),
            path: request.uri().path(),
            host: headers::host(request).unwrap_or_default(),
            headers: &Fields(request.headers()),
        };
        match snapshot.authorize(&Facts { request: Some(asked), ..self.arrived.facts() }) {
            Decision::Allowed => Ok(()),
            Decision::Denied { policy, .. } => Err(Failure::Denied(policy)),
            Decision::NotAllowed => Err(Failure::Denied("none".into())),
        }
    }

    /// The head as the application gets it, and the body.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        upgrade: Option<&upgrade::Asked>,
        version: Version,
    ) -> (request::Parts, Option<Rc<RequestBody>>) {
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, ());
        let fields = request.headers_mut();
        headers::end_here(fields);
        // Whatever the client says of itself or others is replaced by what it proved.
        fields.remove(headers::CLIENT_CERT);
        if let Some(xfcc) = &self.xfcc {
            fields.insert(headers::CLIENT_CERT, xfcc.clone());
        }
        let scheme = if self.arrived.peer.is_some() { "https" } else { "http" };
        fields.entry(headers::FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
        if let Some(upgrade) = upgrade {
            upgrade.ask(fields);
        }
        headers::retarget(
            &mut request,
            match version {
                Version::Http1 => HttpVersion::HTTP_11,
                Version::Http2 => HttpVersion::HTTP_2,
            },
        );
        (request.into_parts().0, RequestBody::new(body))
    }

    async fn send(
        &self,
        head: &request::Parts,
        uploaded: Option<&Rc<RequestBody>>,
        version: Version,
    ) -> Result<(Response<Incoming>, Lease), Unreached> {
        let endpoint = || self.arrived.destination.to_string().into();
        let pool = self.worker.app(self.arrived.destination);
        let mut stale = 0;
        loop {
            let leasing = pool.to_app(self.arrived.destination, version, self.worker.mark);
            let lease = RequestBody::meanwhile(uploaded, pin!(leasing)).await;
            let mut lease = lease.map_err(|error| Unreached {
                failure: Failure::Connect { endpoint: endpoint(), error, retried: false },
                unprocessed: true,
            })?;
            let body = uploaded.map_or_else(AttemptBody::empty, RequestBody::attempt);
            let unsent = match lease.send(Request::from_parts(head.clone(), body)).await {
                Ok(response) => return Ok((response, lease)),
                Err(unsent) => unsent,
            };
            let repeatable = uploaded.is_none_or(|uploaded| uploaded.can_repeat());
            if lease.reused && unsent.unprocessed && repeatable && stale < STALE {
                stale += 1;
                pool.prune();
                continue;
            }
            let error = unsent.error.to_string().into();
            let failure = Failure::Reset { endpoint: endpoint(), error, retried: false };
            return Err(Unreached { failure, unprocessed: unsent.unprocessed && repeatable });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a response needs of its request, once")]
    fn reply(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        head: &request::Parts,
        uploaded: Option<Rc<RequestBody>>,
        upgrade: Option<upgrade::Asked>,
        from_sidecar: bool,
        mut report: RequestReport,
    ) -> Response<ResponseBody> {
        if let Some(uploaded) = &uploaded {
            uploaded.forget();
        }
        report.answered(response.status().as_u16(), headers::grpc_status(response.headers()));
        let kept = upgrade.as_ref().map(|_| upgrade::kept(response.headers())).unwrap_or_default();
        let fields = response.headers_mut();
        // Also what sidecars say: an application must not be taken for one.
        headers::end_here(fields);
        if from_sidecar {
            fields.insert(headers::PEER, self.worker.me().header.clone());
        }
        if let Some(seen) = &mut report.seen {
            seen.response(fields);
            seen.upstream_local = lease.line.local;
        }
        *response.version_mut() = HttpVersion::HTTP_11;
        if let Some(upgrade) = upgrade.filter(|upgrade| upgrade.agreed(&response, &head.method)) {
            let keep = (self.worker.drain.guard(), self.worker.clone());
            upgrade.carry(lease, Box::new(report), keep);
            response.headers_mut().extend(kept);
            return response.map(|_| ResponseBody::local("", None));
        }
        response.map(|incoming| ResponseBody::upstream(incoming, Some(lease), uploaded, Box::new(report)))
    }
}

/// Headers as policies look them up.
struct Fields<'a>(&'a HeaderMap);

impl authorization::Headers for Fields<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.0.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let first = values.next()?;
        Some(values.fold(first, |joined, value| Cow::Owned(format!("{joined},{value}"))))
    }
}

/// What the application is told of the client: Envoy's `By;Hash;Subject;URI`.
fn xfcc(arrived: &Arrived, worker: &Worker) -> Option<HeaderValue> {
    let (peer, hash) = (arrived.peer.as_ref()?, arrived.certificate.as_ref()?);
    let text = format!("By={};Hash={hash};Subject=\"\";URI={}", worker.identity.id(), peer.id);
    HeaderValue::from_str(&text).ok()
}

/// The SHA-256 of a certificate in hex.
pub(super) fn fingerprint(certificate: &[u8]) -> String {
    digest::digest(&digest::SHA256, certificate).as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of this size is made for each HTTP/2 request.
    #[test]
    fn streams_are_small() {
        let size = proxy::http::stream_size::<Requests>();
        assert!((1024..3072).contains(&size), "{size} bytes");
    }
}
