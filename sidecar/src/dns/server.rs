//! The sockets of the DNS proxy, and who waits for whom.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::Names;
use super::answer::Answer;
use super::forward::{self, Forwarding};
use super::message::{MAX_UDP, Query};

/// The maximum number of names that are requested from the controller at a time.
const MAX_UNKNOWN: usize = 256;
/// The maximum number of queries that wait for a server at a time: for names of the cluster, and for all others, each.
const MAX_FORWARDED: usize = 256;
/// The maximum number of connections over TCP.
const MAX_STREAMS: usize = 128;
/// The maximum number of queries in progress on one of them; more wait in its socket.
const MAX_PIPELINED: usize = 32;
/// The idle timeout of a TCP connection, and of a client that does not read.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves DNS on loopback at `port`. Must be called within a `LocalSet`, and serves as long as it lives.
///
/// # Errors
/// Returns an error if the port is in use.
pub async fn serve(names: Names, port: u16, forwarding: Forwarding) -> io::Result<()> {
    let server = Rc::new(Server {
        names,
        forwarding,
        unknown: Semaphore::new(MAX_UNKNOWN),
        of_cluster: Semaphore::new(MAX_FORWARDED),
        others: Semaphore::new(MAX_FORWARDED),
        streams: Semaphore::new(MAX_STREAMS),
    });
    // Not the wildcard address: clients drop answers from another address than the queried one.
    for (ip, needed) in [(IpAddr::V4(Ipv4Addr::LOCALHOST), true), (IpAddr::V6(Ipv6Addr::LOCALHOST), false)] {
        let address = SocketAddr::new(ip, port);
        match bind(address).await {
            Ok((udp, tcp)) => {
                tokio::task::spawn_local(server.clone().datagrams(Rc::new(udp)));
                tokio::task::spawn_local(server.clone().accept(tcp));
            }
            Err(error) if needed => {
                return Err(io::Error::new(error.kind(), format!("cannot listen for DNS at {address}: {error}")));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

/// Queries that wait have places by what they wait for. A query without a place fails at once, so that its client can go on,
/// and a name that needs no wait has its answer.
struct Server {
    names: Names,
    forwarding: Forwarding,
    unknown: Semaphore,
    of_cluster: Semaphore,
    others: Semaphore,
    streams: Semaphore,
}

impl Server {
    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let mut buffer = vec![0; MAX_UDP.into()];
        loop {
            // An error is an ICMP error for an earlier answer.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            let query = match Query::read(&buffer[..length], false) {
                Ok(query) => query,
                Err(response) => {
                    if let Some(response) = response {
                        let _ = socket.send_to(&response, client).await;
                    }
                    continue;
                }
            };
            if let Some(response) = self.at_once(&query) {
                let _ = socket.send_to(&response, client).await;
                continue;
            }
            let (server, socket, bytes) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            tokio::task::spawn_local(async move {
                if let Some(response) = server.in_time(&query, &bytes, false).await {
                    let _ = socket.send_to(&response, client).await;
                }
            });
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::task::spawn_local(async move {
                        if let Ok(_place) = server.streams.try_acquire() {
                            // Clients may disconnect at any time.
                            let _ = server.conversation(stream).await;
                        }
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Serves queries over TCP. A response is sent as soon as it is known, whatever the order of the queries (RFC 7766 §6.2.1.1).
    async fn conversation(&self, mut stream: TcpStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.split();
        let (mut received, mut ended) = (Vec::new(), false);
        let mut responses = FuturesUnordered::new();
        loop {
            while responses.len() < MAX_PIPELINED
                && let Some(query) = take_message(&mut received)
            {
                responses.push(async move { self.respond(&query, true).await });
            }
            if ended && responses.is_empty() {
                return Ok(());
            }
            let response = tokio::select! {
                read = reader.read_buf(&mut received), if !ended && responses.len() < MAX_PIPELINED => {
                    ended = read? == 0;
                    continue;
                }
                Some(response) = responses.next() => response,
                () = tokio::time::sleep(TCP_IDLE_TIMEOUT) => return Err(io::ErrorKind::TimedOut.into()),
            };
            if let Some(response) = response
                && let Ok(length) = u16::try_from(response.len())
            {
                let message = [&length.to_be_bytes(), &response[..]].concat();
                tokio::time::timeout(TCP_IDLE_TIMEOUT, writer.write_all(&message)).await??;
            }
        }
    }

    /// Returns the response to a message, or `None` if it is not a query.
    async fn respond(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        match Query::read(bytes, over_tcp) {
            Err(response) => response,
            Ok(query) => match self.at_once(&query) {
                Some(response) => Some(response),
                None => self.in_time(&query, bytes, over_tcp).await,
            },
        }
    }

    /// Returns the response to a query if it needs no wait.
    fn at_once(&self, query: &Query) -> Option<Vec<u8>> {
        match self.names.known(query)? {
            Answer::Addresses(addresses) => query.addresses(&addresses),
            Answer::Ports(ports) => query.ports(&ports),
            Answer::NotInMesh => None,
        }
    }

    /// Returns the response to a query that may have to wait, for the controller or for a server.
    async fn in_time(&self, query: &Query, bytes: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let answer = match self.names.known(query) {
            Some(answer) => answer,
            None => {
                let Ok(_place) = self.unknown.try_acquire() else { return query.failure() };
                self.names.answer(query).await
            }
        };
        match answer {
            Answer::Addresses(addresses) => query.addresses(&addresses),
            Answer::Ports(ports) => query.ports(&ports),
            Answer::NotInMesh => self.forward(query, bytes, over_tcp).await,
        }
    }

    async fn forward(&self, query: &Query, bytes: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let places = if self.names.is_of_cluster(query.name()) { &self.of_cluster } else { &self.others };
        let Ok(_place) = places.try_acquire() else { return query.failure() };
        match forward::forward(bytes, over_tcp, &self.forwarding).await {
            Ok(response) => {
                self.names.learn(&response);
                Some(response)
            }
            Err(error) => {
                tracing::debug!(%error, name = query.name(), "no DNS server answered");
                query.failure()
            }
        }
    }
}

/// Takes a message with its length before it from what was received over TCP (RFC 1035 §4.2.2).
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = 2 + usize::from(u16::from_be_bytes([*received.first()?, *received.get(1)?]));
    if received.len() < end {
        return None;
    }
    let message = received[2..end].to_vec();
    received.drain(..end);
    Some(message)
}
