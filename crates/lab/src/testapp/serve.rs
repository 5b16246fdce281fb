//! HTTP connections, with detection of the protocol, and responses to requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use net::socket::Acceptor;
use runtime::drain::Watch;
use telemetry::metrics::Family;
use tokio::net::TcpStream;

use super::answer::AppAnswer;
use super::app::App;
use super::response::{AppBody, full, page};
use super::{authorizer, grpc, pages, websocket};
use crate::console::print_stderr;

/// Largest request body, in bytes.
const MAX_BODY: usize = 64 << 20;
/// Longest delay that a request may ask for.
const MAX_DELAY: Duration = Duration::from_secs(600);
/// Largest padding that a request may ask for, in bytes.
const MAX_PADDING: usize = 16 << 20;

const REQUESTS: Family = Family {
    name: "testapp_requests_total",
    help: "Requests answered by the test application.",
    labels: &["protocol", "code"],
};

/// What an HTTP port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpPort {
    /// The application.
    Application,
    /// The external authorization server.
    Authorizer,
}

/// Accepts connections until drain. Connections finish their current request.
pub(super) async fn http(port: HttpPort, mut acceptor: Acceptor, app: Arc<App>, mut drain: Watch) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = acceptor.next() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    print_stderr(&format!("isthmus testapp: an HTTP port cannot accept connections: {error}"));
                    return;
                }
            },
            () = drain.begun() => return,
        };
        let (app, guard, mut leaving) = (Arc::clone(&app), drain.guard(), drain.clone());
        tokio::spawn(async move {
            connection(port, stream, peer, app, &mut leaving).await;
            drop(guard);
        });
    }
}

async fn connection(port: HttpPort, stream: TcpStream, peer: SocketAddr, app: Arc<App>, leaving: &mut Watch) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1024);
    let service = service_fn(|request| {
        let app = Arc::clone(&app);
        async move {
            Ok::<_, Infallible>(match port {
                HttpPort::Application => respond(request, peer, &app).await,
                HttpPort::Authorizer => authorizer::answer(request, app).await,
            })
        }
    });
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    tokio::select! {
        // An error here is caused by the client.
        _ = serving.as_mut() => {}
        () = leaving.begun() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

async fn respond(request: Request<Incoming>, peer: SocketAddr, app: &App) -> Response<AppBody> {
    let protocol = match (request.version(), grpc::is_grpc(request.headers())) {
        (_, true) => "gRPC",
        (Version::HTTP_2, _) => "HTTP/2",
        (Version::HTTP_10, _) => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let response = match pages::answer(&request, app).await {
        Some(page) => page,
        None => respond_with_description(request, protocol, peer, app).await,
    };
    let code = response.status().as_u16().to_string();
    app.registry.shared().counter(&REQUESTS, &[protocol, &code]).increment();
    response
}

/// Responds with the instance and the request, with the delay and the failure that are set.
async fn respond_with_description(
    request: Request<Incoming>,
    protocol: &str,
    peer: SocketAddr,
    app: &App,
) -> Response<AppBody> {
    let options = RequestOptions::of(&request);
    tokio::time::sleep(app.switches.delay() + options.delay).await;
    let failing = app.switches.next_failure();
    if websocket::is_asked_for(&request) && failing.is_none() {
        let (parts, body) = request.into_parts();
        let greeting = AppAnswer::to_request(&app.who, &parts, "WebSocket", peer);
        let greeting = serde_json::to_string(&greeting).unwrap_or_default();
        return websocket::upgrade(Request::from_parts(parts, body), greeting);
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return page(StatusCode::BAD_REQUEST, format!("the request's body: {error}\n")),
    };
    let mut answer = AppAnswer::to_request(&app.who, &parts, protocol, peer);
    answer.body_bytes = body.len() as u64;
    if protocol == "gRPC" {
        let json = serde_json::to_string(&answer).unwrap_or_default();
        return grpc::answer(parts.uri.path(), &parts.headers, &body, json, failing);
    }
    let status = failing.or(options.status).and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
    let mut json = serde_json::to_vec_pretty(&answer).unwrap_or_default();
    json.push(b'\n');
    json.resize(json.len() + options.padding, b' ');
    let mut response = Response::new(full(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The delay, status and padding that a request asks for.
struct RequestOptions {
    delay: Duration,
    status: Option<u16>,
    padding: usize,
}

impl RequestOptions {
    fn of(request: &Request<Incoming>) -> Self {
        let query = pages::query(request.uri());
        let number =
            |name: &str| query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse::<u64>().ok());
        let segment =
            |prefix: &str| request.uri().path().strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
        let head = request.method() == Method::HEAD;
        let status = segment("/status/").or(number("status")).and_then(|status| u16::try_from(status).ok());
        Self {
            delay: Duration::from_millis(segment("/delay/").or(number("delay")).unwrap_or(0)).min(MAX_DELAY),
            // An application cannot send informational responses.
            status: status.filter(|status| (200..600).contains(status)),
            padding: if head { 0 } else { number("size").map_or(0, |size| (size as usize).min(MAX_PADDING)) },
        }
    }
}
