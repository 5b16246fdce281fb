//! The ledger: which requests arrived at which server. Servers report each request over a Unix socket, which pods of a lab can reach
//! because they see the files of the machine, and learn which attempt of the request it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// A request as a server received it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The header that names the case and the request.
    pub id: String,
    /// The server's name.
    pub version: String,
    /// The method.
    pub method: String,
    /// The `Host` or `:authority`.
    pub host: String,
    /// The path with the query.
    pub path: String,
    /// The headers; repeated ones are joined.
    pub headers: BTreeMap<String, String>,
    /// How the server was reached.
    pub tls: String,
    /// The port of the server.
    #[serde(default)]
    pub port: u16,
}

/// The requests that arrived.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    seen: Arc<Mutex<BTreeMap<String, Vec<Seen>>>>,
}

impl Ledger {
    /// Serves the socket for as long as the runtime lives.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be bound.
    pub fn serve(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        let ledger = Self::default();
        let kept = ledger.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let (reads, mut writes) = stream.into_split();
                    let mut lines = BufReader::new(reads).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let Ok(seen) = serde_json::from_str(&line) else { return };
                        if writes.write_all(format!("{}\n", ledger.add(seen)).as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(kept)
    }

    /// Adds an arrival, and returns how many of the same request there were before.
    fn add(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_request = all.entry(seen.id.clone()).or_default();
        of_request.push(seen);
        of_request.len() - 1
    }

    /// Removes and returns what arrived of a request.
    pub fn take(&self, id: &str) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(id).unwrap_or_default()
    }
}

/// Reports an arrival, and returns which attempt of its request it is, from 0 on.
///
/// # Errors
/// Returns an error if the ledger does not answer.
pub async fn report(path: &Path, seen: &Seen) -> Result<usize> {
    let mut stream = BufReader::new(UnixStream::connect(path).await?);
    stream.write_all(format!("{}\n", serde_json::to_string(seen)?).as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim().parse()?)
}
