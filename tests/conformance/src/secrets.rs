//! The secrets of an Envoy under Istio, which Istio's agent serves otherwise: `default` and `ROOTCA`, and the files that
//! DestinationRules name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;

/// The address of the secrets in a client's pod.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15999);

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
struct SecretsRequest {
    #[prost(string, repeated, tag = "3")]
    names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
struct SecretsResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Any>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    certificate: Option<TlsCertificate>,
    #[prost(message, optional, tag = "4")]
    validation: Option<CertificateValidation>,
}

/// `TlsCertificate` of the same package.
#[derive(Clone, PartialEq, Message)]
struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    key: Option<DataSource>,
}

/// `CertificateValidationContext` of the same package.
#[derive(Clone, PartialEq, Message)]
struct CertificateValidation {
    #[prost(message, optional, tag = "1")]
    roots: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Message)]
struct DataSource {
    #[prost(string, optional, tag = "1")]
    file: Option<String>,
}

impl DataSource {
    fn of(path: impl AsRef<Path>) -> Option<Self> {
        Some(Self { file: Some(path.as_ref().display().to_string()) })
    }
}

/// The file with the system's authorities, as Istio's agent finds it.
const SYSTEM: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The file with the roots of the mesh.
pub(crate) const ROOTS: &str = "ca.pem";

impl Secret {
    /// Returns the secret of a name.
    fn of(name: &str, directory: &Path, identity: &str) -> Self {
        let roots = |path: &Path| Some(CertificateValidation { roots: DataSource::of(path) });
        let pair =
            |chain: &Path, key: &Path| Some(TlsCertificate { chain: DataSource::of(chain), key: DataSource::of(key) });
        let mut secret = Self { name: name.to_owned(), certificate: None, validation: None };
        if let Some((chain, key)) = name.strip_prefix("file-cert:").and_then(|files| files.split_once('~')) {
            secret.certificate = pair(Path::new(chain), Path::new(key));
        } else if name == "file-root:system" {
            let found = SYSTEM.map(Path::new).into_iter().find(|path| path.exists());
            secret.validation = roots(found.unwrap_or(&directory.join("other-ca.pem")));
        } else if let Some(file) = name.strip_prefix("file-root:") {
            secret.validation = roots(Path::new(file));
        } else if name == "default" {
            secret.certificate =
                pair(&directory.join(format!("{identity}.pem")), &directory.join(format!("{identity}.key")));
        } else {
            secret.validation = roots(&directory.join(ROOTS));
        }
        secret
    }
}

/// Serves secrets until the process ends, with files of a directory: `IDENTITY.pem`, `IDENTITY.key` and `ca.pem`.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub async fn serve(address: SocketAddr, directory: PathBuf, identity: String) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (directory, identity) = (directory.clone(), identity.clone());
        let service = service_fn(move |request| {
            let answer = answer(request, directory.clone(), identity.clone());
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    }
}

/// Answers each request for names that differ from those before.
fn answer(
    request: Request<Incoming>,
    directory: PathBuf,
    identity: String,
) -> Response<impl Body<Data = Bytes, Error = hyper::Error>> {
    let begin = (request.into_body(), BytesMut::new(), Vec::new());
    let frames = unfold(begin, move |(mut body, mut read, mut before)| {
        let (directory, identity) = (directory.clone(), identity.clone());
        async move {
            loop {
                while let Some(request) = next(&mut read) {
                    if request.names == before {
                        continue;
                    }
                    let resource = |name: &String| Any {
                        type_url: request.type_url.clone(),
                        value: Secret::of(name, &directory, &identity).encode_to_vec(),
                    };
                    let response = SecretsResponse {
                        version: "1".to_owned(),
                        resources: request.names.iter().map(resource).collect(),
                        type_url: request.type_url.clone(),
                        nonce: request.names.join(","),
                    };
                    before = request.names;
                    return Some((Ok(Frame::data(framed(&response))), (body, read, before)));
                }
                match body.frame().await? {
                    Ok(frame) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    Err(error) => return Some((Err(error), (body, read, before))),
                }
            }
        }
    });
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut response = Response::new(StreamBody::new(frames));
    *response.headers_mut() = headers;
    response
}

/// Takes a message of gRPC.
fn next(read: &mut BytesMut) -> Option<SecretsRequest> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    SecretsRequest::decode(read.split_to(length)).ok()
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes.into()
}
