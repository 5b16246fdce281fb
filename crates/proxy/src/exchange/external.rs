//! External authorization: a policy of action CUSTOM asks a server by Envoy's `ext_authz` protocol.
//!
//! - [`check_request`] and [`check_connection`] are the whole of it: body → service → question → answer. Everything is
//!   bounded: time, questions in progress, and the bytes of bodies and answers.
//! - [`grpc_check`] and [`http_check`] are the two protocols, as pure functions: what is sent, and what an answer means.
//! - [`grpc`] frames messages. [`call`] sends the question, like any request to a service of the mesh.
//! - [`edits`] has the changes of headers that an answer asks for.
//!
//! The semantics are those of Envoy's filters as Istio configures them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::Outcome;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use policy::authorization::Matched;
use policy::external::{CheckProtocol, CheckedBody, Provider};

use super::{Downstream, Exchange};
use crate::failure::Failure;
use crate::http::{Beginning, RequestBody};
use crate::server::ResponseBody;
use crate::worker::Worker;

pub(super) mod call;
mod edits;
pub(super) mod grpc;
mod grpc_check;
mod http_check;

use call::{AskedEndpoint, NoAnswer};
use edits::Edit;
pub(super) use edits::OnAllow;

/// What a server answered.
#[derive(Debug)]
enum Verdict {
    Allowed(Changes),
    Denied(Box<Denial>),
}

/// How an allowed request and its response are changed.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    request: Vec<Edit>,
    response: Vec<Edit>,
    /// Parameters of the query that are set, and those that are removed.
    query: Vec<(String, Option<String>)>,
}

/// The response to a request that was denied.
#[derive(Debug, PartialEq)]
struct Denial {
    status: StatusCode,
    headers: Vec<Edit>,
    body: Bytes,
}

/// Why a request or connection is not carried.
pub(super) struct Refusal {
    failure: Failure,
    /// The response that the server asks for.
    denial: Option<Box<Denial>>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal { failure, denial: None }
    }
}

impl Refusal {
    /// Returns the response to the request.
    pub(super) fn answer(self, exchange: Exchange) -> Response<ResponseBody> {
        let mut reply = self.failure.local_reply();
        let Some(denial) = self.denial else { return exchange.fail(&self.failure) };
        reply.status = denial.status;
        let grpc = exchange.report.is_grpc();
        if grpc && let Ok(text) = std::str::from_utf8(&denial.body) {
            reply.body = text.to_owned().into();
        }
        let Denial { headers, body, .. } = *denial;
        let mut response = exchange.answer_locally(&reply, |map| edits::answer(&headers, map));
        if !grpc && !body.is_empty() {
            let text = HeaderValue::from_static("text/plain");
            response.headers_mut().entry(header::CONTENT_TYPE).or_insert(text);
            response.body_mut().set_content(body);
        }
        response
    }
}

/// Asks about a request that a policy matches, and applies what the server changes of it.
pub(super) async fn check_request(
    exchange: &mut Exchange,
    downstream: &Downstream,
    matched: Matched,
    worker: &Rc<Worker>,
) -> Result<(), Refusal> {
    let provider = provider(&matched, worker)?;
    let body = match (&provider.body, &exchange.body) {
        // As in Envoy, the bytes after an upgrade are no body.
        (Some(limit), Some(body)) if exchange.upgrade.is_none() => Some(beginning(body, *limit).await?),
        _ => None,
    };
    let question = match &provider.protocol {
        CheckProtocol::Grpc => {
            let body = body.as_ref().zip(provider.body.as_ref());
            let attributes = grpc_check::of_request(&exchange.head, exchange.body.as_deref(), downstream, body, worker);
            grpc_check::question(&provider.hostname, attributes)
        }
        CheckProtocol::Http(check) => http_check::question(&exchange.head, check, body.as_ref())?,
    };
    match ask((&provider, &matched), question, exchange.body.as_ref(), worker).await? {
        Verdict::Allowed(changes) => {
            edits::apply(changes, &mut exchange.head);
            Ok(())
        }
        Verdict::Denied(denial) => {
            let failure = Failure::ExternallyDenied(provider.hostname.clone());
            Err(Refusal { failure, denial: Some(denial) })
        }
    }
}

