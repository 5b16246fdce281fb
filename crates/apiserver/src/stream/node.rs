//! The client of the node agent: HTTP/1.1 over a Unix socket.
//!
//! `POST /exec`, `POST /attach` and `POST /portforward` are upgraded to raw streams; `GET /logs` responds with text, and
//! `GET /usage` with JSON. The first two have frames: one byte for the channel, the length as 32 bits big-endian, the data.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::options::StreamOptions;
use crate::status::Status;

/// Channels of an exec stream.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STATUS: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// Closes the channel that the frame's only byte names.
pub(super) const CLOSE: u8 = 255;

/// Largest frame from the agent.
const MAX_FRAME: usize = 1024 * 1024;

/// Largest error response from the agent.
const MAX_ERROR: usize = 64 * 1024;

/// Largest usage of an agent: thousands of containers.
const MAX_USAGE: usize = 16 * 1024 * 1024;

/// The usage of everything that an agent runs.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct MeasuredUsage {
    /// When the interval ended, a `metav1.Time`.
    pub(crate) timestamp: String,
    /// Length of the interval, a `metav1.Duration`.
    pub(crate) window: String,
    /// The nodes by name.
    pub(crate) nodes: HashMap<String, Usage>,
    /// The containers of pods, by UID of the pod.
    pub(crate) pods: HashMap<String, BTreeMap<String, Usage>>,
}

/// The usage of a node or a container.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Usage {
    /// Mean CPU usage in the interval, in nanocores.
    pub(crate) cpu: u64,
    /// Memory at the end of the interval, in bytes.
    pub(crate) memory: u64,
}

/// Client of the node agent that runs the cluster's pods.
#[derive(Clone, Debug)]
pub(crate) struct NodeClient {
    socket: PathBuf,
}

impl NodeClient {
    /// Creates a client for the agent at `socket`. Each request opens a connection.
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Runs a command in a container.
    pub(super) async fn exec(
        &self,
        pod: &Value,
        container: &str,
        options: &StreamOptions,
    ) -> Result<NodeStream, Status> {
        let body = json!({
            "namespace": pod["metadata"]["namespace"],
            "pod": pod["metadata"]["name"],
            "container": container,
            "command": options.command,
            "tty": options.tty,
            "stdin": options.stdin,
            "stdout": options.stdout,
            "stderr": options.stderr,
        });
        self.upgrade("/exec", &body).await
    }

    /// Connects to the standard input of a container.
    pub(super) async fn attach(&self, pod: &Value, container: &str) -> Result<NodeStream, Status> {
        let metadata = &pod["metadata"];
        let body = json!({"namespace": metadata["namespace"], "pod": metadata["name"], "container": container});
        self.upgrade("/attach", &body).await
    }

    /// Connects to a port of a pod.
    pub(super) async fn port_forward(&self, pod: &Value, port: u16) -> Result<NodeStream, Status> {
        let body = json!({"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"], "port": port});
        self.upgrade("/portforward", &body).await
    }

    /// Reads a container's output.
    pub(super) async fn logs(&self, pod: &Value, container: &str, options: &StreamOptions) -> Result<Incoming, Status> {
        let request = Request::get(log_path(pod, container, options)).header(HOST, "node").body(Full::default());
        let response = self.send(request.map_err(Status::internal)?).await?;
        if response.status() == StatusCode::OK { Ok(response.into_body()) } else { Err(refused(response).await) }
    }

    /// Reads the usage of the running containers, and of the nodes.
    pub(crate) async fn usage(&self) -> Result<MeasuredUsage, Status> {
        let request = Request::get("/usage").header(HOST, "node").body(Full::default());
        let response = self.send(request.map_err(Status::internal)?).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        let body = Limited::new(response.into_body(), MAX_USAGE).collect().await.map_err(unreachable)?.to_bytes();
        serde_json::from_slice(&body).map_err(unreachable)
    }

    async fn upgrade(&self, path: &str, body: &Value) -> Result<NodeStream, Status> {
        let request = Request::post(path)
            .header(HOST, "node")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "isthmus-stream")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()));
        let response = self.send(request.map_err(Status::internal)?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(unreachable)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the node agent failed");
            }
        });
        sender.send_request(request).await.map_err(unreachable)
    }
}

fn log_path(pod: &Value, container: &str, options: &StreamOptions) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in [
        ("namespace", &pod["metadata"]["namespace"]),
        ("pod", &pod["metadata"]["name"]),
        ("container", &Value::from(container)),
    ] {
        query.append_pair(key, value.as_str().unwrap_or(""));
    }
    for (key, flag) in [("follow", options.follow), ("previous", options.previous), ("timestamps", options.timestamps)]
    {
        query.append_pair(key, if flag { "true" } else { "false" });
    }
    let numbers = [
        ("tailLines", options.tail_lines),
        ("sinceSeconds", options.since_seconds),
        ("limitBytes", options.limit_bytes),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            query.append_pair(key, &value.to_string());
        }
    }
    format!("/logs?{}", query.finish())
}

/// A raw stream to the agent.
pub(super) type NodeStream = TokioIo<Upgraded>;

fn unreachable(error: impl std::fmt::Display) -> Status {
    Status::internal(format_args!("error dialing backend: {error}"))
}

/// The error of an agent's response, which is a Status or text.
async fn refused(response: Response<Incoming>) -> Status {
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_ERROR).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let parsed = serde_json::from_slice::<Value>(&body).ok();
    let message = parsed.as_ref().and_then(|status| status["message"].as_str()).map(str::to_owned);
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    match code {
        StatusCode::NOT_FOUND => Status::other(404, "NotFound", message),
        code if code.is_client_error() => Status::bad_request(message),
        _ => Status::internal(message),
    }
}

/// Reads a frame from the agent, or None at the end of the stream.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u8, Bytes)>> {
    let channel = match from.read_u8().await {
        Ok(channel) => channel,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = from.read_u32().await? as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes from the node agent exceeds the limit"),
        ));
    }
    let mut data = BytesMut::zeroed(length);
    from.read_exact(&mut data).await?;
    Ok(Some((channel, data.freeze())))
}

/// Writes a frame to the agent.
pub(super) async fn write_frame(to: &mut (impl AsyncWrite + Unpin), channel: u8, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = BytesMut::with_capacity(5 + data.len());
    frame.put_u8(channel);
    frame.put_u32(length);
    frame.put_slice(data);
    to.write_all(&frame).await?;
    to.flush().await
}
