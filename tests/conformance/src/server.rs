//! The server in pods: it reports what it receives to the ledger, and does what the request's script says.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates;
use crate::client::{ID, joined};
use crate::ledger::{Seen, report};
use script::Step;

mod lines;
mod preamble;
pub mod script;

/// Options of a server.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name that it answers with
    #[arg(long)]
    pub name: String,
    /// Directory of the ledger's socket and of certificates
    #[arg(long)]
    pub directory: PathBuf,
    /// Refuse connections to the second HTTP port
    #[arg(long)]
    pub refuse: bool,
}

/// The port of HTTP/1.1, HTTP/2 and gRPC.
const HTTP: u16 = 8080;
/// The second one, which a server can refuse.
const SECOND_HTTP: u16 = 8081;
/// Ports of HTTP: the first without a protocol in its Service, the second without a Service.
const FURTHER_HTTP: [u16; 2] = [8082, 8083];
/// The port of HTTP over TLS.
const HTTPS: u16 = 8443;
/// The port of HTTP over TLS with client certificates.
const MUTUAL: u16 = 8444;
/// The port of HTTP after a header of the PROXY protocol.
const PROXIED_HTTP: u16 = 8090;
/// The port of tunnels.
const TUNNELS: u16 = 8091;
/// The port of lines after a header of the PROXY protocol.
const PROXIED_LINES: u16 = 9090;
/// The port that answers a line with a line.
const LINES: u16 = 9000;
/// The same over TLS.
const TLS_LINES: u16 = 9443;

struct Server {
    name: String,
    ledger: PathBuf,
}

/// How a server is reached.
#[derive(Clone)]
struct Reached {
    how: String,
    port: u16,
}

/// Serves until the process ends.
///
/// # Errors
/// Returns an error if a port cannot be bound or the certificates cannot be read.
pub async fn run(options: Options) -> Result<()> {
    let ledger = ledger_socket(&options.directory);
    let server = Arc::new(Server { name: options.name, ledger });
    let [one_way, mutual] = [false, true].map(|mutual| certificates::acceptor(&options.directory, mutual));
    let (one_way, mutual) = (one_way?, mutual?);
    if !options.refuse {
        tokio::spawn(listen(SECOND_HTTP, None, false, Arc::clone(&server)));
    }
    for port in FURTHER_HTTP {
        tokio::spawn(listen(port, None, false, Arc::clone(&server)));
    }
    tokio::try_join!(
        listen(HTTP, None, false, Arc::clone(&server)),
        listen(HTTPS, Some(one_way.clone()), false, Arc::clone(&server)),
        listen(MUTUAL, Some(mutual), false, Arc::clone(&server)),
        listen(LINES, None, true, Arc::clone(&server)),
        listen(TLS_LINES, Some(one_way), true, Arc::clone(&server)),
        preamble::listen(PROXIED_HTTP, false, Arc::clone(&server)),
        preamble::listen(PROXIED_LINES, true, Arc::clone(&server)),
        lines::listen_for_tunnels(TUNNELS, Arc::clone(&server)),
    )?;
    Ok(())
}

async fn bind(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address).await.with_context(|| format!("port {port}"))
}

async fn listen(port: u16, tls: Option<TlsAcceptor>, lines: bool, server: Arc<Server>) -> Result<()> {
    let listener = bind(port).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (tls, server) = (tls.clone(), Arc::clone(&server));
        // An error of a connection is its client's.
        tokio::spawn(async move { connection(stream, tls, lines, server).await });
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, lines: bool, server: Arc<Server>) -> Result<()> {
    stream.set_nodelay(true)?;
    let port = stream.local_addr()?.port();
    let Some(tls) = tls else {
        return talk(stream, Reached { how: "plaintext".to_owned(), port }, lines, server).await;
    };
    let stream = tls.accept(stream).await?;
    let session = stream.get_ref().1;
    let name = session.server_name().unwrap_or("none");
    let client = if session.peer_certificates().is_some() { "a" } else { "no" };
    let how = format!("tls, server name {name}, {client} client certificate");
    talk(stream, Reached { how, port }, lines, server).await
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    reached: Reached,
    lines: bool,
    server: Arc<Server>,
) -> Result<()> {
    if lines {
        return lines::answer(stream, reached, &server).await;
    }
    let service = service_fn(|request| {
        let (server, reached) = (Arc::clone(&server), reached.clone());
        async move { respond(request, reached, &server).await }
    });
    let served = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    served.map_err(|error| anyhow::anyhow!("{error}"))
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

async fn respond(request: Request<Incoming>, reached: Reached, server: &Server) -> Result<Response<Body>> {
    if request.uri().path() == "/ready" {
        return Ok(Response::new(Full::new(Bytes::new()).boxed()));
    }
    let (parts, body) = request.into_parts();
    body.collect().await?;
    let get = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let seen = Seen {
        id: get(ID).unwrap_or_default(),
        version: server.name.clone(),
        method: parts.method.to_string(),
        host: authority.or_else(|| get("host")).unwrap_or_default(),
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        headers: joined(&parts.headers),
        tls: reached.how,
        port: reached.port,
    };
    let attempt = report(&server.ledger, &seen).await?;
    let step = Step::of(get("x-script").as_deref().unwrap_or_default(), attempt, &server.name)?;
    tokio::time::sleep(step.delay).await;
    anyhow::ensure!(!step.reset, "the script closes the connection");
    let is_grpc = get("content-type").is_some_and(|value| value.starts_with("application/grpc"));
    let mut response = match (is_grpc, step.grpc) {
        (true, None) => Response::new(grpc_body()),
        (true, Some(code)) => {
            let mut response = Response::new(Full::new(Bytes::new()).boxed());
            response.headers_mut().insert("grpc-status", HeaderValue::from(code));
            response
        }
        (false, _) => Response::new(Full::new(Bytes::from(format!("{}\n", server.name))).boxed()),
    };
    *response.status_mut() = step.status;
    let headers = response.headers_mut();
    if is_grpc {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    headers.insert("x-version", HeaderValue::from_str(&server.name)?);
    for (name, value) in step.headers {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    Ok(response)
}

/// The body of a successful call: no message, and trailers.
fn grpc_body() -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed()
}

/// The path of the ledger's socket in a directory.
pub(crate) fn ledger_socket(directory: &Path) -> PathBuf {
    directory.join("ledger.sock")
}
