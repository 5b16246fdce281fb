//! Admission reviews for the injection webhook.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::Tally;

/// The timeout of one review.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause of a worker after each review.
const PAUSE: Duration = Duration::from_millis(50);

/// What makes a review large.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Filling {
    /// Ranges in the annotation `includeOutboundIPRanges`, of so many bytes.
    Ranges(usize),
    /// An annotation without a meaning, of so many bytes.
    Padding(usize),
}

/// Admission reviews, sent one after the other by each worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reviews {
    /// The addresses, in turn.
    pub targets: Vec<SocketAddr>,
    /// The server name of the webhook.
    pub server_name: String,
    /// The mesh's roots.
    pub roots: PathBuf,
    /// The path of requests.
    pub path: String,
    /// What makes them large.
    pub filling: Filling,
    /// How many are sent at a time.
    pub workers: usize,
}

impl Filling {
    fn annotation(self) -> (&'static str, String) {
        match self {
            Filling::Ranges(bytes) => {
                let ranges = (0..=u32::MAX).step_by(512).map(|at| format!("{}/24,", std::net::Ipv4Addr::from(at)));
                let mut text = String::with_capacity(bytes + 20);
                for range in ranges.cycle() {
                    text.push_str(&range);
                    if text.len() >= bytes {
                        break;
                    }
                }
                ("traffic.sidecar.istio.io/includeOutboundIPRanges", text.trim_end_matches(',').to_owned())
            }
            Filling::Padding(bytes) => ("example.com/padding", "x".repeat(bytes)),
        }
    }

    fn review(self) -> Value {
        let (annotation, value) = self.annotation();
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "0", "namespace": "default", "operation": "CREATE",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "object": {
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {annotation: value}},
                    "spec": {"containers": [{"name": "a", "image": "a"}]},
                },
            },
        })
    }
}

impl Reviews {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let roots = identity::certificates_from_pem(&std::fs::read(&self.roots)?).map_err(anyhow::Error::msg)?;
        let connector = TlsConnector::from(identity::server_only_client(&roots, &[b"http/1.1"])?);
        let name = ServerName::try_from(self.server_name.clone()).context("the webhook's name")?;
        let body = self.filling.review().to_string();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.path,
            self.server_name,
            body.len()
        );
        let request: Arc<[u8]> = [head.as_bytes(), body.as_bytes()].concat().into();
        let mut workers = JoinSet::new();
        for worker in 0..self.workers.max(self.targets.len()) {
            let target = self.targets[worker % self.targets.len()];
            let (connector, name, request) = (connector.clone(), name.clone(), Arc::clone(&request));
            workers.spawn(async move {
                loop {
                    let sent = send(&connector, &name, target, &request, tally);
                    match tokio::time::timeout(TIMEOUT, sent).await {
                        Ok(Ok(status)) => tally.answer(status),
                        Ok(Err(error)) => tally.answer(format!("error: {}", error.kind())),
                        Err(_) => tally.answer("timeout"),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        workers.join_all().await;
        Ok(())
    }
}

async fn send(
    connector: &TlsConnector,
    name: &ServerName<'static>,
    target: SocketAddr,
    request: &[u8],
    tally: &Tally,
) -> std::io::Result<String> {
    let connected = TcpStream::connect(target).await;
    let stream = connected.inspect_err(|_| {
        tally.refused.fetch_add(1, Relaxed);
    })?;
    tally.opened.fetch_add(1, Relaxed);
    let (mut reads, mut writes) = tokio::io::split(connector.connect(name.clone(), stream).await?);
    // A server that refuses a request answers before it has read all of it, so both directions go on at once.
    let mut answer = Vec::new();
    let mut limited = (&mut reads).take(1 << 16);
    let (_, read) = tokio::join!(writes.write_all(request), limited.read_to_end(&mut answer));
    match answer.get(9..12) {
        Some(status) => Ok(format!("status {}", String::from_utf8_lossy(status))),
        None => Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::Filling;

    #[test]
    fn a_review_is_as_large_as_it_should_be() {
        for filling in [Filling::Ranges(79 * 1024), Filling::Padding(79 * 1024)] {
            let length = filling.review().to_string().len();
            assert!((79 * 1024..80 * 1024).contains(&length), "{length}");
        }
    }
}
