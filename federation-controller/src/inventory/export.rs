//! Exports: the services of a cluster that other clusters may use.
//!
//! A cluster exports a service by any of these:
//! - a ServiceExport (multicluster.x-k8s.io, KEP-1645) of its namespace and name;
//! - an Istio Gateway with a server in AUTO_PASSTHROUGH mode and a matching host, if it selects a pod of the cluster;
//! - the mesh setting that exports all services.
//!
//! FederationPolicies decide which of these exports have an effect ([`decide`]).
//!
//! The cluster of the controller exports the controller's own services, by which the proxies and the API servers of remote
//! clusters reach it, if it signs for such clusters, and its discovery service alone if there are WorkloadGroups, whose workloads
//! reach it through the gateway. Otherwise neither is reachable from other clusters.
//!
//! Never exported are services of type ExternalName, which have no endpoints; services of `internalTrafficPolicy: Local`, whose
//! endpoints serve their own node alone (a derived service of that policy has no endpoint on another cluster's node, and
//! Istio uses none); `default/kubernetes` and the services of
//! `kube-system`, as in Istio; and the services of the components' namespace from other clusters, because a remote cluster
//! must not stand in for the controller.

use crate::inventory::{Definition, ExportRefusal, Inventory, OWN_SERVICES, never_exported};
use crate::objects::{Key, Record as _};

/// Why a cluster exports a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Reason {
    /// The service is one of the controller's own.
    Own,
    /// A ServiceExport.
    ServiceExport,
    /// A host of a Gateway.
    Gateway,
    /// The mesh setting.
    Mesh,
}

impl Reason {
    /// Returns the reason as debug pages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Own => "own service",
            Reason::ServiceExport => "ServiceExport",
            Reason::Gateway => "AUTO_PASSTHROUGH gateway",
            Reason::Mesh => "mesh setting",
        }
    }
}

/// Returns whether a service is one of the controller's own.
pub fn is_own(inventory: &Inventory, key: &Key) -> bool {
    key.namespace == inventory.settings().namespace && OWN_SERVICES.iter().any(|(name, _)| **name == *key.name)
}

/// Returns why a cluster exports a service, or `None` if it does not, or may not.
pub fn reason(inventory: &Inventory, definition: Definition<'_>, hostname: &str) -> Option<Reason> {
    decide(inventory, definition, hostname).ok().flatten()
}

/// Returns why a cluster exports a service, or `None` if it does not. No policy decides about the controller's own services.
///
/// # Errors
/// Returns why the export has no effect, and the policy that says so.
pub(crate) fn decide(
    inventory: &Inventory,
    definition: Definition<'_>,
    hostname: &str,
) -> Result<Option<Reason>, (ExportRefusal, Option<Key>)> {
    let reason = wanted(inventory, definition, hostname);
    if reason.is_some_and(|reason| reason != Reason::Own) {
        inventory.may_export(definition.cluster, definition.service, hostname)?;
    }
    Ok(reason)
}

/// Returns why a cluster exports a service, whether or not it may.
pub(crate) fn wanted(inventory: &Inventory, definition: Definition<'_>, hostname: &str) -> Option<Reason> {
    let Definition { cluster, service } = definition;
    if service.external {
        return None;
    }
    let key = &service.key();
    if is_own(inventory, key) {
        // In another cluster a service of this name is the route to a controller, or another primary's own service, which
        // that primary exports. Proxies would take it for this controller.
        return (service.selects && cluster.info.own && inventory.exposes(key)).then_some(Reason::Own);
    }
    if never_exported(key) {
        return None;
    }
    if service.node_local {
        return None;
    }
    let system = key.namespace == inventory.settings().namespace;
    if system && !cluster.info.own {
        return None;
    }
    if cluster.exports().contains(key) {
        return Some(Reason::ServiceExport);
    }
    if cluster.exports_by_host(key, hostname) {
        return Some(Reason::Gateway);
    }
    (inventory.mesh().export_all && !system).then_some(Reason::Mesh)
}
