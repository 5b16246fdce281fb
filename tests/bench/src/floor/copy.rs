//! Below the floor: copies bytes between two connections without parsing them. For small requests, one at a time, that is
//! two reads and two writes per request, as in a sidecar. Two of these processes cost the kernel's part of a request,
//! which is the lower bound for any pair of proxies that reads and writes.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use net::socket::Listen;
use tokio::net::{TcpListener, TcpStream};

use crate::load;

/// The largest read.
const BUFFER: usize = 16 * 1024;

/// Options of `part floor-copy`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Listen address and target, as BIND=TARGET
    #[arg(long = "way")]
    rules: Vec<ForwardRule>,
}

#[derive(Clone, Copy, Debug)]
struct ForwardRule {
    bind: SocketAddr,
    target: SocketAddr,
}

impl FromStr for ForwardRule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (bind, target) = text.split_once('=').context("expected BIND=TARGET")?;
        Ok(Self { bind: bind.parse()?, target: target.parse()? })
    }
}

/// Forwards connections until the process is killed.
pub fn run(options: &Options) -> Result<()> {
    net::socket::raise_open_files_limit().context("raising the limit on open files")?;
    load::runtime()?.block_on(async {
        for rule in &options.rules {
            let listener = net::socket::listen(rule.bind, &Listen { reuse_port: false, backlog: 4096 })
                .and_then(TcpListener::from_std)
                .with_context(|| format!("listening on {}", rule.bind))?;
            tokio::task::spawn_local(accept(listener, rule.target));
        }
        std::future::pending().await
    })
}

async fn accept(listener: TcpListener, target: SocketAddr) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // The load generator detects and counts connections that fail.
        tokio::task::spawn_local(carry(client, target));
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = net::connect(target, &net::Connect::default()).await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ())
}
