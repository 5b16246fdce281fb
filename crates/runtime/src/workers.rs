//! Worker threads: OS threads with a single-threaded runtime each. A connection stays on one worker, so that serving it
//! needs no locks.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

mod quota;

pub use quota::{Cpus, choose, memory_limit};

/// Returns the number of workers for this process: the requested number, or the number of usable processors by CPU
/// affinity and cgroup quota, up to `at_most`.
pub fn count(requested: Option<usize>, at_most: usize) -> usize {
    choose(requested, &Cpus::of_this_process(), at_most)
}

/// A set of running workers. Dropping it does not stop them.
#[derive(Debug)]
pub struct Workers {
    alive: mpsc::Receiver<()>,
}

/// Starts `count` worker threads. Each worker calls `start` with its index and runs the returned future, and the tasks
/// that it spawns with `tokio::task::spawn_local`, until the future ends.
///
/// A panic of a worker ends the process, since no thread would accept that worker's share of the connections. (A panic
/// in a spawned task ends only that task.)
///
/// # Errors
/// Returns an error if a thread or a runtime cannot be created.
pub fn spawn<F, W>(count: usize, start: F) -> io::Result<Workers>
where
    F: Fn(usize) -> W + Send + Clone + 'static,
    W: Future<Output = ()>,
{
    let (keep, alive) = mpsc::channel(1);
    for worker in 0..count {
        let (start, keep) = (start.clone(), keep.clone());
        // The thread reports once its runtime exists, so that a lack of resources is an error here, not a panic there.
        let (report, created) = std::sync::mpsc::sync_channel(1);
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
        created.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended during its start")))?;
    }
    Ok(Workers { alive })
}

impl Workers {
    /// Waits until all workers have ended.
    pub async fn finished(&mut self) {
        // No message is ever sent: `recv` returns when the last sender is dropped.
        while self.alive.recv().await.is_some() {}
    }
}

struct EndProcessOnPanic;

impl Drop for EndProcessOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("isthmus: a worker thread panicked (see above); exiting");
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
                tokio::task::yield_now().await;
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

    /// The test runs itself as a child process, since a worker's panic ends the process.
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
