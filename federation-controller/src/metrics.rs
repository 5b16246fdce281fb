//! The metrics of the controller, served at `:15014/metrics` in the Prometheus text format.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use telemetry::metrics::{Counter, Family, Histogram, Registry, Scope, Shared as Any};
use wire::Kind;
use wire::delta::Stats;

use crate::discovery::Shared;
use crate::objects::event::Link;

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
const MANAGED: Family = Family {
    name: "isthmus_controller_managed_clusters",
    help: "Clusters of the mesh, by type.",
    labels: &["cluster_type"],
};
const LINK: Family = Family {
    name: "isthmus_controller_cluster_link",
    help: "State of a cluster's link: 1 for the current state, 0 for the others.",
    labels: &["cluster", "state"],
};
const LINK_AGE: Family = Family {
    name: "isthmus_controller_cluster_link_age_seconds",
    help: "Time since the last change of a link's state, in seconds.",
    labels: &["cluster"],
};
const OBJECTS: Family = Family {
    name: "isthmus_controller_objects",
    help: "Watched objects, by cluster and kind.",
    labels: &["cluster", "kind"],
};
const STREAMS: Family = Family {
    name: "isthmus_controller_streams",
    help: "Open discovery streams, by the cluster of the proxy.",
    labels: &["cluster"],
};
const LAG: Family = Family {
    name: "isthmus_controller_stream_lag_seconds_max",
    help: "Age of the oldest push that is not acknowledged, in seconds.",
    labels: &[],
};
const STORED: Family =
    Family { name: "isthmus_controller_resources", help: "Resources in the store, by type.", labels: &["type"] };
const STORED_BYTES: Family = Family {
    name: "isthmus_controller_resource_bytes",
    help: "Encoded size of the resources in the store, by type, in bytes.",
    labels: &["type"],
};
const EVENTS: Family =
    Family { name: "isthmus_controller_events_total", help: "Events received from clusters.", labels: &[] };

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

/// Registers metrics that are read from the shared state at each scrape.
pub fn observe(shared: &Arc<Shared>, registry: &Registry) {
    type Put<'a> = &'a mut dyn FnMut(&[&str], f64);
    let gauge = |family: Family, read: fn(&Shared, Put<'_>)| {
        let shared = Arc::downgrade(shared);
        registry.observe_gauge(family, move |put| {
            if let Some(shared) = shared.upgrade() {
                read(&shared, put);
            }
        });
    };
    gauge(MANAGED, |shared, put| {
        let index = shared.index();
        let own = index.clusters().filter(|cluster| cluster.info.own).count();
        put(&["local"], own as f64);
        put(&["remote"], (index.clusters().count() - own) as f64);
    });
    gauge(LINK, |shared, put| {
        for cluster in shared.index().clusters() {
            let now = link_word(&cluster.link.0);
            for state in ["connecting", "connected", "lost", "refused"] {
                put(&[&cluster.info.name, state], f64::from(u8::from(state == now)));
            }
        }
    });
    gauge(LINK_AGE, |shared, put| {
        for cluster in shared.index().clusters() {
            let age = SystemTime::now().duration_since(cluster.link.1).unwrap_or_default();
            put(&[&cluster.info.name], age.as_secs_f64());
        }
    });
    gauge(OBJECTS, |shared, put| {
        for cluster in shared.index().clusters() {
            for kind in crate::objects::event::Kind::ALL {
                put(&[&cluster.info.name, kind.as_str()], cluster.count(kind) as f64);
            }
        }
    });
    gauge(STREAMS, |shared, put| {
        let mut by_cluster = std::collections::BTreeMap::new();
        for proxy in shared.proxies.list() {
            *by_cluster.entry(proxy.cluster.clone()).or_insert(0_u32) += 1;
        }
        for (cluster, count) in by_cluster {
            put(&[&cluster], f64::from(count));
        }
    });
    gauge(LAG, |shared, put| {
        let now = Instant::now();
        let lag = shared.proxies.list().iter().map(|proxy| proxy.progress().lag(now)).max().unwrap_or_default();
        put(&[], lag.as_secs_f64());
    });
    gauge(STORED, |shared, put| {
        let store = shared.store();
        Kind::ALL.iter().for_each(|kind| put(&[kind.as_str()], store.size(*kind).0 as f64));
    });
    gauge(STORED_BYTES, |shared, put| {
        let store = shared.store();
        Kind::ALL.iter().for_each(|kind| put(&[kind.as_str()], store.size(*kind).1 as f64));
    });
    let counted = Arc::downgrade(shared);
    registry.observe_counter(EVENTS, move |put| {
        if let Some(shared) = counted.upgrade() {
            put(&[], shared.index().events() as f64);
        }
    });
}

/// Returns the name of a link's state.
pub fn link_word(link: &Link) -> &'static str {
    match link {
        Link::Connecting => "connecting",
        Link::Connected => "connected",
        Link::Lost(_) => "lost",
        Link::Refused(_) => "refused",
    }
}
