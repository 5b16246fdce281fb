//! A controller that pushes the resources of a test or benchmark to proxies. It implements the real protocols:
//! discovery over gRPC, with or without TLS, and the certificate service.
//!
//! [`FakeController`] serves what [`Resources::push`] adds. With TLS it also issues certificates for the tokens of a
//! [`Signer`], so that unmodified proxy programs can enrol.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use identity::{Accept, ClientAuth, Identity, alpn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use wire::envoy::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;

mod discovery;
mod resources;
mod signer;

pub use resources::Resources;
pub use signer::Signer;

/// The number of connections whose handshake is complete and that wait to be served.
const BACKLOG: usize = 16;

/// A controller that runs until it is dropped.
#[derive(Debug)]
pub struct FakeController {
    address: SocketAddr,
    resources: Resources,
    tasks: Vec<JoinHandle<()>>,
}

impl FakeController {
    /// Starts a controller without TLS at a free port of `ip`.
    ///
    /// # Errors
    /// Returns an error if the controller cannot listen.
    pub async fn plaintext(ip: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let (address, resources) = (listener.local_addr()?, Resources::default());
        let discovery = AggregatedDiscoveryServiceServer::new(resources.clone());
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(discovery);
            // Serving ends with the listener.
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self { address, resources, tasks: vec![serving] })
    }

    /// Starts a controller with TLS at a free port of `ip`. `identity` is that of the controller; `signer` issues
    /// certificates.
    ///
    /// # Errors
    /// Returns an error if the controller cannot listen.
    pub async fn tls(ip: IpAddr, identity: Identity, signer: Signer) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let (address, resources) = (listener.local_addr()?, Resources::default());
        let (handshaken, connections) = mpsc::channel(BACKLOG);
        let accepting = tokio::spawn(accept(listener, identity, handshaken));
        let server = Server::builder()
            .add_service(IstioCertificateServiceServer::new(signer))
            .add_service(AggregatedDiscoveryServiceServer::new(resources.clone()));
        let serving = tokio::spawn(async move {
            let _ = server.serve_with_incoming(ReceiverStream::new(connections)).await;
        });
        Ok(Self { address, resources, tasks: vec![accepting, serving] })
    }

    /// Returns the address of the controller.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the resources that the controller pushes.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Stops the controller.
    pub fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns a channel to a controller without TLS. Its connections carry `mark`, which exempts them from capture.
pub fn channel(address: SocketAddr, mark: Option<u32>) -> Channel {
    let connect = tower::service_fn(move |_: Uri| async move {
        let options = net::Connect { mark, ..net::Connect::default() };
        net::connect(address, &options).await.map(TokioIo::new)
    });
    Endpoint::from_static("http://fake-controller").connect_with_connector_lazy(connect)
}

async fn accept(
    listener: TcpListener,
    identity: Identity,
    connections: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let accept = Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY };
    let acceptor = Arc::new(TlsAcceptor::from(identity.server_config(accept)));
    while let Ok((socket, _)) = listener.accept().await {
        // A proxy whose handshake fails logs the error.
        if let Ok(stream) = acceptor.accept(socket).await
            && connections.send(Ok(stream)).await.is_err()
        {
            return;
        }
    }
}
