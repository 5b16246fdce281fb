//! Connections to the application beside the proxy.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Lease, Opened, Pool, Version};
use crate::failure::ConnectError;

/// For the application to accept: it is on this machine.
const CONNECT: Duration = Duration::from_secs(1);

impl Pool {
    /// Takes or opens a connection to the application.
    pub async fn to_app(
        self: &Rc<Self>,
        address: SocketAddr,
        version: Version,
        mark: Option<u32>,
    ) -> Result<Lease, ConnectError> {
        if let Some(lease) = self.take(version).await {
            return Ok(lease);
        }
        // Boxed, because few requests need it and each would move it about.
        Box::pin(async {
            let _opening = match self.open_or_take(version).await {
                Ok(opening) => opening,
                Err(lease) => return Ok(lease),
            };
            let opened = connect(address, mark).await?;
            self.adopt(opened, version).await
        })
        .await
    }
}

/// Connects to the application.
pub async fn connect(address: SocketAddr, mark: Option<u32>) -> Result<Opened, ConnectError> {
    let source = match address.ip() {
        IpAddr::V4(_) => net::socket::INBOUND_SOURCE_V4,
        IpAddr::V6(_) => net::socket::INBOUND_SOURCE_V6,
    };
    let options = net::Connect { mark, timeout: CONNECT, source: Some(source), ..net::Connect::default() };
    let connected = match net::connect(address, &options).await {
        // Without the second loopback address of IPv6, which few pods have.
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            net::connect(address, &net::Connect { source: None, ..options }).await
        }
        connected => connected,
    };
    let stream = connected.map_err(|error| ConnectError::Tcp(Arc::new(error)))?;
    let local = stream.local_addr().ok();
    Ok(Opened { io: stream.into(), local, peer: None })
}
