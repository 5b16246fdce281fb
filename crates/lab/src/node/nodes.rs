//! The nodes of a cluster, and faults that are injected into them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fault of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFault {
    /// Kills the processes of the node's pods. Nothing is reported, no heartbeat is sent and nothing is started on the
    /// node.
    Kill,
    /// Ends the fault: the node's pods start again.
    Revive,
}

impl NodeFault {
    /// Returns the name of the fault in the agent's interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Revive => "revive",
        }
    }
}

/// The known nodes, and whether each is killed.
#[derive(Debug, Default)]
pub(super) struct NodeFaults {
    held: Mutex<BTreeMap<String, watch::Sender<bool>>>,
}

impl NodeFaults {
    fn with<T>(&self, node: &str, act: impl FnOnce(&watch::Sender<bool>) -> T) -> T {
        let mut held = self.held.lock().expect("no holder of the lock panics");
        act(held.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(false)))
    }

    /// Adds a node.
    pub(super) fn add(&self, node: &str) {
        self.with(node, |_| ());
    }

    /// Returns a receiver of whether a node is killed.
    pub(super) fn follow(&self, node: &str) -> watch::Receiver<bool> {
        self.with(node, watch::Sender::subscribe)
    }

    pub(super) fn is_dead(&self, node: &str) -> bool {
        self.with(node, |dead| *dead.borrow())
    }

    /// Returns the nodes that are not killed.
    pub(super) fn running(&self) -> Vec<String> {
        let held = self.held.lock().expect("no holder of the lock panics");
        held.iter().filter(|(_, dead)| !*dead.borrow()).map(|(node, _)| node.clone()).collect()
    }

    /// Injects a fault into a node. Returns false if there is no such node.
    pub(super) fn inject(&self, node: &str, fault: NodeFault) -> bool {
        let held = self.held.lock().expect("no holder of the lock panics");
        let Some(dead) = held.get(node) else { return false };
        dead.send_replace(fault == NodeFault::Kill);
        true
    }
}

/// Injects a fault into a node through the agent that listens on `socket`. Blocks for a few seconds at most.
///
/// # Errors
/// Returns an error if the agent does not answer or has no such node.
pub fn inject(socket: &Path, node: &str, fault: NodeFault) -> io::Result<()> {
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
    Err(io::Error::other(status["message"].as_str().unwrap_or("the node agent refused the request").to_owned()))
}
