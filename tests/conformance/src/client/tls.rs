//! Connections of clients, with TLS if the order says so.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Order;
use crate::case::{ClientTls, Protocol};
use crate::certificates;

/// The header of the PROXY protocol that clients send. Its source is the address of nobody.
const PROXY: &[u8] = b"PROXY TCP4 192.0.2.9 192.0.2.10 40000 443\r\n";

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open connection.
pub(super) struct Opened {
    pub(super) stream: Box<dyn Stream>,
    /// What came of the TLS handshake.
    pub(super) handshake: Option<String>,
}

/// Connects as an order says.
pub(super) async fn open(order: &Order) -> Result<Opened> {
    let mut stream = TcpStream::connect(order.address).await?;
    stream.set_nodelay(true)?;
    if order.proxied {
        stream.write_all(PROXY).await?;
    }
    if order.protocol == Protocol::Tls {
        let connector = TlsConnector::from(Arc::new(certificates::client()));
        let name = order.sni.clone().unwrap_or_else(|| order.host.clone()).try_into()?;
        return Ok(Opened { stream: Box::new(connector.connect(name, stream).await?), handshake: None });
    }
    match &order.tls {
        Some(tls) => secured(stream, order, tls).await,
        None => Ok(Opened { stream: Box::new(stream), handshake: None }),
    }
}

async fn secured(stream: TcpStream, order: &Order, tls: &ClientTls) -> Result<Opened> {
    let mut config = certificates::client_of(tls, &order.directory)?;
    let offered = tls.alpn.clone().unwrap_or_else(|| match order.protocol {
        Protocol::Http1 => vec!["http/1.1".to_owned()],
        Protocol::Http2 | Protocol::Grpc => vec!["h2".to_owned()],
        Protocol::Tcp | Protocol::Tls => Vec::new(),
    });
    config.alpn_protocols = offered.into_iter().map(String::into_bytes).collect();
    let host = order.host.split(':').next().unwrap_or_default().to_owned();
    let name = tls.server_name.clone().or_else(|| order.sni.clone()).unwrap_or(host);
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { ServerName::from(order.address.ip()) } else { ServerName::try_from(name)? };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("the TLS handshake")?;
    let session = stream.get_ref().1;
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("no version");
    let protocol = session.alpn_protocol().map_or("no protocol".into(), String::from_utf8_lossy);
    let leaf = session.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref).unwrap_or_default();
    let handshake = format!("{version}, {protocol}, certificate {}", name_of(leaf, &order.directory));
    Ok(Opened { stream: Box::new(stream), handshake: Some(handshake) })
}

/// The name of the file of a certificate; `of the mesh` if it is in none.
fn name_of(certificate: &[u8], directory: &Path) -> String {
    let found = certificates::SITES.iter().find(|(name, _)| {
        let file = certificates::chain(&directory.join(format!("{name}.pem")));
        file.is_ok_and(|chain| chain.first().is_some_and(|leaf| leaf.as_ref() == certificate))
    });
    found.map_or("of the mesh", |(name, _)| name).to_owned()
}
