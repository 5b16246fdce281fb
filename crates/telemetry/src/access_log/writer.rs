//! The thread that writes lines, and the handles that feed it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::metrics::{Counter, Family, Registry, Shared};

use super::date::Clock;
use super::{Format, Record};

/// Lines that may wait. At 400 bytes each this bounds the memory of a log that nobody reads to about 3 MB.
const QUEUE: usize = 8192;
/// Lines in one write; the kernel takes up to 1024 parts.
const BATCH: usize = 256;

const DROPPED: Family = Family {
    name: "isthmus_access_log_lines_dropped_total",
    help: "Access log lines lost because the log could not be written fast enough.",
    labels: &[],
};

enum Message {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// A log file, written by a thread of its own. Clones write to the same.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    dropped: Counter<Shared>,
}

impl Writer {
    /// Opens a file to append to; `/dev/stdout` and `/dev/stderr` are this process's own.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &str, registry: &Registry) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match path {
            "/dev/stdout" => Box::new(io::stdout()),
            "/dev/stderr" => Box::new(io::stderr()),
            path => Box::new(append(path)?),
        };
        Self::to(output, registry)
    }

    /// Writes to anything.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn to(output: impl Write + Send + 'static, registry: &Registry) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&lines, output))?;
        Ok(Self { queue, dropped: registry.shared().counter(&DROPPED, &[]) })
    }

    /// A handle for one worker.
    pub fn log(&self, format: Arc<Format>) -> Log {
        Log { writer: self.clone(), format, clock: RefCell::default() }
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Waits until what was logged before is written, at most `within`. Says whether it was.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(within).is_ok()
    }
}

fn append(path: &str) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("opening the access log {path}: {error}")))
}

/// One worker's way into a log.
#[derive(Debug)]
pub struct Log {
    writer: Writer,
    format: Arc<Format>,
    clock: RefCell<Clock>,
}

impl Log {
    /// Logs one request or connection. Never waits.
    pub fn write(&self, record: &Record<'_>) {
        // Istio's default line is about 350 bytes.
        let mut line = Vec::with_capacity(384);
        self.format.write(record, &mut self.clock.borrow_mut(), &mut line);
        if self.writer.queue.try_send(Message::Line(line)).is_err() {
            self.writer.dropped.increment();
        }
    }

    /// How its lines look.
    pub fn format(&self) -> &Format {
        &self.format
    }
}

/// Ends when the last handle is gone.
fn write_all(queue: &Receiver<Message>, mut output: impl Write) {
    let mut lines = Vec::with_capacity(BATCH);
    while let Ok(message) = queue.recv() {
        let mut flushes = Vec::new();
        let mut take = |message, lines: &mut Vec<Vec<u8>>| match message {
            Message::Line(line) => lines.push(line),
            Message::Flush(done) => flushes.push(done),
        };
        take(message, &mut lines);
        while lines.len() < BATCH {
            match queue.try_recv() {
                Ok(message) => take(message, &mut lines),
                Err(_) => break,
            }
        }
        if let Err(error) = write_vectored(&mut output, &lines).and_then(|()| output.flush()) {
            // The log is the one place that cannot be told through itself; a full disk must not flood the other.
            tracing::debug!(%error, "writing the access log");
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
