//! Connections that are opened, get a few bytes, and stay open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::Tally;

/// The interval in which connections are opened.
const STEP: Duration = Duration::from_millis(20);
/// The timeout of a connection attempt.
const CONNECT: Duration = Duration::from_secs(5);

/// What is sent on a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// Nothing.
    Nothing,
    /// A request line and a header field, without the end of the head.
    PartialHead,
    /// The first bytes of a TLS ClientHello.
    PartialHello,
    /// A whole request. The connection is closed after the response.
    Request,
    /// A request for metrics. The connection is closed after the response.
    Scrape,
}

/// Connections that stay open. One that is closed is replaced.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connections {
    /// The addresses, in turn.
    pub targets: Vec<SocketAddr>,
    /// What is sent first.
    pub opening: Opening,
    /// How many are open at a time.
    pub open: usize,
    /// How many are opened each second.
    pub per_second: usize,
}

impl Opening {
    fn bytes(self, target: SocketAddr) -> Vec<u8> {
        match self {
            Opening::Nothing => Vec::new(),
            Opening::PartialHead => format!("GET / HTTP/1.1\r\nHost: {target}\r\nX-A: ").into_bytes(),
            // A record of 512 bytes of which the first 43 are there: a handshake message, a ClientHello of TLS 1.2, its random.
            Opening::PartialHello => [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 32][..]].concat(),
            Opening::Request => format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").into_bytes(),
            Opening::Scrape => {
                format!("GET /stats/prometheus HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").into_bytes()
            }
        }
    }
}

impl Connections {
    pub(super) async fn run(self, tally: &'static Tally) -> Result<()> {
        let slots = Arc::new(Semaphore::new(self.open));
        let step = (self.per_second as f64 * STEP.as_secs_f64()).max(0.1);
        let mut steps = tokio::time::interval(STEP);
        let (mut due, mut targets) = (0.0, self.targets.iter().copied().cycle());
        loop {
            steps.tick().await;
            due = (due + step).min(self.per_second as f64);
            while due >= 1.0 {
                due -= 1.0;
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { break };
                let (Some(target), opening) = (targets.next(), self.opening) else { return Ok(()) };
                tokio::spawn(async move {
                    hold(target, opening, tally).await;
                    drop(slot);
                });
            }
        }
    }
}

/// Opens a connection and reads until the other side closes it.
async fn hold(target: SocketAddr, opening: Opening, tally: &Tally) {
    let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await else {
        tally.refused.fetch_add(1, Relaxed);
        return;
    };
    tally.opened.fetch_add(1, Relaxed);
    let _ = stream.write_all(&opening.bytes(target)).await;
    let mut buffer = vec![0; 4096];
    let mut first = true;
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if std::mem::take(&mut first) && buffer.starts_with(b"HTTP/1.1 ") && length >= 12 {
            tally.answer(format!("status {}", String::from_utf8_lossy(&buffer[9..12])));
        }
    }
    tally.closed.fetch_add(1, Relaxed);
}
