//! The Endpoints controller: the legacy Endpoints object of each Service, derived from its EndpointSlices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::endpoint_slice::{self, SERVICE_NAME};
use super::reconcile::{self, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::view::ClusterView;

mod mirror;

pub use mirror::run as mirror;

/// Label with the controller of an Endpoints object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] for objects of this controller.
const CONTROLLER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Addresses that are ready, and those that are not.
type Addresses = (Vec<EndpointAddress>, Vec<EndpointAddress>);
/// Addresses by the names and numbers of their ports.
type Subsets = BTreeMap<Vec<(Option<String>, i32)>, (Vec<EndpointPort>, Addresses)>;

/// Returns the Endpoints of a Service with a selector, given the slices of its pods; `None` for other Services.
#[must_use]
pub fn desired(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<Endpoints> {
    let spec = service.spec.as_ref()?;
    if !has_selector(service) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let family = spec.ip_families.as_ref().and_then(|families| families.first()).map_or("IPv4", String::as_str);
    let mut subsets = Subsets::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let ports = ports(slice);
        let key = ports.iter().map(|port| (port.name.clone(), port.port)).collect();
        let (_, (ready, unready)) = subsets.entry(key).or_insert_with(|| (ports, Addresses::default()));
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            if conditions.ready != Some(false) {
                ready.extend(address(endpoint));
            } else if conditions.terminating != Some(true) {
                unready.extend(address(endpoint));
            }
        }
    }
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let subsets: Vec<EndpointSubset> = subsets
        .into_values()
        .filter(|(_, (ready, unready))| !ready.is_empty() || !unready.is_empty())
        .map(|(ports, (ready, unready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(unready),
            ports: (!ports.is_empty()).then_some(ports),
        })
        .collect();
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut endpoints = Endpoints { subsets: (!subsets.is_empty()).then_some(subsets), ..Endpoints::default() };
    endpoints.metadata.name = service.metadata.name.clone();
    endpoints.metadata.namespace = service.metadata.namespace.clone();
    endpoints.metadata.labels = Some(labels);
    Some(endpoints)
}

/// Reports whether a Service selects pods.
fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

fn ports(slice: &EndpointSlice) -> Vec<EndpointPort> {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port?,
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn address(endpoint: &Endpoint) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: endpoint.addresses.first()?.clone(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, DerivedEndpoints).await;
}

struct DerivedEndpoints;

impl ReconciledKind for Service {
    const CONTROLLER: &'static str = CONTROLLER;

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.services
    }
}

impl Reconciler for DerivedEndpoints {
    type Kind = Service;

    async fn reconcile(&self, service: &Reconciled<'_, Service>) -> Result<Option<Duration>, ReconcileError> {
        let (name, namespace) = (service.object.name_any(), service.namespace());
        let mut slices = service.view.slices.list();
        slices.retain(|slice| {
            slice.metadata.namespace == service.object.metadata.namespace
                && slice.labels().get(SERVICE_NAME) == Some(&name)
                && slice.labels().get(endpoint_slice::MANAGED_BY).is_some_and(|by| by == endpoint_slice::CONTROLLER)
        });
        let Some(mut desired) = desired(service.object, &slices) else { return Ok(None) };
        let api: Api<Endpoints> = service.api();
        let written = match service.view.endpoints.get(&namespace, &name) {
            None => api.create(&PostParams::default(), &desired).await?,
            Some(known) if known.subsets == desired.subsets && known.metadata.labels == desired.metadata.labels => {
                return Ok(None);
            }
            Some(known) => {
                desired.metadata.resource_version = known.resource_version();
                api.replace(&name, &PostParams::default(), &desired).await?
            }
        };
        service.view.endpoints.put(written);
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
