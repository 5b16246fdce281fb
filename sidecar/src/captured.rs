//! What the captured connections of one worker share.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use proxy::failure::Failure;
use proxy::worker::Worker;
use runtime::admission::Admission;
use tokio::net::TcpStream;

use crate::capture::OriginalDestination;

/// The state that captured connections of one worker share.
pub struct Captured {
    /// The worker's state.
    pub worker: Rc<Worker>,
    /// How the original destination of a connection is found.
    pub original_destination: OriginalDestination,
    /// The addresses of the sidecar's listeners for captured connections.
    pub own_listeners: Arc<[SocketAddr]>,
    /// The admission of connections of the application.
    pub outbound: Admission,
    /// The admission of connections to the application.
    pub inbound: Admission,
}

impl Captured {
    /// Returns the original destination of a connection.
    ///
    /// # Errors
    /// Returns an error if it is unknown, or if it is a listener of the sidecar itself: a connection to the sidecar's own
    /// ports was not captured, and would lead to the sidecar without end.
    pub fn destination(&self, stream: &TcpStream) -> Result<SocketAddr, Failure> {
        let destination = (self.original_destination)(stream).map_err(Failure::downstream)?;
        if leads_here(destination, &self.own_listeners) {
            let why = format!("{destination} is a port of the sidecar, which carries only captured connections");
            return Err(Failure::Refused(why.into()));
        }
        Ok(destination)
    }
}

/// Returns whether one of the listeners accepts connections to a destination, whose address may have any form.
fn leads_here(destination: SocketAddr, listeners: &[SocketAddr]) -> bool {
    let ip = destination.ip().to_canonical();
    let mut same_port = listeners.iter().filter(|listener| listener.port() == destination.port());
    same_port.any(|listener| match listener.ip().to_canonical() {
        // The listener accepts connections to every address of this pod.
        any if any.is_unspecified() => is_local(ip),
        one => one == ip || ip.is_unspecified(),
    })
}

/// Returns whether an address is one of this network namespace's. Called for the sidecar's own ports only, so it costs
/// captured connections nothing.
fn is_local(ip: IpAddr) -> bool {
    // Only a local address can be bound. The kernel has the list; a copy would have to follow it.
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_listeners_are_recognised_at_every_address_of_the_pod_in_every_form() {
        let listeners = ["[::]:15001", "0.0.0.0:15006", "127.0.0.1:9080"].map(|listener| listener.parse().unwrap());
        for (destination, expected) in [
            ("127.0.0.1:15001", true),
            ("127.8.8.8:15006", true),
            ("[::ffff:127.0.0.1]:15006", true),
            ("[::1]:15001", true),
            ("0.0.0.0:15001", true),
            ("[::]:15006", true),
            ("127.0.0.1:15002", false),
            // A listener at one address, and a destination of the same port at another.
            ("127.0.0.1:9080", true),
            ("[::ffff:127.0.0.1]:9080", true),
            ("127.0.0.2:9080", false),
            // Another pod's sidecar.
            ("203.0.113.7:15006", false),
            ("[2001:db8::1]:15006", false),
        ] {
            assert_eq!(leads_here(destination.parse().unwrap(), &listeners), expected, "{destination}");
        }
    }
}
