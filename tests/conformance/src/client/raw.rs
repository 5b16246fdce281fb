//! Requests whose head is sent as it is written: clients refuse some of what servers must bear.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{ID, Order, Reply};

/// The longest response.
const LONGEST: u64 = 1 << 20;

/// Sends a request of HTTP/1.1, and reads until the connection ends.
pub(super) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, order: &Order, n: u32) -> Result<Reply> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", order.method, order.path, order.host);
    for (name, value) in order.headers.iter().chain(&order.repeated) {
        _ = write!(head, "{name}: {value}\r\n");
    }
    _ = write!(head, "x-request-id: {id}.{n}\r\n{ID}: {id}.{n}\r\nconnection: close\r\n\r\n", id = order.id);
    stream.write_all(head.as_bytes()).await?;
    let mut response = Vec::new();
    (&mut stream).take(LONGEST).read_to_end(&mut response).await?;
    let response = String::from_utf8_lossy(&response).into_owned();
    let (head, body) = response.split_once("\r\n\r\n").context("closed without an answer")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let body = match headers.get("content-length") {
        Some(_) => body.to_owned(),
        None => String::new(),
    };
    Ok(Reply { status, headers, body, ..Reply::default() })
}
