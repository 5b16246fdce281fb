//! Brings a mesh up in clusters whose API servers have just started: installs, joins and waits.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;

use super::authorities::MeshAuthorities;
use super::clients::{Clients, ClientsError};
use super::launcher::RunningLab;
use super::outside::{self, OutsideError};
use super::progress::{BringUpProgress, BringUpStep};
use super::{installation, reachability, workloads};
use crate::controllers::pod_state::ready_since;
use crate::topology::{Cluster, Topology};
use install::apply::{ApplyError, apply};
use install::client_error;
use install::components::{CONTROLLER, GATEWAY, GATEWAY_PORT};

/// The field manager of server-side apply.
const FIELD_MANAGER: &str = "isthmus-lab";
/// Interval between two looks at what is not ready yet.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long workloads wait for the injection webhook.
const WEBHOOK: Duration = Duration::from_secs(10);
/// Number of a cluster's warnings that are shown if it did not come up.
const MOST_WARNINGS: usize = 8;
/// Validity of a remote secret's token; no lab runs longer.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// A mesh could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    /// A cluster refused an object.
    #[error("cluster {cluster}: {source}")]
    Apply {
        /// Name of the cluster.
        cluster: String,
        /// The refused object.
        #[source]
        source: ApplyError,
    },
    /// A cluster refused a request.
    #[error("cluster {cluster}: cannot {action}: {}", client_error::describe(.source))]
    Api {
        /// Name of the cluster.
        cluster: String,
        /// The request.
        action: &'static str,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Client(#[from] ClientsError),
    /// The remote secret cannot be made.
    #[error("cluster {cluster}: {source}")]
    RemoteSecret {
        /// Name of the cluster.
        cluster: String,
        /// The cause.
        #[source]
        source: api::remote_secret::RemoteSecretError,
    },
    /// The mesh's signing certificates cannot be made.
    #[error(transparent)]
    Authorities(#[from] identity::CaError),
    /// The certificates of gateways cannot be issued.
    #[error(transparent)]
    Outside(#[from] OutsideError),
}

/// A pod, as the final table shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSummary {
    /// Name of the cluster.
    pub cluster: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Value of the label `version`.
    pub version: Option<String>,
    /// Zone of the pod's node.
    pub zone: Option<String>,
    /// Address of the pod.
    pub address: Option<String>,
    /// Whether the pod is ready.
    pub ready: bool,
}

/// Brings the mesh up. Returns when every pod is ready and every exported service is reachable from other clusters. The
/// caller bounds the time.
///
/// # Errors
/// Returns an error if a cluster refuses an object.
pub async fn bring_up(lab: &RunningLab, clients: &Clients, progress: &BringUpProgress) -> Result<(), BringUpError> {
    let topology = &lab.topology;
    let authorities = MeshAuthorities::generate(topology)?;
    let issuers = lab.issuers_authority.as_deref();
    let flags = || topology.clusters.iter().map(|_| watch::Sender::new(false)).collect::<Vec<_>>();
    let (installed, serving) = (flags(), flags());
    let each = topology.clusters.iter().zip(&clients.0).enumerate().map(|(index, (cluster, client))| {
        let (authorities, installed, serving) = (&authorities, &installed[index], &serving);
        let primary = topology.clusters.iter().position(|other| other.name == cluster.primary()).unwrap_or(index);
        let manifests = async move {
            api_ready(client).await;
            progress.reached(&cluster.name, BringUpStep::Api, "api ready", true);
            let applied = |source| BringUpError::Apply { cluster: cluster.name.clone(), source };
            let mut objects = outside::secrets(&lab.directory, topology, cluster)?;
            objects.extend(installation::of(topology, cluster, authorities, issuers).objects());
            apply(client, FIELD_MANAGER, objects).await.map_err(applied)?;
            installed.send_replace(true);
            // Pods need the webhook, which the primary serves. After a while they are created all the same: the
            // refusals show what is wrong.
            let mut ready = serving[primary].subscribe();
            let _ = tokio::time::timeout(WEBHOOK, ready.wait_for(|ready| *ready)).await;
            apply(client, FIELD_MANAGER, workloads::all(topology, cluster)).await.map_err(applied)?;
            for manifest in topology.manifests.iter().filter(|manifest| manifest.clusters.contains(&cluster.name)) {
                apply(client, FIELD_MANAGER, manifest.objects.clone()).await.map_err(applied)?;
            }
            Ok(())
        };
        let pods = async move {
            // There are no pods before.
            let _ = installed.subscribe().wait_for(|done| *done).await;
            pods_ready(topology, cluster, client, progress, &serving[index]).await;
            Ok(())
        };
        futures_util::future::try_join(manifests, pods)
    });
    let joins = topology
        .clusters
        .iter()
        .enumerate()
        .flat_map(|(index, primary)| primary.secrets_of.iter().map(move |other| (index, other.as_str())));
    let joins = joins.map(|(primary, other)| join(lab, clients, &installed, primary, other));
    futures_util::future::try_join(futures_util::future::try_join_all(each), futures_util::future::try_join_all(joins))
        .await?;
    while !reachability::missing(topology, clients, lab.directory.path()).await.is_empty() {
        tokio::time::sleep(INTERVAL).await;
    }
    for service in reachability::exported(topology) {
        if let Some(cluster) = topology.clusters.get(service.cluster) {
            first(progress, &cluster.name, BringUpStep::Exports, "exports reached");
        }
    }
    Ok(())
}

async fn api_ready(client: &Client) {
    while client.apiserver_version().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Applies the remote secret of `other` to cluster `primary`.
async fn join(
    lab: &RunningLab,
    clients: &Clients,
    installed: &[watch::Sender<bool>],
    primary: usize,
    other: &str,
) -> Result<(), BringUpError> {
    let clusters = &lab.topology.clusters;
    let Some(index) = clusters.iter().position(|cluster| cluster.name == other) else { return Ok(()) };
    for needed in [primary, index] {
        // The senders outlive this function, so waiting cannot fail.
        let _ = installed[needed].subscribe().wait_for(|done| *done).await;
    }
    let secret = remote_secret(&clusters[index], &clients.0[index], &lab.authorities[index]).await?;
    let api: Api<Secret> = Api::namespaced(clients.0[primary].clone(), api::names::ROOT_NAMESPACE);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let name = secret.name_any();
    api.patch(&name, &params, &Patch::Apply(&secret)).await.map(drop).map_err(|source| BringUpError::Api {
        cluster: clusters[primary].name.clone(),
        action: "apply the remote secret",
        source: Box::new(source),
    })
}

/// Returns the remote secret by which other clusters read `cluster`.
///
/// # Errors
/// Returns an error if the cluster issues no token.
pub async fn remote_secret(cluster: &Cluster, client: &Client, authority: &str) -> Result<Secret, BringUpError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), api::names::SYSTEM_NAMESPACE);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Vec::new(),
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request(api::reader::READER, &PostParams::default(), &request).await;
    let answer = answer.map_err(|source| BringUpError::Api {
        cluster: cluster.name.clone(),
        action: "get a token for the reader account",
        source: Box::new(source),
    })?;
    let token = answer.status.map(|status| status.token).unwrap_or_default();
    let server = cluster.server();
    let access = api::remote_secret::Access {
        cluster: &cluster.name,
        server: &server,
        tls_server_name: None,
        ca_pem: authority.as_bytes(),
        token: &token,
    };
    let mut secret = api::remote_secret::remote_secret(api::names::ROOT_NAMESPACE, &access)
        .map_err(|source| BringUpError::RemoteSecret { cluster: cluster.name.clone(), source })?;
    // The topology decides which clusters share a network, not the cluster that joins.
    secret.annotations_mut().insert(api::names::NETWORK_LABEL.to_owned(), cluster.network.clone());
    Ok(secret)
}

