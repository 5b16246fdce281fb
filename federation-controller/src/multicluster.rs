//! The Multi-Cluster Services API (KEP-1645): the status of ServiceExports, and the ServiceImports and EndpointSlices of the
//! services that they export, in every cluster.
//!
//! ```text
//! inventory ─► constituents ─► merge ─► plan ─► a writer for each cluster
//! ```
//!
//! [`plan`] is a pure function of the inventory: what each cluster is to have. A [`writer`] for each cluster compares that with
//! what the cluster has, and writes the difference, so that one slow cluster delays no other. A cluster with a controller of its
//! own is written by that one. Traffic does not depend on anything that is written here: proxies receive exported services as
//! well where nothing may be written.

mod constituents;
mod merge;
mod objects;
mod plan;
mod present;
mod slices;
mod write;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::clusters::Clusters;
use crate::objects::Text;
use crate::pipeline::State;
use plan::Plan;
use writer::Writer;

/// How often the inventory is looked at for changes.
const INTERVAL: Duration = Duration::from_millis(200);
/// The pause after a plan, in multiples of the time that the plan took: planning takes at most a twentieth of one core.
const PAUSE: u32 = 20;

/// Keeps the objects of exports for as long as the controller runs.
pub(crate) async fn run(state: Arc<State>, clusters: Clusters) {
    let (planned, plans) = watch::channel(Arc::new(Plan::default()));
    let mut writers: HashMap<Text, AbortHandle> = HashMap::new();
    let mut seen = None;
    let mut pause = INTERVAL;
    loop {
        tokio::select! {
            () = state.stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = INTERVAL;
        let names = clusters.names();
        writers.retain(|name, writer| {
            let stays = names.contains(name);
            if !stays {
                writer.abort();
            }
            stays
        });
        if !state.ready() || clusters.is_joined("").is_none() {
            continue;
        }
        let (events, transitions) = {
            let inventory = state.inventory();
            (inventory.events(), inventory.leases().transitions())
        };
        let now = (events, transitions, state.store().changes(), names.len());
        if seen != Some(now) {
            seen = Some(now);
            let began = Instant::now();
            let mut plan = plan_all(&state);
            // The event of a cluster that has just joined may not have arrived.
            plan.unknown.extend(names.iter().filter(|name| !plan.clusters.contains_key(*name)).cloned());
            planned.send_replace(Arc::new(plan));
            pause = INTERVAL.max(began.elapsed() * PAUSE);
        }
        for name in names {
            writers.entry(name.clone()).or_insert_with(|| {
                let writer = Writer::new(name, clusters.clone(), plans.clone());
                tokio::spawn(writer.run(state.stop.clone())).abort_handle()
            });
        }
    }
    writers.into_values().for_each(|writer| writer.abort());
}

/// Makes a plan, one service after another, so that the pipeline waits for the lock no longer than for one service.
fn plan_all(state: &State) -> Plan {
    let (mut plan, keys) = {
        let inventory = state.inventory();
        (plan::clusters(&inventory), plan::exported(&inventory))
    };
    for key in keys {
        let inventory = state.inventory();
        let hostname = inventory.settings().hostname(&key);
        let address = state.store().facts(&hostname).and_then(|facts| facts.clusterset);
        plan::add(&mut plan, &inventory, &key, address);
    }
    plan
}

#[cfg(test)]
mod tests;
