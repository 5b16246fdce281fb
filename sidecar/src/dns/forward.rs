//! Forwarding queries to the pod's own DNS servers, byte for byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

/// The port of DNS.
const DNS: u16 = 53;
/// The timeout of one server: two servers fit into Istio's 5 s for a query.
const SERVER_TIMEOUT: Duration = Duration::from_millis(2500);
/// The maximum size of an answer over UDP. Larger ones are truncated, and the client queries again over TCP.
const MAX_UDP_ANSWER: usize = 65_535;

/// Where queries are forwarded to.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// The file that names the pod's servers: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The mark of the sockets, without which capture would redirect the query back.
    pub mark: Option<u32>,
}

/// Forwards a query to the pod's servers in turn.
pub(super) async fn forward(query: &[u8], over_tcp: bool, to: &Forwarding) -> io::Result<Vec<u8>> {
    let (mark, mut last) = (to.mark, io::Error::from(io::ErrorKind::NotFound));
    // Read for each query: the file is small, and cached by the kernel.
    for server in servers(&to.resolv_conf) {
        let server = SocketAddr::new(server, DNS);
        let answer = async {
            if over_tcp { by_stream(server, query, mark).await } else { by_datagram(server, query, mark).await }
        };
        match tokio::time::timeout(SERVER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server}")),
        }
    }
    Err(last)
}

async fn by_datagram(server: SocketAddr, query: &[u8], mark: Option<u32>) -> io::Result<Vec<u8>> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    if let Some(mark) = mark {
        net::socket::set_mark(&socket, mark)?;
    }
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_UDP_ANSWER];
    loop {
        let length = socket.recv(&mut answer).await?;
        // The ID matches the answer to the query; other answers are late or forged.
        if length >= 2 && answer[..2] == query[..2] {
            answer.truncate(length);
            answer.shrink_to_fit();
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, query: &[u8], mark: Option<u32>) -> io::Result<Vec<u8>> {
    let mut stream =
        net::connect(server, &net::Connect { mark, timeout: SERVER_TIMEOUT, ..net::Connect::default() }).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Returns the servers that a `resolv.conf` names. Without any, the resolver of the C library asks this host (`resolv.conf(5)`).
pub fn servers(resolv_conf: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    let named: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|server| server.trim().parse().ok())
        .collect();
    if named.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        assert_eq!(servers(&file), [Ipv4Addr::LOCALHOST]);
        let text = "# comment\nnameserver 10.96.0.10\nsearch a b\n  nameserver\t::1\nnameserver nonsense\n";
        std::fs::write(&file, text).unwrap();
        let expected: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(servers(&file), expected);
    }
}