/// Waits until the components and every pod of the topology are ready, and reports progress.
async fn pods_ready(
    topology: &Topology,
    cluster: &Cluster,
    client: &Client,
    progress: &BringUpProgress,
    serving: &watch::Sender<bool>,
) {
    let workloads: usize = topology.workloads_of(&cluster.name).map(|w| usize::try_from(w.replicas).unwrap_or(0)).sum();
    let expected = workloads + cluster.gateways().count();
    let pods: Api<Pod> = Api::all(client.clone());
    loop {
        if let Ok(list) = pods.list(&ListParams::default()).await {
            let ready = |app: &str| {
                list.items.iter().any(|pod| {
                    pod.namespace().as_deref() == Some(api::names::SYSTEM_NAMESPACE)
                        && pod.labels().get("app").is_some_and(|label| label == app)
                        && ready_since(pod).is_some()
                })
            };
            let control = !cluster.is_primary() || ready(CONTROLLER);
            if cluster.is_primary() && control {
                first(progress, &cluster.name, BringUpStep::Control, "controller ready");
            }
            let gateway = ready(GATEWAY);
            if control && gateway {
                serving.send_replace(true);
            }
            if gateway {
                // The primary has issued the certificate of a remote's gateway, after a review of the gateway's token
                // in this cluster.
                if !cluster.is_primary() {
                    first(progress, &cluster.name, BringUpStep::Control, &format!("joined {}", cluster.primary()));
                }
                let address = format!("gateway {}", SocketAddr::new(cluster.gateway(), GATEWAY_PORT));
                progress.reached(&cluster.name, BringUpStep::Gateway, &address, false);
            }
            let up = list
                .items
                .iter()
                .filter(|pod| is_workload_pod(topology, cluster, pod) || is_gateway_pod(cluster, pod))
                .filter(|pod| ready_since(pod).is_some())
                .count();
            progress.reached(&cluster.name, BringUpStep::Pods, &format!("pods {up}/{expected}"), false);
            if control && gateway && up >= expected {
                return;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reports a step with its time, once.
fn first(progress: &BringUpProgress, cluster: &str, step: BringUpStep, text: &str) {
    if !progress.has(cluster, step) {
        progress.reached(cluster, step, text, true);
    }
}

fn is_workload_pod(topology: &Topology, cluster: &Cluster, pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && topology.workloads_of(&cluster.name).any(|workload| {
            pod.namespace().as_deref() == Some(&workload.namespace) && pod.labels().get("app") == Some(&workload.name)
        })
}

/// Reports whether a pod is one of the cluster's ingress and egress gateways.
fn is_gateway_pod(cluster: &Cluster, pod: &Pod) -> bool {
    let app = pod.labels().get("app").map(String::as_str);
    pod.metadata.deletion_timestamp.is_none()
        && cluster
            .gateways()
            .any(|(kind, gateway)| pod.namespace().as_deref() == Some(&gateway.namespace) && app == Some(kind.name()))
}

/// Returns the pods of the topology's workloads, for the final table.
pub async fn pods(topology: &Topology, clients: &Clients) -> Vec<PodSummary> {
    let mut lines = Vec::new();
    for (cluster, client) in topology.clusters.iter().zip(&clients.0) {
        let list = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await;
        for pod in list.into_iter().flatten().filter(|pod| is_workload_pod(topology, cluster, pod)) {
            lines.push(PodSummary {
                cluster: cluster.name.clone(),
                namespace: pod.namespace().unwrap_or_default(),
                name: pod.name_any(),
                version: pod.labels().get("version").cloned(),
                zone: pod.labels().get(crate::controllers::scheduler::ZONE).cloned(),
                address: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
                ready: ready_since(&pod).is_some(),
            });
        }
    }
    lines
}

/// Describes what is not ready and why, for a lab that did not come up in time.
pub async fn explain(topology: &Topology, clients: &Clients, directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = false;
    for (cluster, client) in topology.clusters.iter().zip(&clients.0) {
        let name = &cluster.name;
        let pods = match Api::<Pod>::all(client.clone()).list(&ListParams::default()).await {
            Ok(pods) => pods,
            Err(error) => {
                lines.push(format!("{name}: {}", client_error::describe(&error)));
                continue;
            }
        };
        if pods.items.is_empty() {
            lines.push(format!("{name}: the cluster has no pods"));
        }
        for pod in pods.items.iter().filter(|pod| ready_since(pod).is_none()) {
            waiting = true;
            lines.push(format!("{name}/{}/{}: {}", pod.namespace().unwrap_or_default(), pod.name_any(), state_of(pod)));
        }
        let events = Api::<Event>::all(client.clone()).list(&ListParams::default()).await;
        let list = events.map(|events| events.items).unwrap_or_default();
        lines.extend(warnings(&list).into_iter().map(|warning| format!("{name}: {warning}")));
    }
    if !waiting {
        lines.extend(reachability::missing(topology, clients, directory).await);
    }
    lines
}

/// The last warning of each reason about each object, without those that the state of the pod covers: backoff and
/// probes.
fn warnings(events: &[Event]) -> Vec<String> {
    let mut last = std::collections::BTreeMap::new();
    for event in events.iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let about = event.involved_object.name.clone().unwrap_or_default();
        let reason = event.reason.clone().unwrap_or_default();
        if !matches!(reason.as_str(), "BackOff" | "Unhealthy") {
            last.insert((about, reason), event.message.clone().unwrap_or_default());
        }
    }
    let warnings = last.into_iter().map(|((about, reason), message)| format!("{about}: {reason}: {message}"));
    warnings.take(MOST_WARNINGS).collect()
}

fn state_of(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers =
        status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten());
    let mut parts = Vec::new();
    for container in containers.filter(|container| !container.ready) {
        let state = container.state.unwrap_or_default();
        let text = match (state.waiting, state.terminated, state.running) {
            (Some(waiting), ..) => {
                format!("{} {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
            }
            (_, Some(ended), _) if ended.exit_code == 0 => continue,
            (_, Some(ended), _) => format!("exit code {}", ended.exit_code),
            (.., Some(_)) => "not ready".to_owned(),
            _ => "waiting".to_owned(),
        };
        parts.push(format!("{} {}", container.name, text.trim()));
    }
    if parts.is_empty() {
        let scheduled =
            status.conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status != "True");
        let why = scheduled.and_then(|condition| condition.message);
        parts.push(why.unwrap_or_else(|| status.phase.unwrap_or_else(|| "Pending".to_owned())));
    }
    parts.join("; ")
}
