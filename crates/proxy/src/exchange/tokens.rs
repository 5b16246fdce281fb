//! The tokens of end users in requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Response, header, request};
use policy::jwt;

use super::Exchange;
use crate::failure::Failure;
use crate::http::headers;
use crate::server::ResponseBody;
use crate::worker::Worker;

/// Verifies the tokens of a request, and makes it what the upstream receives. Returns `None` if there are no rules, or the
/// request has no token.
pub(super) fn verify(
    exchange: &mut Exchange,
    rules: Option<&Arc<jwt::TokenRules>>,
    worker: &Worker,
) -> Result<Option<Rc<jwt::AcceptedToken>>, Failure> {
    let Some(rules) = rules else { return Ok(None) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    rules.authenticate(&mut exchange.head, &mut worker.tokens.borrow_mut(), now).map_err(|rejection| {
        worker.telemetry.refused_token();
        Failure::Unauthenticated(rejection)
    })
}

/// Returns the response to a request that is not admitted.
pub(super) fn refuse(exchange: Exchange, failure: &Failure) -> Response<ResponseBody> {
    let Failure::Unauthenticated(_) = failure else { return exchange.fail(failure) };
    let challenge = challenge(&exchange.head);
    let mut response = exchange.fail(failure);
    response.headers_mut().extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    response
}

/// Returns the value of `www-authenticate` for a token that is not valid (RFC 6750 §3), with the URL as Envoy has it.
fn challenge(head: &request::Parts) -> Option<HeaderValue> {
    const MAX_PATH: usize = 256;
    // The mesh's own TLS does not count: the caller knows nothing of it.
    let scheme = head.headers.get("x-forwarded-proto").map_or("http", |proto| match proto.as_bytes() {
        b"https" => "https",
        _ => "http",
    });
    let host = headers::host(&head.uri, &head.headers).unwrap_or_default();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let path: String = target.chars().take(MAX_PATH).filter(|char| *char != '"').collect();
    HeaderValue::try_from(format!("Bearer realm=\"{scheme}://{host}{path}\", error=\"invalid_token\"")).ok()
}
