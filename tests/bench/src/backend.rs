//! The server of a measurement: one thread with as little work per request as possible, so that the system in front of it
//! saturates first.

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use net::socket::Acceptor;
use rustix::fs::MemfdFlags;
use tokio::net::TcpStream;

use crate::load::{self, tls};

mod http1;
mod http2;
mod tcp;

/// Listen addresses for each kind of service; each option can be given several times.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Address for HTTP/1.1, HTTP/2 and gRPC: `/bytes/N` responds with N bytes, any other path with none;
    /// `/bench.Echo/Unary` and `/bench.Echo/Stream` echo messages
    #[arg(long)]
    pub http: Vec<SocketAddr>,
    /// Address of a TCP echo service
    #[arg(long)]
    pub echo: Vec<SocketAddr>,
    /// Address of a source: it reads a number in eight bytes and sends that many bytes
    #[arg(long)]
    pub source: Vec<SocketAddr>,
    /// Address of a source that first reads a ClientHello, and continues without TLS
    #[arg(long)]
    pub behind_hello: Vec<SocketAddr>,
    /// Address of a source over TLS 1.3
    #[arg(long, requires = "certificate", requires = "key")]
    pub tls: Vec<SocketAddr>,
    /// File with the server's certificate chain
    #[arg(long)]
    pub certificate: Option<PathBuf>,
    /// File with the server's private key
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// Serves until the process is killed.
pub fn run(options: &Options) -> Result<()> {
    net::socket::raise_open_files_limit().context("raising the limit on open files")?;
    load::runtime()?.block_on(async {
        start(options)?;
        std::future::pending::<Infallible>().await;
        Ok(())
    })
}

/// Serves on the calling thread's runtime while it runs. Returns the bound addresses in the order of the options' fields.
pub fn start(options: &Options) -> Result<Vec<SocketAddr>> {
    let shared = Rc::new(Shared::new()?);
    let mut bound = Vec::new();
    for address in &options.http {
        bound.push(serve(*address, &shared, http1::serve)?);
    }
    for address in &options.echo {
        bound.push(serve(*address, &shared, tcp::echo)?);
    }
    for address in &options.source {
        bound.push(serve(*address, &shared, tcp::source)?);
    }
    for address in &options.behind_hello {
        bound.push(serve(*address, &shared, tcp::behind_hello)?);
    }
    if let (Some(certificate), Some(key)) = (&options.certificate, &options.key) {
        let acceptor = tls::acceptor(certificate, key)?;
        for address in &options.tls {
            let acceptor = acceptor.clone();
            bound.push(serve(*address, &shared, move |stream, shared| tcp::in_tls(stream, acceptor.clone(), shared))?);
        }
    }
    Ok(bound)
}

/// Buffers that all connections share.
#[derive(Debug)]
struct Shared {
    scratch: load::Scratch,
    /// The source of all bodies.
    bytes: Bytes,
    /// The same bytes, as a file in memory.
    file: File,
}

impl Shared {
    fn new() -> Result<Self> {
        let bytes = Bytes::from(vec![b'x'; 1 << 20]);
        let mut file = File::from(rustix::fs::memfd_create("bytes", MemfdFlags::CLOEXEC)?);
        file.write_all(&bytes)?;
        Ok(Self { scratch: load::scratch(), bytes, file })
    }
}

/// Accepts connections. A failed connection does not affect the others.
fn serve<F>(
    address: SocketAddr,
    shared: &Rc<Shared>,
    connection: impl Fn(TcpStream, Rc<Shared>) -> F + 'static,
) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>> + 'static,
{
    let mut listener = net::socket::listen(address, &net::socket::Listen::default())
        .and_then(Acceptor::new)
        .with_context(|| format!("listening on {address}"))?;
    let bound = listener.local_addr()?;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.next().await {
            let connection = connection(stream, Rc::clone(&shared));
            tokio::task::spawn_local(async move {
                // Clients close connections at any time.
                let _ = connection.await;
            });
        }
    });
    Ok(bound)
}
