//! System calls per request, by name, of one process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::chain::ensure_none_failed;
use crate::load::{self, Edge, Shape, Timing};
use crate::process::Process;

/// Counts the system calls of `process` per request to `entry`, without those that open connections.
pub fn per_request(
    process: &Process,
    entry: SocketAddr,
    authority: &str,
    shape: Shape,
    timing: Timing,
) -> Result<BTreeMap<String, f64>> {
    thread::scope(|scope| {
        let (mut tracer, mut counted) = (None, None);
        let mut edge = |edge: Edge| match edge {
            Edge::Begin => {
                let (attached, is_attached) = mpsc::channel();
                let (over, is_over) = mpsc::channel::<()>();
                let tracing = scope.spawn(move || {
                    process.system_calls(|| {
                        let _ = attached.send(());
                        // The other end is dropped at the window's end.
                        let _ = is_over.recv();
                        Ok(())
                    })
                });
                // An error is returned at the end.
                let _ = is_attached.recv();
                tracer = Some((over, tracing));
            }
            Edge::End => {
                if let Some((over, tracing)) = tracer.take() {
                    drop(over);
                    counted = Some(tracing.join().unwrap_or_else(|_| Err(anyhow!("counting panicked"))));
                }
            }
        };
        let outcome = load::closed_loop(entry, authority, shape, timing, &mut edge)?;
        ensure_none_failed(&outcome)?;
        let ((), calls) = counted.context("the load had no window")??;
        let requests = outcome.requests as f64;
        Ok(calls.into_iter().map(|(name, count)| (name, count as f64 / requests)).collect())
    })
}
