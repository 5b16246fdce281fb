//! Passing questions on to the pod's own servers, byte for byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

/// For one server's answer; two servers then fit into Istio's 5 s for a question.
const ANSWER: Duration = Duration::from_millis(2500);
/// The largest answer over UDP. Larger ones say that they are cut off, and the client asks again over TCP.
const LARGEST: usize = 65_535;

/// Asks the servers of `/etc/resolv.conf` in turn. The sockets carry the mark, or capture would bring the question back.
pub(super) async fn ask(question: &[u8], over_tcp: bool, mark: Option<u32>) -> io::Result<Vec<u8>> {
    // Read anew: it is small, and cached by the kernel.
    let servers = servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut last = io::Error::new(io::ErrorKind::NotFound, "/etc/resolv.conf names no server");
    for server in servers {
        let answer = async {
            if over_tcp { by_stream(server, question, mark).await } else { by_datagram(server, question, mark).await }
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server}")),
        }
    }
    Err(last)
}

async fn by_datagram(server: SocketAddr, question: &[u8], mark: Option<u32>) -> io::Result<Vec<u8>> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    if let Some(mark) = mark {
        net::socket::set_mark(&socket, mark)?;
    }
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Another question's answer, or a guess: the id is what ties it to this one.
        if length >= 2 && answer[..2] == question[..2] {
            answer.truncate(length);
            answer.shrink_to_fit();
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, question: &[u8], mark: Option<u32>) -> io::Result<Vec<u8>> {
    let mut stream = net::connect(server, &net::Connect { mark, timeout: ANSWER, ..net::Connect::default() }).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The servers that a `resolv.conf` names.
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
