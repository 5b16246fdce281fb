//! The process that serves the issuers: HTTPS on one address of the bridge between clusters, by host name.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{CERTIFICATE, CERTIFICATE_KEY, DIRECTORY, read};
use crate::console::print_stderr;
use crate::orchestration::state::LabDirectory;
use crate::topology::{TokenIssuer, Topology};

/// Port of the servers.
const PORT: u16 = 443;
/// Most connections at a time.
const CONNECTIONS: usize = 256;
/// How long a handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of the head of a request.
const HEAD: usize = 16 << 10;
/// Path of the key set.
const KEYS: &str = "/.well-known/jwks.json";
/// Path of the discovery document (OpenID Connect Discovery 1.0 §4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Options of the process.
#[derive(Debug, Clone, clap::Args)]
pub struct IssuersProcessOptions {
    /// Directory of the lab.
    #[arg(long)]
    pub directory: PathBuf,
}

type ProcessError = Box<dyn std::error::Error + Send + Sync>;

/// Serves the issuers of a lab until it ends.
#[must_use]
pub fn serve(options: &IssuersProcessOptions) -> ExitCode {
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProcessError::from);
    match ran.and_then(|runtime| runtime.block_on(run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("lab-issuers: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &IssuersProcessOptions) -> Result<(), ProcessError> {
    let directory = LabDirectory::at(options.directory.clone());
    let topology: Topology = serde_json::from_slice(&std::fs::read(directory.path().join("topology.json"))?)?;
    let acceptor = acceptor(&directory)?;
    let issuers = Arc::new(Issuers { hosts: topology.issuers.clone(), directory });
    let mut listeners = Vec::new();
    for address in topology.issuer_addresses() {
        listeners.push(TcpListener::bind(SocketAddr::new(address, PORT)).await?);
    }
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let serving = listeners.into_iter().map(|listener| {
        let (issuers, acceptor, connections) = (issuers.clone(), acceptor.clone(), connections.clone());
        accept(listener, acceptor, connections, issuers)
    });
    futures_util::future::join_all(serving).await;
    Ok(())
}

fn acceptor(directory: &LabDirectory) -> Result<TlsAcceptor, ProcessError> {
    let file = |name: &str| directory.path().join(DIRECTORY).join(name);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file(CERTIFICATE))?.collect();
    let key = PrivateKeyDer::from_pem_file(file(CERTIFICATE_KEY))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, connections: Arc<Semaphore>, issuers: Arc<Issuers>) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // The process is probably out of file descriptors, and has to wait.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, issuers) = (acceptor.clone(), issuers.clone());
        tokio::spawn(async move {
            // An error here is caused by the client.
            let _ = connection(stream, &acceptor, issuers).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, issuers: Arc<Issuers>) -> Result<(), ProcessError> {
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
    let service = service_fn(move |request: Request<Incoming>| {
        let issuers = issuers.clone();
        async move { Ok::<_, Infallible>(issuers.answer(&request)) }
    });
    let mut builder = http1::Builder::new();
    // A client fetches keys once and goes: a connection that waits for another request is closed.
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
    Ok(builder.serve_connection(TokioIo::new(stream), service).await?)
}

/// The issuers that are served.
struct Issuers {
    hosts: Vec<TokenIssuer>,
    directory: LabDirectory,
}

impl Issuers {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
        let Some(issuer) = self.hosts.iter().find(|issuer| issuer.host == host) else {
            return text(StatusCode::MISDIRECTED_REQUEST, "this lab has no issuer of that host name\n");
        };
        let path = request.uri().path();
        if path != KEYS && path != DISCOVERY {
            return text(StatusCode::NOT_FOUND, &format!("the documents are {KEYS} and {DISCOVERY}\n"));
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if path == DISCOVERY {
            return document(&discovery(issuer));
        }
        match read(&self.directory, &issuer.host) {
            Ok(keys) => document(&keys.published()),
            Err(error) => {
                print_stderr(&format!("lab-issuers: {error}"));
                text(StatusCode::INTERNAL_SERVER_ERROR, "the keys cannot be read\n")
            }
        }
    }
}

/// Returns the discovery document of an issuer, which has the metadata that a verifier of tokens reads.
fn discovery(issuer: &TokenIssuer) -> Value {
    json!({
        "issuer": issuer.url(),
        "jwks_uri": format!("{}{KEYS}", issuer.url()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [issuer.algorithm.name()],
    })
}

fn document(content: &Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, &format!("{content}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, content: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(content.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::{RotationStep, create, rotate};
    use super::*;
    use crate::topology::TokenAlgorithm;

    async fn get(issuers: &Issuers, method: Method, host: &str, path: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(HOST, host).body(()).expect("a request");
        let response = issuers.answer(&request);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn keys_and_discovery_documents_are_served_by_host_name_and_follow_a_rotation() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = LabDirectory::at(folder.path().to_owned());
        let hosts: Vec<TokenIssuer> = [("a.example", TokenAlgorithm::EdDsa), ("b.example", TokenAlgorithm::Es256)]
            .map(|(host, algorithm)| TokenIssuer { host: host.to_owned(), algorithm })
            .into();
        create(&directory, &hosts).expect("files");
        let issuers = Issuers { hosts, directory: directory.clone() };
        let (status, document) = get(&issuers, Method::GET, "A.example:443", DISCOVERY).await;
        assert_eq!((status, &document["issuer"]), (200, &json!("https://a.example")));
        assert_eq!(document["jwks_uri"], format!("https://a.example{KEYS}"));
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["EdDSA"]));
        let curves = |keys: &Value| {
            let keys = keys["keys"].as_array().expect("keys").iter();
            keys.map(|key| key["crv"].as_str().expect("a curve").to_owned()).collect::<Vec<_>>()
        };
        let (_, keys) = get(&issuers, Method::GET, "a.example", KEYS).await;
        assert_eq!(curves(&keys), ["Ed25519"]);
        rotate(&directory, "b.example", Some(RotationStep::Publish)).expect("published");
        let (_, keys) = get(&issuers, Method::GET, "b.example", KEYS).await;
        assert_eq!(curves(&keys), ["P-256", "P-256"]);

        assert_eq!(get(&issuers, Method::GET, "c.example", KEYS).await.0, 421);
        assert_eq!(get(&issuers, Method::GET, "a.example", "/").await.0, 404);
        assert_eq!(get(&issuers, Method::POST, "a.example", KEYS).await.0, 405);
        std::fs::write(folder.path().join(".issuers/a.example.json"), "{").expect("written");
        assert_eq!(get(&issuers, Method::GET, "a.example", KEYS).await.0, 500);
    }

    #[test]
    fn only_their_owner_can_read_the_keys() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a directory");
        let directory = LabDirectory::at(folder.path().to_owned());
        let issuers = [TokenIssuer { host: "a.example".to_owned(), algorithm: TokenAlgorithm::EdDsa }];
        let authority = create(&directory, &issuers).expect("files");
        assert!(authority.is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE")));
        rotate(&directory, "a.example", None).expect("published");
        let mode = |path: &str| std::fs::metadata(folder.path().join(path)).expect(path).permissions().mode() & 0o777;
        assert_eq!(mode(".issuers"), 0o700);
        assert_eq!((mode(".issuers/a.example.json"), mode(".issuers/serving-key.pem")), (0o600, 0o600));
        assert_eq!(create(&directory, &[]).expect("nothing to do"), None);
    }
}
