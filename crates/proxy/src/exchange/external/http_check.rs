//! The check by a request of HTTP: the method, path and host of the request to decide about, with some of its headers.
//! Status 200 allows it; an error of the server decides nothing; anything else denies it, and is the response.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request, uri};
use policy::external::{HeaderList, HttpCheck};

use super::call::{Answer, Question};
use super::edits::{Change, Edit};
use super::{Changes, Denial, Verdict};
use crate::failure::Failure;
use crate::http::{Beginning, headers};

/// Whether the server receives only the beginning of a body.
pub(super) const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Headers of the request that the server wants removed, separated by commas.
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// Passed on from an answer that denies, besides the headers of a list.
const ALWAYS_ON_DENY: [HeaderName; 3] = [header::CONTENT_LENGTH, header::WWW_AUTHENTICATE, header::LOCATION];

/// Returns what is asked about a request.
///
/// # Errors
/// Returns an error if the prefix and the path make no path.
pub(super) fn question(
    head: &request::Parts,
    check: &HttpCheck,
    body: Option<&Beginning>,
) -> Result<Question, Failure> {
    let path = head.uri.path_and_query().map_or("/", uri::PathAndQuery::as_str);
    let path = format!("{}{path}", check.path_prefix).parse::<uri::PathAndQuery>();
    let path = path.map_err(|error| Failure::Refused(format!("the path cannot be checked: {error}").into()))?;
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(path);
    let (mut asked, ()) = http::Request::new(()).into_parts();
    asked.method = head.method.clone();
    asked.uri = http::Uri::from_parts(parts).unwrap_or_default();
    if let Some(host) = headers::host(&head.uri, &head.headers).and_then(|host| HeaderValue::from_str(host).ok()) {
        asked.headers.insert(header::HOST, host);
    }
    for name in head.headers.keys().filter(|name| is_sent(name, check)) {
        for value in head.headers.get_all(name) {
            asked.headers.append(name, value.clone());
        }
    }
    if let Some(body) = body {
        asked.headers.insert(PARTIAL, HeaderValue::from_static(if body.whole { "false" } else { "true" }));
    }
    for (name, value) in &check.added {
        // Checked when the provider was read.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            asked.headers.insert(name, value);
        }
    }
    let body = body.map(|body| body.data.clone()).unwrap_or_default();
    asked.headers.insert(header::CONTENT_LENGTH, headers::number(body.len() as u64));
    Ok(Question { head: asked, body, http2_only: false })
}

fn is_sent(name: &HeaderName, check: &HttpCheck) -> bool {
    const OF_THE_MESSAGE: [HeaderName; 6] =
        [header::HOST, header::CONTENT_LENGTH, header::EXPECT, header::TE, header::TRAILER, header::UPGRADE];
    (*name == header::AUTHORIZATION || check.request.has(name.as_str())) && !OF_THE_MESSAGE.contains(name)
}

/// Returns what an answer means.
///
/// # Errors
/// Returns the reason why it decides nothing.
pub(super) fn verdict(answer: Answer, check: &HttpCheck) -> Result<Verdict, String> {
    let (status, headers) = (answer.head.status, answer.head.headers);
    if status.is_server_error() {
        return Err(format!("it answered with status {}", status.as_u16()));
    }
    if status != StatusCode::OK {
        let list = &check.downstream_on_deny;
        let passed = |name: &HeaderName| list.is_empty() || list.has(name.as_str()) || ALWAYS_ON_DENY.contains(name);
        let headers = edits(&headers, passed, Change::Add);
        return Ok(Verdict::Denied(Box::new(Denial { status, headers, body: answer.body })));
    }
    let listed = |list: &HeaderList| {
        let list = list.clone();
        move |name: &HeaderName| list.has(name.as_str())
    };
    let mut request = edits(&headers, listed(&check.upstream_on_allow), Change::Set);
    let removed = headers.get_all(REMOVE).iter().filter_map(|value| value.to_str().ok());
    let removed = removed.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse().ok());
    request.extend(removed.map(|name| Edit { name, change: Change::Remove }));
    let response = edits(&headers, listed(&check.downstream_on_allow), Change::Add);
    Ok(Verdict::Allowed(Changes { request, response, query: Vec::new() }))
}

/// Returns the headers of an answer that are passed on. Several lines of one are set by the first, and added by the others.
fn edits(
    headers: &HeaderMap,
    passed: impl Fn(&HeaderName) -> bool,
    change: impl Fn(HeaderValue) -> Change,
) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| **name != REMOVE && passed(name)) {
        let again = edits.last().is_some_and(|last| last.name == *name);
        let change = if again { Change::Add(value.clone()) } else { change(value.clone()) };
        edits.push(Edit { name: name.clone(), change });
    }
    edits
}
