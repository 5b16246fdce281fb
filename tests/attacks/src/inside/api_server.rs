//! The API server of a hostile remote cluster: it answers the lists and watches of a controller.

use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use identity::{Authority, Identity, SpiffeId, Trust};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Tally;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The items of a page if the client does not limit them.
const PAGE: usize = 500;
/// Changes in one frame of a watch.
const CHANGES: usize = 100;

/// What the cluster contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Gateways in AUTO_PASSTHROUGH mode with many hosts, and Services.
    Gateways {
        /// The number of Gateways.
        gateways: usize,
        /// The hosts of each.
        hosts: usize,
        /// The number of Services.
        services: usize,
    },
    /// Names that belong to others: an export of `local`, and `ratings` without an export, in the network and the locality of `west`.
    Takeover,
    /// Lists without an end: of pods in one response, of everything else page after page.
    Endless,
    /// Pods that change all the time.
    Churn {
        /// Their number.
        pods: usize,
    },
}

/// The server.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApiServer {
    /// The port.
    pub port: u16,
    /// The content.
    pub content: Content,
}

impl ApiServer {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let authority = Authority::self_signed_root("rogue", DAY)?;
        let id = SpiffeId::new("rogue", "kube-system", "apiserver")?;
        let trust = Trust::new("rogue", authority.roots().to_vec(), [])?;
        let identity = Identity::new(authority.credential(&id, &["kubernetes.default.svc"], DAY)?, trust);
        let acceptor = tokio_rustls::TlsAcceptor::from(identity.plain_server_config(&[b"http/1.1"]));
        let listener = TcpListener::bind(("0.0.0.0", self.port)).await?;
        let content = self.content;
        loop {
            let (socket, _) = listener.accept().await?;
            tally.opened.fetch_add(1, Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let service = hyper::service::service_fn(move |request| async move {
                    Ok::<_, Infallible>(answer(&request, content, tally))
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                tally.closed.fetch_add(1, Relaxed);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, content: Content, tally: &'static Tally) -> Response<Body> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    if path == "/version" {
        let fields = [
            "buildDate",
            "compiler",
            "gitCommit",
            "gitTreeState",
            "gitVersion",
            "goVersion",
            "major",
            "minor",
            "platform",
        ];
        return reply(StatusCode::OK, &fields.iter().map(|field| ((*field).to_owned(), json!("1"))).collect::<Value>());
    }
    if path == "/api/v1/namespaces/kube-system" {
        return reply(
            StatusCode::OK,
            &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-system", "uid": "rogue"}}),
        );
    }
    let kind = path.rsplit('/').next().unwrap_or_default();
    let known = ["namespaces", "nodes", "pods", "services", "endpointslices", "serviceexports", "gateways"];
    let Some(kind) = known.into_iter().find(|known| *known == kind).filter(|_| request.method() == Method::GET) else {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                          "message": "not found", "code": 404});
        return reply(StatusCode::NOT_FOUND, &body);
    };
    if parameter("watch").is_some_and(|watch| watch == "true" || watch == "1") {
        tally.answer(format!("watch of {kind}"));
        return watch(kind, content);
    }
    tally.answer(format!("list of {kind}"));
    let from: usize = parameter("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
    let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
    list(kind, content, from, limit)
}

/// The number of objects of a kind.
fn count(kind: &str, content: Content) -> usize {
    match (content, kind) {
        (_, "namespaces") if content != Content::Endless => 2,
        (Content::Gateways { gateways, .. }, "gateways") => gateways,
        (Content::Gateways { services, .. }, "services") => services,
        (Content::Churn { pods }, "pods") => pods,
        (Content::Takeover, "nodes" | "pods" | "services" | "endpointslices") => 2,
        (Content::Takeover, "serviceexports") => 1,
        (Content::Endless, _) => usize::MAX,
        _ => 0,
    }
}

fn list(kind: &'static str, content: Content, from: usize, limit: usize) -> Response<Body> {
    let all = count(kind, content);
    let endless = content == Content::Endless && kind == "pods";
    let end = if endless { usize::MAX } else { all.min(from.saturating_add(limit)) };
    let next = if end < all { end.to_string() } else { String::new() };
    let hosts = hosts(content);
    let metadata = json!({"resourceVersion": "1", "continue": next});
    let head = format!("{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{metadata},\"items\":[");
    let items = (from..end).map(move |index| {
        let comma = if index == from { "" } else { "," };
        let object = object(kind, content, index, 0).to_string();
        format!("{comma}{}", if kind == "gateways" { object.replacen("[]", &hosts, 1) } else { object })
    });
    let text = std::iter::once(head).chain(items).chain(std::iter::once("]}".to_owned()));
    let frames = stream::iter(text).ready_chunks(32).map(|texts| Ok(Frame::data(Bytes::from(texts.concat()))));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn watch(kind: &'static str, content: Content) -> Response<Body> {
    let Content::Churn { pods } = content else { return silent() };
    if kind != "pods" {
        return silent();
    }
    let changes = stream::unfold(0_usize, move |round| async move {
        // Lets other tasks run: the reader may always be ready.
        tokio::task::yield_now().await;
        let numbers = round * CHANGES..(round + 1) * CHANGES;
        let events = numbers.map(|number| {
            let changed = object(kind, content, number % pods, number + 1);
            format!("{{\"type\":\"MODIFIED\",\"object\":{changed}}}\n")
        });
        Some((Bytes::from(events.collect::<String>()), round + 1))
    });
    Response::new(StreamBody::new(changes.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync())
}

/// A watch without events.
fn silent() -> Response<Body> {
    Response::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()).boxed_unsync())
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The hosts of a Gateway, as a JSON list.
fn hosts(content: Content) -> String {
    let number = if let Content::Gateways { hosts, .. } = content { hosts } else { 1 };
    let hosts = (0..number).map(|host| format!("default/services-{host}.default.svc.cluster.local"));
    Value::from(hosts.collect::<Vec<_>>()).to_string()
}

/// An object as JSON. `version` differs in each change of it.
fn object(kind: &str, content: Content, index: usize, version: usize) -> Value {
    let takeover = content == Content::Takeover;
    let name = match (kind, index) {
        ("namespaces", 0) => "default".to_owned(),
        ("namespaces", 1) => "istio-system".to_owned(),
        (_, 0) if takeover => "local".to_owned(),
        (_, 1) if takeover => "ratings".to_owned(),
        _ => format!("{kind}-{index}"),
    };
    let labels = match kind {
        "namespaces" if takeover => json!({"topology.istio.io/network": "net-west"}),
        "namespaces" => json!({"topology.istio.io/network": "net-rogue"}),
        "nodes" => json!({"topology.kubernetes.io/region": "us-west", "topology.kubernetes.io/zone": "us-west-1a"}),
        "endpointslices" => json!({"kubernetes.io/service-name": name}),
        _ => json!({"app": name, "security.istio.io/tlsMode": "istio"}),
    };
    let resource_version = (version + 2).to_string();
    let mut metadata =
        json!({"name": name, "labels": labels, "uid": format!("{kind}-{index}"), "resourceVersion": resource_version});
    if !["namespaces", "nodes"].contains(&kind) {
        metadata["namespace"] = json!("default");
    }
    let address =
        std::net::Ipv4Addr::from(0x0AF4_8000_u32.wrapping_add(u32::try_from(index % 0x7000).unwrap_or(0) + 9));
    let ports = json!([{"name": "http", "port": 9080, "targetPort": 9080, "protocol": "TCP"}]);
    let mut object = match kind {
        "pods" => json!({
            "spec": {"nodeName": "local", "serviceAccountName": name, "containers": [{"name": "a", "image": "a"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                       "conditions": [{"type": "Ready", "status": if version.is_multiple_of(2) { "True" } else { "False" }}]},
        }),
        "services" => json!({"spec": {"clusterIP": address, "selector": {"app": name}, "ports": ports}}),
        "endpointslices" => json!({
            "addressType": "IPv4", "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": "local",
                           "targetRef": {"kind": "Pod", "name": name, "namespace": "default"}}],
        }),
        "gateways" => {
            let port = json!({"number": 15443, "name": "tls", "protocol": "TLS"});
            // `hosts` writes the hosts: they are the same in all Gateways.
            json!({"spec": {"selector": {"istio": "eastwestgateway"},
                            "servers": [{"port": port, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": []}]}})
        }
        _ => json!({}),
    };
    object["metadata"] = metadata;
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response<Body>) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn lists_are_paged() {
        let content = Content::Gateways { gateways: 3, hosts: 4, services: 5 };
        let first = body(list("gateways", content, 0, 2)).await;
        assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["continue"]), (2, &json!("2")));
        assert_eq!(first["items"][1]["spec"]["servers"][0]["hosts"].as_array().unwrap().len(), 4);
        let last = body(list("gateways", content, 2, 2)).await;
        assert_eq!((last["items"].as_array().unwrap().len(), &last["metadata"]["continue"]), (1, &json!("")));
        assert_eq!(body(list("endpointslices", content, 0, 2)).await["items"], json!([]));
    }

    #[tokio::test]
    async fn an_endless_list_goes_on() {
        let mut frames = list("pods", Content::Endless, 0, 500).into_body();
        let mut bytes = 0;
        while bytes < 1 << 20 {
            bytes += frames.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        let page = body(list("services", Content::Endless, 1000, 500)).await;
        assert_eq!(page["metadata"]["continue"], "1500");
    }
}
