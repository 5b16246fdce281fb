//! Clients: requests of HTTP/1.1 on plain and TLS connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
}

impl Answer {
    /// Returns the value of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(of, _)| of.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
    }
}

/// Sends a request for `path` of `host` with further header lines, and reads the answer up to the end of its body.
pub(crate) async fn get_on<S>(stream: &mut S, host: &str, path: &str, lines: &str) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n").as_bytes()).await?;
    let mut text = Vec::new();
    loop {
        if stream.read_buf(&mut text).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let head = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = head.split_once("\r\n\r\n") else { continue };
        let answer = Answer { status: head[9..12].parse().unwrap(), head: head.to_owned() };
        let length = answer.header("content-length").parse().unwrap_or(0);
        if body.len() >= length {
            return Ok(answer);
        }
    }
}

/// Sends a request on a new connection.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str, lines: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    get_on(&mut stream, host, path, lines).await.unwrap()
}

/// Who a client trusts, and the certificate that it presents.
pub(crate) struct Client<'a> {
    pub(crate) roots: &'a [CertificateDer<'static>],
    pub(crate) certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    pub(crate) alpn: &'a [&'a [u8]],
}

impl Client<'_> {
    /// Opens a TLS connection with a server name.
    pub(crate) async fn connect(self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.roots.iter().cloned());
        let provider = identity::provider().clone();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_webpki_verifier(verifier);
        let mut config = match self.certificate {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// Opens a TLS connection as a browser would.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    roots: &[CertificateDer<'static>],
) -> io::Result<TlsStream<TcpStream>> {
    Client { roots, certificate: None, alpn: &[b"http/1.1"] }.connect(address, name).await
}
