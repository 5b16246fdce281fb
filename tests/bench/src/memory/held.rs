//! Idle mutual-TLS connections to an inbound proxy, each of which has carried one request.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use identity::{Credential, Identity, PrivateKey, Trust, alpn};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::chain::{CLIENT, SERVER_ACCOUNT};
use crate::mesh::{DOMAIN, Mesh, service_account};
use crate::sidecar::AUTHORITY;

/// The number of connections that are opened or used concurrently.
const AT_A_TIME: usize = 32;
/// The length of a response's body.
const BODY: usize = 1024;

/// Open connections. They are closed when dropped.
pub struct IdlePeers {
    runtime: Runtime,
    streams: Vec<TlsStream<TcpStream>>,
}

/// Opens connections, and sends one request on each.
pub fn open(mesh: &Mesh, inbound: SocketAddr, count: usize) -> Result<IdlePeers> {
    let files = mesh.certificate(CLIENT)?;
    let chain = fs::read_to_string(&files.chain)?;
    let credential = Credential::from_pem(&[chain], &PrivateKey::from_pem(&fs::read(&files.key)?)?)?;
    let roots = identity::certificates_from_pem(&fs::read(&files.root)?).map_err(anyhow::Error::msg)?;
    let identity = Identity::new(credential, Trust::new(DOMAIN, roots, [])?);
    let config = identity.client_config(&[service_account(SERVER_ACCOUNT)?], alpn::CLIENT_HTTP1);
    let connector = TlsConnector::from(config);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let one = || async {
        let stream = TcpStream::connect(inbound).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(inbound.ip().into());
        let mut stream = connector.connect(name, stream).await.context("the handshake")?;
        exchange(&mut stream).await?;
        anyhow::Ok(stream)
    };
    let opening = stream::iter((0..count).map(|_| one())).buffer_unordered(AT_A_TIME).try_collect();
    let streams = runtime.block_on(opening)?;
    Ok(IdlePeers { runtime, streams })
}

/// Sends one more request on each connection, and closes it.
pub fn request_and_close(peers: IdlePeers) -> Result<()> {
    let IdlePeers { runtime, streams } = peers;
    let asking = streams.into_iter().map(|mut stream| async move { exchange(&mut stream).await });
    runtime.block_on(stream::iter(asking).buffer_unordered(AT_A_TIME).try_collect())
}

async fn exchange(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let request = format!("GET /bytes/{BODY} HTTP/1.1\r\nhost: {AUTHORITY}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "answered {:?}", String::from_utf8_lossy(&answer[..end]));
        if answer.len() >= end + 4 + BODY {
            return Ok(());
        }
    }
}
