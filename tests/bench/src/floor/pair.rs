//! The floor of a pair of sidecars: the outbound and the inbound end of mutual-TLS connections.
//!
//! One thread, the same libraries and TLS configurations as in the sidecar, and pooled connections. No policy, no metrics, no
//! discovery, one endpoint. Only hop-by-hop headers of a request change.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::{Accept, ClientAuth, Credential, Identity, PrivateKey, SpiffeId, Trust, alpn};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::load;

/// A number of HTTP/2 streams that is never reached.
const MANY: usize = 100_000;
/// The size of the largest TLS record, for opaque bytes.
const BUFFER: usize = 16 * 1024;

/// Options of `part floor-outbound` and `part floor-inbound`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Protocol (`http1`, `http2` or `tcp`), listen address and target, as PROTOCOL=BIND=TARGET
    #[arg(long = "way")]
    rules: Vec<FloorRule>,
    /// SPIFFE ID of the other end of mutual TLS
    #[arg(long)]
    peer: SpiffeId,
    /// File with the own certificate chain in PEM
    #[arg(long)]
    chain: PathBuf,
    /// File with the own private key in PEM
    #[arg(long)]
    key: PathBuf,
    /// File with the root certificates in PEM
    #[arg(long)]
    root: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum FloorProtocol {
    Http1,
    Http2,
    Tcp,
}

#[derive(Clone, Copy, Debug)]
struct FloorRule {
    protocol: FloorProtocol,
    bind: SocketAddr,
    target: SocketAddr,
}

impl FromStr for FloorRule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, '=');
        let mut part = || parts.next().context("expected PROTOCOL=BIND=TARGET");
        let protocol = match part()? {
            "http1" => FloorProtocol::Http1,
            "http2" => FloorProtocol::Http2,
            "tcp" => FloorProtocol::Tcp,
            other => anyhow::bail!("{other:?} is not http1, http2 or tcp"),
        };
        Ok(Self { protocol, bind: part()?.parse()?, target: part()?.parse()? })
    }
}

/// Serves as the outbound end until the process is killed.
pub fn outbound(options: &Options) -> Result<()> {
    run(options, |identity, rule| {
        let offered = match rule.protocol {
            FloorProtocol::Http1 => alpn::CLIENT_HTTP1,
            FloorProtocol::Http2 => alpn::CLIENT_HTTP2,
            FloorProtocol::Tcp => alpn::CLIENT_TCP,
        };
        let config = identity.client_config(std::slice::from_ref(&options.peer), offered);
        let name = ServerName::try_from("outbound_.9080_._.server.default.svc.cluster.local")?;
        Ok(Outbound { connector: TlsConnector::from(config), name, target: rule.target })
    })
}

/// Serves as the inbound end until the process is killed.
pub fn inbound(options: &Options) -> Result<()> {
    run(options, |identity, rule| {
        let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
        Ok(Inbound { acceptor: TlsAcceptor::from(identity.server_config(accept)), target: rule.target })
    })
}

fn run<S: FloorSide>(options: &Options, side: impl Fn(&Identity, &FloorRule) -> Result<S>) -> Result<()> {
    net::socket::raise_open_files_limit().context("raising the limit on open files")?;
    let identity = identity(options)?;
    load::runtime()?.block_on(async {
        for rule in &options.rules {
            let listener = net::socket::listen(rule.bind, &net::socket::Listen { reuse_port: false, backlog: 4096 })
                .and_then(TcpListener::from_std)
                .with_context(|| format!("listening on {}", rule.bind))?;
            let relay = Rc::new(FloorRelay {
                side: side(&identity, rule)?,
                idle: RefCell::default(),
                shared: Mutex::default(),
            });
            tokio::task::spawn_local(accept(listener, rule.protocol, relay));
        }
        std::future::pending().await
    })
}

fn identity(options: &Options) -> Result<Identity> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let key = PrivateKey::from_pem(&read(&options.key)?)?;
    let chain = String::from_utf8(read(&options.chain)?)?;
    let credential = Credential::from_pem(&[chain], &key)?;
    let roots = identity::certificates_from_pem(&read(&options.root)?).map_err(anyhow::Error::msg)?;
    let trust = Trust::new(credential.id().trust_domain(), roots, [])?;
    Ok(Identity::new(credential, trust))
}

/// An end of mutual TLS: how it accepts and connects.
trait FloorSide: 'static {
    type Client: AsyncRead + AsyncWrite + Unpin + 'static;
    type Server: AsyncRead + AsyncWrite + Unpin + 'static;
    async fn accept(&self, stream: TcpStream) -> io::Result<Self::Client>;
    async fn connect(&self) -> io::Result<Self::Server>;
}

struct Outbound {
    connector: TlsConnector,
    name: ServerName<'static>,
    target: SocketAddr,
}

impl FloorSide for Outbound {
    type Client = TcpStream;
    type Server = client::TlsStream<TcpStream>;

    async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }

    async fn connect(&self) -> io::Result<Self::Server> {
        let stream = net::connect(self.target, &net::Connect::default()).await?;
        self.connector.connect(self.name.clone(), stream).await
    }
}

