//! TLS for load through a gateway that routes by server name.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use identity::{PrivateKey, alpn, certificates_from_pem};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{Failure, socket};

pub use tokio_rustls::TlsAcceptor as Acceptor;

/// The length of a TLS record's header: type, version and length.
pub const RECORD_HEADER: usize = 5;

/// A TLS 1.3 server with this certificate and key. It issues no tickets, so every handshake is a full one.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let text = fs::read(key).with_context(|| format!("reading {}", key.display()))?;
    let key = PrivateKey::from_pem(&text)?.der().clone_key();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(identity::provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate)?, key)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn::SERVER.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    certificates_from_pem(&text).map_err(anyhow::Error::msg).with_context(|| format!("{}", file.display()))
}

/// A client for one server name, with the ALPN names that a sidecar offers, and without a certificate.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl TlsClient {
    /// A client that trusts the roots in a file.
    pub fn new(root: &Path, server_name: &str) -> Result<Self> {
        let config = identity::server_only_client(&certificates(root)?, alpn::CLIENT_TCP)?;
        let server_name = ServerName::try_from(server_name.to_owned()).context("the server name is not a DNS name")?;
        Ok(Self { config, server_name })
    }

    /// The bytes of a ClientHello with the server name.
    pub fn hello(&self) -> Result<Vec<u8>> {
        let mut hello = Vec::new();
        ClientConnection::new(Arc::clone(&self.config), self.server_name.clone())?.write_tls(&mut hello)?;
        Ok(hello)
    }

    /// Opens a connection with a full handshake.
    pub async fn connect(&self, target: SocketAddr) -> Result<TlsStream<TcpStream>, Failure> {
        let stream = socket::connect(target).await?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.server_name.clone(), stream).await.map_err(Failure::Handshake)
    }
}
