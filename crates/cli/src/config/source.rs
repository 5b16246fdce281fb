//! Finding a pod, and reading an admin page of its sidecar.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use lab::console::Patience;

use crate::access::{AccessOptions, ClusterAccess};

/// The port of the admin pages, on the pod's loopback address.
const ADMIN: u16 = 15000;
/// The maximum size of a page.
const MAX_PAGE: usize = 256 << 20;

/// Returns the clusters of a command: those of the contexts; without any, the current context, or all of the running lab.
pub(crate) async fn clusters(access: &AccessOptions, contexts: &[String]) -> anyhow::Result<Vec<ClusterAccess>> {
    let mut clusters = Vec::new();
    match access.lab(contexts.first().map(String::as_str))? {
        Some(lab) => {
            let all = lab.clusters.iter().map(|cluster| cluster.name.clone());
            let names = if contexts.is_empty() { all.collect() } else { contexts.to_vec() };
            for name in names {
                clusters.push(access.of_lab(&lab, &name).await?);
            }
        }
        None if contexts.is_empty() => clusters.push(access.context(None).await?),
        None => {
            for name in contexts {
                clusters.push(access.context(Some(name)).await?);
            }
        }
    }
    Ok(clusters)
}

/// Splits `NAME.NAMESPACE`, if the name has a namespace.
pub(crate) fn pod_name(name: &str, namespace: &str) -> (String, String) {
    // Names of pods have no dots in practice, while istioctl's users append the namespace.
    match name.rsplit_once('.') {
        Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => (name.to_owned(), namespace.to_owned()),
        _ => (name.to_owned(), namespace.to_owned()),
    }
}

/// Returns the cluster that has a pod, and the pod's name. `name` may be `deployment/NAME`.
pub(crate) async fn find<'a>(
    clusters: &'a [ClusterAccess],
    name: &str,
    namespace: &str,
    patience: &Patience,
) -> anyhow::Result<(&'a ClusterAccess, String)> {
    let mut found = Vec::new();
    for cluster in clusters {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        let listed = patience.answer(&cluster.api_server(), pods.list(&ListParams::default())).await??;
        let selected = listed.items.iter().filter_map(|pod| pod.metadata.name.as_deref().filter(|_| is(pod, name)));
        found.extend(selected.map(|pod| (cluster, pod.to_owned())));
    }
    let several: Vec<&str> = found.iter().map(|(cluster, _)| cluster.name.as_str()).collect();
    if several.iter().any(|cluster| *cluster != several[0]) && !name.contains('/') {
        anyhow::bail!("several clusters have pod {name}: {}\n  choose one: --context NAME", several.join(", "));
    }
    found.into_iter().next().with_context(|| {
        let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        let kubectl = clusters.first().map(|cluster| cluster.kubectl.as_str()).unwrap_or("kubectl");
        format!(
            "no pod {name} in namespace {namespace} of {}\n  list the pods: {kubectl} -n {namespace} get pods",
            names.join(", ")
        )
    })
}

/// Returns whether a pod is meant: by its name, or as `deployment/NAME`.
pub(crate) fn is(pod: &Pod, name: &str) -> bool {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let Some((kind, owner)) = name.split_once('/') else { return own == name };
    match kind {
        "pod" | "pods" | "po" => own == owner,
        "deployment" | "deployments" | "deploy" => {
            let replica_set = pod.metadata.owner_references.iter().flatten().find(|of| of.kind == "ReplicaSet");
            replica_set.is_some_and(|of| of.name.rsplit_once('-').is_some_and(|(deployment, _)| deployment == owner))
        }
        "statefulset" | "statefulsets" | "sts" => {
            pod.metadata.owner_references.iter().flatten().any(|of| of.kind == "StatefulSet" && of.name == owner)
        }
        _ => false,
    }
}

/// Reads an admin page of a pod's sidecar.
pub(crate) async fn read(cluster: &ClusterAccess, namespace: &str, pod: &str, path: &str) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let mut forwarded = pods.portforward(pod, &[ADMIN]).await?;
    let stream = forwarded.take_stream(ADMIN).context("the API server forwards no port")?;
    let no_sidecar = || format!("pod {pod} has no sidecar that answers at port {ADMIN}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(no_sidecar)?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(no_sidecar)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(anyhow::Error::from_boxed)?;
    let body = String::from_utf8(body.to_bytes().to_vec()).context("the sidecar's answer is no text")?;
    anyhow::ensure!(status.is_success(), "the sidecar of {pod} answers {status} for {path}: {}", body.trim());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_may_follow_the_name() {
        assert_eq!(pod_name("a-1", "shop"), ("a-1".into(), "shop".into()));
        assert_eq!(pod_name("a-1.bank", "shop"), ("a-1".into(), "bank".into()));
    }

    #[test]
    fn pods_are_named_by_themselves_or_by_their_owner() {
        let owned = |kind: &str, name: &str| {
            let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u"});
            serde_json::from_value::<Pod>(json!({"metadata": {"name": "a-b-7f-x", "ownerReferences": [owner]}}))
                .unwrap()
        };
        for (name, expected) in
            [("a-b-7f-x", true), ("pod/a-b-7f-x", true), ("deployment/a-b", true), ("deploy/a", false), ("a-b", false)]
        {
            assert_eq!(is(&owned("ReplicaSet", "a-b-7f"), name), expected, "{name}");
        }
        assert!(is(&owned("StatefulSet", "db"), "sts/db"));
    }
}
