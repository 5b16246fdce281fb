//! The PROXY protocol, versions 1 and 2: a header with the client's address, which a load balancer sends before the bytes of a
//! connection (HAProxy's `proxy-protocol.txt`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest header of version 1, with its line end.
const MAX_LINE: usize = 107;
/// The longest header of version 2 that is read: addresses, and fields that are ignored.
const MAX_HEADER: usize = 536;
/// The beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of version 2's fixed part.
const FIXED: usize = 16;
/// How often an incomplete header is looked at again.
const AGAIN: Duration = Duration::from_millis(5);

/// The addresses of a connection: those of the client and of the server that it connected to.
pub(crate) type Addresses = (SocketAddr, SocketAddr);

/// Reads the header of a connection. Returns `None` if it says that the proxy speaks for itself.
///
/// # Errors
/// Returns an error if there is no valid header within the time, or the connection fails.
pub(crate) async fn read(stream: &mut TcpStream, within: Duration) -> io::Result<Option<Addresses>> {
    let reading = async {
        let mut bytes = [0; MAX_HEADER];
        let mut seen = 0;
        loop {
            // What follows the header stays in the socket, for TLS or HTTP to read.
            let count = stream.peek(&mut bytes).await?;
            match parse(&bytes[..count])? {
                Parsed::Complete { length, addresses } => {
                    stream.read_exact(&mut bytes[..length]).await?;
                    return Ok(addresses);
                }
                Parsed::Incomplete if count == bytes.len() => return Err(invalid("is too long")),
                Parsed::Incomplete if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Parsed::Incomplete => {}
            }
            if count == seen {
                // Peeking returns at once as long as there is anything to read.
                tokio::time::sleep(AGAIN).await;
            }
            seen = count;
        }
    };
    tokio::time::timeout(within, reading).await.unwrap_or_else(|_| Err(invalid("did not arrive in time")))
}

enum Parsed {
    Complete { length: usize, addresses: Option<Addresses> },
    Incomplete,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the PROXY protocol header {why}"))
}

fn parse(bytes: &[u8]) -> io::Result<Parsed> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return parse_binary(bytes);
    }
    if begins(b"PROXY ") {
        return parse_line(bytes);
    }
    Err(invalid("is missing"))
}

fn parse_line(bytes: &[u8]) -> io::Result<Parsed> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE { Ok(Parsed::Incomplete) } else { Err(invalid("has no end")) };
    };
    let line = std::str::from_utf8(&bytes[..end]).ok().and_then(|line| line.strip_suffix('\r'));
    let fields: Vec<&str> = line.ok_or_else(|| invalid("is not a line"))?.split(' ').collect();
    let length = end + 1;
    let addresses = match fields[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let ip = |text: &str| text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == (family == "TCP4"));
            let address = |text: &str, port: &str| Some(SocketAddr::new(ip(text)?, port.parse().ok()?));
            let found = address(source, source_port).zip(address(destination, destination_port));
            Some(found.ok_or_else(|| invalid("has invalid addresses"))?)
        }
        _ => return Err(invalid("is not valid")),
    };
    Ok(Parsed::Complete { length, addresses })
}

fn parse_binary(bytes: &[u8]) -> io::Result<Parsed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(Parsed::Incomplete) };
    let (version, family) = (fixed[12], fixed[13]);
    let size = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let length = FIXED + size;
    if length > MAX_HEADER {
        return Err(invalid("is too long"));
    }
    let Some(content) = rest.get(..size) else { return Ok(Parsed::Incomplete) };
    let port = |at: usize| Some(u16::from_be_bytes([*content.get(at)?, *content.get(at + 1)?]));
    let addresses = match (version, family) {
        // LOCAL
        (0x20, _) => None,
        (0x21, 0x11) => {
            let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(content.get(at..at + 4)?).ok()?));
            let found = ip(0).zip(ip(4)).zip(port(8).zip(port(10)));
            Some(found.map(|((from, to), (a, b))| (SocketAddr::new(from.into(), a), SocketAddr::new(to.into(), b))))
        }
        (0x21, 0x21) => {
            let ip = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(content.get(at..at + 16)?).ok()?));
            let found = ip(0).zip(ip(16)).zip(port(32).zip(port(34)));
            Some(found.map(|((from, to), (a, b))| (SocketAddr::new(from.into(), a), SocketAddr::new(to.into(), b))))
        }
        // Addresses of no family, or of another one, are ignored.
        (0x21, _) => None,
        _ => return Err(invalid("has an unknown version or command")),
    };
    let addresses = match addresses {
        None => None,
        Some(found) => Some(found.ok_or_else(|| invalid("is too short"))?),
    };
    Ok(Parsed::Complete { length, addresses })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let size = u16::try_from(content.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &size, content].concat()
    }

    /// Sends parts with pauses between them, and returns the outcome and what follows the header.
    async fn received(parts: &[&[u8]]) -> (io::Result<Option<Addresses>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let sending = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client.shutdown().await.unwrap();
        };
        let reading = async {
            let outcome = read(&mut server, Duration::from_secs(5)).await;
            let mut rest = Vec::new();
            if outcome.is_ok() {
                server.read_to_end(&mut rest).await.unwrap();
            }
            (outcome, rest)
        };
        tokio::join!(reading, sending).0
    }

    fn addresses(client: &str, server: &str) -> Option<Addresses> {
        Some((client.parse().unwrap(), server.parse().unwrap()))
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_read_and_what_follows_stays() {
        let four = binary(0x21, 0x11, &[1, 2, 3, 4, 10, 0, 0, 1, 0x30, 0x39, 0, 80]);
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 7, 8);
        let six = binary(0x21, 0x21, &six);
        let more = binary(0x21, 0x11, &[1, 2, 3, 4, 10, 0, 0, 1, 0x30, 0x39, 0, 80, 3, 0, 1, 0]);
        let table: [(&[&[u8]], Option<Addresses>); 7] = [
            (&[b"PROXY TCP4 1.2.3.4 10.0.0.1 12345 80\r\nrest"], addresses("1.2.3.4:12345", "10.0.0.1:80")),
            (&[b"PRO", b"XY TCP6 ::1 ::2 7 8\r", b"\nrest"], addresses("[::1]:7", "[::2]:8")),
            (&[b"PROXY UNKNOWN\r\nrest"], None),
            (&[&four, b"rest"], addresses("1.2.3.4:12345", "10.0.0.1:80")),
            (&[&six[..5], &six[5..20], &six[20..], b"rest"], addresses("[::1]:7", "[::2]:8")),
            (&[&more, b"rest"], addresses("1.2.3.4:12345", "10.0.0.1:80")),
            (&[&binary(0x20, 0, &[]), b"rest"], None),
        ];
        for (parts, expected) in table {
            let (outcome, rest) = received(parts).await;
            assert_eq!(outcome.unwrap(), expected, "{parts:?}");
            assert_eq!(rest, b"rest", "{parts:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = binary(0x21, 0x11, &[0; 600]);
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for parts in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 ::1 ::2 7 8\r\n",
            b"PROXY TCP4 1.2.3.4 10.0.0.1 99999 80\r\n",
            b"PROXY TCP4 1.2.3.4 10.0.0.1 80\n",
            b"PROXY TCP4 1.2",
            b"",
            &binary(0x21, 0x11, &[1, 2, 3]),
            &binary(0x31, 0x11, &[0; 12]),
            &long,
            &endless,
        ] {
            assert!(received(&[parts]).await.0.is_err(), "{parts:?}");
        }
    }
}
