//! Being told to stop: Ctrl-C, SIGTERM, and the end of the terminal.
//!
//! Signals are listened for before anything of a lab exists, so that none of them ends the process with something left behind, and
//! none is lost between two waits.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether this process was told to stop, and by which signal.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<Option<SignalKind>>);

impl Stop {
    /// Listens from now on, for as long as `runtime` lives. A hangup is left alone if whoever started the process had it ignored,
    /// as `nohup` does.
    pub(super) fn listen(runtime: &tokio::runtime::Runtime) -> std::io::Result<Self> {
        let _entered = runtime.enter();
        let (sender, receiver) = watch::channel(None);
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !hangup_is_ignored() {
            kinds.push(SignalKind::hangup());
        }
        for kind in kinds {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    sender.send_if_modified(|first| first.is_none() && first.replace(kind).is_none());
                }
            });
        }
        Ok(Self(receiver))
    }

    /// Waits until told, and gives the exit code that a shell would.
    pub(super) async fn told(&self) -> ExitCode {
        if self.0.clone().wait_for(Option::is_some).await.is_err() {
            // Nobody listens any more, so nothing will be told.
            return std::future::pending().await;
        }
        self.code()
    }

    /// Whether it was told already.
    pub(super) fn is_told(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Whether the signal is one that goes to this process alone, not to all that the terminal runs.
    pub(super) fn is_for_this_process(&self) -> bool {
        *self.0.borrow() == Some(SignalKind::terminate())
    }

    /// The exit code that a shell would give.
    pub(super) fn code(&self) -> ExitCode {
        let number = self.0.borrow().map_or(0, |kind| kind.as_raw_value());
        ExitCode::from(u8::try_from(128 + number).unwrap_or(1))
    }
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status)
}

/// Whether a process' status says that SIGHUP, number 1, is ignored (`proc_pid_status(5)`).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Says something on standard error. The terminal may be gone, which is no reason to leave anything undone.
pub(super) fn say(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_noticed() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000000001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    #[test]
    fn the_first_signal_counts() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let stop = Stop::listen(&runtime).expect("listening");
        assert!(!stop.is_told());
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
            rustix::process::kill_process(rustix::process::getpid(), signal).expect("sent");
            runtime.block_on(stop.told());
        }
        assert!(stop.is_told() && stop.is_for_this_process());
        assert_eq!(stop.code(), ExitCode::from(143));
    }
}
