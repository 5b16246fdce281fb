//! What is measured with open streams: connects, changes, reconnects, a restart, a stalled stream.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::controller::Controller;
use super::objects::{self, CLUSTERS};
use super::streams::{DiscoveryStreams, StalledStream};
use super::{LONG, MeasuredMesh, Options, millis};
use crate::finding::Metric;

impl MeasuredMesh<'_> {
    /// Measures with open streams.
    pub(super) async fn streams(
        &mut self,
        options: &Options,
        controller: Controller,
    ) -> Result<(DiscoveryStreams, Controller)> {
        let size = self.size;
        let before = controller.usage()?;
        let resident = controller.resident()?.0;
        let began = Instant::now();
        let streams = DiscoveryStreams::open(&self.signers, &size)?;
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams connect: until in sync", "ms"), millis(began.elapsed()));
        let used = (controller.usage()? - before).cpu;
        self.found(Metric::cost("all streams connect: CPU of the controller", "ms"), millis(used));
        self.found(
            Metric::cost("all streams connect: bytes received", "KiB"),
            streams.received.bytes() as f64 / 1024.0,
        );
        let each = (controller.resident()?.0 as f64 - resident as f64) / size.streams as f64 / 1024.0;
        self.found(Metric::cost("resident memory per stream", "KiB"), each);
        // State is saved and late updates arrive meanwhile.
        tokio::time::sleep(Duration::from_secs(if self.rig.quick { 1 } else { 6 })).await;

        self.changes(options, &controller, &streams).await?;

        let (before, bytes, began) = (controller.usage()?, streams.received.bytes(), Instant::now());
        streams.reconnect();
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams reconnect: until in sync", "ms"), millis(began.elapsed()));
        self.found(
            Metric::cost("all streams reconnect: CPU of the controller", "ms"),
            millis((controller.usage()? - before).cpu),
        );
        let received = (streams.received.bytes() - bytes) as f64 / 1024.0;
        self.found(Metric::cost("all streams reconnect: bytes received", "KiB"), received);

        let (bytes, began) = (streams.received.bytes(), Instant::now());
        streams.arrivals.take();
        controller.stop()?;
        let controller = self.start_again()?;
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("controller restarts: until all streams are in sync", "ms"), millis(began.elapsed()));
        let received = (streams.received.bytes() - bytes) as f64 / 1024.0;
        self.found(Metric::cost("controller restarts: bytes received", "KiB"), received);
        let pushed = streams.arrivals.take().len() as f64;
        self.found(Metric::cost("controller restarts: endpoints pushed again", ""), pushed);
        controller.wait_for(size.known(size.pods), LONG).await?;
        Ok((streams, controller))
    }

    /// Measures while endpoints change at a steady rate.
    async fn changes(&mut self, options: &Options, controller: &Controller, streams: &DiscoveryStreams) -> Result<()> {
        let idle = Duration::from_secs(if self.rig.quick { 1 } else { 3 });
        let before = controller.usage()?;
        tokio::time::sleep(idle).await;
        let idle_cpu = (controller.usage()? - before).cpu.as_secs_f64() / idle.as_secs_f64();
        let p50 = format!("change to arrival, p50 ({}/s in turn in each cluster)", options.rate);
        for _ in 0..if self.rig.quick { 1 } else { self.rig.turns } {
            let (used, received, began) = (controller.usage()?, streams.received.bytes(), Instant::now());
            let made = self.change(options.rate, streams).await?;
            let spent = (controller.usage()? - used).cpu.as_secs_f64() - idle_cpu * began.elapsed().as_secs_f64();
            let bytes = (streams.received.bytes() - received) as f64 / made.changes as f64;
            let mut took = made.took;
            took.sort_unstable();
            let at = |quantile: f64| took.get((took.len() as f64 * quantile) as usize).copied().unwrap_or_default();
            self.found(Metric::cost(&p50, "ms"), millis(at(0.5)));
            self.found(Metric::cost("change to arrival, p99", "ms"), millis(at(0.99)));
            let longest = millis(took.last().copied().unwrap_or_default());
            self.found(Metric::cost("change to arrival, longest", "ms"), longest);
            self.found(Metric::cost("missed arrivals", ""), made.missed as f64);
            self.found(Metric::cost("CPU of the controller per change", "µs"), spent * 1e6 / made.changes as f64);
            self.found(Metric::cost("bytes received by all streams per change", "bytes"), bytes);
        }
        self.found(Metric::cost("CPU of the controller with streams and no changes", "% of a core"), idle_cpu * 100.0);
        Ok(())
    }

    /// Toggles the readiness of one service's first endpoint after the other, in alternating clusters.
    async fn change(&mut self, rate: u32, streams: &DiscoveryStreams) -> Result<Changes> {
        let changes = (self.size.seconds * rate) as usize;
        let period = Duration::from_secs(1) / rate;
        streams.arrivals.take();
        let mut changed = Vec::new();
        let mut ticks = tokio::time::interval(period);
        for change in 0..changes {
            ticks.tick().await;
            // At full size each service changes once, so any arrival of it is this change.
            let (service, cluster) = (change % self.size.services, change % CLUSTERS.len());
            let ready = !self.ready[service];
            self.clusters[cluster].client().set_ready(&objects::slice_path(service), ready).await?;
            self.ready[service] = ready;
            changed.push((service, cluster, Instant::now()));
        }
        // An update that takes longer than this counts as missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = streams.arrivals.take();
        let mut made = Changes { changes, took: Vec::new(), missed: 0 };
        for (service, cluster, at) in changed {
            let of = arrivals.iter().filter(|arrival| arrival.service == service && arrival.cluster == cluster);
            let mut streams_reached = BTreeSet::new();
            for arrival in of {
                if streams_reached.insert(arrival.stream) {
                    // An update may arrive before the response to the request that made the change.
                    made.took.push(arrival.at.saturating_duration_since(at));
                }
            }
            made.missed += streams.users(service) - streams_reached.len().min(streams.users(service));
        }
        Ok(made)
    }

    /// Measures changes beside a stream that subscribes to everything and reads nothing.
    pub(super) async fn stalled(
        &mut self,
        options: &Options,
        controller: &Controller,
        streams: &DiscoveryStreams,
    ) -> Result<()> {
        let stalled = StalledStream::open(&self.signers, &self.size).await.context("opening the stalled stream")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = controller.resident()?.0;
        // The changes take less time than the controller allows a stream to stall.
        let made = self.change(options.rate * 5, streams).await?;
        let after = controller.resident()?.0;
        drop(stalled);
        let growth = after as f64 - before as f64;
        self.found(
            Metric::cost(&format!("memory growth in {} changes beside a stalled stream", made.changes), "KiB"),
            growth / 1024.0,
        );
        Ok(())
    }
}

/// The result of some changes.
struct Changes {
    changes: usize,
    /// The latency of each update at each stream that uses the service.
    took: Vec<Duration>,
    /// The number of updates that did not arrive.
    missed: usize,
}
