//! Captured connections: where each was going.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::options::Listener;

/// Returns the original destination of a captured connection. The kernel knows it for connections that it redirected;
/// connections to listeners without capture have the listener's destination; tests have their own.
pub type OriginalDestination = Arc<dyn Fn(&TcpStream) -> std::io::Result<SocketAddr> + Send + Sync>;

/// Returns how original destinations are found: by the listener for connections to `listeners`, else by the kernel.
pub(crate) fn original_destination(listeners: Vec<Listener>) -> OriginalDestination {
    if listeners.is_empty() {
        return Arc::new(net::original_destination);
    }
    Arc::new(move |stream| {
        let local = stream.local_addr()?;
        match listeners.iter().find(|listener| listener.accepts(local)) {
            Some(listener) => Ok(listener.destination),
            None => net::original_destination(stream),
        }
    })
}
