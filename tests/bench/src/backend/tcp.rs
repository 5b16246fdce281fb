//! Services over TCP and TLS.

use std::fs::File;
use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use super::Shared;
use crate::load::{read_with, tls};

/// Echoes all bytes.
pub(super) async fn echo(mut stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    // Bytes that could not be written at once; none if messages are short.
    let mut left = Vec::new();
    loop {
        let (mut reader, mut writer) = stream.split();
        let ended = read_with(&mut reader, &shared.scratch, |bytes| {
            if bytes.is_empty() {
                return true;
            }
            let sent = writer.try_write(bytes).unwrap_or(0);
            left.extend_from_slice(&bytes[sent..]);
            false
        });
        if ended.await? {
            return Ok(());
        }
        if !left.is_empty() {
            writer.write_all(&left).await?;
            left.clear();
        }
    }
}

/// Reads numbers of eight bytes each, and sends as many bytes as each number says.
pub(super) async fn source(mut stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    while let Ok(wanted) = stream.read_u64().await {
        send(&stream, &shared.file, shared.bytes.len(), wanted).await?;
    }
    Ok(())
}

/// Skips a ClientHello, then is a [`source`] without TLS. A gateway reads nothing but the hello, so this measures the gateway
/// without the cost of cryptography in the server.
pub(super) async fn behind_hello(mut stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    let mut header = [0; tls::RECORD_HEADER];
    stream.read_exact(&mut header).await?;
    let mut hello = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut hello).await?;
    drop(hello);
    source(stream, shared).await
}

/// A [`source`] over TLS.
pub(super) async fn in_tls(stream: TcpStream, acceptor: tls::Acceptor, shared: Rc<Shared>) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    while let Ok(mut left) = stream.read_u64().await {
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(shared.bytes.len());
            stream.write_all(&shared.bytes[..part]).await?;
            left -= part as u64;
        }
        stream.flush().await?;
    }
    Ok(())
}

/// Sends without copying: the file is in memory, and the socket references its pages (sendfile(2)).
async fn send(stream: &TcpStream, file: &File, size: usize, mut left: u64) -> Result<()> {
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        let sent = stream.async_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, file, Some(&mut 0), part)?));
        left -= sent.await? as u64;
    }
    Ok(())
}
