//! Requests of one identity, each on a connection of its own with another peer header.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use identity::SpiffeId;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Tally, identity_of};

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Requests with different peer headers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Peers {
    /// The address of the sidecar's application.
    pub target: SocketAddr,
    /// The server name.
    pub server_name: String,
    /// Namespace and service account of the server.
    pub expected: (String, String),
    /// The mesh's roots.
    pub roots: PathBuf,
    /// A token that enrols the attacker.
    pub token: PathBuf,
    /// How many are sent each second.
    pub per_second: u32,
}

impl Peers {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let enrolled = identity_of::enrol(&self.roots, &self.token).await?;
        let server = SpiffeId::new("cluster.local", &self.expected.0, &self.expected.1)?;
        let config = enrolled.identity.client_config(&[server], identity::alpn::CLIENT_HTTP1);
        let connector = TlsConnector::from(config);
        let name = ServerName::try_from(self.server_name.clone()).context("the server name")?;
        let mut steps = tokio::time::interval(Duration::from_secs(1) / self.per_second.max(1));
        for number in 0_u64.. {
            steps.tick().await;
            let (connector, name, target) = (connector.clone(), name.clone(), self.target);
            tokio::spawn(async move {
                match tokio::time::timeout(TIMEOUT, send(connector, name, target, number, tally)).await {
                    Ok(Ok(status)) => tally.answer(status),
                    Ok(Err(error)) => tally.answer(format!("error: {error}")),
                    Err(_) => tally.answer("timeout"),
                }
            });
        }
        Ok(())
    }
}

async fn send(
    connector: TlsConnector,
    name: ServerName<'static>,
    target: SocketAddr,
    number: u64,
    tally: &Tally,
) -> std::io::Result<String> {
    let stream = TcpStream::connect(target).await?;
    tally.opened.fetch_add(1, Relaxed);
    let mut stream = connector.connect(name, stream).await?;
    // Seven labels, as sidecars send them, as long as labels may be.
    let label = format!("{number:0>200}");
    let labels = [label.as_str(); 7].join(";");
    let request =
        format!("GET / HTTP/1.1\r\nHost: local:9080\r\nx-isthmus-peer: {labels}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = (&mut stream).take(1 << 16).read_to_end(&mut answer).await;
    match answer.get(9..12) {
        Some(status) => Ok(format!("status {}", String::from_utf8_lossy(status))),
        None => Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
    }
}
