//! The EndpointSlice controller: the pods that serve a Service, and their state.
//!
//! Conditions are those of the EndpointSlice API: `serving` is the pod's readiness, `terminating` its deletion, and
//! `ready` is serving and not terminating. A slice's name derives from the key of its content, so that a repeated pass
//! finds the slices of the last one.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt as _};

use super::owner::references_to;
use super::pod_state::{finished, ready_since};
use super::reconcile::whenever_changed;
use super::retry::Retries;
use super::selector;
use super::view::ClusterView;

/// Label with the name of a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label with the controller of a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] for slices of this controller.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints of one slice, Kubernetes' default.
const SLICE_SIZE: usize = 100;

/// Names and numbers of a slice's ports, by which endpoints are grouped.
type PortKey = Vec<(Option<String>, i32)>;

/// Returns the slices of `service`; `None` if this controller does not manage them.
#[must_use]
pub fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Option<Vec<EndpointSlice>> {
    let spec = service.spec.as_ref()?;
    let wanted = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let service_ports = spec.ports.as_deref().unwrap_or_default();
    // Endpoints by address family and resolved ports: with named target ports, pods may have different numbers.
    let mut groups: BTreeMap<(String, PortKey), Vec<Endpoint>> = BTreeMap::new();
    let mut ports_of: BTreeMap<PortKey, Vec<EndpointPort>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| serves(pod, service, wanted)) {
        let ports = resolve(service_ports, pod);
        let key: PortKey = ports.iter().map(|port| (port.name.clone(), port.port.unwrap_or(0))).collect();
        for family in &families {
            if let Some(endpoint) = endpoint(service, pod, family, zone_of) {
                groups.entry((family.clone(), key.clone())).or_default().push(endpoint);
                ports_of.entry(key.clone()).or_insert_with(|| ports.clone());
            }
        }
    }
    if groups.is_empty() {
        // An empty slice shows that the controller has found no pod.
        let family = families.first().cloned().unwrap_or_else(|| "IPv4".to_owned());
        groups.insert((family, Vec::new()), Vec::new());
    }
    let mut slices = Vec::new();
    for ((family, key), mut endpoints) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let chunks = endpoints.chunks(SLICE_SIZE).map(<[Endpoint]>::to_vec);
        let chunks: Vec<Vec<Endpoint>> = if endpoints.is_empty() { vec![Vec::new()] } else { chunks.collect() };
        for (index, chunk) in chunks.into_iter().enumerate() {
            let ports = ports_of.get(&key).cloned().unwrap_or_default();
            slices.push(slice(service, &family, ports, index, chunk));
        }
    }
    Some(slices)
}

fn serves(pod: &Pod, service: &Service, wanted: &selector::Labels) -> bool {
    pod.metadata.namespace == service.metadata.namespace
        && selector::holds(wanted, pod.labels())
        && !finished(pod)
        && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())
}

