//! One attempt to fetch the keys of an issuer.
//!
//! A response is a key set with status 200 and at most [`MAX_BODY`] bytes, and nothing else is followed or believed: no
//! redirect, no cookie, no second host but the one that a discovery document names, which is subject to the same rules.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use rustls_platform_verifier::Verifier;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::is_permitted;
use crate::objects::{KeySource, Text};

/// The largest response.
const MAX_BODY: usize = 1 << 20;
/// The number of addresses of a host that are tried.
const ADDRESSES: usize = 4;

/// Fetches keys.
#[derive(Debug)]
pub(crate) struct Fetcher {
    tls: Arc<ClientConfig>,
    permitted: Vec<IpNet>,
}

/// Why keys cannot be fetched at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetcherError {
    /// The file of further certificate authorities cannot be read.
    #[error("certificate authorities of key servers, {path}: {why}")]
    Authorities {
        /// The file.
        path: String,
        /// The reason.
        why: String,
    },
    /// The certificate authorities of the system cannot be used.
    #[error("certificate authorities of the system: {0}")]
    System(#[from] rustls::Error),
}

impl Fetcher {
    /// Creates a fetcher that trusts the certificate authorities of the system and those in a file, and that connects to
    /// public and to permitted addresses.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or the system has no certificate authorities.
    pub(crate) fn new(authorities: Option<&Path>, permitted: Vec<IpNet>) -> Result<Fetcher, FetcherError> {
        let mut further = Vec::new();
        if let Some(path) = authorities {
            let failed = |why: String| FetcherError::Authorities { path: path.display().to_string(), why };
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            further = identity::certificates_from_pem(&pem).map_err(failed)?;
        }
        let provider = identity::provider();
        let verifier = Verifier::new_with_extra_roots(further, provider.clone())?;
        let mut tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Fetcher { tls: Arc::new(tls), permitted })
    }

    /// Fetches the key set at a place.
    ///
    /// # Errors
    /// Returns the reason if there is no answer in time, or the answer is not a key set.
    pub(crate) async fn fetch(&self, source: &KeySource, timeout: Duration) -> Result<Text, String> {
        let attempt = async {
            match source {
                KeySource::Url(url) => self.key_set(url).await,
                KeySource::Issuer(issuer) => self.key_set(&self.discover(issuer).await?).await,
            }
        };
        match tokio::time::timeout(timeout, attempt).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("{} did not answer within {timeout:?}", place(source))),
        }
    }

    /// Returns the URL of the keys in an issuer's discovery document (OpenID Connect Discovery 1.0 §4).
    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document: Value =
            serde_json::from_slice(&self.get(&url).await?).map_err(|error| format!("{url} is not JSON: {error}"))?;
        let keys = document["jwks_uri"].as_str().ok_or_else(|| format!("{url} has no jwks_uri"))?;
        Ok(keys.to_owned())
    }

    async fn key_set(&self, url: &str) -> Result<Text, String> {
        let body = self.get(url).await?;
        let text = std::str::from_utf8(&body).map_err(|_| format!("{url} is not text"))?;
        let set: Value = serde_json::from_str(text).map_err(|error| format!("{url} is not JSON: {error}"))?;
        match set["keys"].as_array() {
            Some(keys) if keys.iter().any(is_public_key) => Ok(text.into()),
            // It would take the place of keys that verify tokens.
            Some(_) => Err(format!("{url} has no public key (RSA, EC or OKP)")),
            None => Err(format!("{url} is not a JSON Web Key Set: it has no list of keys")),
        }
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{url:?} begins neither with https:// nor with http://")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let failed = |error: io::Error| format!("{url}: {error}");
        let stream = self.connect(&host, port).await.map_err(failed)?;
        if !tls {
            return request(stream, &uri).await;
        }
        let name = ServerName::try_from(host).map_err(|_| format!("{url:?} has no valid host"))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(failed)?;
        request(stream, &uri).await
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let mut error = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in found.iter().take(ADDRESSES) {
            if !is_permitted(address.ip(), &self.permitted) {
                let why = format!(
                    "{} is not a public address; permit it with --key-server-addresses",
                    address.ip().to_canonical()
                );
                error = io::Error::new(io::ErrorKind::PermissionDenied, why);
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }
}

/// Sends a request on a connection of its own.
async fn request(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> Result<Bytes, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{uri}: {error}");
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(64 << 10);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Ends when the sender is dropped.
    let connection = tokio::spawn(connection);
    let _ends = Ends(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "isthmus")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::OK {
        let redirect = if response.status().is_redirection() { "; redirects are not followed" } else { "" };
        return Err(format!("{uri} answered {}{redirect}", response.status()));
    }
    match Limited::new(response.into_body(), MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(format!("{uri} answered more than {MAX_BODY} bytes")),
        Err(error) => Err(failed(&error)),
    }
}

/// Ends a task with the attempt.
struct Ends<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns whether a key has the parameters of a public key (RFC 7518 §6).
fn is_public_key(key: &Value) -> bool {
    let parameters: &[&str] = match key["kty"].as_str() {
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        _ => return false,
    };
    parameters.iter().all(|name| key[name].is_string())
}

fn place(source: &KeySource) -> &str {
    match source {
        KeySource::Url(url) => url,
        KeySource::Issuer(issuer) => issuer,
    }
}

#[cfg(test)]
mod tests;
