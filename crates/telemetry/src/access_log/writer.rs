//! The thread that writes access log lines, and the handles that queue lines for it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::metrics::{Counter, Family, Registry, Shared};

use super::date::StartTimes;
use super::{Format, Record};

/// The queue's capacity in lines. At 400 bytes per line it bounds the memory of a log that is not read to about 3 MB.
const QUEUE: usize = 8192;
/// The maximum number of lines in one write; the kernel accepts up to 1024 buffers.
const BATCH: usize = 256;

const DROPPED: Family = Family {
    name: "isthmus_access_log_lines_dropped_total",
    help: "Access log lines dropped because the queue was full.",
    labels: &[],
};

enum QueueItem {
    Line(Vec<u8>),
    /// Acknowledged when all lines before it are written.
    Flush(SyncSender<()>),
}

/// An access log file, written by a thread of its own. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<QueueItem>,
    dropped: Counter<Shared>,
}

impl Writer {
    /// Opens a file for appending; `/dev/stdout` and `/dev/stderr` stand for this process's streams.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub fn open(path: &str, registry: &Registry) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match path {
            "/dev/stdout" => Box::new(io::stdout()),
            "/dev/stderr" => Box::new(io::stderr()),
            path => Box::new(append(path)?),
        };
        Self::to(output, registry)
    }

    /// Creates a writer for any output.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    pub fn to(output: impl Write + Send + 'static, registry: &Registry) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&lines, output))?;
        Ok(Self { queue, dropped: registry.shared().counter(&DROPPED, &[]) })
    }

    /// Creates a handle for one worker.
    pub fn log(&self, format: Arc<Format>) -> Log {
        Log { writer: self.clone(), format, start_times: RefCell::default() }
    }

    /// Returns the number of dropped lines.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Waits until all queued lines are written, at most `within`. Returns whether they were written in time.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.try_send(QueueItem::Flush(done)).is_ok() && wait.recv_timeout(within).is_ok()
    }
}

fn append(path: &str) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open the access log {path}: {error}")))
}

/// One worker's handle to an access log.
#[derive(Debug)]
pub struct Log {
    writer: Writer,
    format: Arc<Format>,
    start_times: RefCell<StartTimes>,
}

impl Log {
    /// Logs one request or connection. Never blocks.
    pub fn write(&self, record: &Record<'_>) {
        // Istio's default line is about 350 bytes.
        let mut line = Vec::with_capacity(384);
        self.format.write(record, &mut self.start_times.borrow_mut(), &mut line);
        if self.writer.queue.try_send(QueueItem::Line(line)).is_err() {
            self.writer.dropped.increment();
        }
    }

    /// Returns the format of the lines.
    pub fn format(&self) -> &Format {
        &self.format
    }
}

/// Writes queued lines until the last handle is dropped.
fn write_all(queue: &Receiver<QueueItem>, mut output: impl Write) {
    let mut lines = Vec::with_capacity(BATCH);
    while let Ok(message) = queue.recv() {
        let mut flushes = Vec::new();
        let mut take = |message, lines: &mut Vec<Vec<u8>>| match message {
            QueueItem::Line(line) => lines.push(line),
            QueueItem::Flush(done) => flushes.push(done),
        };
        take(message, &mut lines);
        while lines.len() < BATCH {
            match queue.try_recv() {
                Ok(message) => take(message, &mut lines),
                Err(_) => break,
            }
        }
        if let Err(error) = write_vectored(&mut output, &lines).and_then(|()| output.flush()) {
            // At debug level, so that a full disk does not flood the process log.
            tracing::debug!(%error, "cannot write the access log");
        }
        lines.clear();
        for done in flushes {
            let _ = done.send(());
        }
    }
}

fn write_vectored(output: &mut impl Write, lines: &[Vec<u8>]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = lines.iter().map(|line| IoSlice::new(line)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match output.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
