//! Connections that are open and do nothing.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;

use super::Shape;
use super::drive::{self, Lane};
use super::passthrough::{self, Use, Way};

/// How many are asked at a time whether they are still there.
const ASKED: usize = 64;

/// Connections that stay open until this is dropped.
#[derive(Debug)]
pub struct Held {
    tell: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<usize>>>,
}

/// Opens as many connections as the shape has, each with one request answered, and holds them.
///
/// # Errors
/// One could not be opened or had no right answer.
pub fn idle(target: SocketAddr, authority: &str, shape: Shape) -> Result<Held> {
    let authority = authority.to_owned();
    hold(move || shape.lanes(target, &authority))
}

/// The same through what routes by server name.
///
/// # Errors
/// As [`idle`].
pub fn idle_passthrough(target: SocketAddr, way: &Way, connections: usize) -> Result<Held> {
    let way = way.clone();
    hold(move || Ok(passthrough::lanes(target, &way, Use::Kept, connections)))
}

fn hold<L: Lane>(make: impl FnOnce() -> Result<Vec<L>> + Send + 'static) -> Result<Held> {
    let (opened, is_open) = std::sync::mpsc::sync_channel(1);
    let (tell, told) = oneshot::channel();
    let hold = move || {
        drive::runtime()?.block_on(async {
            let lanes = drive::open(make()?).await?;
            opened.send(()).ok();
            if told.await.is_err() {
                return Ok(0);
            }
            let asked = stream::iter(lanes).map(|mut lane| async move { lane.exchange().await.is_ok() });
            Ok(asked.buffer_unordered(ASKED).filter(|there| std::future::ready(*there)).count().await)
        })
    };
    let thread = thread::Builder::new().name("idle".into()).spawn(hold).context("starting a thread")?;
    let held = Held { tell: Some(tell), thread: Some(thread) };
    match is_open.recv() {
        Ok(()) => Ok(held),
        Err(_) => held.count().and(Err(anyhow!("the connections ended before they were open"))),
    }
}

impl Held {
    /// Sends one request more on each and closes them. Returns how many were still there to answer.
    ///
    /// # Errors
    /// They could not be opened.
    pub fn count(mut self) -> Result<usize> {
        if let Some(tell) = self.tell.take() {
            let _ = tell.send(());
        }
        let thread = self.thread.take().context("the thread that holds connections")?;
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that holds connections panicked")))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.tell.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
