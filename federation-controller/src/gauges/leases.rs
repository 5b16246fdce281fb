//! The metrics of leases.

use std::sync::Arc;
use std::time::SystemTime;

use telemetry::metrics::{Family, Registry};

use crate::leases::lease::LeaseState;
use crate::pipeline::State;

const STATE: Family = Family {
    name: "isthmus_controller_lease",
    help: "State of a remote cluster's lease: 1 for the current state, 0 for the others.",
    labels: &["cluster", "state"],
};
const LEFT: Family = Family {
    name: "isthmus_controller_lease_remaining_seconds",
    help: "Time until a remote cluster's lease ends without proof of life, in seconds.",
    labels: &["cluster"],
};
const TRANSITIONS: Family = Family {
    name: "isthmus_controller_lease_transitions_total",
    help: "Changes of a remote cluster's lease, by the state that it entered.",
    labels: &["cluster", "state"],
};
const PATHS: Family = Family {
    name: "isthmus_controller_path_proxies",
    help: "Proxies of one cluster (viewer) that reach another (alive) or do not (dead), by their words of late.",
    labels: &["cluster", "viewer", "word"],
};

/// Registers the metrics in a registry.
pub(super) fn observe(state: &Arc<State>, registry: &Registry) {
    type Put<'a> = &'a mut dyn FnMut(&[&str], f64);
    let gauge = |family: Family, read: fn(&State, Put<'_>)| {
        let state = Arc::downgrade(state);
        registry.observe_gauge(family, move |put| {
            if let Some(state) = state.upgrade() {
                read(&state, put);
            }
        });
    };
    gauge(STATE, |state, put| {
        for (cluster, lease) in state.inventory().leases().all() {
            for of in LeaseState::ALL {
                put(&[cluster, of.word()], f64::from(u8::from(of == lease.state())));
            }
        }
    });
    gauge(LEFT, |state, put| {
        let (inventory, now) = (state.inventory(), SystemTime::now());
        let leases = inventory.leases();
        leases.all().for_each(|(cluster, lease)| put(&[cluster], lease.left(leases.length(), now).as_secs_f64()));
    });
    gauge(PATHS, |state, put| {
        let (inventory, now) = (state.inventory(), SystemTime::now());
        let leases = inventory.leases();
        for (cluster, _) in leases.all() {
            for opinion in leases.opinions(cluster, now) {
                put(&[cluster, &opinion.viewer, "alive"], opinion.alive as f64);
                put(&[cluster, &opinion.viewer, "dead"], opinion.dead as f64);
            }
        }
    });
    let counted = Arc::downgrade(state);
    registry.observe_counter(TRANSITIONS, move |put| {
        if let Some(state) = counted.upgrade() {
            for ((cluster, to), count) in state.inventory().leases().counts() {
                put(&[cluster, to.word()], *count as f64);
            }
        }
    });
}
