//! The task that keeps the objects of one cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::Wanted;
use super::write::{self, Outcome};
use crate::clusters::Clusters;
use crate::clusters::trouble::Trouble;
use crate::objects::{Key, Text};

/// How often the objects of a cluster are compared, beside changes: somebody may have changed them.
const COMPARE: Duration = Duration::from_secs(30);
/// Time between attempts after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Time between attempts while the credential does not permit them, or the kinds are not defined.
const REFUSED: Duration = Duration::from_secs(60);
/// The time for all requests of one comparison.
const LIMIT: Duration = Duration::from_secs(60);

/// What could not be written, by cluster and object. Clones refer to the same reports.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    all: Arc<Mutex<BTreeMap<Text, BTreeMap<Key, String>>>>,
}

impl Reports {
    fn set(&self, target: &Text, failed: BTreeMap<Key, String>) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone(), failed);
    }

    /// Forgets all clusters but these.
    pub(super) fn retain(&self, joined: &[Text]) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|target, _| joined.contains(target));
    }

    /// Returns all reports.
    pub(super) fn all(&self) -> BTreeMap<(Text, Key), String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(target, failed): (&Text, &BTreeMap<Key, String>)| {
            failed.iter().map(|(key, why)| ((target.clone(), key.clone()), why.clone())).collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    }
}

/// The task of one cluster, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Starts to keep what is wanted in a cluster.
    pub(super) fn start(target: Text, clusters: &Clusters, wanted: Wanted, reports: &Reports) -> Self {
        let (sender, receiver) = watch::channel(wanted);
        let task = tokio::spawn(keep(target, clusters.clone(), receiver, reports.clone()));
        Keeper { wanted: sender, task }
    }

    /// Changes what is wanted.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != wanted;
            if changed {
                *now = wanted;
            }
            changed
        });
    }
}

async fn keep(target: Text, clusters: Clusters, mut wanted: watch::Receiver<Wanted>, reports: Reports) {
    let own = clusters.own().clone();
    loop {
        let now = wanted.borrow_and_update().clone();
        let Some(client) = clusters.writer_or_reader(&target).await else { return };
        let outcome = match tokio::time::timeout(LIMIT, write::write(&client, &own, &now)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::Failed(format!("no answer within {} s", LIMIT.as_secs()))),
        };
        let (failed, pause) = match outcome {
            Ok(Outcome { failed, objects: 0 }) if failed.is_empty() && now.is_empty() => (failed, None),
            Ok(Outcome { failed, .. }) => {
                let pause = if failed.is_empty() { COMPARE } else { AGAIN };
                (failed, Some(pause))
            }
            // A cluster that nothing is written to need not permit it.
            Err(_) if now.is_empty() => (BTreeMap::new(), Some(REFUSED)),
            Err(trouble) => {
                let (why, pause) = explain(&trouble);
                (now.names().map(|key| (key.clone(), why.clone())).collect(), Some(pause))
            }
        };
        for (key, why) in &failed {
            tracing::debug!(cluster = %target, object = %key, why, "ServiceEntry not written");
        }
        reports.set(&target, failed);
        let paused = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = paused => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// Returns what to say of trouble with all objects of a cluster, and when to try again.
fn explain(trouble: &Trouble) -> (String, Duration) {
    match trouble {
        Trouble::Refused(why) => (
            format!(
                "not written, because the credential of the joined cluster does not permit it ({why}): permit get, list, create, patch and delete of serviceentries and destinationrules (networking.istio.io)"
            ),
            REFUSED,
        ),
        Trouble::Missing => (
            "not written, because the cluster does not define ServiceEntry and DestinationRule (networking.istio.io/v1): install the resource definitions of its mesh".into(),
            REFUSED,
        ),
        Trouble::Restarts | Trouble::Failed(_) => (format!("not written: {trouble}; trying again"), AGAIN),
    }
}
