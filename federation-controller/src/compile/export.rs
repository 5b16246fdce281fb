//! Which services a cluster lets other clusters use.
//!
//! Any one of these exports a service of a cluster:
//! - a ServiceExport (multicluster.x-k8s.io, KEP-1645) of its namespace and name;
//! - an Istio Gateway with a server in AUTO_PASSTHROUGH mode one of whose hosts matches, if a pod of the cluster is
//!   selected by it: that is how Istio users say it;
//! - the mesh setting that exports all;
//! - being one of the controller's own services, in the cluster that runs it: remote proxies reach it so.
//!
//! Never exported are `default/kubernetes` and what is in `kube-system`, as in Istio; nor, from other clusters than the
//! controller's, what is in the namespace of our own components: a remote cluster cannot stand in for the controller.

use crate::inventory::{ClusterIndex, Key};
use crate::objects::event::{Gateway, Text};

/// Why a service is exported from a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Reason {
    /// The controller's own.
    Own,
    /// A ServiceExport.
    ServiceExport,
    /// A Gateway's host.
    Gateway,
    /// The mesh setting.
    Mesh,
}

impl Reason {
    /// As debug pages say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Own => "own service",
            Reason::ServiceExport => "ServiceExport",
            Reason::Gateway => "AUTO_PASSTHROUGH gateway",
            Reason::Mesh => "mesh setting",
        }
    }
}

/// What holds for a service in all clusters.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The mesh setting that exports all.
    pub all: bool,
    /// It is one of the controller's own services.
    pub own: bool,
    /// It is in the namespace of our own components.
    pub system: bool,
}

impl Rules {
    /// Why this cluster exports the service; `None` if it does not.
    pub fn reason(self, cluster: &ClusterIndex, key: &Key, hostname: &str) -> Option<Reason> {
        reason(self, cluster, key, hostname)
    }
}

fn reason(rules: Rules, cluster: &ClusterIndex, key: &Key, hostname: &str) -> Option<Reason> {
    let Rules { all, own, system } = rules;
    let service = cluster.service(key)?;
    if own {
        // Elsewhere a service of that name is the way to a controller, or another primary's own, which that one exports.
        // Taken from there it would answer for this one.
        return (service.selects && cluster.info.own).then_some(Reason::Own);
    }
    if &*key.namespace == "kube-system" || (&*key.namespace == "default" && &*key.name == "kubernetes") {
        return None;
    }
    if system && !cluster.info.own {
        return None;
    }
    if cluster.has_export(key) {
        return Some(Reason::ServiceExport);
    }
    let offered = |gateway: &Gateway| gateway.hosts.iter().any(|host| matches(host, &gateway.namespace, key, hostname));
    if cluster.gateways_in_force().any(offered) {
        return Some(Reason::Gateway);
    }
    (all && !system).then_some(Reason::Mesh)
}

/// Whether a Gateway's host, in one of the forms `host`, `namespace/host`, `*/host`, `./host`, means a service. The host
/// part is exact, `*`, or `*.suffix`.
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
    fn hosts_mean_services_as_in_istio() {
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
