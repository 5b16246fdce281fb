//! The metrics of the controller, served at `:15014/metrics` in the Prometheus text format.

use std::sync::Arc;
use std::time::Duration;

use telemetry::metrics::{Counter, Family, Histogram, Registry, Scope, Shared as Any};
use wire::Kind;
use wire::delta::Stats;

const PUSHES: Family =
    Family { name: "isthmus_controller_pushes_total", help: "Pushes to proxies, by resource type.", labels: &["type"] };
const RESOURCES: Family =
    Family { name: "isthmus_controller_pushed_resources_total", help: "Resources pushed to proxies.", labels: &[] };
const BYTES: Family = Family {
    name: "isthmus_controller_pushed_bytes_total",
    help: "Size of the resources pushed to proxies, in bytes.",
    labels: &[],
};
const NACKS: Family =
    Family { name: "isthmus_controller_rejected_pushes_total", help: "Pushes that proxies rejected.", labels: &[] };
const BAD_NAMES: Family = Family {
    name: "isthmus_controller_bad_names_total",
    help: "Subscriptions to invalid resource names.",
    labels: &[],
};
const ENDED: Family = Family {
    name: "isthmus_controller_streams_ended_total",
    help: "Discovery streams that ended or were refused, by reason.",
    labels: &["reason"],
};
const COMPILED: Family =
    Family { name: "isthmus_controller_compiled_total", help: "Compiled groups of resources.", labels: &[] };
const CHANGED: Family = Family {
    name: "isthmus_controller_changed_resources_total",
    help: "Compiled resources that differed from the stored ones.",
    labels: &[],
};
const COMPILE_SECONDS: Family = Family {
    name: "isthmus_controller_compile_seconds",
    help: "Time to compile the changes of a batching window and to store the resources, in seconds.",
    labels: &[],
};

/// The bucket bounds of the compile time, in seconds.
const COMPILE_BOUNDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// The counters of discovery. Clones refer to the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    scope: Scope<Any>,
    pushes: Arc<[Counter<Any>; Kind::ALL.len()]>,
    resources: Counter<Any>,
    bytes: Counter<Any>,
    nacks: Counter<Any>,
    bad_names: Counter<Any>,
    compiled: Counter<Any>,
    changed: Counter<Any>,
    compile_seconds: Histogram<Any>,
}

impl Metrics {
    /// Creates the counters in a registry.
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.shared();
        Metrics {
            pushes: Arc::new(Kind::ALL.map(|kind| scope.counter(&PUSHES, &[kind.as_str()]))),
            resources: scope.counter(&RESOURCES, &[]),
            bytes: scope.counter(&BYTES, &[]),
            nacks: scope.counter(&NACKS, &[]),
            bad_names: scope.counter(&BAD_NAMES, &[]),
            compiled: scope.counter(&COMPILED, &[]),
            changed: scope.counter(&CHANGED, &[]),
            compile_seconds: scope.histogram(&COMPILE_SECONDS, &COMPILE_BOUNDS, &[]),
            scope,
        }
    }

    /// Returns the registry of the counters.
    pub fn registry(&self) -> &Registry {
        self.scope.registry()
    }

    /// Adds the difference between a stream's counts `now` and its counts when they were last added.
    pub fn count(&self, counted: &mut Stats, now: Stats) {
        let before = std::mem::replace(counted, now);
        for (counter, (now, before)) in self.pushes.iter().zip(now.responses.iter().zip(before.responses)) {
            counter.add(now - before);
        }
        self.resources.add(now.resources - before.resources);
        self.bytes.add(now.bytes - before.bytes);
        self.nacks.add(now.nacks - before.nacks);
        self.bad_names.add(now.bad_names - before.bad_names);
    }

    /// Counts a refused stream.
    pub fn refused(&self, reason: &'static str) {
        self.stream_ended(reason);
    }

    /// Counts the end of a stream.
    pub fn stream_ended(&self, reason: &'static str) {
        self.scope.counter(&ENDED, &[reason]).increment();
    }

    /// Counts a compile: its groups, the resources that changed, and the time.
    pub fn compiled(&self, groups: usize, changed: usize, took: Duration) {
        self.compiled.add(groups as u64);
        self.changed.add(changed as u64);
        self.compile_seconds.record(took.as_secs_f64());
    }

    /// Returns the number of streams that ended for a reason.
    pub fn ended(&self, reason: &str) -> u64 {
        self.registry().total(&ENDED, |labels| labels.iter().any(|(_, value)| *value == reason))
    }

    /// Returns the number of rejected pushes.
    pub fn nacks(&self) -> u64 {
        self.nacks.get()
    }

    /// Returns the number of pushed resources.
    pub fn resources(&self) -> u64 {
        self.resources.get()
    }
}
