//! `…/proxy/`: HTTP to a pod, service or node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::ResponseBody;
use crate::kinds::ResourceKind;
use crate::status::Status;

/// Timeout of connecting to the target.
const DIAL: Duration = Duration::from_secs(10);

/// The target of `…/{name}/proxy`: `[scheme:]name[:port]` in the URL's name segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyTarget {
    /// Whether the target uses TLS.
    pub(crate) https: bool,
    /// Name of the object.
    pub(crate) name: String,
    /// Port number or name.
    pub(crate) port: Option<String>,
}

impl ProxyTarget {
    /// Parses the decoded URL segment.
    pub(crate) fn parse(segment: &str) -> Option<Self> {
        let parts: Vec<&str> = segment.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let https = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        let port = (!port.is_empty()).then(|| port.to_owned());
        (!name.is_empty()).then(|| Self { https, name: name.to_owned(), port })
    }
}

/// Serves `…/proxy/{path}` of a pod, service or node for an authorized request. `path` starts with a slash; the query
/// is that of the request.
pub(crate) async fn proxy(
    kind: &ResourceKind,
    object: &Value,
    target: &ProxyTarget,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let address = match &*kind.kind {
        "Pod" => pod_address(object, target)?,
        "Service" => service_address(object, target)?,
        _ => node_address(object, target)?,
    };
    let unreachable =
        |error: io::Error| Status::unavailable(format!("error trying to reach service: dial tcp {address}: {error}"));
    let stream = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
    let stream =
        stream.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))).map_err(unreachable)?;
    let _ = stream.set_nodelay(true);
    if target.https {
        let name = ServerName::try_from(target.name.clone()).unwrap_or_else(|_| ServerName::from(address.ip()));
        // As in Kubernetes' proxy, the server is not verified: the target is an address of the cluster's network, and its certificate
        // rarely has the name that is used here.
        let config = probe::http::unverified_client_config().map_err(Status::internal)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(unreachable)?;
        exchange(stream, address, path, request).await
    } else {
        exchange(stream, address, path, request).await
    }
}

/// Sends one request on a connection of its own.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    path: &str,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let failed = |error: hyper::Error| Status::unavailable(format!("error trying to reach service: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection failed");
        }
    });
    let from_client = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    head.uri = rewritten(path, head.uri.query())?;
    let original_host = head.headers.get(HOST).cloned();
    forward_headers(&mut head.headers);
    head.headers.remove(AUTHORIZATION);
    head.headers.insert(HOST, HeaderValue::from_str(&address.to_string()).map_err(Status::internal)?);
    if let Some(host) = original_host {
        head.headers.insert("x-forwarded-host", host);
    }
    let mut response = sender.send_request(Request::from_parts(head, body)).await.map_err(failed)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(from_client) = from_client
    {
        let to_peer = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(peer)) = tokio::join!(from_client, to_peer) {
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(peer)).await;
            }
        });
    }
    forward_headers(response.headers_mut());
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

fn rewritten(path: &str, query: Option<&str>) -> Result<Uri, Status> {
    let path = if path.is_empty() { "/" } else { path };
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let whole = PathAndQuery::try_from(whole).map_err(|error| Status::bad_request(format!("proxied path: {error}")))?;
    Ok(Uri::from(whole))
}

/// Removes hop-by-hop headers (RFC 9110 §7.6.1). An upgrade is passed on.
fn forward_headers(headers: &mut HeaderMap) {
    let upgrade = headers.get(UPGRADE).cloned();
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in
        ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"]
    {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn pod_address(pod: &Value, target: &ProxyTarget) -> Result<SocketAddr, Status> {
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| Status::unavailable(format!("pod {} has no address", target.name)))?;
    let ports = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.filter_map(|container| container["ports"].as_array()).flatten()
    };
    let number = match target.port.as_deref() {
        None => ports().next().map_or(Some(80), |port| number(&port["containerPort"])),
        Some(port) => port
            .parse()
            .ok()
            .or_else(|| ports().find(|known| known["name"] == *port).and_then(|known| number(&known["containerPort"]))),
    };
    match number {
        Some(number) => Ok(SocketAddr::new(ip, number)),
        None => Err(Status::bad_request(format!(
            "no port {:?} found for pod {:?}",
            target.port.as_deref().unwrap_or(""),
            target.name
        ))),
    }
}

fn service_address(service: &Value, target: &ProxyTarget) -> Result<SocketAddr, Status> {
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let found = match target.port.as_deref() {
        None => ports.first().filter(|_| ports.len() == 1),
        Some(port) => ports.iter().find(|known| {
            known["name"] == *port || port.parse::<u16>().is_ok_and(|wanted| number(&known["port"]) == Some(wanted))
        }),
    };
    let Some(port) = found.and_then(|port| number(&port["port"])) else {
        let requested = target.port.as_deref().unwrap_or("");
        return Err(Status::unavailable(format!("no service port {requested:?} found for service {:?}", target.name)));
    };
    let ip = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    match ip {
        Some(ip) => Ok(SocketAddr::new(ip, port)),
        None => Err(Status::unavailable(format!("no endpoints available for service {:?}", target.name))),
    }
}

fn node_address(node: &Value, target: &ProxyTarget) -> Result<SocketAddr, Status> {
    const KUBELET: u16 = 10250;
    let addresses = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let ip = internal.and_then(|address| address["address"].as_str()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = target.port.as_deref().map_or(Some(KUBELET), |port| port.parse().ok());
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(Status::unavailable(format!("node {:?} has no address", target.name))),
    }
}

fn number(port: &Value) -> Option<u16> {
    port.as_u64().and_then(|number| u16::try_from(number).ok())
}
