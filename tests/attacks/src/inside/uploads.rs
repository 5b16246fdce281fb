//! Uploads over HTTP/2 to an application that does not read them.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Tally;

/// The bytes of one frame.
const FRAME: usize = 16 * 1024;
/// The pause before a connection that ended is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// Uploads that go on as far as flow control lets them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Uploads {
    /// The address of the application.
    pub target: SocketAddr,
    /// The number of connections.
    pub connections: usize,
    /// The uploads on each.
    pub streams: usize,
}

impl Uploads {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let (target, streams) = (self.target, self.streams);
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            connections.spawn(async move {
                loop {
                    if let Err(error) = connection(target, streams, tally).await {
                        tally.answer(error.to_string());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        connections.join_all().await;
        Ok(())
    }
}

async fn connection(target: SocketAddr, streams: usize, tally: &Tally) -> Result<()> {
    let connected = TcpStream::connect(target).await;
    let stream = connected.inspect_err(|_| {
        tally.refused.fetch_add(1, Relaxed);
    })?;
    tally.opened.fetch_add(1, Relaxed);
    let (sender, connection) = h2::client::handshake(stream).await?;
    let mut uploads = JoinSet::new();
    for _ in 0..streams {
        let sender = sender.clone();
        uploads.spawn(async move { upload(sender, target).await });
    }
    drop(sender);
    let ended = connection.await;
    tally.closed.fetch_add(1, Relaxed);
    uploads.shutdown().await;
    Ok(ended?)
}

/// Sends a body without end. The application reads it after ten minutes.
async fn upload(sender: h2::client::SendRequest<Bytes>, target: SocketAddr) -> Result<()> {
    let request = http::Request::post(format!("http://{target}/?delay=600000")).body(())?;
    let (response, mut body) = sender.ready().await?.send_request(request, false)?;
    let sending = async {
        loop {
            body.reserve_capacity(FRAME);
            let Some(capacity) = std::future::poll_fn(|context| body.poll_capacity(context)).await else { return };
            let Ok(length) = capacity else { return };
            if length > 0 && body.send_data(Bytes::from(vec![0; length.min(FRAME)]), false).is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        response = response => drop(response?),
    }
    Ok(())
}
