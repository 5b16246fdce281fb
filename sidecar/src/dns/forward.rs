//! Forwarding queries to the pod's own DNS servers, byte for byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

/// The timeout of one server: two servers fit into Istio's 5 s for a query.
const SERVER_TIMEOUT: Duration = Duration::from_millis(2500);
/// The maximum size of an answer over UDP. Larger ones are truncated, and the client queries again over TCP.
const MAX_UDP_ANSWER: usize = 65_535;

/// Forwards a query to the servers of `/etc/resolv.conf` in turn. The sockets carry the mark, or capture would redirect the
/// query back.
pub(super) async fn forward(query: &[u8], over_tcp: bool, mark: Option<u32>) -> io::Result<Vec<u8>> {
    // Read for each query: the file is small, and cached by the kernel.
    let servers = servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut last = io::Error::new(io::ErrorKind::NotFound, "/etc/resolv.conf has no nameserver");
    for server in servers {
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

/// Returns the servers of a `resolv.conf`.
fn servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|server| server.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# comment\nnameserver 10.96.0.10\nsearch a b\n  nameserver\t::1\nnameserver nonsense\n";
        let expected: Vec<SocketAddr> = vec!["10.96.0.10:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(servers(text), expected);
    }
}
