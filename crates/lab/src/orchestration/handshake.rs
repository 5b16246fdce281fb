//! A TLS handshake with an east-west gateway, begun to learn whether a service answers behind it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

/// How long a gateway may take to accept, and to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Content types of TLS records (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Begins a TLS handshake with a gateway, with the SNI of a service. Returns once the service's endpoint has answered;
/// finishing the handshake would need an identity of the mesh.
///
/// # Errors
/// Returns an error if the gateway cannot be reached, or refuses.
pub fn probe(gateway: SocketAddr, server_name: &str) -> io::Result<()> {
    let mut config = rustls::ClientConfig::clone(&*probe::http::unverified_client_config().map_err(io::Error::other)?);
    config.alpn_protocols = identity::alpn::CLIENT_TCP.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    let mut stream = TcpStream::connect_timeout(&gateway, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&hello)?;
    let mut record = [0; 7];
    stream.read_exact(&mut record)?;
    match record {
        [HANDSHAKE, ..] => Ok(()),
        [ALERT, .., description] => Err(io::Error::other(format!("refused with TLS alert {description}"))),
        _ => Err(io::Error::other("the answer is not TLS")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_that_are_refused_or_not_answered_fail() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let answers: [&[u8]; 4] = [&[21, 3, 3, 0, 2, 2, 112], b"HTTP/1.1 400", &[], &[22, 3, 3, 0, 90, 2, 0]];
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut hello = [0; 3];
                stream.read_exact(&mut hello).expect("a hello");
                assert_eq!(hello[0], HANDSHAKE);
                stream.write_all(answer).expect("written");
                // The client may have closed the connection already.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = io::copy(&mut stream, &mut io::sink());
            }
        });
        let name = "outbound_.80_._.a.default.svc.cluster.local";
        let said: Vec<Option<String>> =
            answers.iter().map(|_| probe(address, name).err().map(|error| error.to_string())).collect();
        server.join().expect("the server");
        assert_eq!(said[0].as_deref(), Some("refused with TLS alert 112"));
        assert_eq!(said[1].as_deref(), Some("the answer is not TLS"));
        assert!(said[2].is_some());
        assert_eq!(said[3], None);
    }
}
