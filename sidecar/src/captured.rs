//! What the captured connections of one worker share.

use std::net::SocketAddr;
use std::rc::Rc;

use proxy::failure::Failure;
use proxy::worker::Worker;
use runtime::limits::{Limit, Permit};
use tokio::net::TcpStream;

use crate::capture::OriginalDestination;

/// The state that captured connections of one worker share.
pub struct Captured {
    /// The worker's state.
    pub worker: Rc<Worker>,
    /// How the original destination of a connection is found.
    pub original_destination: OriginalDestination,
    /// The limit on open connections.
    pub connections: Limit,
}

impl Captured {
    /// Acquires a permit for one more connection.
    ///
    /// # Errors
    /// Returns an error if the sidecar has as many connections as its limit of open files allows.
    pub fn admit(&self) -> Result<Permit, Failure> {
        self.connections.acquire().ok_or(Failure::Overflow("the number of open connections".into()))
    }

    /// Returns the original destination of a connection.
    ///
    /// # Errors
    /// Returns an error if it is unknown, or if it is the sidecar itself: the connection was not captured, and would lead to
    /// the sidecar again.
    pub fn destination(&self, stream: &TcpStream) -> Result<SocketAddr, Failure> {
        let destination = (self.original_destination)(stream).map_err(Failure::downstream)?;
        if destination == stream.local_addr().map_err(Failure::downstream)? {
            return Err(Failure::Refused("the connection was not captured; it would lead to the sidecar again".into()));
        }
        Ok(destination)
    }
}
