//! Pages of the application: probes, faults, metrics, and calls to others.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::app::App;
use super::client::CallProtocol;
use super::duration::duration;
use super::load::CallPlan;
use super::response::{AppBody, full, page};

const HELP: &str = "\
GET  /<anything>                     who answered and what it saw; also ?delay=MS ?status=CODE ?size=BYTES
GET  /delay/<MS>, /status/<CODE>     the same
GET  /healthz                        200
GET  /ready                          200 until SIGTERM or POST /unready
GET  /metrics                        Prometheus
GET  /fetch?url=URL[&count=1][&rate=10][&timeout=5s][&protocol=http1|http2|grpc][&summary=true]
                                     call from here, and return the timeline
POST /fail?percent=N[&status=503]    fail that share of requests
POST /slow?ms=N                      delay responses
POST /unready, POST /heal            fail readiness; end all faults
WebSocket                            echo on any path
gRPC isthmus.testapp.Echo/Unary, /Stream (x-count), grpc.health.v1.Health/Check
";

/// Returns the response if the path is one of these pages.
pub(super) async fn answer(request: &Request<Incoming>, app: &App) -> Option<Response<AppBody>> {
    let query = query(request.uri());
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |name: &str| get(name).and_then(|value| value.parse::<u64>().ok());
    let post = request.method() == Method::POST;
    Some(match request.uri().path() {
        "/help" => page(StatusCode::OK, HELP),
        "/healthz" => page(StatusCode::OK, "ok\n"),
        "/ready" if app.switches.is_ready() => page(StatusCode::OK, "ready\n"),
        "/ready" => page(StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
        "/metrics" => page(StatusCode::OK, app.registry.render()),
        "/fail" if post => match number("percent") {
            Some(percent @ 0..=100) => {
                let status = number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(503);
                app.switches.fail(percent as u32, status);
                page(StatusCode::OK, format!("{percent}% of requests fail with {status}\n"))
            }
            _ => page(StatusCode::BAD_REQUEST, "percent must be from 0 to 100\n"),
        },
        "/slow" if post => match number("ms") {
            Some(milliseconds @ 0..=600_000) => {
                app.switches.slow(milliseconds);
                page(StatusCode::OK, format!("answers come {milliseconds} ms later\n"))
            }
            _ => page(StatusCode::BAD_REQUEST, "ms must be from 0 to 600000\n"),
        },
        "/unready" if post => {
            app.switches.leave();
            page(StatusCode::OK, "not ready\n")
        }
        "/heal" if post => {
            app.switches.heal();
            page(StatusCode::OK, "all well\n")
        }
        "/fail" | "/slow" | "/unready" | "/heal" => page(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
        "/fetch" => match plan(get) {
            Ok(plan) => fetch(plan, get("summary") == Some("true")).await,
            Err(error) => page(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        _ => return None,
    })
}

/// Splits and decodes a query.
pub(super) fn query(uri: &Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.replace('+', " ");
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn plan<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<CallPlan, String> {
    let number = |name: &str, default: f64| match get(name) {
        Some(value) => value.parse::<f64>().map_err(|_| format!("{name}={value} is not a number")),
        None => Ok(default),
    };
    let plan = CallPlan {
        target: get("url").ok_or("the parameter url is missing")?.parse()?,
        protocol: match get("protocol") {
            None | Some("http1") => CallProtocol::Http1,
            Some("http2") => CallProtocol::Http2,
            Some("grpc") => CallProtocol::Grpc,
            Some(other) => return Err(format!("unknown protocol {other}; protocols are http1, http2 and grpc")),
        },
        headers: Vec::new(),
        count: number("count", 1.0)? as usize,
        rate: number("rate", 10.0)?,
        timeout: get("timeout").map_or(Ok(std::time::Duration::from_secs(5)), duration)?,
    };
    plan.check()?;
    Ok(plan)
}

async fn fetch(plan: CallPlan, summary: bool) -> Response<AppBody> {
    let mut timeline = plan.run().await;
    if summary {
        timeline.requests.clear();
    }
    let mut response = Response::new(full(serde_json::to_vec(&timeline).unwrap_or_default()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
