//! Waiting for an answer: for a bounded time, with a line that says what for.

use std::io::IsTerminal as _;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::print_stderr;

/// How long a command waits before it shows what for. A faster answer needs no line.
const NOTICE: Duration = Duration::from_millis(1500);

/// The time that a command may take in all.
#[derive(Debug, Clone)]
pub struct Patience {
    start: Instant,
    limit: Duration,
    advice: String,
}

/// No answer came in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer from {from} within {limit:?}")]
pub struct NoAnswer {
    /// Who did not answer.
    pub from: String,
    /// The time that the command may take.
    pub limit: Duration,
    /// What to do.
    pub advice: String,
}

impl Patience {
    /// Creates the patience of a command that starts now. `advice` says what to do if there is no answer.
    #[must_use]
    pub fn new(limit: Duration, advice: impl Into<String>) -> Self {
        Self { start: Instant::now(), limit, advice: advice.into() }
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the time that is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Reports whether the time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// Awaits `answer` of `from` until the time is over, and shows that after a moment.
    ///
    /// # Errors
    /// Returns an error if the time is over first.
    pub async fn answer<T>(&self, from: &str, answer: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let _shown = Waiting::show(format!("{from}, at most {:?}", self.limit));
        let left = self.left();
        tokio::time::timeout(left, answer).await.map_err(|_| NoAnswer {
            from: from.to_owned(),
            limit: self.limit,
            advice: self.advice.clone(),
        })
    }
}

/// Shows on standard error what a command waits for, from a moment after its creation until it is dropped: on a
/// terminal with the time since then, elsewhere once.
pub struct Waiting {
    ended: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Shows `what` is waited for.
    #[must_use]
    pub fn show(what: String) -> Self {
        let (ended, is_ended) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("waiting".into()).spawn(move || {
            if is_ended.recv_timeout(NOTICE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _line = line(&what);
                // The sender never sends: this returns when it is dropped.
                let _ = is_ended.recv();
            }
        });
        // Without a thread the line is missing, and nothing else.
        Self { ended: Some(ended), thread: thread.ok() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.ended.take());
        // The line is gone before anything else is printed.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Shows the line. On a terminal it is removed when the result is dropped.
fn line(what: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        print_stderr(&format!("waiting for {what}"));
        return None;
    }
    let style = ProgressStyle::with_template("{spinner} waiting for {wide_msg} {elapsed}");
    let bar = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear).with_elapsed(NOTICE);
    // The template is a valid constant.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    Some(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_answer_shares_the_time_of_the_command() {
        let patience = Patience::new(Duration::from_millis(200), "check that it runs");
        assert_eq!(patience.answer("a", async { 7 }).await, Ok(7));
        let error = patience.answer("a silent server", std::future::pending::<()>()).await.expect_err("no answer");
        assert_eq!(error.to_string(), "no answer from a silent server within 200ms");
        assert_eq!(error.advice, "check that it runs");
    }
}
