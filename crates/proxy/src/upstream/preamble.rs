//! What precedes the bytes of a connection: the PROXY protocol's header, and the request for a tunnel.
//!
//! Sources: "The PROXY protocol", versions 1 and 2 (HAProxy); CONNECT, RFC 9110 §9.3.6.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::io::{Io, Prefixed};
use crate::mesh::{ProxyProtocol, Tunnel};

/// The signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The maximum size of the head of a proxy's answer.
const MAX_HEAD: usize = 8192;

/// Returns the PROXY protocol's header for a connection from `client` to `destination`; `None` if they are not known.
pub(super) fn proxy_header(version: ProxyProtocol, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    // Both addresses are of one family, or they cannot be written.
    let addresses = addresses.map(|(client, to)| {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        (canonical(client), canonical(to))
    });
    let addresses = addresses.filter(|(client, to)| client.is_ipv4() == to.is_ipv4());
    match (version, addresses) {
        (ProxyProtocol::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V1, Some((client, to))) => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", client.ip(), to.ip(), client.port(), to.port()).into_bytes()
        }
        (ProxyProtocol::V2, None) => [SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat(),
        (ProxyProtocol::V2, Some((client, to))) => {
            let octets = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let ports = [client.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            let body = [octets(client), octets(to), ports].concat();
            let family = if client.is_ipv4() { 0x11 } else { 0x21 };
            [SIGNATURE.as_slice(), &[0x21, family, 0, body.len() as u8], &body].concat()
        }
    }
}

/// Asks the proxy at the other end for a tunnel, and returns the stream behind it.
///
/// # Errors
/// Returns an error if the proxy refuses, or its answer is not HTTP/1.
pub(super) async fn tunnel(mut io: Io, tunnel: &Tunnel) -> io::Result<Io> {
    if tunnel.post {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "tunnels by POST are not supported; use CONNECT"));
    }
    let target = &tunnel.target;
    io.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    io.flush().await?;
    let mut head = BytesMut::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() >= MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer to CONNECT is too long"));
        }
        if io.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let status = head.get(..12).filter(|line| line.starts_with(b"HTTP/1.")).map(|line| &line[9..]);
    match status {
        Some([b'2', _, _]) => {
            let (_, stream) = io.into_parts();
            Ok(Prefixed::new(head.split_off(end), stream))
        }
        Some(status) => {
            let status = String::from_utf8_lossy(status).into_owned();
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("the proxy answered CONNECT with {status}")))
        }
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer to CONNECT is not HTTP/1")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn headers_are_those_of_the_specification() {
        let pair = |client: &str, to: &str| Some((client.parse().unwrap(), to.parse().unwrap()));
        let four = pair("10.0.0.7:40000", "10.96.0.1:80");
        let six = pair("[fd00::7]:40000", "[fd00::1]:80");
        let mixed = pair("10.0.0.7:40000", "[fd00::1]:80");
        let mapped = pair("[::ffff:10.0.0.7]:40000", "10.96.0.1:80");
        let text = |addresses| String::from_utf8(proxy_header(ProxyProtocol::V1, addresses)).unwrap();
        assert_eq!(text(four), "PROXY TCP4 10.0.0.7 10.96.0.1 40000 80\r\n");
        assert_eq!(text(mapped), text(four));
        assert_eq!(text(six), "PROXY TCP6 fd00::7 fd00::1 40000 80\r\n");
        assert_eq!(text(mixed), "PROXY UNKNOWN\r\n");
        assert_eq!(text(None), "PROXY UNKNOWN\r\n");
        let binary = |addresses| proxy_header(ProxyProtocol::V2, addresses).split_off(12);
        assert_eq!(binary(four), [0x21, 0x11, 0, 12, 10, 0, 0, 7, 10, 96, 0, 1, 0x9c, 0x40, 0, 80]);
        assert_eq!((binary(six).len(), &binary(six)[..4]), (4 + 36, [0x21, 0x21, 0, 36].as_slice()));
        assert_eq!(binary(None), [0x20, 0, 0, 0]);
    }

    /// Returns the result of asking a proxy that answers with `answer`, and what it received.
    async fn ask(answer: &'static [u8]) -> (io::Result<Io>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            request
        });
        let target = Tunnel { post: false, target: "example.org:443".into() };
        let result = tunnel(TcpStream::connect(address).await.unwrap().into(), &target).await;
        (result, proxy.await.unwrap())
    }

    #[tokio::test]
    async fn a_tunnel_begins_after_the_proxys_answer() {
        let (io, request) = ask(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\nhello").await;
        assert_eq!(request, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n");
        let mut text = String::new();
        io.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello", "bytes that follow the answer at once are not lost");
    }

    #[tokio::test]
    async fn a_refused_tunnel_is_an_error() {
        for (answer, expected) in [
            (b"HTTP/1.1 403 Forbidden\r\n\r\n".as_slice(), "403"),
            (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 200", "unexpected end"),
            (&[b'x'; MAX_HEAD + 1], "too long"),
        ] {
            let (result, _) = ask(answer).await;
            let Err(error) = result else { panic!("an error: {expected}") };
            let error = error.to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
