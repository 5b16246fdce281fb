//! The server that policies of action `CUSTOM` ask by HTTP. Header `x-ext-authz` of the request says what it answers:
//! `allow`, `deny`, or a status.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

const PORT: u16 = 8000;

/// Answers until the process ends.
///
/// # Errors
/// Returns an error if the port cannot be bound.
pub async fn run() -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let get = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let wanted = get("x-ext-authz");
    let status = match wanted {
        "allow" => StatusCode::OK,
        other => {
            other.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN)
        }
    };
    // What it was asked.
    let asked = format!(
        "{} {} x-added={} x-ext-more={} x-other={} body={}",
        parts.method,
        parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        get("x-added"),
        get("x-ext-more"),
        get("x-other"),
        String::from_utf8_lossy(&body),
    );
    let mut response = Response::new(Full::new(Bytes::from(format!("denied: {asked}"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for name in ["x-authorized-by", "x-denied", "x-allowed", "x-not-listed"] {
        headers.insert(name, HeaderValue::from_static("the authorizer"));
    }
    headers.insert("x-authorized-request", HeaderValue::try_from(asked)?);
    Ok(response)
}
