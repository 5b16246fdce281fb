//! The floor of a gateway: accepts, reads the ClientHello, connects, splices. It has one server, no metrics and no logs.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use net::hello::{self, Limits};
use net::socket::Acceptor;
use net::splice::{self, Carried, Carrier, Relay};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};

/// Options of `part floor-gateway`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Listen address
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the server
    #[arg(long)]
    server: SocketAddr,
}

/// Forwards connections until the process is killed.
pub fn run(options: Options) -> Result<()> {
    net::socket::raise_open_files_limit()?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let mut acceptor = Acceptor::new(net::listen(options.listen, &net::Listen::default())?)?;
        let carrier = Rc::new(Carrier::new());
        loop {
            let (client, _) = acceptor.next().await?;
            let carrier = Rc::clone(&carrier);
            tokio::task::spawn_local(async move {
                // The load generator detects and counts connections that fail.
                let _ = carry(client, options.server, &carrier).await;
            });
        }
    })
}

async fn carry(mut client: TcpStream, server: SocketAddr, carrier: &Carrier) -> Result<()> {
    let hello = hello::read(&mut client, Limits::default()).await?;
    let mut upstream = net::connect(server, &net::Connect::default()).await?;
    upstream.write_all(&hello.bytes).await?;
    drop(hello);
    splice::both_ways(&client, &upstream, carrier, &Relay::default(), &Carried::default()).await?;
    Ok(())
}
