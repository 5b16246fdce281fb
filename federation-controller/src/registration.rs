//! Registration of workloads that are no pods: a WorkloadEntry for each connected proxy of a WorkloadGroup, as Istio's controller
//! registers them.
//!
//! A proxy names its group on its stream. [`plan`] decides what is to be written: the entry of a proxy that has connected, the
//! health that it reports, and the removal of an entry whose proxy has been away for a grace period. The plan is made anew every
//! second and whenever a proxy comes, goes or reports, from the inventory, so that what failed or was undone is done again.

mod plan;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kube::Client;
use tokio::time::Instant;

use crate::clusters::trouble::Trouble;
use crate::discovery::Shared;
use crate::inventory::registered::Member;
use plan::{Action, Plan};

/// How often a plan is made while nothing happens.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time for which further changes are awaited after one.
const WINDOW: Duration = Duration::from_millis(50);
/// The number of writes at a time.
const AT_A_TIME: usize = 4;
/// Time between attempts while the credential does not permit them.
const REFUSED: Duration = Duration::from_secs(60);

/// Registers workloads for as long as the controller runs. `grace` is the time from the end of a proxy's last stream to the removal
/// of its entry.
pub(crate) async fn run(shared: Arc<Shared>, client: Client, grace: Duration) {
    let state = &shared.state;
    let mut plan = Plan::new(grace);
    let mut refused: Option<Instant> = None;
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = shared.members_changed.notified() => tokio::time::sleep(WINDOW).await,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !state.ready() || refused.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        refused = None;
        let members: Vec<Member> = shared.proxies.list().iter().filter_map(|proxy| proxy.member()).collect();
        let actions = plan.next(&state.inventory(), &members, Instant::now());
        let mut writes = stream::iter(actions)
            .map(|action| async {
                let result = write::perform(&client, &action).await;
                (action, result)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((action, result)) = writes.next().await {
            match result {
                Ok(()) => note(&action),
                Err(Trouble::Refused(why)) if refused.is_none() => {
                    tracing::warn!(
                        why,
                        "workloads are not registered; permit creating, patching and deleting workloadentries, and patching their status"
                    );
                    refused = Some(Instant::now() + REFUSED);
                }
                Err(trouble) => tracing::debug!(?action, %trouble, "not written; trying again"),
            }
        }
    }
}

fn note(action: &Action) {
    match action {
        Action::Register(entry) => tracing::info!(entry = %entry.key, group = %entry.group, "workload registered"),
        Action::Remove(key) => tracing::info!(entry = %key, "workload removed: its proxy is away"),
        Action::Health { key, healthy } => tracing::info!(entry = %key, healthy, "health of a workload written"),
    }
}
