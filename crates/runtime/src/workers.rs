//! Worker threads: each an OS thread with a single-threaded runtime of its own, so that what serves a connection never
//! crosses threads and needs no locks.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

mod quota;

pub use quota::{Cpus, choose};

/// How many workers this process should have: what was asked for, else the processors that it may use, by affinity and
/// cgroup quota, but no more than `at_most`.
pub fn count(asked: Option<usize>, at_most: usize) -> usize {
    choose(asked, &Cpus::of_this_process(), at_most)
}

/// Workers that run. Dropping it does not stop them.
#[derive(Debug)]
pub struct Workers {
    alive: mpsc::Receiver<()>,
}

/// Starts `count` threads. Each calls `start` with its number and runs the returned future, and what that spawns with
/// `tokio::task::spawn_local`, until the future ends.
///
/// A worker that panics ends the process: its share of the connections would be accepted by no one. (A panic inside a
/// spawned task ends that task only.)
pub fn spawn<F, W>(count: usize, start: F) -> io::Result<Workers>
where
    F: Fn(usize) -> W + Send + Clone + 'static,
    W: Future<Output = ()>,
{
    let (keep, alive) = mpsc::channel(1);
    for worker in 0..count {
        let (start, keep) = (start.clone(), keep.clone());
        // The runtime is made before the thread reports, so that a shortage is an error here, not a panic there.
        let (report, made) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
            let _guard = EndProcessOnPanic;
            let mut builder = Builder::new_current_thread();
            builder.enable_all().on_thread_park(net::allocator::before_waiting);
            let runtime = match builder.build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(()));
            runtime.block_on(start(worker));
            drop(keep);
        })?;
        made.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended before it began")))?;
    }
    Ok(Workers { alive })
}

impl Workers {
    /// Returns when all workers have ended.
    pub async fn finished(&mut self) {
        // Nothing is ever sent: this waits for the last sender to be dropped.
        while self.alive.recv().await.is_some() {}
    }
}

struct EndProcessOnPanic;

impl Drop for EndProcessOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("isthmus: a worker thread failed (see above), so the process ends");
            std::process::exit(70);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::rc::Rc;
    use std::sync::Mutex;

    #[test]
    fn workers_run_local_tasks_on_their_own_threads() {
        static SEEN: Mutex<Vec<(usize, thread::ThreadId)>> = Mutex::new(Vec::new());
        let mut workers = spawn(3, |worker| async move {
            let here = Rc::new(thread::current().id());
            let there = Rc::clone(&here);
            let id = tokio::task::spawn_local(async move {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                assert_eq!(*there, thread::current().id());
                *there
            });
            let id = id.await.unwrap();
            SEEN.lock().unwrap().push((worker, id));
        })
        .unwrap();
        Builder::new_current_thread().build().unwrap().block_on(workers.finished());
        let mut seen = SEEN.lock().unwrap().clone();
        seen.sort_by_key(|(worker, _)| *worker);
        assert_eq!(seen.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(seen[0].1 != seen[1].1 && seen[1].1 != seen[2].1);
    }

    /// Runs itself as a child process, since a worker's panic ends the process.
    #[test]
    fn a_panicking_worker_ends_the_process() {
        const CHILD: &str = "ISTHMUS_TEST_PANICKING_WORKER";
        if std::env::var_os(CHILD).is_some() {
            let _workers = spawn(2, async |worker| match worker {
                0 => panic!("worker 0 fails"),
                _ => std::future::pending().await,
            });
            thread::sleep(std::time::Duration::from_secs(30));
            std::process::exit(0);
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::tests::a_panicking_worker_ends_the_process"])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(70));
    }
}
