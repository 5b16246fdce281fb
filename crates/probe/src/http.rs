//! HTTP requests of probes and lifecycle hooks.

use std::sync::Arc;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Get {
    /// HTTPS. As for a kubelet, every certificate is accepted.
    pub https: bool,
    /// The path.
    pub path: String,
    /// Further headers; `Host` replaces the name of the host.
    pub headers: Vec<(String, String)>,
}

impl Get {
    /// Sends GET on a new connection to a port of a host, and returns the status.
    ///
    /// # Errors
    /// Returns the reason as text if there is no response.
    pub async fn send<S>(&self, stream: S, host: &str, port: u16) -> Result<u16, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        let mut request = Request::get(path).header("user-agent", "kube-probe/isthmus").header("connection", "close");
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", authority(host, port));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| text(&error))?;
        if !self.https {
            return send(stream, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
        let connector = tokio_rustls::TlsConnector::from(unverified_client_config()?);
        send(connector.connect(name, stream).await.map_err(|error| text(&error))?, request).await
    }
}

/// Returns whether a probe with this status has succeeded.
pub fn is_success(status: u16) -> bool {
    (200..400).contains(&status)
}

/// Returns host and port as in a URL, with an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<u16, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    driver.abort();
    Ok(answer?.status().as_u16())
}

/// Returns a TLS client configuration that accepts every certificate.
///
/// # Errors
/// Returns an error as text if the cryptography lacks a protocol version.
pub fn unverified_client_config() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A verifier that accepts every certificate, for a client that checks that a server answers, not its identity.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
