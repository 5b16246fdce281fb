//! The nodes of a cluster, as far as the agent plays them: which there are, and which are made to fail.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// Patience with the agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node is made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its pods' processes are ended at once, nothing of it is told, no heartbeat is sent, nothing is started on it.
    Kill,
    /// It is back: its pods begin anew.
    Revive,
}

impl Fault {
    /// Its name in the agent's interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Revive => "revive",
        }
    }
}

/// Known nodes, and whether each is dead.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    held: Mutex<BTreeMap<String, watch::Sender<bool>>>,
}

impl Nodes {
    fn with<T>(&self, node: &str, act: impl FnOnce(&watch::Sender<bool>) -> T) -> T {
        let mut held = self.held.lock().expect("no holder of the lock panics");
        act(held.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(false)))
    }

    /// Notes that there is such a node.
    pub(super) fn add(&self, node: &str) {
        self.with(node, |_| ());
    }

    /// Tells whether a node is dead, now and as it changes.
    pub(super) fn follow(&self, node: &str) -> watch::Receiver<bool> {
        self.with(node, watch::Sender::subscribe)
    }

    pub(super) fn is_dead(&self, node: &str) -> bool {
        self.with(node, |dead| *dead.borrow())
    }

    /// Makes a node fail or come back. False when there is no such node.
    pub(super) fn order(&self, node: &str, fault: Fault) -> bool {
        let held = self.held.lock().expect("no holder of the lock panics");
        let Some(dead) = held.get(node) else { return false };
        dead.send_replace(fault == Fault::Kill);
        true
    }
}

/// Asks the agent that listens on `socket` to make a node fail or come back. Blocks for at most a few seconds.
///
/// # Errors
/// When the agent does not answer, or has no such node; the message says which.
pub fn order(socket: &Path, node: &str, fault: Fault) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = format!("/nodes/{node}/{}", fault.name());
    write!(stream, "POST {path} HTTP/1.1\r\nhost: node\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.split_whitespace().nth(1) == Some("200") {
        return Ok(());
    }
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    Err(io::Error::other(status["message"].as_str().unwrap_or("the node agent refused").to_owned()))
}
