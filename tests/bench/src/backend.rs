//! The server behind what is measured: one thread, and as little work per request as can be, so that what is in front of it
//! is what saturates.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use net::socket::Acceptor;
use tokio::net::TcpStream;

use crate::load;

mod http1;

/// Where to serve what.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// HTTP/1.1: `GET /bytes/N` is answered with N bytes, anything else with none
    #[arg(long)]
    pub http: Vec<SocketAddr>,
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

/// Serves on the calling thread's runtime for as long as that runs. Returns where, in the order of the options.
pub fn start(options: &Options) -> Result<Vec<SocketAddr>> {
    let shared = Rc::new(Shared::new());
    let mut bound = Vec::new();
    for address in &options.http {
        let shared = Rc::clone(&shared);
        bound.push(serve(*address, move |stream| http1::serve(stream, Rc::clone(&shared)))?);
    }
    Ok(bound)
}

/// What all connections use.
#[derive(Debug)]
struct Shared {
    scratch: load::Scratch,
    /// Bodies are cut from this.
    bytes: Vec<u8>,
}

impl Shared {
    fn new() -> Self {
        Self { scratch: load::scratch(), bytes: vec![b'x'; 1 << 20] }
    }
}

/// Accepts connections, of which a failure ends no more than that one.
fn serve<F>(address: SocketAddr, connection: impl Fn(TcpStream) -> F + 'static) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>> + 'static,
{
    let mut listener = net::socket::listen(address, &net::socket::Listen::default())
        .and_then(Acceptor::new)
        .with_context(|| format!("listening at {address}"))?;
    let bound = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.next().await {
            let connection = connection(stream);
            tokio::task::spawn_local(async move {
                // Clients close as they like.
                let _ = connection.await;
            });
        }
    });
    Ok(bound)
}
