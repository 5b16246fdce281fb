//! Connections to the controller: looked up, marked, under TLS with whatever certificate is in force at the time.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{Identity, TrustError};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::ALPN;
use crate::resolve;

/// For TCP and TLS together, per address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    mark: Option<u32>,
}

/// Why an address of the controller cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no address of a controller; write it as host:port, as in isthmus-controller.isthmus-system.svc:15012"
)]
pub struct AddressError(String);

impl FromStr for Controller {
    type Err = AddressError;

    /// `host:port`. The host is also the name that the controller's certificate must have.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())?, server_name, mark: None })
    }
}

impl Controller {
    /// The same, with connections and lookups marked so that capture lets them through.
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// The same, with another name expected in its certificate and sent as SNI.
    ///
    /// # Errors
    /// Where it is no host name.
    pub fn named(mut self, server_name: &str) -> Result<Self, AddressError> {
        self.server_name =
            ServerName::try_from(server_name.to_owned()).map_err(|_| AddressError(server_name.to_owned()))?;
        Ok(self)
    }

    async fn connect(&self, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let addresses = resolve::lookup(&self.host, self.mark).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        for address in addresses {
            let address = SocketAddr::new(address, self.port);
            let options = net::Connect { mark: self.mark, timeout: CONNECT_TIMEOUT, ..net::Connect::default() };
            let attempt = async {
                let stream = net::connect(address, &options).await?;
                TlsConnector::from(Arc::clone(&tls)).connect(self.server_name.clone(), stream).await
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = io::Error::new(error.kind(), format!("connecting to {address}: {error}")),
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}")),
            }
        }
        Err(last)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Makes connections to the controller; a [`tower::Service`] for tonic and hyper.
#[derive(Clone, Debug)]
pub struct Connector {
    controller: Arc<Controller>,
    tls: Tls,
}

#[derive(Clone, Debug)]
enum Tls {
    /// No certificate of one's own yet.
    Anonymous(Arc<ClientConfig>),
    /// The certificate and trust in force when connecting.
    Identified(Identity),
}

impl Connector {
    /// Connections without a client certificate, to a server under one of `roots`.
    pub(super) fn with_roots(controller: Controller, roots: &[CertificateDer<'static>]) -> Result<Self, TrustError> {
        let config = identity::server_only_client(roots, ALPN)?;
        Ok(Self { controller: Arc::new(controller), tls: Tls::Anonymous(config) })
    }

    /// Connections with the certificate in force at the time.
    pub fn with_identity(controller: Controller, identity: Identity) -> Self {
        Self { controller: Arc::new(controller), tls: Tls::Identified(identity) }
    }

    /// A channel that connects when first used and again when the connection is lost. A controller that goes silent is
    /// noticed within 15 seconds.
    pub fn channel(&self) -> Channel {
        // The scheme stays http: TLS is this connector's own affair, which tonic would otherwise want to configure.
        let uri = Uri::builder()
            .scheme("http")
            .authority(format!("{}:{}", bracketed(&self.controller.host), self.controller.port))
            .path_and_query("/")
            .build()
            .expect("a host name or address and a port make an authority");
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
            let tls = match &connector.tls {
                Tls::Anonymous(config) => Arc::clone(config),
                Tls::Identified(identity) => identity.controller_config(ALPN).map_err(io::Error::other)?,
            };
            connector.controller.connect(tls).await.map(TokioIo::new)
        })
    }
}
