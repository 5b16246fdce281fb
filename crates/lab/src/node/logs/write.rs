//! Writing a run's log.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::file::{LogProgress, set_aside};
use crate::timestamp;

/// Bytes after which the file is rotated. One rotated file is kept, so a run keeps at most twice this.
const ROTATE_AT: u64 = 10 << 20;
/// Longest part of a line in one record, in bytes.
const LONGEST: usize = 16 << 10;
/// Creates a pipe: the end for a program to write to, and the end for [`keep`] to read.
pub(in crate::node) fn pipe() -> io::Result<(OwnedFd, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    Ok((writer.into(), reader))
}

/// Writes the output of a run to its log, until both pipes are closed. `progress` ends with `ended`.
pub(in crate::node) async fn keep(
    file: PathBuf,
    output: pipe::Receiver,
    error: pipe::Receiver,
    progress: watch::Sender<LogProgress>,
) {
    let (sender, records) = mpsc::channel(64);
    let both = async {
        tokio::join!(split(output, "stdout", sender.clone()), split(error, "stderr", sender));
    };
    let written = write(&file, records, &progress);
    if let ((), Err(error)) = tokio::join!(both, written) {
        tracing::warn!(file = %file.display(), %error, "cannot write a container's log");
    }
    progress.send_modify(|progress| progress.ended = true);
}

/// Splits a stream into records.
async fn split(mut from: pipe::Receiver, name: &'static str, records: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; LONGEST];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let mut batch = Vec::new();
        for piece in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    line.extend_from_slice(end);
                    record(&mut batch, name, b'F', &line);
                    line.clear();
                }
                None => line.extend_from_slice(piece),
            }
            if line.len() >= LONGEST {
                record(&mut batch, name, b'P', &line);
                line.clear();
            }
        }
        if length == 0 && !line.is_empty() {
            // The last line has no end.
            record(&mut batch, name, b'P', &line);
        }
        // If writing has failed, the output is read and dropped, so that the program never blocks on it.
        if !batch.is_empty() {
            let _ = records.send(batch).await;
        }
        if length == 0 {
            return;
        }
    }
}

fn record(out: &mut Vec<u8>, stream: &str, tag: u8, text: &[u8]) {
    out.extend_from_slice(timestamp::nanoseconds(Timestamp::now()).as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

async fn write(
    path: &Path,
    mut records: mpsc::Receiver<Vec<u8>>,
    progress: &watch::Sender<LogProgress>,
) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).await?;
    }
    let mut file = File::create(path).await?;
    let mut size = 0;
    while let Some(batch) = records.recv().await {
        if size >= ROTATE_AT {
            fs::rename(path, set_aside(path)).await?;
            file = File::create(path).await?;
            size = 0;
            progress.send_modify(|progress| progress.rotations += 1);
        }
        file.write_all(&batch).await?;
        file.flush().await?;
        size += batch.len() as u64;
        progress.send_modify(|progress| progress.written += batch.len() as u64);
    }
    Ok(())
}