/// Asks about an opaque connection that a policy matches. A server that speaks HTTP is not asked, and the policy has no effect.
///
/// # Errors
/// Returns the reason why the connection is not carried.
pub(super) async fn check_connection(
    downstream: &Downstream,
    matched: Matched,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let provider = match provider(&matched, worker) {
        Ok(provider) if provider.protocol != CheckProtocol::Grpc => {
            let host = &provider.hostname;
            tracing::debug!(%host, "a CUSTOM policy has no effect on an opaque connection: its provider speaks HTTP");
            worker.telemetry.asked(host, "ignored");
            return Ok(());
        }
        Ok(provider) => provider,
        Err(failure) => return Err(failure),
    };
    let question = grpc_check::question(&provider.hostname, grpc_check::of_connection(downstream, worker));
    match ask((&provider, &matched), question, None, worker).await {
        Ok(Verdict::Allowed(_)) => Ok(()),
        Ok(Verdict::Denied(_)) => Err(Failure::ExternallyDenied(provider.hostname.clone())),
        Err(refusal) => Err(refusal.failure),
    }
}

/// Returns whom the policies ask.
///
/// # Errors
/// Returns [`Failure::Denied`] if the provider does not exist, or the policies name several.
fn provider(matched: &Matched, worker: &Worker) -> Result<Arc<Provider>, Failure> {
    let snapshot = worker.view.snapshot();
    let provider = snapshot.authorization.as_ref().and_then(|policies| policies.provider());
    provider.cloned().ok_or(Failure::Denied(Some(matched.clone())))
}

/// Reads as much of a body as the server receives.
async fn beginning(body: &Rc<RequestBody>, limit: CheckedBody) -> Result<Beginning, Failure> {
    let too_large = || Failure::BodyTooLarge(limit.max);
    if !limit.allow_partial && body.announced().is_some_and(|length| length > limit.max as u64) {
        return Err(too_large());
    }
    let beginning = body.peek(limit.max).await.map_err(|error| Failure::Downstream(error.to_string().into()))?;
    match beginning.whole || limit.allow_partial {
        true => Ok(beginning),
        false => Err(too_large()),
    }
}

/// Asks, within the provider's timeout. Without an answer, the provider's settings decide.
async fn ask(
    (provider, matched): (&Provider, &Matched),
    question: call::Question,
    body: Option<&Rc<RequestBody>>,
    worker: &Rc<Worker>,
) -> Result<Verdict, Refusal> {
    let host = &provider.hostname;
    let asked = AskedEndpoint::default();
    let answering = tokio::time::timeout(provider.timeout, answer(provider, question, &asked, worker));
    let reason = match RequestBody::hold_while(body, answering).await {
        Ok(Ok(verdict)) => {
            let result = if matches!(verdict, Verdict::Allowed(_)) { "allowed" } else { "denied" };
            worker.telemetry.asked(host, result);
            return Ok(verdict);
        }
        Ok(Err(NoAnswer::NoService)) => {
            tracing::debug!(%host, "a CUSTOM policy's provider has no service");
            return Err(Failure::Denied(Some(matched.clone())).into());
        }
        Ok(Err(NoAnswer::Failed(reason))) => reason,
        Err(_) => {
            if let Some(pick) = asked.take() {
                pick.report(Outcome::NoResponse, Instant::now());
            }
            "it did not answer in time".to_owned()
        }
    };
    worker.telemetry.asked(host, "error");
    tracing::debug!(%host, reason, fail_open = provider.fail_open, "a CUSTOM policy's provider cannot decide");
    if provider.fail_open {
        return Ok(Verdict::Allowed(Changes::default()));
    }
    let status = StatusCode::from_u16(provider.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
    Err(Failure::Undecided { host: host.clone(), reason: reason.into(), status }.into())
}

async fn answer(
    provider: &Provider,
    question: call::Question,
    asked: &AskedEndpoint,
    worker: &Rc<Worker>,
) -> Result<Verdict, NoAnswer> {
    let answer = call::ask(&provider.hostname, provider.port, question, asked, worker).await?;
    Ok(match &provider.protocol {
        CheckProtocol::Grpc => grpc_check::verdict(answer)?,
        CheckProtocol::Http(check) => http_check::verdict(answer, check)?,
    })
}
