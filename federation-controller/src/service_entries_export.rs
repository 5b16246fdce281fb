//! ServiceEntries of exported services, kept in the clusters that import them.
//!
//! A ServiceExport with the annotation `federation.isthmus.dev/export-to: central,west` is given to the meshes of these clusters as a
//! ServiceEntry and a DestinationRule ([`api::service_entry_export`]). [`plan`] decides, from the inventory and the published
//! resources, what each cluster is to have. A task for each cluster makes it so ([`write`]), so that none waits for another: it writes
//! what differs, also if somebody else changed it, and deletes what is no longer exported. The objects have a label with the
//! controller's cluster, and the DestinationRule is owned by the ServiceEntry.
//!
//! Nothing is deleted for want of knowledge: only if each cluster that an object is exported from has been listed in full since the
//! start, or is not joined any more. A service without a gateway keeps its last objects.
//!
//! What cannot be written has a notice at its ServiceExport: an Event, and a line of `isthmus status`.

mod facts;
mod keep;
mod page;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clusters::Clusters;
use crate::objects::Text;
use crate::pipeline::State;
use keep::{Keeper, Reports};
use plan::Known;

pub(crate) use page::page;
pub use page::{ExportRow, ExportsPage};

/// How often it is looked at what is exported. Also the longest time from a change to its write.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps ServiceEntries in other clusters for as long as the controller runs.
pub(crate) async fn run(state: Arc<State>, clusters: Clusters) {
    let reports = Reports::default();
    let mut keepers: BTreeMap<Text, Keeper> = BTreeMap::new();
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !state.ready() {
            continue;
        }
        let joined: Vec<Text> = clusters.names();
        // Known as soon as the remote secrets have been read, of every name alike.
        let listed = clusters.is_joined("").is_some();
        let (synced, _) = state
            .read_published(|inventory| {
                inventory.clusters().map(|cluster| (cluster.info.name.clone(), cluster.synced())).collect()
            })
            .await;
        let plan = {
            let (inventory, store) = (state.inventory(), state.store());
            plan::plan(&inventory, &store, Known { listed, joined: synced })
        };
        keepers.retain(|target, _| joined.contains(target));
        reports.retain(&joined);
        for target in joined {
            let wanted = plan.of(&target);
            match keepers.get(&target) {
                Some(keeper) => keeper.want(wanted),
                None => drop(keepers.insert(target.clone(), Keeper::start(target, &clusters, wanted, &reports))),
            }
        }
        state.set_unwritten_exports(plan.notices(&reports.all()));
    }
}
