//! Exports: the services of a cluster that other clusters may use.
//!
//! A cluster exports a service by any of these:
//! - a ServiceExport (multicluster.x-k8s.io, KEP-1645) of its namespace and name;
//! - an Istio Gateway with a server in AUTO_PASSTHROUGH mode and a matching host, if it selects a pod of the cluster;
//! - the mesh setting that exports all services.
//!
//! The cluster of the controller exports the controller's own services, by which remote proxies reach it.
//!
//! Never exported are services of type ExternalName, which have no endpoints; services of `internalTrafficPolicy: Local`, whose
//! endpoints serve their own node alone (a derived service of that policy has no endpoint on another cluster's node, and
//! Istio uses none); `default/kubernetes` and the services of
//! `kube-system`, as in Istio; and the services of the components' namespace from other clusters, because a remote cluster
//! must not stand in for the controller.

use crate::inventory::{Definition, Inventory, OWN_SERVICES};
use crate::objects::{Gateway, Key, Record as _, Text};

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

/// Returns why a cluster exports a service, or `None` if it does not.
pub fn reason(inventory: &Inventory, definition: Definition<'_>, hostname: &str) -> Option<Reason> {
    let Definition { cluster, service } = definition;
    if service.external {
        return None;
    }
    let key = &service.key();
    if is_own(inventory, key) {
        // In another cluster a service of this name is the route to a controller, or another primary's own service, which
        // that primary exports. Proxies would take it for this controller.
        return (service.selects && cluster.info.own).then_some(Reason::Own);
    }
    if &*key.namespace == "kube-system" || (&*key.namespace == "default" && &*key.name == "kubernetes") {
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
    let matching = |gateway: &Gateway| gateway.hosts.iter().any(|of| matches(of, &gateway.namespace, key, hostname));
    if cluster.gateways_with_pods().any(matching) {
        return Some(Reason::Gateway);
    }
    (inventory.mesh().export_all && !system).then_some(Reason::Mesh)
}

/// Returns whether a Gateway's host matches a service. The forms are `host`, `namespace/host`, `*/host` and `./host`; the
/// host part is exact, `*`, or `*.suffix`.
fn matches(host: &str, gateway_namespace: &Text, key: &Key, hostname: &str) -> bool {
    let (namespace, host) = host.split_once('/').unwrap_or(("*", host));
    let in_namespace = match namespace {
        "*" => true,
        "." => key.namespace == *gateway_namespace,
        named => *key.namespace == *named,
    };
    let named = match host.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => suffix.starts_with('.') && hostname.len() > suffix.len() && hostname.ends_with(suffix),
        None => host == hostname,
    };
    in_namespace && named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_services_as_in_istio() {
        let key = Key::new("default", "reviews");
        let hostname = "reviews.default.svc.cluster.local";
        let gateway: Text = "istio-system".into();
        for (host, expected) in [
            ("*", true),
            ("*.local", true),
            ("*.svc.cluster.local", true),
            ("*.default.svc.cluster.local", true),
            ("*.other.svc.cluster.local", false),
            ("*cluster.local", false),
            (hostname, true),
            ("ratings.default.svc.cluster.local", false),
            ("*.reviews.default.svc.cluster.local", false),
            ("default/*", true),
            ("other/*", false),
            ("*/reviews.default.svc.cluster.local", true),
            ("./*.local", false),
            ("", false),
        ] {
            assert_eq!(matches(host, &gateway, &key, hostname), expected, "{host}");
        }
        assert!(matches("./*.local", &"default".into(), &key, hostname));
    }
}
