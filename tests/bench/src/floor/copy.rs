//! Below the floor: copies bytes from one connection to another and back, and knows nothing of what they mean. With small
//! requests, one at a time, that is two reads and two writes for each, as in a sidecar: what two of these take is the kernel's
//! part, and what no pair of proxies that reads and writes can go below.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use net::socket::Listen;
use tokio::net::{TcpListener, TcpStream};

use crate::load;

/// What fits into one read.
const BUFFER: usize = 16 * 1024;

/// From where to where.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to carry, as BIND=TARGET.
    #[arg(long)]
    way: Vec<Way>,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    bind: SocketAddr,
    target: SocketAddr,
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (bind, target) = text.split_once('=').context("write it as BIND=TARGET")?;
        Ok(Self { bind: bind.parse()?, target: target.parse()? })
    }
}

/// Carries connections until it is killed.
pub fn run(options: &Options) -> Result<()> {
    net::socket::raise_open_files_limit().context("the limit of open files")?;
    load::runtime()?.block_on(async {
        for way in &options.way {
            let listener = net::socket::listen(way.bind, &Listen { reuse_port: false, backlog: 4096 })
                .and_then(TcpListener::from_std)
                .with_context(|| format!("listening at {}", way.bind))?;
            tokio::task::spawn_local(accept(listener, way.target));
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
        // Whatever ends a connection, the generator at its end notices and counts.
        tokio::task::spawn_local(carry(client, target));
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = net::connect(target, &net::Connect::default()).await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ())
}
