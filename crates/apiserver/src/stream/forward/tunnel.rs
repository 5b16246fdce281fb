//! Port forwarding over SPDY: each connection has a data stream and an error stream with the same request id.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::stream::node::NodeClient;
use crate::stream::spdy::{self, Inflater, SpdyError, SpdyFrame};

/// Most queued data frames to a slow pod. A full queue blocks the whole tunnel, because there is no flow control.
const QUEUE: usize = 32;

/// Most connections of a tunnel.
const MAX_CONNECTIONS: usize = 1024;

/// Size of reads from the pod.
const CHUNK: usize = 32 * 1024;

/// A client's tunnel to a pod.
pub(super) struct Tunnel {
    node: NodeClient,
    pod: Value,
    frames: mpsc::Sender<Bytes>,
    inflater: Inflater,
    writer: spdy::SpdyWriter,
    /// Error streams whose data stream is not open yet, by request id.
    waiting: HashMap<String, u32>,
    /// Connections by data stream.
    connections: HashMap<u32, Connection>,
    tasks: JoinSet<u32>,
}

struct Connection {
    /// None after the end of the client's data.
    to_pod: Option<mpsc::Sender<Bytes>>,
    task: AbortHandle,
}

impl Tunnel {
    pub(super) fn new(node: NodeClient, pod: Value, frames: mpsc::Sender<Bytes>) -> Self {
        Self {
            node,
            pod,
            frames,
            inflater: Inflater::new(),
            writer: spdy::SpdyWriter::new(),
            waiting: HashMap::new(),
            connections: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Serves the tunnel until the client disconnects or sends an invalid frame.
    pub(super) async fn run(mut self, mut pieces: impl Stream<Item = Bytes> + Unpin) {
        let mut buffer = BytesMut::new();
        loop {
            let taken = match spdy::read_frame(&mut pieces, &mut buffer).await {
                Ok(None) => return,
                Ok(Some(frame)) => self.take(frame).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::debug!(%error, "port forwarding failed");
                return;
            }
            while let Some(Ok(ended)) = self.tasks.try_join_next() {
                self.connections.remove(&ended);
            }
        }
    }

    async fn take(&mut self, frame: SpdyFrame) -> Result<(), SpdyError> {
        match frame {
            SpdyFrame::Open { stream, headers, .. } => self.open(stream, &headers).await,
            SpdyFrame::Data { stream, fin, data } => {
                if let Some(connection) = self.connections.get_mut(&stream) {
                    if let Some(to_pod) = connection.to_pod.as_ref().filter(|_| !data.is_empty()) {
                        // The pod may have closed its side for reading; its data is still delivered.
                        let _ = to_pod.send(data).await;
                    }
                    if fin {
                        connection.to_pod = None;
                    }
                }
                Ok(())
            }
            SpdyFrame::Reset { stream } => {
                if let Some(connection) = self.connections.remove(&stream) {
                    connection.task.abort();
                }
                self.waiting.retain(|_, waiting| *waiting != stream);
                Ok(())
            }
            SpdyFrame::Ping { id } => {
                self.send(spdy::pong(id)).await;
                Ok(())
            }
            SpdyFrame::GoAway | SpdyFrame::Other => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, compressed: &[u8]) -> Result<(), SpdyError> {
        let headers = spdy::headers(self.inflater.inflate(compressed)?)?;
        let header =
            |name: &str| headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        // Clients without request ids open the error stream directly before the data stream.
        let request = header("requestid").to_owned();
        match header("streamtype") {
            "error" if self.waiting.len() < MAX_CONNECTIONS => {
                self.waiting.insert(request, stream);
                let reply = self.writer.reply(stream);
                self.send(reply).await;
            }
            "data" if self.connections.len() < MAX_CONNECTIONS => {
                let (Some(errors), Ok(port)) = (self.waiting.remove(&request), header("port").parse::<u16>()) else {
                    self.send(spdy::reset(stream)).await;
                    return Ok(());
                };
                let reply = self.writer.reply(stream);
                self.send(reply).await;
                self.connect(stream, errors, port);
            }
            _ => self.send(spdy::reset(stream)).await,
        }
        Ok(())
    }

    fn connect(&mut self, stream: u32, errors: u32, port: u16) {
        let (to_pod, from_client) = mpsc::channel(QUEUE);
        let (node, pod, frames) = (self.node.clone(), self.pod.clone(), self.frames.clone());
        let task = self.tasks.spawn(async move {
            let error = carry(&node, &pod, port, stream, from_client, &frames).await.err().unwrap_or_default();
            let _ = frames.send(spdy::data(stream, &[], true)).await;
            let _ = frames.send(spdy::data(errors, error.as_bytes(), true)).await;
            stream
        });
        self.connections.insert(stream, Connection { to_pod: Some(to_pod), task });
    }

    async fn send(&self, frame: Bytes) {
        // A disconnected client is detected by the reader.
        let _ = self.frames.send(frame).await;
    }
}

/// Copies the data of one connection. The error is for the client.
async fn carry(
    node: &NodeClient,
    pod: &Value,
    port: u16,
    stream: u32,
    mut from_client: mpsc::Receiver<Bytes>,
    frames: &mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let connection = node.port_forward(pod, port).await;
    let connection =
        connection.map_err(|refusal| format!("error forwarding port {port} to pod {name}: {}", refusal.message))?;
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let upload = async {
        while let Some(data) = from_client.recv().await {
            if to_pod.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let download = async {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        loop {
            chunk.clear();
            match from_pod.read_buf(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(_) if frames.send(spdy::data(stream, &chunk, false)).await.is_err() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("error forwarding port {port} to pod {name}: {error}")),
            }
        }
    };
    tokio::pin!(upload, download);
    tokio::select! {
        // After the end of the pod's data, data from the client has no reader.
        result = &mut download => result,
        () = &mut upload => download.await,
    }
}
