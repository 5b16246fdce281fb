//! Signals that stop a lab: Ctrl-C, SIGTERM, and the end of the terminal.
//!
//! The handlers are installed before anything of a lab exists, so no signal ends the process before it has cleaned up,
//! and none is lost between two waits.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The signal that stopped this process, once there is one.
#[derive(Debug, Clone)]
pub(super) struct StopSignal(watch::Receiver<Option<SignalKind>>);

impl StopSignal {
    /// Installs the handlers for as long as `runtime` lives. SIGHUP keeps being ignored if the parent ignored it, as
    /// `nohup` does.
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

    /// Waits for a signal. Returns the exit code of a shell for it.
    pub(super) async fn received(&self) -> ExitCode {
        if self.0.clone().wait_for(Option::is_some).await.is_err() {
            // The runtime has ended: no signal will arrive.
            return std::future::pending().await;
        }
        self.code()
    }

    /// Reports whether a signal has arrived.
    pub(super) fn is_received(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Reports whether the signal was sent to this process only, and not to all processes of the terminal.
    pub(super) fn is_for_this_process(&self) -> bool {
        *self.0.borrow() == Some(SignalKind::terminate())
    }

    /// Returns the exit code of a shell for the signal.
    pub(super) fn code(&self) -> ExitCode {
        let number = self.0.borrow().map_or(0, |kind| kind.as_raw_value());
        ExitCode::from(u8::try_from(128 + number).unwrap_or(1))
    }
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status)
}

/// Reports whether a process ignores SIGHUP, signal 1, according to its status (`proc_pid_status(5)`).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_detected() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000000001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    #[test]
    fn the_first_signal_counts() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let stop = StopSignal::listen(&runtime).expect("listening");
        assert!(!stop.is_received());
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
            rustix::process::kill_process(rustix::process::getpid(), signal).expect("sent");
            runtime.block_on(stop.received());
        }
        assert!(stop.is_received() && stop.is_for_this_process());
        assert_eq!(stop.code(), ExitCode::from(143));
    }
}
