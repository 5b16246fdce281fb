//! The generator's thread: a single-threaded runtime with one task for each caller.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::oneshot;

use super::outcome::{Counted, Tally, Window};
use super::pace::Queue;
use super::{Edge, Failure, Outcome, Timing};

/// The number of callers that open their connections at the same time.
const OPENING: usize = 64;
/// The deadline for a caller's first successful exchange, over all attempts.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The pause after a failure before the same caller's next attempt, so that a server that refuses at once causes no busy
/// loop.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A client with at most one request in flight.
pub trait Caller: 'static {
    /// Sends a request and reads its response, on a new connection if there is none. Returns the number of bytes received.
    fn exchange(&mut self) -> impl Future<Output = Result<u64, Failure>>;
}

/// When a caller sends its next request.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as the response to the last one is complete.
    Closed,
    /// When a request is due at this rate per second, over all callers.
    Open(f64),
}

/// A single-threaded runtime for the calling thread.
pub fn runtime() -> Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).context("creating a runtime")
}

/// Runs the callers that `make` creates on the generator's thread.
pub fn drive<L: Caller>(
    make: impl FnOnce() -> Result<Vec<L>> + Send,
    pace: Pace,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    let window = Arc::new(Window::new());
    thread::scope(|scope| {
        let (opened, is_open) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let of_generator = Arc::clone(&window);
        let generator = thread::Builder::new()
            .name("load".into())
            .spawn_scoped(scope, move || generate(make, pace, &of_generator, &opened, stopped))
            .context("starting the generator's thread")?;
        if is_open.recv().is_ok() {
            thread::sleep(timing.warm_up);
            edge(Edge::Begin);
            window.begin();
            thread::sleep(timing.duration);
            window.end();
            edge(Edge::End);
            let _ = stop.send(());
        }
        generator.join().unwrap_or_else(|_| Err(anyhow!("the generator panicked")))
    })
}

fn generate<L: Caller>(
    make: impl FnOnce() -> Result<Vec<L>>,
    pace: Pace,
    window: &Arc<Window>,
    opened: &mpsc::SyncSender<()>,
    stopped: oneshot::Receiver<()>,
) -> Result<Outcome> {
    runtime()?.block_on(async {
        let callers = open(make()?).await?;
        let counted = if let Pace::Open(_) = pace { Counted::Due } else { Counted::Answered };
        let tally = Rc::new(Tally::new(Arc::clone(window), counted, callers.len()));
        let queue = Rc::new(Queue::default());
        for (number, caller) in callers.into_iter().enumerate() {
            let (tally, queue) = (Rc::clone(&tally), Rc::clone(&queue));
            match pace {
                Pace::Closed => tokio::task::spawn_local(closed(caller, number, tally)),
                Pace::Open(_) => tokio::task::spawn_local(due(caller, number, tally, queue)),
            };
        }
        opened.send(()).ok();
        match pace {
            Pace::Closed => stopped.await.ok(),
            Pace::Open(rate) => tokio::select! {
                biased;
                stopped = stopped => stopped.ok(),
                error = queue.fill(rate) => return Err(error.err().map_or_else(|| anyhow!("the timer ended"), Into::into)),
            },
        };
        Ok(tally.outcome(queue.drain().into_iter()))
    })
}

/// Runs one exchange of each caller.
pub async fn open<L: Caller>(callers: Vec<L>) -> Result<Vec<L>> {
    stream::iter(callers.into_iter().map(open_one)).buffer_unordered(OPENING).try_collect().await
}

async fn open_one<L: Caller>(mut caller: L) -> Result<L> {
    let start = Instant::now();
    loop {
        match tokio::time::timeout(OPEN_WITHIN, caller.exchange()).await {
            Ok(Ok(_)) => return Ok(caller),
            Ok(Err(_)) if start.elapsed() < OPEN_WITHIN => tokio::time::sleep(5 * AFTER_FAILURE).await,
            Ok(Err(failure)) => return Err(failure).context("the first exchange of a connection"),
            Err(_) => return Err(Failure::Silence(OPEN_WITHIN)).context("the first exchange of a connection"),
        }
    }
}

async fn closed<L: Caller>(mut caller: L, number: usize, tally: Rc<Tally>) {
    loop {
        tally.begin(number, Instant::now());
        exchange(&mut caller, number, &tally).await;
    }
}

async fn due<L: Caller>(mut caller: L, number: usize, tally: Rc<Tally>, queue: Rc<Queue>) {
    loop {
        tally.begin(number, queue.next().await);
        exchange(&mut caller, number, &tally).await;
    }
}

async fn exchange<L: Caller>(caller: &mut L, number: usize, tally: &Tally) {
    let result = caller.exchange().await;
    tally.finish(number, &result);
    if result.is_err() {
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}
