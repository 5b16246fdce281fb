//! The floor of a pair of sidecars: both ends of one mutual TLS connection, and what lies between bytes in and bytes out.
//!
//! One thread, the same libraries and TLS configurations as ours, connections that are kept. No policy, no metrics, no
//! discovery, one endpoint, and of a request's headers nothing is changed but what belongs to one connection alone.

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

/// Streams of HTTP/2, more than there are.
const MANY: usize = 100_000;
/// A TLS record's worth, for bytes that are copied.
const BUFFER: usize = 16 * 1024;

/// One of the two.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to carry, as PROTOCOL=BIND=TARGET with `http1`, `http2` or `tcp`.
    #[arg(long)]
    way: Vec<Way>,
    /// Who is at the other end of the mutual TLS.
    #[arg(long)]
    peer: SpiffeId,
    /// The own certificate, with what lies between it and the root; PEM.
    #[arg(long)]
    chain: PathBuf,
    /// Its key; PEM.
    #[arg(long)]
    key: PathBuf,
    /// The root; PEM.
    #[arg(long)]
    root: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Speaks {
    Http1,
    Http2,
    Tcp,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    speaks: Speaks,
    bind: SocketAddr,
    target: SocketAddr,
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, '=');
        let mut part = || parts.next().context("write it as PROTOCOL=BIND=TARGET");
        let speaks = match part()? {
            "http1" => Speaks::Http1,
            "http2" => Speaks::Http2,
            "tcp" => Speaks::Tcp,
            other => anyhow::bail!("{other:?} is not http1, http2 or tcp"),
        };
        Ok(Self { speaks, bind: part()?.parse()?, target: part()?.parse()? })
    }
}

/// Serves as the one before the mutual TLS, until it is killed.
pub fn outbound(options: &Options) -> Result<()> {
    run(options, |identity, way| {
        let offered = match way.speaks {
            Speaks::Http1 => alpn::CLIENT_HTTP1,
            Speaks::Http2 => alpn::CLIENT_HTTP2,
            Speaks::Tcp => alpn::CLIENT_TCP,
        };
        let config = identity.client_config(std::slice::from_ref(&options.peer), offered);
        let name = ServerName::try_from("outbound_.9080_._.server.default.svc.cluster.local")?;
        Ok(Outbound { connector: TlsConnector::from(config), name, target: way.target })
    })
}

/// Serves as the one behind it, until it is killed.
pub fn inbound(options: &Options) -> Result<()> {
    run(options, |identity, way| {
        let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
        Ok(Inbound { acceptor: TlsAcceptor::from(identity.server_config(accept)), target: way.target })
    })
}

fn run<S: Side>(options: &Options, side: impl Fn(&Identity, &Way) -> Result<S>) -> Result<()> {
    net::socket::raise_open_files_limit().context("the limit of open files")?;
    let identity = identity(options)?;
    load::runtime()?.block_on(async {
        for way in &options.way {
            let listener = net::socket::listen(way.bind, &net::socket::Listen { reuse_port: false, backlog: 4096 })
                .and_then(TcpListener::from_std)
                .with_context(|| format!("listening at {}", way.bind))?;
            let relay =
                Rc::new(Relay { side: side(&identity, way)?, idle: RefCell::default(), shared: Mutex::default() });
            tokio::task::spawn_local(accept(listener, way.speaks, relay));
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

/// On which side of the mutual TLS.
trait Side: 'static {
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

impl Side for Outbound {
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

impl Side for Inbound {
    type Client = server::TlsStream<TcpStream>;
    type Server = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<Self::Client> {
        self.acceptor.accept(stream).await
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        net::connect(self.target, &net::Connect::default()).await
    }
}

/// One way, with its connections to the next.
struct Relay<S: Side> {
    side: S,
    idle: RefCell<Vec<Exclusive<S::Server>>>,
    /// The connection of HTTP/2 that all requests share.
    shared: Mutex<Option<client2::SendRequest<Incoming>>>,
}

async fn accept<S: Side>(listener: TcpListener, speaks: Speaks, relay: Rc<Relay<S>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let relay = Rc::clone(&relay);
        tokio::task::spawn_local(async move {
            let Ok(client) = relay.side.accept(stream).await else { return };
            // Whatever ends a connection, the generator at its end notices and counts.
            let _ = match speaks {
                Speaks::Http1 => {
                    let service = service_fn(move |request| http1(Rc::clone(&relay), request));
                    let server = server1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(client), service);
                    server.await.map_err(io::Error::other)
                }
                Speaks::Http2 => {
                    let service = service_fn(move |request| http2(Rc::clone(&relay), request));
                    // A client that leaves resets all of its streams at once; between these two that is no attack.
                    let mut builder = server2::Builder::new(Here);
                    builder.max_pending_accept_reset_streams(MANY).max_local_error_reset_streams(MANY);
                    let server = builder.serve_connection(TokioIo::new(client), service);
                    server.await.map_err(io::Error::other)
                }
                Speaks::Tcp => tcp(&relay, client).await,
            };
        });
    }
}

async fn tcp<S: Side>(relay: &Relay<S>, mut client: S::Client) -> io::Result<()> {
    let mut server = relay.side.connect().await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ())
}

/// A connection of HTTP/1, which carries one request at a time and is driven by the task of that request.
struct Exclusive<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    sender: client1::SendRequest<Incoming>,
    connection: client1::Connection<TokioIo<S>, Incoming>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Exclusive<S> {
    /// Moves bytes. Fails once the connection is over.
    fn drive(&mut self, context: &mut Context<'_>) -> Result<(), hyper::Error> {
        match Pin::new(&mut self.connection).poll(context) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Whether it takes another request.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|context| match self.drive(context) {
            Ok(()) => self.sender.poll_ready(context),
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
        .is_ok()
    }
}

async fn http1<S: Side>(relay: Rc<Relay<S>>, mut request: Request<Incoming>) -> io::Result<Response<Relayed<S>>> {
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
                break Exclusive { sender, connection };
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
    Ok(Response::from_parts(head, Relayed { body, upstream: Some(upstream), relay, is_done: false }))
}

/// A response's body, with the connection that it comes on.
struct Relayed<S: Side> {
    body: Incoming,
    upstream: Option<Exclusive<S::Server>>,
    relay: Rc<Relay<S>>,
    is_done: bool,
}

impl<S: Side> Body for Relayed<S> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relayed = self.get_mut();
        if let Some(upstream) = &mut relayed.upstream {
            upstream.drive(context)?;
        }
        let frame = ready!(Pin::new(&mut relayed.body).poll_frame(context));
        relayed.is_done = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S: Side> Drop for Relayed<S> {
    fn drop(&mut self) {
        if (self.is_done || self.body.is_end_stream())
            && let Some(upstream) = self.upstream.take()
        {
            self.relay.idle.borrow_mut().push(upstream);
        }
    }
}

async fn http2<S: Side>(relay: Rc<Relay<S>>, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
    let mut sender = loop {
        let mut shared = relay.shared.lock().await;
        match &*shared {
            Some(sender) if !sender.is_closed() => break sender.clone(),
            _ => {
                let stream = relay.side.connect().await?;
                let connecting = client2::handshake(Here, TokioIo::new(stream));
                let (sender, connection) = connecting.await.map_err(io::Error::other)?;
                tokio::task::spawn_local(connection);
                *shared = Some(sender);
            }
        }
    };
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Runs what HTTP/2 needs besides on this thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
