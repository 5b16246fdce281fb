//! The age of what is known of each cluster, as the controller that serves the calling pod reports it.

use federation_controller::debug::{ClusterRow, ClustersPage};
use install::debug_pages::DebugPages;
use lab::console::Patience;
use serde_json::{Map, Value, json};

use super::caller::CallingPod;
use crate::access::{ClusterAccess, UNREADABLE_PAGE};

/// Returns the link and the age of each cluster. The controller is that of `primary`; without one, that of the caller's cluster or
/// of the first other cluster that has one.
pub(super) async fn read(
    clusters: &[ClusterAccess],
    caller: &CallingPod<'_>,
    primary: Option<&str>,
    namespace: &str,
    patience: &Patience,
) -> anyhow::Result<Value> {
    let mut asked: Vec<&ClusterAccess> = clusters.iter().collect();
    asked.sort_by_key(|cluster| (primary != Some(cluster.name.as_str()), cluster.name != caller.cluster.name));
    let mut first = None;
    for cluster in asked {
        match of(cluster, namespace, patience).await {
            Ok(ages) => return Ok(ages),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow::anyhow!("no cluster has a controller")))
}

async fn of(cluster: &ClusterAccess, namespace: &str, patience: &Patience) -> anyhow::Result<Value> {
    let pages = DebugPages::new(cluster.client.clone(), namespace);
    let page = patience.answer(&cluster.controller(), pages.read("clusters")).await??;
    let page: ClustersPage = serde_json::from_str(&page).map_err(|_| anyhow::anyhow!(UNREADABLE_PAGE))?;
    let rows: Map<String, Value> = page.clusters.iter().map(|row| (row.name.clone(), age(row))).collect();
    Ok(json!({"reportedBy": cluster.name, "clusters": rows}))
}

fn age(row: &ClusterRow) -> Value {
    let own = row.secret.is_none() && row.role == "primary";
    json!({
        "own": own,
        "link": row.link,
        "reason": row.why,
        "contactSeconds": row.contact_age_ms.map(|ms| ms as f64 / 1000.0),
        "heardSeconds": row.heard_age_ms.map(|ms| ms as f64 / 1000.0),
    })
}
