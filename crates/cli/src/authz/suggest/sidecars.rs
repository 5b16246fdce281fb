//! What the sidecars of a namespace have accepted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use lab::console::Patience;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::proposal::{ObservedPage, Workload};
use crate::access::{ClusterAccess, describe};
use crate::config::source;

/// The names of containers that are sidecars.
const SIDECARS: [&str; 2] = ["isthmus-proxy", "istio-proxy"];
/// The number of sidecars that are asked at a time.
const AT_A_TIME: usize = 16;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The workloads by name.
    pub(super) workloads: BTreeMap<String, Workload>,
    /// Pods without a sidecar.
    pub(super) without_sidecar: Vec<String>,
    /// Pods that no selector is known for.
    pub(super) unselected: Vec<String>,
    /// Pods whose sidecar did not answer, with the reason.
    pub(super) silent: Vec<String>,
}

/// Reads what all sidecars of a namespace have accepted.
pub(super) async fn read(clusters: &[ClusterAccess], namespace: &str, limit: Duration) -> anyhow::Result<Seen> {
    let (begun, mut seen) = (Instant::now(), Seen::default());
    let mut asked = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    for cluster in clusters {
        let patience = Patience::new(limit, "check that it runs and can be reached, or wait longer: --timeout 2m");
        let from = cluster.api_server();
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
        let everything = ListParams::default();
        let lists = async { tokio::try_join!(pods.list(&everything), services.list(&everything)) };
        let (pods, services) = patience.answer(&from, lists).await?.with_context(|| format!("in {}", cluster.name))?;
        for pod in pods.items.into_iter().filter(is_running) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            if !has_sidecar(&pod) {
                seen.without_sidecar.push(name);
                continue;
            }
            let Some((workload, selector)) = selector_of(&pod, &services.items) else {
                seen.unselected.push(name);
                continue;
            };
            seen.workloads.entry(workload.clone()).or_insert_with(|| Workload::new(&workload, selector));
            let (cluster, namespace, places) = (cluster.clone(), namespace.to_owned(), places.clone());
            asked.spawn(async move {
                let _place = places.acquire().await;
                let left = limit.saturating_sub(begun.elapsed());
                let reading = source::read(&cluster, &namespace, &name, "/authz/observed");
                let page = match tokio::time::timeout(left, reading).await {
                    Ok(Ok(text)) => serde_json::from_str::<ObservedPage>(&text)
                        .map_err(|_| "its answer has another form: compare its version".to_owned()),
                    Ok(Err(error)) => Err(describe(&error)),
                    Err(_) => Err(format!("no answer within {limit:?}")),
                };
                (workload, name, page)
            });
        }
    }
    while let Some(answer) = asked.join_next().await {
        let (workload, pod, page) = answer?;
        match (seen.workloads.get_mut(&workload), page) {
            (Some(workload), Ok(page)) => workload.add(page),
            (_, Err(why)) => seen.silent.push(format!("{pod} ({why})")),
            (None, Ok(_)) => {}
        }
    }
    seen.silent.sort();
    Ok(seen)
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    let mut containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.any(|container| SIDECARS.contains(&container.name.as_str()))
}

/// Returns the name of a pod's workload and the labels by which a policy selects it: its label `app`, else what the first
/// Service by name that selects it does.
fn selector_of(pod: &Pod, services: &[Service]) -> Option<(String, BTreeMap<String, String>)> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    if let Some(app) = labels.get("app").filter(|app| !app.is_empty()) {
        return Some((app.clone(), BTreeMap::from([("app".to_owned(), app.clone())])));
    }
    let selecting = services.iter().filter_map(|service| {
        let selector = service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())?;
        let selects = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        selects.then(|| (service.metadata.name.clone().unwrap_or_default(), selector.clone()))
    });
    selecting.min_by(|(one, _), (other, _)| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_selected_by_its_label_or_as_its_service_does() {
        let pod = |labels| serde_json::from_value::<Pod>(json!({"metadata": {"labels": labels}})).expect("a pod");
        let service = |name: &str, selector| {
            let value = json!({"metadata": {"name": name}, "spec": {"selector": selector}});
            serde_json::from_value::<Service>(value).expect("a service")
        };
        let services = [
            service("b", json!({"tier": "web"})),
            service("a", json!({"tier": "web"})),
            service("other", json!({"tier": "db"})),
            service("manual", json!({})),
        ];
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let of = |value| selector_of(&pod(value), &services);
        assert_eq!(of(json!({"app": "cart", "tier": "web"})), Some(("cart".into(), labels("app", "cart"))));
        assert_eq!(of(json!({"tier": "web", "x": "y"})), Some(("a".into(), labels("tier", "web"))));
        assert_eq!(of(json!({"x": "y"})), None);
    }
}
