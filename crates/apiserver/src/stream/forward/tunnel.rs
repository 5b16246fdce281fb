//! Port forwarding over SPDY: each connection is a stream of data and a stream for an error, paired by a request id.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::stream::node::NodeClient;
use crate::stream::spdy::{self, Frame, Inflater, Malformed};

/// How many pieces of data may wait for a slow pod. Beyond that the whole tunnel waits: SPDY here has no flow control.
const QUEUE: usize = 32;

/// Most connections of one tunnel at once.
const MOST_CONNECTIONS: usize = 1024;

/// How much is read from the pod at once.
const CHUNK: usize = 32 * 1024;

/// One client's tunnel to one pod.
pub(super) struct Tunnel {
    node: NodeClient,
    pod: Value,
    frames: mpsc::Sender<Bytes>,
    inflater: Inflater,
    writer: spdy::Writer,
    /// Error streams whose data stream has not been opened yet, by request id.
    waiting: HashMap<String, u32>,
    /// Connections by their data stream.
    connections: HashMap<u32, Connection>,
    tasks: JoinSet<u32>,
}

struct Connection {
    /// None once the client has sent everything.
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
            writer: spdy::Writer::new(),
            waiting: HashMap::new(),
            connections: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Serves until the client leaves or makes no sense.
    pub(super) async fn run(mut self, mut pieces: impl Stream<Item = Bytes> + Unpin) {
        let mut buffer = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            buffer.extend_from_slice(&piece);
            loop {
                match spdy::next_frame(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(Frame::GoAway)) => return,
                    Ok(Some(frame)) => {
                        if let Err(error) = self.take(frame).await {
                            tracing::debug!(%error, "port forwarding");
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "port forwarding");
                        return;
                    }
                }
            }
            while let Some(Ok(ended)) = self.tasks.try_join_next() {
                self.connections.remove(&ended);
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        match frame {
            Frame::Open { stream, headers, .. } => self.open(stream, &headers).await,
            Frame::Data { stream, fin, data } => {
                if let Some(connection) = self.connections.get_mut(&stream) {
                    if let Some(to_pod) = connection.to_pod.as_ref().filter(|_| !data.is_empty()) {
                        // The pod may have stopped reading; what it sent still arrives.
                        let _ = to_pod.send(data).await;
                    }
                    if fin {
                        connection.to_pod = None;
                    }
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                if let Some(connection) = self.connections.remove(&stream) {
                    connection.task.abort();
                }
                self.waiting.retain(|_, waiting| *waiting != stream);
                Ok(())
            }
            Frame::Ping { id } => {
                self.send(spdy::pong(id)).await;
                Ok(())
            }
            Frame::GoAway | Frame::Other => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, compressed: &[u8]) -> Result<(), Malformed> {
        let headers = spdy::headers(self.inflater.inflate(compressed)?)?;
        let header =
            |name: &str| headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        // Clients that number no requests open the error stream right before the data stream.
        let request = header("requestid").to_owned();
        match header("streamtype") {
            "error" if self.waiting.len() < MOST_CONNECTIONS => {
                self.waiting.insert(request, stream);
                let reply = self.writer.reply(stream);
                self.send(reply).await;
            }
            "data" if self.connections.len() < MOST_CONNECTIONS => {
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
        // A client that is gone is noticed when reading from it.
        let _ = self.frames.send(frame).await;
    }
}

/// One connection, from the first byte to the last. The error is for the client to show.
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
        // When the pod has sent everything, what the client might still send has no reader.
        result = &mut download => result,
        () = &mut upload => download.await,
    }
}
