//! Port forwarding over WebSocket channels: a data channel and an error channel for each port, both of which start with
//! the port number as 16 bits little-endian.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::stream::node::NodeClient;
use crate::stream::socket::{self, ClientSocket, message};

/// Most queued frames to a slow client.
pub(super) const QUEUE: usize = 64;

/// Size of reads from the pod.
const CHUNK: usize = 32 * 1024;

pub(super) async fn serve(node: NodeClient, pod: Value, ports: Vec<u16>, socket: ClientSocket) {
    let (mut to_client, mut from_client) = socket.split();
    let (messages, mut queued) = mpsc::channel::<Message>(QUEUE);
    let mut tasks = JoinSet::new();
    let mut to_pod = Vec::new();
    for (index, port) in ports.into_iter().enumerate().take(usize::from(u8::MAX / 2)) {
        let (data, errors) = ((index * 2) as u8, (index * 2 + 1) as u8);
        for channel in [data, errors] {
            let _ = messages.send(message(channel, &port.to_le_bytes())).await;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        to_pod.push(sender);
        let (node, pod, messages) = (node.clone(), pod.clone(), messages.clone());
        tasks.spawn(async move {
            if let Err(error) = carry(&node, &pod, port, data, receiver, &messages).await {
                let _ = messages.send(message(errors, error.as_bytes())).await;
            }
        });
    }
    drop(messages);
    let write = async {
        while let Some(message) = queued.recv().await {
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        socket::close(&mut to_client).await;
    };
    let read = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(message) = message else { continue };
            let Some((channel, _)) = message.split_first() else { continue };
            if channel % 2 == 0
                && let Some(sender) = to_pod.get(usize::from(channel / 2))
            {
                let _ = sender.send(message.slice(1..)).await;
            }
        }
    };
    tokio::select! {
        // All connections have ended.
        () = write => {}
        // The client has disconnected, which ends its connections.
        () = read => {}
    }
}

async fn carry(
    node: &NodeClient,
    pod: &Value,
    port: u16,
    channel: u8,
    mut from_client: mpsc::Receiver<Bytes>,
    messages: &mpsc::Sender<Message>,
) -> Result<(), String> {
    let connection = node.port_forward(pod, port).await.map_err(|refusal| refusal.message)?;
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let upload = async {
        while let Some(data) = from_client.recv().await {
            if to_pod.write_all(&data).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let download = async {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        loop {
            chunk.clear();
            match from_pod.read_buf(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(_) if messages.send(message(channel, &chunk)).await.is_err() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    tokio::select! {
        result = download => result,
        () = upload => Ok(()),
    }
}
