//! Reading a run's log: the whole or a part of it, optionally as it grows.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, watch};

use super::file::{LogProgress, set_aside};
use crate::timestamp;

/// Length of a record's time.
const TIME: usize = 30;

/// The part of a log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Whether to follow the log until its run ends.
    pub follow: bool,
    /// Number of lines from the end; `None` is all lines.
    pub tail: Option<usize>,
    /// Whether to begin each line with its time.
    pub timestamps: bool,
    /// Greatest age of a line.
    pub since: Option<Duration>,
    /// Most bytes to send.
    pub limit: Option<u64>,
}

/// Sends the requested part of a log in chunks. Ends early if the receiver is dropped.
///
/// # Errors
/// Returns an error if the file cannot be read. A log that does not exist yet is empty.
pub async fn stream(
    path: PathBuf,
    query: LogQuery,
    mut progress: Option<watch::Receiver<LogProgress>>,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let since = query.since.map(|age| {
        let from = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        timestamp::nanoseconds(from)
    });
    let mut shown = LogOutput { query: &query, since, left: query.limit.unwrap_or(u64::MAX), out };
    let mut rotations = progress.as_mut().map_or(0, |progress| progress.borrow_and_update().rotations);
    let mut last = query.tail.map(|lines| (VecDeque::new(), lines));
    let mut reader = None;
    for part in [set_aside(&path), path.clone()] {
        let Some(mut opened) = open(&part).await? else { continue };
        loop {
            let mut record = Vec::new();
            if opened.read_until(b'\n', &mut record).await? == 0 {
                break;
            }
            match &mut last {
                Some((kept, lines)) => {
                    kept.push_back(record);
                    if kept.len() > *lines {
                        kept.pop_front();
                    }
                }
                None if !shown.send(&record).await => return Ok(()),
                None => {}
            }
        }
        reader = Some(opened);
    }
    for record in last.take().into_iter().flat_map(|(kept, _)| kept) {
        if !shown.send(&record).await {
            return Ok(());
        }
    }
    let Some(mut progress) = progress.filter(|_| query.follow) else { return Ok(()) };
    loop {
        let now = *progress.borrow_and_update();
        if reader.is_none() {
            reader = open(&path).await?;
        }
        if let Some(open) = &mut reader {
            loop {
                let mut record = Vec::new();
                if open.read_until(b'\n', &mut record).await? == 0 {
                    break;
                }
                if !shown.send(&record).await {
                    return Ok(());
                }
            }
        }
        if now.rotations != rotations {
            // The rest of the rotated file has been read above.
            rotations = now.rotations;
            reader = None;
            continue;
        }
        if now.ended {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = shown.out.closed() => return Ok(()),
        }
    }
}

async fn open(path: &Path) -> io::Result<Option<BufReader<tokio::fs::File>>> {
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct LogOutput<'a> {
    query: &'a LogQuery,
    since: Option<String>,
    left: u64,
    out: mpsc::Sender<Bytes>,
}

impl LogOutput<'_> {
    /// Sends one record in the requested form. Returns whether more records are requested.
    async fn send(&mut self, record: &[u8]) -> bool {
        let Some((time, text)) = parse(record) else { return true };
        if self.since.as_ref().is_some_and(|since| time < since.as_bytes()) {
            return true;
        }
        let mut line = Vec::with_capacity(record.len());
        if self.query.timestamps {
            line.extend_from_slice(time);
            line.push(b' ');
        }
        line.extend_from_slice(text.bytes);
        if text.whole {
            line.push(b'\n');
        }
        line.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= line.len() as u64;
        self.out.send(line.into()).await.is_ok() && self.left > 0
    }
}

struct RecordText<'a> {
    bytes: &'a [u8],
    whole: bool,
}

/// Splits a record into time and text.
fn parse(record: &[u8]) -> Option<(&[u8], RecordText<'_>)> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let (time, rest) = (record.get(..TIME)?, record.get(TIME + 1..)?);
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let whole = *rest.get(space + 1)? == b'F';
    Some((time, RecordText { bytes: rest.get(space + 3..)?, whole }))
}

#[cfg(test)]
mod tests {
    use super::super::{keep, path, pipe};
    use super::*;
    use std::io::Write;

    async fn collect(path: &Path, query: LogQuery, progress: Option<watch::Receiver<LogProgress>>) -> String {
        let (sender, mut pieces) = mpsc::channel(4);
        let path = path.to_owned();
        let reading = tokio::spawn(async move { stream(path, query, progress, sender).await.unwrap() });
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend_from_slice(&piece);
        }
        reading.await.unwrap();
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn the_requested_part_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let file = path(directory.path(), "main", 0);
        let (output, output_reader) = pipe().unwrap();
        let (error, error_reader) = pipe().unwrap();
        let progress = watch::Sender::new(LogProgress::default());
        let mut receiver = progress.subscribe();
        let keeping = tokio::spawn(keep(file.clone(), output_reader, error_reader, progress));
        let following = LogQuery { follow: true, ..LogQuery::default() };
        let followed = {
            let (file, receiver) = (file.clone(), receiver.clone());
            tokio::spawn(async move { collect(&file, following, Some(receiver)).await })
        };
        let mut output = std::fs::File::from(output);
        output.write_all(b"one\ntwo\nthr").unwrap();
        receiver.wait_for(|progress| progress.written > 0).await.unwrap();
        output.write_all(b"ee\nno end").unwrap();
        drop((output, error));
        keeping.await.unwrap();
        assert_eq!(followed.await.unwrap(), "one\ntwo\nthree\nno end");

        let query = |query: LogQuery| collect(&file, query, None);
        assert_eq!(query(LogQuery { tail: Some(2), ..LogQuery::default() }).await, "three\nno end");
        assert_eq!(query(LogQuery { limit: Some(5), ..LogQuery::default() }).await, "one\nt");
        assert_eq!(query(LogQuery { since: Some(Duration::ZERO), ..LogQuery::default() }).await, "");
        let timed = query(LogQuery { timestamps: true, tail: Some(4), ..LogQuery::default() }).await;
        assert!(timed.lines().next().unwrap().ends_with("Z one"), "{timed}");
        assert_eq!(collect(&directory.path().join("none"), LogQuery::default(), None).await, "");
    }
}