struct Inbound {
    acceptor: TlsAcceptor,
    target: SocketAddr,
}

impl FloorSide for Inbound {
    type Client = server::TlsStream<TcpStream>;
    type Server = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<Self::Client> {
        self.acceptor.accept(stream).await
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        net::connect(self.target, &net::Connect::default()).await
    }
}

/// A listener's end, with its connections to the target.
struct FloorRelay<S: FloorSide> {
    side: S,
    idle: RefCell<Vec<Http1Upstream<S::Server>>>,
    /// The HTTP/2 connection that all requests share.
    shared: Mutex<Option<client2::SendRequest<Incoming>>>,
}

async fn accept<S: FloorSide>(listener: TcpListener, protocol: FloorProtocol, relay: Rc<FloorRelay<S>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let relay = Rc::clone(&relay);
        tokio::task::spawn_local(async move {
            let Ok(client) = relay.side.accept(stream).await else { return };
            // The load generator detects and counts connections that fail.
            let _ = match protocol {
                FloorProtocol::Http1 => {
                    let service = service_fn(move |request| http1(Rc::clone(&relay), request));
                    let server = server1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(client), service);
                    server.await.map_err(io::Error::other)
                }
                FloorProtocol::Http2 => {
                    let service = service_fn(move |request| http2(Rc::clone(&relay), request));
                    // A client that disconnects resets all of its streams at once, which is no attack here.
                    let mut builder = server2::Builder::new(LocalExecutor);
                    builder.max_pending_accept_reset_streams(MANY).max_local_error_reset_streams(MANY);
                    let server = builder.serve_connection(TokioIo::new(client), service);
                    server.await.map_err(io::Error::other)
                }
                FloorProtocol::Tcp => tcp(&relay, client).await,
            };
        });
    }
}

async fn tcp<S: FloorSide>(relay: &FloorRelay<S>, mut client: S::Client) -> io::Result<()> {
    let mut server = relay.side.connect().await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ())
}

/// An HTTP/1.1 connection. It carries one request at a time, and that request's task drives it.
struct Http1Upstream<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    sender: client1::SendRequest<Incoming>,
    connection: client1::Connection<TokioIo<S>, Incoming>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Http1Upstream<S> {
    /// Drives the connection. Returns an error once it is closed.
    fn drive(&mut self, context: &mut Context<'_>) -> Result<(), hyper::Error> {
        match Pin::new(&mut self.connection).poll(context) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Returns whether the connection accepts another request.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|context| match self.drive(context) {
            Ok(()) => self.sender.poll_ready(context),
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
        .is_ok()
    }
}

async fn http1<S: FloorSide>(
    relay: Rc<FloorRelay<S>>,
    mut request: Request<Incoming>,
) -> io::Result<Response<RelayedBody<S>>> {
    request.headers_mut().remove(header::CONNECTION);
    let mut upstream = loop {
        let kept = relay.idle.borrow_mut().pop();
        match kept {
            Some(mut kept) => {
                if kept.is_ready().await {
                    break kept;
                }
            }
            None => {
                let stream = relay.side.connect().await?;
                let (sender, connection) = client1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
                break Http1Upstream { sender, connection };
            }
        }
    };
    let response = {
        let mut response = pin!(upstream.sender.send_request(request));
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = Pin::new(&mut upstream.connection).poll(context) {
                return Poll::Ready(Err(error));
            }
            response.as_mut().poll(context)
        })
        .await
        .map_err(io::Error::other)?
    };
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONNECTION);
    Ok(Response::from_parts(head, RelayedBody { body, upstream: Some(upstream), relay, is_done: false }))
}

/// A response's body, with the connection that delivers it.
struct RelayedBody<S: FloorSide> {
    body: Incoming,
    upstream: Option<Http1Upstream<S::Server>>,
    relay: Rc<FloorRelay<S>>,
    is_done: bool,
}

impl<S: FloorSide> Body for RelayedBody<S> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        if let Some(upstream) = &mut body.upstream {
            upstream.drive(context)?;
        }
        let frame = ready!(Pin::new(&mut body.body).poll_frame(context));
        body.is_done = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S: FloorSide> Drop for RelayedBody<S> {
    fn drop(&mut self) {
        if (self.is_done || self.body.is_end_stream())
            && let Some(upstream) = self.upstream.take()
        {
            self.relay.idle.borrow_mut().push(upstream);
        }
    }
}

async fn http2<S: FloorSide>(relay: Rc<FloorRelay<S>>, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
    let mut sender = loop {
        let mut shared = relay.shared.lock().await;
        match &*shared {
            Some(sender) if !sender.is_closed() => break sender.clone(),
            _ => {
                let stream = relay.side.connect().await?;
                let connecting = client2::handshake(LocalExecutor, TokioIo::new(stream));
                let (sender, connection) = connecting.await.map_err(io::Error::other)?;
                tokio::task::spawn_local(connection);
                *shared = Some(sender);
            }
        }
    };
    sender.send_request(request).await.map_err(io::Error::other)
}

/// An executor for hyper's HTTP/2 tasks on this thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
