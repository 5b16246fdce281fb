//! Ports of ingress gateways on this machine's loopback.
//!
//! The launcher binds a loopback port of the host for each port of an ingress gateway, where nothing outside of this machine
//! reaches it. A process in the network of the bridge accepts the connections, opens one to the gateway's LoadBalancer
//! address for each, and carries bytes: the end of one direction leaves the other one open, and a reset stays a reset. The
//! gateway sees the bridge's address of the host as the client.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use install::client_error;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::handover;
use crate::console::print_stderr;
use crate::topology::{IngressPort, Topology};

/// Host address of the listeners.
const LOOPBACK: &str = "127.0.0.1";
/// Most connections of all ports at a time; each takes two file descriptors.
const CONNECTIONS: usize = 16_384;
/// File descriptors that the process needs besides.
const OTHER_FILES: u64 = 256;
/// Length of the queue of new connections.
const BACKLOG: i32 = 4096;
/// How long a connection to a gateway may take. Topologies have delays of up to 5 s each way.
const CONNECT: Duration = Duration::from_secs(15);
/// Bytes in flight in one direction of a connection.
const BUFFER: usize = 64 << 10;

/// A port of this machine cannot be used for a gateway.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {port} of this machine cannot be used for port {of} of the ingress gateway of {cluster}: {}\n  choose another \
     hostPort:, or leave it out for any free port", client_error::system(.source)
)]
pub struct HostPortError {
    cluster: String,
    of: u16,
    port: u16,
    #[source]
    source: io::Error,
}

/// Opens the listener of a port.
///
/// # Errors
/// Returns an error if the port is in use, or this user may not bind it.
pub fn listen(port: &IngressPort<'_>) -> Result<(TcpListener, SocketAddr), HostPortError> {
    let wanted = port.port.host_port.unwrap_or(0);
    let listener = TcpListener::bind((LOOPBACK, wanted));
    listener.and_then(|listener| Ok((listener.local_addr()?, listener))).map(|(address, it)| (it, address)).map_err(
        |source| HostPortError { cluster: port.cluster.name.clone(), of: port.port.port, port: wanted, source },
    )
}

/// Options of the process.
#[derive(Debug, Clone, clap::Args)]
pub struct PortsProcessOptions {
    /// Directory of the lab.
    #[arg(long)]
    pub directory: PathBuf,
}

type ProcessError = Box<dyn std::error::Error + Send + Sync>;

/// Carries connections until the lab ends. The listeners arrive at standard input, in the order of the topology.
#[must_use]
pub fn serve(options: &PortsProcessOptions) -> ExitCode {
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProcessError::from);
    match ran.and_then(|runtime| runtime.block_on(run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("lab-ports: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &PortsProcessOptions) -> Result<(), ProcessError> {
    let topology: Topology = serde_json::from_slice(&std::fs::read(options.directory.join("topology.json"))?)?;
    let (_, listeners) = handover::receive(&mut handover::from_parent()?)?;
    let files = net::socket::raise_open_files_limit()?;
    let most = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(CONNECTIONS).clamp(1, CONNECTIONS);
    let connections = Arc::new(Semaphore::new(most));
    let mut serving = Vec::new();
    for (listener, port) in listeners.into_iter().zip(topology.ingress_ports()) {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        serving.push(accept(tokio::net::TcpListener::from_std(listener)?, port.address, connections.clone()));
    }
    futures_util::future::join_all(serving).await;
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, gateway: SocketAddr, connections: Arc<Semaphore>) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            // The process is probably out of file descriptors, and has to wait.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(async move {
            carry(client, gateway).await;
            drop(permit);
        });
    }
}

/// Carries a connection until both directions have ended. A connection that fails on one side is reset on the other.
async fn carry(mut client: TcpStream, gateway: SocketAddr) {
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(gateway)).await;
    let Ok(Ok(mut gateway)) = connected else {
        reset(&client);
        return;
    };
    // Bytes are passed on as they come. A socket without the option is slower and no different.
    let _ = (client.set_nodelay(true), gateway.set_nodelay(true));
    if tokio::io::copy_bidirectional_with_sizes(&mut client, &mut gateway, BUFFER, BUFFER).await.is_err() {
        reset(&client);
        reset(&gateway);
    }
}

/// Lets the end of a socket be a reset.
fn reset(stream: &TcpStream) {
    // Otherwise the peer sees the end of the stream, which is worse but no reason to fail.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Starts a relay to `gateway` and returns its address.
    async fn relay_to(gateway: SocketAddr, most: usize) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(accept(listener, gateway, Arc::new(Semaphore::new(most))));
        address
    }

    #[tokio::test]
    async fn the_end_of_a_request_leaves_the_answer_open() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let relay = relay_to(server.local_addr().expect("its address"), 8).await;
        let mut client = TcpStream::connect(relay).await.expect("connected");
        client.write_all(b"request").await.expect("sent");
        client.shutdown().await.expect("half closed");
        let (mut accepted, _) = server.accept().await.expect("a connection");
        let mut request = Vec::new();
        accepted.read_to_end(&mut request).await.expect("its end");
        assert_eq!(request, b"request");
        let answer = vec![7; 1 << 20];
        accepted.write_all(&answer).await.expect("answered");
        drop(accepted);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("the answer and its end");
        assert_eq!(received.len(), answer.len());
    }

    #[tokio::test]
    async fn a_reset_stays_a_reset_and_an_absent_gateway_is_one() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let address = server.local_addr().expect("its address");
        let relay = relay_to(address, 8).await;
        let error = async |client: &mut TcpStream| client.read(&mut [0; 1]).await.map_err(|error| error.kind());
        let mut client = TcpStream::connect(relay).await.expect("connected");
        client.write_all(b"x").await.expect("sent");
        let (accepted, _) = server.accept().await.expect("a connection");
        reset(&accepted);
        drop(accepted);
        assert_eq!(error(&mut client).await, Err(io::ErrorKind::ConnectionReset));
        drop(server);
        let mut client = TcpStream::connect(relay).await.expect("connected");
        assert_eq!(error(&mut client).await, Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn connections_over_the_limit_wait_for_their_turn() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let relay = relay_to(server.local_addr().expect("its address"), 1).await;
        let mut first = TcpStream::connect(relay).await.expect("connected");
        let mut second = TcpStream::connect(relay).await.expect("connected");
        second.write_all(b"2").await.expect("sent");
        first.write_all(b"1").await.expect("sent");
        let mut order = Vec::new();
        for client in [first, second] {
            let (mut accepted, _) = server.accept().await.expect("a connection");
            order.push(accepted.read_u8().await.expect("a byte"));
            drop((accepted, client));
        }
        assert_eq!(order, b"12");
    }
}
