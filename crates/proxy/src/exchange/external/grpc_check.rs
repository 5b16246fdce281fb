//! The check by gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Version, header, request, uri};
use policy::external::CheckedBody;
use wire::ext_authz::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use wire::ext_authz::check_response::HttpResponse;
use wire::ext_authz::{
    Address, AttributeContext, CheckRequest, CheckResponse, HeaderAppendAction, HeaderValueOption, OkHttpResponse,
    SocketAddress, Timestamp,
};

use super::call::{Answer, Question};
use super::edits::{Change, Edit};
use super::http_check::PARTIAL;
use super::{Changes, Denial, Verdict, grpc};
use crate::exchange::Downstream;
use crate::http::{Beginning, RequestBody, headers};
use crate::worker::Worker;

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Returns the question about a request or connection with these attributes.
pub(super) fn question(hostname: &str, attributes: AttributeContext) -> Question {
    grpc::question(hostname, PATH, &CheckRequest { attributes: Some(attributes) })
}

/// Returns the attributes of an opaque connection.
pub(super) fn of_connection(downstream: &Downstream, worker: &Worker) -> AttributeContext {
    let Downstream { client, destination, peer, server_name, .. } = downstream;
    let party = |address: &SocketAddr, principal: Option<String>| Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal.unwrap_or_default(),
    };
    AttributeContext {
        source: Some(party(client, peer.as_ref().map(|peer| peer.id.to_string()))),
        destination: Some(party(destination, peer.as_ref().map(|_| worker.identity.id().to_string()))),
        tls_session: server_name.as_ref().map(|name| TlsSession { sni: name.to_string() }),
        ..AttributeContext::default()
    }
}

/// Returns the attributes of a request. `checked` is the beginning of its body, if that is sent along.
pub(super) fn of_request(
    head: &request::Parts,
    body: Option<&RequestBody>,
    downstream: &Downstream,
    checked: Option<(&Beginning, &CheckedBody)>,
    worker: &Worker,
) -> AttributeContext {
    let size = match (body, checked) {
        (None, _) => Some(0),
        (Some(_), Some((beginning, _))) if beginning.whole => Some(beginning.data.len() as u64),
        (Some(body), _) => body.announced(),
    };
    let mut http = http_request(head, size);
    if let Some((beginning, limit)) = checked {
        match limit.as_bytes {
            true => http.raw_body = beginning.data.clone(),
            // As in Envoy, which replaces each byte that is not UTF-8.
            false => http.body = text(&beginning.data),
        }
        http.headers.insert(PARTIAL.as_str().to_owned(), (!beginning.whole).to_string());
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    let request = Some(Request { time: Some(time), http: Some(http) });
    AttributeContext { request, ..of_connection(downstream, worker) }
}

fn http_request(head: &request::Parts, size: Option<u64>) -> HttpRequest {
    let host = headers::host(&head.uri, &head.headers).unwrap_or_default().to_owned();
    let path = head.uri.path_and_query().map_or("/", uri::PathAndQuery::as_str).to_owned();
    let line = |name: &HeaderName| head.headers.get(name).map(|value| text(value.as_bytes())).unwrap_or_default();
    let scheme = line(&headers::FORWARDED_PROTO);
    let mut all: BTreeMap<String, String> = [
        (":authority", host.clone()),
        (":method", head.method.to_string()),
        (":path", path.clone()),
        (":scheme", scheme.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for name in head.headers.keys().filter(|name| **name != header::HOST) {
        let separator = if *name == header::COOKIE { "; " } else { "," };
        let lines: Vec<String> = head.headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
        all.insert(name.as_str().to_owned(), lines.join(separator));
    }
    HttpRequest {
        id: line(&headers::REQUEST_ID),
        method: head.method.to_string(),
        headers: all,
        path,
        host,
        scheme,
        size: size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        ..HttpRequest::default()
    }
}

/// Returns bytes as text; `!` replaces what is not UTF-8.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

/// Returns what an answer means.
///
/// # Errors
/// Returns the reason why it decides nothing.
pub(super) fn verdict(answer: Answer) -> Result<Verdict, String> {
    let response: CheckResponse = grpc::message(answer)?;
    let allowed = response.status.as_ref().is_none_or(|status| status.code == 0);
    match (allowed, response.http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => changes(ok).map(Verdict::Allowed),
        (true, _) => Ok(Verdict::Allowed(Changes::default())),
        (false, Some(HttpResponse::DeniedResponse(denied))) => {
            let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = status.filter(|status| (200..600).contains(status));
            Ok(Verdict::Denied(Box::new(Denial {
                status: status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::FORBIDDEN),
                headers: edits(denied.headers, |_, value| Change::Add(value))?,
                body: denied.body.into(),
            })))
        }
        (false, _) => Ok(Verdict::Denied(Box::new(Denial {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            body: Bytes::new(),
        }))),
    }
}

fn changes(ok: OkHttpResponse) -> Result<Changes, String> {
    // As in Envoy, a header of the request is set unless it is to be appended, and is appended only to a present one.
    let of_request = |option: &HeaderValueOption, value| match option.append {
        Some(true) => Change::AddToPresent(value),
        _ => Change::Set(value),
    };
    let of_response = |option: &HeaderValueOption, value| match (option.append, option.append_action()) {
        (Some(true), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => Change::Add(value),
        (Some(false), _) | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Change::Set(value),
        (None, HeaderAppendAction::AddIfAbsent) => Change::AddToAbsent(value),
        (None, HeaderAppendAction::OverwriteIfExists) => Change::SetPresent(value),
    };
    let mut request = edits(ok.headers, of_request)?;
    let removed = ok.headers_to_remove.iter().filter_map(|name| name.parse().ok());
    request.extend(removed.map(|name| Edit { name, change: Change::Remove }));
    let set = ok.query_parameters_to_set.into_iter().map(|parameter| (parameter.key, Some(parameter.value)));
    let removed = ok.query_parameters_to_remove.into_iter().map(|key| (key, None));
    Ok(Changes {
        request,
        response: edits(ok.response_headers_to_add, of_response)?,
        query: removed.chain(set).collect(),
    })
}

/// Reads headers. Those that begin with `:` are left out: they say what was authorized.
fn edits(
    options: Vec<HeaderValueOption>,
    change: impl Fn(&HeaderValueOption, HeaderValue) -> Change,
) -> Result<Vec<Edit>, String> {
    let mut edits = Vec::with_capacity(options.len());
    for option in options {
        let Some(of) = &option.header else { continue };
        if of.key.starts_with(':') {
            continue;
        }
        let bytes = if of.value.is_empty() { &of.raw_value[..] } else { of.value.as_bytes() };
        let (name, value) = (of.key.parse::<HeaderName>(), HeaderValue::from_bytes(bytes));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(format!("its answer has an invalid header {:?}", of.key.chars().take(80).collect::<String>()));
        };
        edits.push(Edit { name, change: change(&option, value) });
    }
    Ok(edits)
}

#[cfg(test)]
mod tests;
