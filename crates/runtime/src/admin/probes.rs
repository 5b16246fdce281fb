//! Probes and lifecycle hooks of the application, which the injector directs at the proxy.
//!
//! A kubelet's own request would be captured: it has no certificate, so strict mutual TLS refuses it, and a connection to a port
//! that nobody listens on succeeds. The proxy makes the check from inside the pod, as Istio's agent does, and the traffic is
//! not part of the mesh's metrics.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe::http::{Get, authority};
use serde::Deserialize;
use tokio::net::TcpStream;

use super::Reply;

/// The paths at which Istio's agent serves probes and hooks.
const PREFIXES: [&str; 2] = ["/app-health/", "/app-lifecycle/"];

/// The probes of the application.
#[derive(Debug)]
pub struct Probes {
    by_path: HashMap<String, Check>,
    address: IpAddr,
    mark: Option<u32>,
}

/// A probe as the injector passes it to the proxy: the handler of the container's probe, with the port as a number.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct TcpSocket {
    port: u16,
}

#[derive(Debug, Deserialize)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: String,
}

impl Probes {
    /// Reads `ISTIO_KUBE_APP_PROBERS`. The application listens at `address`, and connections carry the mark.
    pub fn from_environment(address: IpAddr, mark: Option<u32>) -> Option<Self> {
        Self::from_json(&std::env::var("ISTIO_KUBE_APP_PROBERS").ok()?, address, mark)
    }

    /// Reads the probes by path. Returns `None`, and logs the reason, if the text is not valid.
    pub fn from_json(json: &str, address: IpAddr, mark: Option<u32>) -> Option<Self> {
        let by_path = serde_json::from_str(json)
            .inspect_err(
                |error| tracing::error!(%error, "ISTIO_KUBE_APP_PROBERS is not valid; probes of the application fail"),
            )
            .ok()?;
        Some(Self { by_path, address, mark })
    }

    /// Makes the check of a path. Returns `None` if the path is none of a probe. The status is the application's; 500 if
    /// there is no answer.
    pub(super) async fn reply(&self, path: &str) -> Option<Reply> {
        let check = self.by_path.get(path).filter(|_| PREFIXES.iter().any(|prefix| path.starts_with(prefix)))?;
        // A kubelet's default.
        let timeout = Duration::from_secs(check.timeout_seconds.max(1));
        let outcome = tokio::time::timeout(timeout, self.attempt(check)).await;
        let status = outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())));
        Some(match status {
            Ok(status) => Reply::text("").with_status(status),
            Err(reason) => {
                tracing::debug!(path, reason, "a probe of the application failed");
                Reply::text(format!("{reason}\n")).with_status(500)
            }
        })
    }

    async fn attempt(&self, check: &Check) -> Result<u16, String> {
        let host = self.address.to_string();
        if let Some(wanted) = &check.http_get {
            let headers = wanted.http_headers.iter().map(|header| (header.name.clone(), header.value.clone()));
            let https = wanted.scheme.eq_ignore_ascii_case("https");
            let get = Get { https, path: wanted.path.clone(), headers: headers.collect() };
            return get.send(self.connect(wanted.port).await?, &host, wanted.port).await;
        }
        if let Some(wanted) = &check.tcp_socket {
            return self.connect(wanted.port).await.map(|_| 200);
        }
        if let Some(wanted) = &check.grpc {
            let stream = self.connect(wanted.port).await?;
            return probe::grpc::check(stream, authority(&host, wanted.port), &wanted.service).await.map(|()| 200);
        }
        Err("the probe has no httpGet, tcpSocket or grpc".into())
    }

    /// Connects to the application as the proxy itself does, so that the connection is not captured.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let address = SocketAddr::new(self.address, port);
        let connected = net::connect_to_application(address, self.mark).await;
        connected.map_err(|error| format!("cannot connect to {address}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn probes(json: &serde_json::Value) -> Probes {
        Probes::from_json(&json.to_string(), Ipv4Addr::LOCALHOST.into(), None).unwrap()
    }

    async fn status(probes: &Probes, path: &str) -> Option<u16> {
        probes.reply(path).await.map(|reply| reply.status)
    }

    #[tokio::test]
    async fn a_tcp_probe_fails_if_nobody_listens() {
        let listener = net::socket::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let probes = probes(&serde_json::json!({"/app-health/db/readyz": {"tcpSocket": {"port": port}}}));
        assert_eq!(status(&probes, "/app-health/db/readyz").await, Some(500));
        net::socket::open(&listener, 16).unwrap();
        assert_eq!(status(&probes, "/app-health/db/readyz").await, Some(200));
        assert_eq!(status(&probes, "/app-health/db/livez").await, None);
    }

    #[tokio::test]
    async fn an_http_probe_has_the_applications_status_and_the_probes_headers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let application = tokio::spawn(async move {
            let mut heads = Vec::new();
            for status in ["204 No Content", "302 Found", "418 Teapot"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                heads.push(String::from_utf8_lossy(&head[..length]).to_lowercase());
                let response = format!("HTTP/1.1 {status}\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(response.as_bytes()).await.unwrap();
            }
            heads
        });
        let check = serde_json::json!({"httpGet": {"port": port, "path": "up?x=1",
            "httpHeaders": [{"name": "Host", "value": "shop"}, {"name": "X-Probe", "value": "1"}]}, "timeoutSeconds": 2});
        let probes = probes(&serde_json::json!({"/app-lifecycle/db/prestopz": check, "/other": check}));
        for expected in [204, 302, 418] {
            assert_eq!(status(&probes, "/app-lifecycle/db/prestopz").await, Some(expected));
        }
        assert_eq!(status(&probes, "/other").await, None);
        for head in application.await.unwrap() {
            assert!(head.starts_with("get /up?x=1 http/1.1\r\n") && head.contains("host: shop\r\n"), "{head}");
            assert!(head.contains("x-probe: 1\r\n") && head.contains("user-agent: kube-probe/"), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_without_an_answer_fails_after_its_timeout() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for check in [serde_json::json!({"httpGet": {"port": port}}), serde_json::json!({"grpc": {"port": port}})] {
            let probes = probes(&serde_json::json!({"/app-health/db/startupz": check}));
            assert_eq!(status(&probes, "/app-health/db/startupz").await, Some(500));
        }
    }

    #[test]
    fn what_is_not_valid_is_left_out() {
        assert!(Probes::from_json("{", Ipv4Addr::LOCALHOST.into(), None).is_none());
        let named = r#"{"/app-health/db/readyz": {"tcpSocket": {"port": "http"}}}"#;
        assert!(Probes::from_json(named, Ipv4Addr::LOCALHOST.into(), None).is_none());
    }
}
