//! Open connections without traffic.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;

use super::Shape;
use super::drive::{self, Caller};
use super::passthrough::{self, Payload, Traffic};

/// The number of connections that are checked at the same time.
const CHECKED: usize = 64;

/// Idle connections. They are closed when dropped.
#[derive(Debug)]
pub struct IdleConnections {
    check: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<usize>>>,
}

/// Opens the connections of a shape, runs one exchange on each, and keeps them open.
///
/// # Errors
///
/// Returns an error if a connection cannot be opened or has no correct response.
pub fn idle(target: SocketAddr, authority: &str, shape: Shape) -> Result<IdleConnections> {
    let authority = authority.to_owned();
    hold(move || shape.callers(target, &authority))
}

/// Opens connections through a gateway that routes by server name, and keeps them open.
///
/// # Errors
///
/// Returns an error as [`idle`] does.
pub fn idle_passthrough(target: SocketAddr, payload: &Payload, connections: usize) -> Result<IdleConnections> {
    let payload = payload.clone();
    hold(move || Ok(passthrough::callers(target, &payload, Traffic::Kept, connections)))
}

fn hold<L: Caller>(make: impl FnOnce() -> Result<Vec<L>> + Send + 'static) -> Result<IdleConnections> {
    let (opened, is_open) = std::sync::mpsc::sync_channel(1);
    let (check, checked_now) = oneshot::channel();
    let hold = move || {
        drive::runtime()?.block_on(async {
            let callers = drive::open(make()?).await?;
            opened.send(()).ok();
            if checked_now.await.is_err() {
                return Ok(0);
            }
            let checked = stream::iter(callers).map(|mut caller| async move { caller.exchange().await.is_ok() });
            Ok(checked.buffer_unordered(CHECKED).filter(|there| std::future::ready(*there)).count().await)
        })
    };
    let thread = thread::Builder::new().name("idle".into()).spawn(hold).context("starting a thread")?;
    let connections = IdleConnections { check: Some(check), thread: Some(thread) };
    match is_open.recv() {
        Ok(()) => Ok(connections),
        Err(_) => connections.count().and(Err(anyhow!("the connections were closed while they were being opened"))),
    }
}

impl IdleConnections {
    /// Runs one more exchange on each connection, and closes them. Returns the number of connections that still worked.
    ///
    /// # Errors
    ///
    /// Returns an error if the connections could not be opened.
    pub fn count(mut self) -> Result<usize> {
        if let Some(check) = self.check.take() {
            let _ = check.send(());
        }
        let thread = self.thread.take().context("the thread of idle connections has ended")?;
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread of idle connections panicked")))
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        drop(self.check.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
