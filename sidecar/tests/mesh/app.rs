//! Applications and their clients: an HTTP server that returns what it received, and a server-first TCP server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An HTTP/1.1 and HTTP/2 server. Its responses carry its name, and the request's headers as `seen-…`.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    /// The status of its responses.
    pub(crate) status: Arc<AtomicU16>,
    /// The number of requests received.
    pub(crate) requests: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl App {
    /// Starts an application at a free loopback port.
    pub(crate) async fn start(name: &str) -> Self {
        Self::listen(name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts an application at `address`.
    pub(crate) async fn listen(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, requests) = (Arc::new(AtomicU16::new(200)), Arc::<AtomicU64>::default());
        let state = (Arc::<str>::from(name), status.clone(), requests.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, client) = listener.accept().await.unwrap();
                let state = state.clone();
                let service = service_fn(move |request| respond(request, client, state.clone()));
                connections.spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, status, requests, task }
    }

    /// Returns whether a request to `address` succeeds.
    pub(crate) async fn is_available(address: SocketAddr) -> bool {
        let Ok(stream) = TcpStream::connect(address).await else { return false };
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
            return false;
        };
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "reviews:9080").body(Full::<Bytes>::default()).unwrap();
        sender.send_request(request).await.is_ok_and(|response| response.status() == 200)
    }

    /// An application of another kind, which listens at `address`.
    pub(crate) fn external(address: SocketAddr) -> Self {
        let (status, requests) = Default::default();
        Self { address, status, requests, task: tokio::spawn(async {}) }
    }

    /// Stops the application and closes its connections.
    pub(crate) async fn kill(&self) {
        self.task.abort();
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn respond(
    mut request: Request<Incoming>,
    client: SocketAddr,
    (name, status, requests): (Arc<str>, Arc<AtomicU16>, Arc<AtomicU64>),
) -> Result<Response<Body>, Infallible> {
    requests.fetch_add(1, Relaxed);
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let mut response = Response::new(full(String::new()));
    *response.status_mut() = StatusCode::from_u16(status.load(Relaxed)).unwrap();
    for (field, value) in request.headers() {
        let seen = header::HeaderName::from_bytes(format!("seen-{field}").as_bytes()).unwrap();
        response.headers_mut().append(seen, value.clone());
    }
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    response.headers_mut().insert("seen-path", HeaderValue::from_str(path).unwrap());
    response.headers_mut().insert("seen-client", HeaderValue::from_str(&client.ip().to_string()).unwrap());
    response.headers_mut().insert("answered-by", HeaderValue::from_str(&name).unwrap());
    response.headers_mut().insert("seen-version", HeaderValue::from_str(&format!("{:?}", request.version())).unwrap());
    if request.headers().contains_key(header::UPGRADE) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, request.headers()[header::UPGRADE].clone());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1024];
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => stream.write_all(&buffer[..length]).await.unwrap(),
                }
            }
        });
        return Ok(response);
    }
    if let Some(delay) = request.uri().path().strip_prefix("/delay/") {
        tokio::time::sleep(Duration::from_millis(delay.parse().unwrap())).await;
    }
    let collected = request.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    if let Some(trailers) = trailers {
        // As in gRPC: data, then trailers.
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("grpc-status, x-sum"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let mut sent = HeaderMap::new();
        sent.insert("grpc-status", HeaderValue::from_static("0"));
        if let Some(sum) = trailers.get("x-sum") {
            sent.insert("x-sum", sum.clone());
        }
        let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(sent))];
        return Ok(response.map(|_| StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()));
    }
    let text = format!("{name} got {} bytes", body.len());
    Ok(response.map(|_| full(text)))
}

/// An HTTP/1.1 connection of a client.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self { sender }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    /// Sends a request and returns the response with its whole body.
    pub(crate) async fn request(&mut self, method: Method, path: &str, body: &[u8]) -> Response<String> {
        let request = Request::builder().method(method).uri(path).header("host", "reviews:9080");
        let response = self.send(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<String> {
        self.request(Method::GET, path, b"").await
    }
}

/// Sends a GET request on a new connection.
pub(crate) async fn get(address: SocketAddr) -> Response<String> {
    Client::connect(address).await.get("/").await
}

/// The name of the pod, or other application, that sent the response.
pub(crate) fn pod_of<B>(response: &Response<B>) -> &str {
    response.headers().get("answered-by").map_or("", |value| value.to_str().unwrap())
}

/// Starts a TCP server that sends `hello` before it receives anything, reads to the end, and sends the number of bytes
/// received.
pub(crate) async fn start_server_first() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(b"hello\n").await.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(format!("{} bytes\n", all.len()).as_bytes()).await.unwrap();
            });
        }
    });
    address
}