fn resolve(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    let named = |name: &str, protocol: &str| {
        let spec = pod.spec.as_ref()?;
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        ports
            .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
            .map(|port| port.container_port)
    };
    ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let number = match &port.target_port {
                None => port.port,
                Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => named(name, protocol)?,
            };
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(protocol.to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone_of: &dyn Fn(&str) -> Option<String>) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
    let mut addresses = status.pod_ip.clone().into_iter().chain(listed);
    let address =
        addresses.find(|address| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4")))?;
    let spec = service.spec.as_ref()?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = ready_since(pod).is_some();
    let ready = spec.publish_not_ready_addresses.unwrap_or(false) || (serving && !terminating);
    let pod_spec = pod.spec.as_ref()?;
    let node = pod_spec.node_name.clone();
    let hostname = pod_spec
        .hostname
        .clone()
        .filter(|hostname| !hostname.is_empty() && pod_spec.subdomain == service.metadata.name);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        zone: node.as_deref().and_then(zone_of),
        node_name: node,
        hostname,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    index: usize,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut hasher = DefaultHasher::new();
    (family, index).hash(&mut hasher);
    for port in &ports {
        (&port.name, port.port).hash(&mut hasher);
    }
    let mut labels: selector::Labels = service.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut slice =
        EndpointSlice { address_type: family.to_owned(), endpoints, ports: Some(ports), ..EndpointSlice::default() };
    slice.metadata.name = Some(format!("{}-{:05x}", service.name_any(), hasher.finish() & 0xf_ffff));
    slice.metadata.namespace = service.namespace();
    slice.metadata.labels = Some(labels);
    slice.metadata.owner_references = references_to(service);
    slice
}

/// An action for the slices of a Service.
#[derive(Debug, PartialEq)]
pub enum SliceAction {
    /// Create a slice.
    Create(EndpointSlice),
    /// Replace the content of a slice.
    Replace(EndpointSlice),
    /// Delete a slice.
    Delete(String),
}

/// Returns the actions from the present slices to the desired ones.
#[must_use]
pub fn difference(desired: Vec<EndpointSlice>, present: &[Arc<EndpointSlice>]) -> Vec<SliceAction> {
    let mut actions = Vec::new();
    let surplus = present.iter().filter(|known| !desired.iter().any(|slice| slice.name_any() == known.name_any()));
    let deletions: Vec<SliceAction> = surplus.map(|known| SliceAction::Delete(known.name_any())).collect();
    for mut slice in desired {
        match present.iter().find(|known| known.name_any() == slice.name_any()) {
            None => actions.push(SliceAction::Create(slice)),
            Some(known) => {
                let same = known.endpoints == slice.endpoints
                    && known.ports.as_deref().unwrap_or_default() == slice.ports.as_deref().unwrap_or_default()
                    && known.metadata.labels == slice.metadata.labels;
                if !same {
                    slice.metadata.resource_version = known.resource_version();
                    slice.metadata.uid = known.uid();
                    actions.push(SliceAction::Replace(slice));
                }
            }
        }
    }
    // Additions come first: a moment with an endpoint twice is better than one without it.
    actions.extend(deletions);
    actions
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &retries)).await;
}

async fn pass(client: &Client, view: &ClusterView, retries: &tokio::sync::Mutex<Retries>) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    let pods = view.pods.list();
    let zone_of = |node: &str| view.nodes.get("", node)?.labels().get(super::scheduler::ZONE).cloned();
    let slices: Vec<Arc<EndpointSlice>> = view
        .slices
        .list()
        .into_iter()
        .filter(|slice| slice.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER))
        .collect();
    for service in view.services.list() {
        let key = service.uid().unwrap_or_default();
        if service.metadata.deletion_timestamp.is_some() || !retries.due(&key, started) {
            continue;
        }
        let present: Vec<Arc<EndpointSlice>> = slices
            .iter()
            .filter(|slice| {
                slice.metadata.namespace == service.metadata.namespace
                    && slice.labels().get(SERVICE_NAME) == service.metadata.name.as_ref()
            })
            .cloned()
            .collect();
        let Some(desired) = desired(&service, &pods, &zone_of) else { continue };
        let namespace = service.namespace().unwrap_or_default();
        match act(client, view, &namespace, difference(desired, &present)).await {
            Ok(()) => retries.succeeded(&key),
            Err(error) => {
                let error = client_error::describe(&error);
                tracing::debug!(service = service.name_any(), error, "cannot write endpoints");
                retries.failed(&key, Instant::now());
            }
        }
    }
    retries.next(started)
}

/// Carries out actions on the slices of a namespace.
pub(super) async fn act(
    client: &Client,
    view: &ClusterView,
    namespace: &str,
    actions: Vec<SliceAction>,
) -> kube::Result<()> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for action in actions {
        match action {
            SliceAction::Create(slice) => {
                view.slices.put(api.create(&PostParams::default(), &slice).await?);
            }
            SliceAction::Replace(slice) => {
                view.slices.put(api.replace(&slice.name_any(), &PostParams::default(), &slice).await?);
            }
            SliceAction::Delete(name) => {
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => drop(other?),
                }
                if let Some(known) = view.slices.get(namespace, &name) {
                    view.slices.remove(&known);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
