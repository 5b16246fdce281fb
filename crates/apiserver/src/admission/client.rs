//! The HTTPS client of admission webhooks, which are at a URL or behind a Service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::Api;
use crate::object;
use crate::storage::{GroupResource, ObjectStore};

/// Largest response body, as for requests.
const MAX_RESPONSE: usize = crate::body::LIMIT;

/// Why a webhook returned no valid response.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    #[error("invalid clientConfig: {0}")]
    Configuration(String),
    #[error("failed to call webhook: Post {url:?}: {why}")]
    Call { url: String, why: String },
    #[error("received invalid webhook response: {0}")]
    Answer(String),
}

/// The address of a webhook.
struct WebhookTarget {
    address: String,
    host: String,
    path: String,
    url: String,
}

/// Posts `body` to the webhook of a `clientConfig`, and returns the body of the response.
pub(super) async fn call(
    api: &Api,
    config: &Value,
    seconds: u64,
    body: Bytes,
) -> std::result::Result<Bytes, WebhookError> {
    let target = target(&api.store, config)?;
    let tls = trust(&api.crypto, config)?;
    let failed = |why: String| WebhookError::Call { url: format!("{}?timeout={seconds}s", target.url), why };
    let bytes = tokio::time::timeout(Duration::from_secs(seconds), post(&target, tls, seconds, body)).await;
    bytes.map_err(|_| failed("context deadline exceeded".into()))?.map_err(|error| failed(error.to_string()))
}

fn trust(provider: &Arc<CryptoProvider>, config: &Value) -> std::result::Result<TlsConnector, WebhookError> {
    let unusable = |why: String| WebhookError::Configuration(format!("caBundle: {why}"));
    let bundle = STANDARD.decode(object::text(config, "/caBundle")).map_err(|error| unusable(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("must contain a certificate".into()));
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| unusable(error.to_string()))?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn target(store: &ObjectStore, config: &Value) -> std::result::Result<WebhookTarget, WebhookError> {
    let unusable = |why: String| WebhookError::Configuration(why);
    let url = object::text(config, "/url");
    if !url.is_empty() {
        let parsed = url::Url::parse(url).map_err(|error| unusable(format!("url {url:?}: {error}")))?;
        if parsed.scheme() != "https" {
            return Err(unusable(format!("url {url:?}: only https is allowed")));
        }
        let host = parsed.host_str().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let port = parsed.port_or_known_default().unwrap_or(443);
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        return Ok(WebhookTarget { address, host, path: parsed.path().to_owned(), url: url.to_owned() });
    }
    let service = &config["service"];
    let (namespace, name) = (object::text(service, "/namespace"), object::text(service, "/name"));
    let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
    let path = match object::text(service, "/path") {
        "" => "/",
        path => path,
    };
    let kept = store.get(&GroupResource::new("", "services"), namespace, name);
    let kept = kept.ok_or_else(|| unusable(format!("service {name:?} not found in namespace {namespace:?}")))?;
    if !object::list(&kept, "/spec/ports").iter().any(|known| known.get("port").and_then(Value::as_u64) == Some(port)) {
        return Err(unusable(format!("service {namespace}/{name} has no port {port}")));
    }
    let address = match object::text(&kept, "/spec/type") {
        "ExternalName" => format!("{}:{port}", object::text(&kept, "/spec/externalName")),
        _ => {
            let address = object::text(&kept, "/spec/clusterIP");
            let address =
                address.parse().map_err(|_| unusable(format!("service {namespace}/{name} has no ClusterIP")))?;
            SocketAddr::new(address, u16::try_from(port).unwrap_or(443)).to_string()
        }
    };
    let host = format!("{name}.{namespace}.svc");
    let url = format!("https://{host}:{port}{path}");
    Ok(WebhookTarget { address, host, path: path.to_owned(), url })
}

type TransportError = Box<dyn std::error::Error + Send + Sync>;

async fn post(
    target: &WebhookTarget,
    tls: TlsConnector,
    seconds: u64,
    body: Bytes,
) -> std::result::Result<Bytes, TransportError> {
    let stream =
        TcpStream::connect(&target.address).await.map_err(|error| format!("dial tcp {}: {error}", target.address))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(target.host.clone())?;
    let stream = tls.connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::post(format!("{}?timeout={seconds}s", target.path))
        .header(HOST, &target.host)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let code = response.status();
        let bytes = Limited::new(response.into_body(), MAX_RESPONSE).collect().await?.to_bytes();
        if code.is_success() {
            return Ok::<_, TransportError>(bytes);
        }
        let excerpt: String = String::from_utf8_lossy(&bytes).chars().take(256).collect();
        Err(format!("the server responded with {code}: {excerpt}").into())
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            // A response is valid even if the connection closes with it.
            biased;
            answer = &mut exchange => return answer,
            ended = &mut connection, if open => {
                ended?;
                open = false;
            }
        }
    }
}
