//! Connections to the controller that count received bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use identity::Identity;
use identity::alpn::DISCOVERY as ALPN;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use super::controller::DISCOVERY;

/// The controller's name in its certificate.
const SERVER: &str = "isthmus-controller.isthmus-system.svc";

/// The bytes that some connections received, including TLS.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<AtomicU64>);

impl Received {
    /// The number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A connection to the controller as a sidecar opens it, on first use.
pub fn channel(identity: &Identity, received: &Received) -> Result<Channel, tonic::transport::Error> {
    let (identity, received) = (identity.clone(), received.clone());
    let connect = tower::service_fn(move |_: http::Uri| {
        let (identity, received) = (identity.clone(), received.clone());
        async move {
            let socket = TcpStream::connect(DISCOVERY).await?;
            socket.set_nodelay(true)?;
            let config = identity.controller_config(ALPN).map_err(io::Error::other)?;
            let name = ServerName::try_from(SERVER).map_err(io::Error::other)?;
            let counted = Counted { socket, received };
            Ok::<_, io::Error>(TokioIo::new(TlsConnector::from(config).connect(name, counted).await?))
        }
    });
    // The scheme is http because the connector does TLS.
    Ok(wire::client::endpoint(&format!("http://{DISCOVERY}"))?.connect_with_connector_lazy(connect))
}

struct Counted {
    socket: TcpStream,
    received: Received,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let done = Pin::new(&mut self.socket).poll_read(context, to);
        self.received.0.fetch_add((to.filled().len() - before) as u64, Relaxed);
        done
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
