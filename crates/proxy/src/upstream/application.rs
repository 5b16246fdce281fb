//! Connections to the application beside the proxy.

use std::rc::Rc;
use std::sync::Arc;

use runtime::admission::Admitted;

use super::{Lease, OpenConnection, Pool};
use crate::failure::{ConnectError, Failure};
use crate::http::Version;
use crate::mesh::ApplicationSocket;

impl Pool {
    /// Returns a connection to the application, opening one on behalf of `admitted` if none is idle.
    ///
    /// # Errors
    /// Returns an error if the application accepts no connection, or has as many as it may.
    pub async fn to_application(
        self: &Rc<Self>,
        socket: &ApplicationSocket,
        version: Version,
        admitted: &Admitted,
        mark: Option<u32>,
    ) -> Result<Lease, Failure> {
        if let Some(lease) = self.take(version).await {
            return Ok(lease);
        }
        // Boxed: few requests need it, and each would move it.
        Box::pin(async {
            let _opening = match self.open_or_take(version).await {
                Ok(opening) => opening,
                Err(lease) => return Ok(lease),
            };
            let opened = connect(socket, admitted, mark).await?;
            self.adopt(opened, version).await.map_err(|error| failed(socket, error))
        })
        .await
    }
}

/// Connects to the application on behalf of `admitted`, by TCP from 127.0.0.6, Istio's source address of inbound
/// connections.
///
/// # Errors
/// Returns an error if the application accepts no connection, or has as many as it may.
pub async fn connect(
    socket: &ApplicationSocket,
    admitted: &Admitted,
    mark: Option<u32>,
) -> Result<OpenConnection, Failure> {
    let dialled = admitted.dial().ok_or(Failure::Overflow("the number of connections to the application".into()))?;
    let connected = match socket {
        ApplicationSocket::Tcp(address) => net::connect_to_application(*address, mark).await,
        ApplicationSocket::Unix(path) => net::connect_to_unix_socket(path),
    };
    let stream = connected.map_err(|error| failed(socket, ConnectError::Tcp(Arc::new(error))))?;
    let local = stream.local_addr().ok();
    Ok(OpenConnection { io: stream.into(), local, peer: None, dialled: Some(dialled), place: None })
}

fn failed(socket: &ApplicationSocket, error: ConnectError) -> Failure {
    Failure::Connect { endpoint: socket.to_string().into(), error, retried: false }
}
