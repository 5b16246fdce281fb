//! The process of the servers outside of the mesh: HTTP/1.1 and HTTP/2, with and without TLS.
//!
//! A server answers each request with a description of it as JSON, and `/status/<code>` with this status. It answers whatever
//! the host of the request is, as a server does that is reached by another name, and says its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{certificate_of, key_of, path_of};
use crate::console::print_stderr;
use crate::orchestration::state::LabDirectory;
use crate::topology::Topology;

/// Most connections of all servers at a time.
const CONNECTIONS: usize = 1024;
/// How long a handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest request body, in bytes.
const MAX_BODY: usize = 16 << 20;

/// Options of the process.
#[derive(Debug, Clone, clap::Args)]
pub struct ExternalProcessOptions {
    /// Directory of the lab.
    #[arg(long)]
    pub directory: PathBuf,
}

type ProcessError = Box<dyn std::error::Error + Send + Sync>;

/// Serves the servers outside of the mesh until the lab ends.
#[must_use]
pub fn serve(options: &ExternalProcessOptions) -> ExitCode {
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProcessError::from);
    match ran.and_then(|runtime| runtime.block_on(run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("lab-external: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &ExternalProcessOptions) -> Result<(), ProcessError> {
    let directory = LabDirectory::at(options.directory.clone());
    let topology: Topology = serde_json::from_slice(&std::fs::read(directory.path().join("topology.json"))?)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut serving = Vec::new();
    for (server, addresses) in topology.external_addresses() {
        let acceptor = acceptor(&directory, &server.host)?;
        for (address, port) in addresses.iter().flat_map(|address| server.ports.iter().map(move |port| (address, port)))
        {
            let listener = TcpListener::bind(SocketAddr::new(*address, port.port)).await?;
            let place = Arc::new(ServerPort { host: server.host.clone(), port: port.port });
            serving.push(accept(listener, port.tls.then(|| acceptor.clone()), connections.clone(), place));
        }
    }
    futures_util::future::join_all(serving).await;
    Ok(())
}

/// The port of a server that answers.
struct ServerPort {
    host: String,
    port: u16,
}

fn acceptor(directory: &LabDirectory, host: &str) -> Result<TlsAcceptor, ProcessError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path_of(directory, &certificate_of(host)))?.collect();
    let key = PrivateKeyDer::from_pem_file(path_of(directory, &key_of(host)))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    connections: Arc<Semaphore>,
    place: Arc<ServerPort>,
) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // The process is probably out of file descriptors, and has to wait.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, place) = (acceptor.clone(), place.clone());
        tokio::spawn(async move {
            // An error here is caused by the client.
            let _ = connection(stream, peer, acceptor, place).await;
            drop(permit);
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    place: Arc<ServerPort>,
) -> Result<(), ProcessError> {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return requests(stream, peer, place, None).await };
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
    let tls = stream.get_ref().1;
    let tls = json!({"serverName": tls.server_name(), "version": tls.protocol_version().and_then(|it| it.as_str())});
    requests(stream, peer, place, Some(tls)).await
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    place: Arc<ServerPort>,
    tls: Option<Value>,
) -> Result<(), ProcessError> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (place, tls) = (place.clone(), tls.clone());
        async move { Ok::<_, Infallible>(answer(request, peer, &place, tls).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    builder.serve_connection(TokioIo::new(stream), service).await
}

async fn answer<B>(
    request: Request<B>,
    peer: SocketAddr,
    place: &ServerPort,
    tls: Option<Value>,
) -> Response<Full<Bytes>>
where
    B: hyper::body::Body<Data: Send>,
    B::Error: Into<ProcessError>,
{
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return page(
            StatusCode::PAYLOAD_TOO_LARGE,
            &json!({"error": "the request's body is not complete or too large"}),
        );
    };
    let headers: BTreeMap<&str, String> = parts
        .headers
        .keys()
        .map(|name| {
            let values = parts.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            (name.as_str(), values.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or(headers.get("host").map(String::as_str));
    let status = parts.uri.path().strip_prefix("/status/").and_then(|code| code.parse::<u16>().ok());
    // A server cannot send informational responses as the answer.
    let status = status.filter(|code| (200..600).contains(code)).and_then(|code| StatusCode::from_u16(code).ok());
    let description = json!({
        "server": place.host,
        "port": place.port,
        "tls": tls,
        "protocol": if parts.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        "method": parts.method.as_str(),
        "host": authority,
        "path": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        "peer": peer.to_string(),
        "bodyBytes": body.to_bytes().len(),
        "headers": headers,
    });
    page(status.unwrap_or_default(), &description)
}

fn page(status: StatusCode, content: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{content:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(uri: &str, host: &str) -> (u16, Value) {
        let request =
            Request::get(uri).header("host", host).body(Full::new(Bytes::from_static(b"abc"))).expect("a request");
        let place = ServerPort { host: "httpbin.example.com".to_owned(), port: 443 };
        let peer = "203.0.113.10:4000".parse().expect("an address");
        let response = answer(request, peer, &place, Some(json!({"serverName": "x"}))).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn a_server_describes_the_request_and_answers_with_the_status_of_the_path() {
        let (status, answer) = get("/a?b=c", "other.example.com").await;
        assert_eq!(status, 200);
        assert_eq!((&answer["server"], &answer["host"]), (&json!("httpbin.example.com"), &json!("other.example.com")));
        assert_eq!((&answer["path"], &answer["bodyBytes"]), (&json!("/a?b=c"), &json!(3)));
        assert_eq!((&answer["tls"]["serverName"], &answer["peer"]), (&json!("x"), &json!("203.0.113.10:4000")));
        for (path, expected) in [("/status/418", 418), ("/status/100", 200), ("/status/x", 200), ("/status/99999", 200)]
        {
            assert_eq!(get(path, "h").await.0, expected, "{path}");
        }
    }
}
