//! Gauges of the inventory, the published resources and the streams, which are read at each scrape.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use telemetry::metrics::{Family, Registry};
use wire::Kind;

use crate::discovery::Shared;
use crate::objects::event::Link;

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
const REFUSED_EXPORTS: Family = Family {
    name: "isthmus_controller_refused_exports",
    help: "Exports that have no effect, by the exporting cluster and what federation policy refuses: the exporter, namespace, host or port, or a limit.",
    labels: &["cluster", "reason"],
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

mod leases;

/// Registers the gauges in a registry.
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
        let inventory = shared.state.inventory();
        let own = inventory.clusters().filter(|cluster| cluster.info.own).count();
        put(&["local"], own as f64);
        put(&["remote"], (inventory.clusters().count() - own) as f64);
    });
    gauge(LINK, |shared, put| {
        for cluster in shared.state.inventory().clusters() {
            let now = link_word(&cluster.link.0);
            for state in ["connecting", "connected", "lost", "refused"] {
                put(&[&cluster.info.name, state], f64::from(u8::from(state == now)));
            }
        }
    });
    gauge(LINK_AGE, |shared, put| {
        for cluster in shared.state.inventory().clusters() {
            let age = SystemTime::now().duration_since(cluster.link.1).unwrap_or_default();
            put(&[&cluster.info.name], age.as_secs_f64());
        }
    });
    gauge(OBJECTS, |shared, put| {
        for cluster in shared.state.inventory().clusters() {
            for kind in crate::objects::Kind::ALL {
                put(&[&cluster.info.name, kind.as_str()], cluster.count(kind) as f64);
            }
        }
    });
    gauge(REFUSED_EXPORTS, |shared, put| {
        for ((cluster, reason), count) in shared.state.inventory().refused_export_counts() {
            put(&[&cluster, reason], count as f64);
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
        let store = shared.state.store();
        Kind::ALL.iter().for_each(|kind| put(&[kind.as_str()], store.size(*kind).0 as f64));
    });
    gauge(STORED_BYTES, |shared, put| {
        let store = shared.state.store();
        Kind::ALL.iter().for_each(|kind| put(&[kind.as_str()], store.size(*kind).1 as f64));
    });
    leases::observe(&shared.state, registry);
    let counted = Arc::downgrade(shared);
    registry.observe_counter(EVENTS, move |put| {
        if let Some(shared) = counted.upgrade() {
            put(&[], shared.state.inventory().events() as f64);
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
        Link::Excluded(_) => "excluded",
    }
}
