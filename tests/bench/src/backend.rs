//! The server behind what is measured: one thread, and as little work per request as can be, so that what is in front of it
//! is what saturates.

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

/// Where to serve what; each may be given several times.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// HTTP/1.1, HTTP/2 and gRPC: `/bytes/N` is answered with N bytes, another path with none; `/bench.Echo/Unary` and
    /// `/bench.Echo/Stream` send messages back
    #[arg(long)]
    pub http: Vec<SocketAddr>,
    /// Sends back what arrives
    #[arg(long)]
    pub echo: Vec<SocketAddr>,
    /// Sends as many bytes as asked for, in eight bytes
    #[arg(long)]
    pub source: Vec<SocketAddr>,
    /// The same behind a ClientHello, without TLS
    #[arg(long)]
    pub behind_hello: Vec<SocketAddr>,
    /// The same in TLS 1.3
    #[arg(long, requires = "certificate", requires = "key")]
    pub tls: Vec<SocketAddr>,
    /// A file with the server's certificate and what leads to its root
    #[arg(long)]
    pub certificate: Option<PathBuf>,
    /// A file with its key
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// Serves until it is killed.
pub fn run(options: &Options) -> Result<()> {
    net::socket::raise_open_files_limit().context("the limit of open files")?;
    load::runtime()?.block_on(async {
        start(options)?;
        std::future::pending::<Infallible>().await;
        Ok(())
    })
}

/// Serves on the calling thread's runtime for as long as that runs. Returns where, in the order of the options' fields.
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

/// What all connections use.
#[derive(Debug)]
struct Shared {
    scratch: load::Scratch,
    /// Bodies are cut from this.
    bytes: Bytes,
    /// The same, as a file in memory.
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

/// Accepts connections, of which a failure ends no more than that one.
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
        .with_context(|| format!("listening at {address}"))?;
    let bound = listener.local_addr()?;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.next().await {
            let connection = connection(stream, Rc::clone(&shared));
            tokio::task::spawn_local(async move {
                // Clients close as they like.
                let _ = connection.await;
            });
        }
    });
    Ok(bound)
}
