//! The mirroring controller: EndpointSlices of the Endpoints that a user writes for a Service without a selector.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Client, ResourceExt as _};

use super::{CONTROLLER, MANAGED_BY, has_selector};
use crate::controllers::cache::Cache;
use crate::controllers::endpoint_slice::{self, SERVICE_NAME, difference};
use crate::controllers::owner::{owned_by, references_to};
use crate::controllers::reconcile::{self, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use crate::controllers::view::ClusterView;

/// Value of the label `endpointslice.kubernetes.io/managed-by` of mirrored slices.
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Returns the slices of Endpoints: one for each subset and IP family. There are none if the Service selects pods itself.
pub(super) fn mirrored(endpoints: &Endpoints, service: Option<&Service>) -> Vec<EndpointSlice> {
    let Some(service) = service.filter(|service| !has_selector(service)) else { return Vec::new() };
    if endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true") {
        return Vec::new();
    }
    let subsets = endpoints.subsets.iter().flatten().enumerate();
    subsets
        .flat_map(|(index, subset)| {
            ["IPv4", "IPv6"].into_iter().filter_map(move |family| slice(endpoints, service, (index, subset), family))
        })
        .collect()
}

fn slice(
    endpoints: &Endpoints,
    service: &Service,
    (index, subset): (usize, &EndpointSubset),
    family: &str,
) -> Option<EndpointSlice> {
    let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
        let own = addresses
            .iter()
            .flatten()
            .filter(|address| address.ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4")));
        own.map(|address| endpoint(address, ready)).collect()
    };
    let found = [of(&subset.addresses, true), of(&subset.not_ready_addresses, false)].concat();
    if found.is_empty() {
        return None;
    }
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(endpoint_slice::MANAGED_BY.to_owned(), MIRRORING.to_owned());
    let mut slice = EndpointSlice {
        address_type: family.to_owned(),
        endpoints: found,
        ports: Some(ports.collect()),
        ..EndpointSlice::default()
    };
    slice.metadata.name = Some(format!("{}-mirror-{}-{index}", endpoints.name_any(), family.to_lowercase()));
    slice.metadata.namespace = endpoints.namespace();
    slice.metadata.labels = Some(labels);
    slice.metadata.owner_references = references_to(endpoints);
    Some(slice)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Runs the controller. It also deletes derived Endpoints whose Service is gone.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, MirroredEndpoints).await;
}

struct MirroredEndpoints;

impl ReconciledKind for Endpoints {
    const CONTROLLER: &'static str = "endpoint-slice-mirroring-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.endpoints
    }
}

impl Reconciler for MirroredEndpoints {
    type Kind = Endpoints;

    async fn reconcile(&self, endpoints: &Reconciled<'_, Endpoints>) -> Result<Option<Duration>, ReconcileError> {
        let (object, view, namespace) = (endpoints.object, endpoints.view, endpoints.namespace());
        let service = view.services.get(&namespace, &object.name_any());
        if object.labels().get(MANAGED_BY).is_some_and(|by| by == CONTROLLER) {
            if service.is_none() {
                delete(endpoints).await?;
            }
            return Ok(None);
        }
        let uid = object.uid().unwrap_or_default();
        let mut present = view.slices.list();
        present.retain(|slice| owned_by(&slice.metadata, &uid));
        let actions = difference(mirrored(object, service.as_deref()), &present);
        endpoint_slice::act(endpoints.client, view, &namespace, actions).await?;
        Ok(None)
    }
}

async fn delete(endpoints: &Reconciled<'_, Endpoints>) -> kube::Result<()> {
    let api: Api<Endpoints> = endpoints.api();
    let preconditions = Preconditions { uid: endpoints.object.uid(), resource_version: None };
    match api.delete(&endpoints.object.name_any(), &DeleteParams::default().preconditions(preconditions)).await {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        other => drop(other?),
    }
    endpoints.view.endpoints.remove(endpoints.object);
    Ok(())
}
