//! The controller's address and identity, and TLS connections to it.
//!
//! Any intermediate of the mesh can sign any DNS name of a cluster. So a proxy in a pod knows the controller by its SPIFFE
//! ID, and by the signing certificate of the controller's own cluster ([`Controller::known_as`]). The controller writes that
//! certificate beside the roots, where pods mount both; it is read for each connection, so that a rotation needs no restart.
//! Without a known identity, the controller is verified by the DNS name of its address.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::alpn::{self, Alpn};
use identity::{Expectation, Identity, SpiffeId, Trust};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::resolve;

/// The application protocol of connections to the controller.
const ALPN: Alpn = alpn::DISCOVERY;
/// The timeout of a connection attempt to one address, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of the controller, and how connections to it are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    mark: Option<u32>,
    known: Option<KnownController>,
}

/// The identity of the controller, and the file with the certificates that may sign for it, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownController {
    id: SpiffeId,
    signers: PathBuf,
}

/// The error for an invalid controller address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a valid controller address; use host:port, such as isthmus-controller.isthmus-system.svc:15012")]
pub struct AddressError(String);

impl FromStr for Controller {
    type Err = AddressError;

    /// Parses `host:port`. The controller's certificate must contain the host.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| invalid())?;
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| invalid())?,
            server_name,
            mark: None,
            known: None,
        })
    }
}

impl Controller {
    /// Sets a socket mark for connections and DNS queries, which exempts them from capture.
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// Sets the name that is sent as SNI and that the controller's certificate must contain.
    ///
    /// # Errors
    /// Returns an error if the name is not a host name.
    pub fn named(mut self, server_name: &str) -> Result<Self, AddressError> {
        self.server_name =
            ServerName::try_from(server_name.to_owned()).map_err(|_| AddressError(server_name.to_owned()))?;
        Ok(self)
    }

    /// Sets the identity that the controller must prove, by a certificate that one of those in the file `signers` signed.
    pub fn known_as(mut self, id: SpiffeId, signers: PathBuf) -> Self {
        self.known = Some(KnownController { id, signers });
        self
    }

    /// Returns what the controller must prove, as of now; `None` if it is known by its DNS name.
    fn expectation(&self) -> io::Result<Option<Expectation>> {
        let Some(KnownController { id, signers }) = &self.known else { return Ok(None) };
        let failed = |why: String| {
            let path = signers.display();
            io::Error::other(format!("{path}: {why}; the controller writes it into ConfigMap istio-ca-root-cert"))
        };
        let pem = std::fs::read(signers).map_err(|error| failed(error.to_string()))?;
        let certificates = identity::certificates_from_pem(&pem).map_err(failed)?;
        let keys = certificates.iter().filter_map(identity::signing_key_sha256);
        Ok(Some(Expectation::any_of([id.clone()]).signed_by(keys)))
    }

    /// Returns the configuration of a connection without a client certificate.
    fn anonymous(&self, roots: &[CertificateDer<'static>]) -> io::Result<Arc<ClientConfig>> {
        let config = match (self.expectation()?, &self.known) {
            (Some(expected), Some(known)) => Trust::new(known.id.trust_domain(), roots.to_vec(), [])
                .map(|trust| identity::anonymous_client(&trust, expected, ALPN)),
            _ => identity::server_only_client(roots, ALPN),
        };
        config.map_err(io::Error::other)
    }

    /// Returns the configuration of a connection with the current certificate.
    fn identified(&self, identity: &Identity) -> io::Result<Arc<ClientConfig>> {
        match self.expectation()? {
            Some(expected) => Ok(identity.client_config_for(&expected, ALPN)),
            None => identity.controller_config(ALPN).map_err(io::Error::other),
        }
    }

    /// Connects to the first address that accepts a connection.
    async fn connect(&self, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let addresses = resolve::lookup(&self.host, self.mark).await?;
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        for address in addresses {
            let address = SocketAddr::new(address, self.port);
            let options = net::Connect { mark: self.mark, timeout: CONNECT_TIMEOUT, ..net::Connect::default() };
            let attempt = async {
                let stream = net::connect(address, &options).await?;
                TlsConnector::from(Arc::clone(&tls)).connect(self.server_name.clone(), stream).await
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    let reason = identity::refusal_of(&error).map_or_else(|| error.to_string(), |of| of.to_string());
                    last_error = io::Error::new(error.kind(), format!("cannot connect to {address}: {reason}"));
                }
                Err(_) => {
                    last_error = io::Error::new(io::ErrorKind::TimedOut, format!("connecting to {address} timed out"));
                }
            }
        }
        Err(last_error)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Opens connections to the controller; a [`tower::Service`] for tonic and hyper.
#[derive(Clone, Debug)]
pub struct Connector {
    controller: Arc<Controller>,
    client: TlsClient,
}

#[derive(Clone, Debug)]
enum TlsClient {
    /// A client without a certificate.
    Anonymous(Arc<ClientConfig>),
    /// A client with the certificate and trust that are current when it connects.
    Identified(Identity),
}

impl Connector {
    /// Creates a connector without a client certificate, for a server whose certificate verifies under `roots`.
    pub(super) fn with_roots(controller: Controller, roots: &[CertificateDer<'static>]) -> io::Result<Self> {
        let config = controller.anonymous(roots)?;
        Ok(Self { controller: Arc::new(controller), client: TlsClient::Anonymous(config) })
    }

    /// Creates a connector that presents the certificate which is current at each connection.
    pub fn with_identity(controller: Controller, identity: Identity) -> Self {
        Self { controller: Arc::new(controller), client: TlsClient::Identified(identity) }
    }

    /// Returns a channel that connects on first use and reconnects if the connection is lost. Keep-alive detects a
    /// silent controller within 15 seconds.
    pub fn channel(&self) -> Channel {
        // The scheme is http because this connector adds TLS; with https tonic would require TLS settings of its own.
        let uri = Uri::builder()
            .scheme("http")
            .authority(format!("{}:{}", bracketed(&self.controller.host), self.controller.port))
            .path_and_query("/")
            .build()
            .expect("a host name or address with a port is a valid authority");
        Endpoint::from(uri)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(self.clone())
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let tls = match &connector.client {
                TlsClient::Anonymous(config) => Arc::clone(config),
                TlsClient::Identified(identity) => connector.controller.identified(identity)?,
            };
            connector.controller.connect(tls).await.map(TokioIo::new)
        })
    }
}
