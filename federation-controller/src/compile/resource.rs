//! Resources and their audiences.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use wire::Kind;

use super::endpoint::Endpoint;
use super::service::ServiceFacts;
use crate::inventory::{RefusedExport, RuleNotice};
use crate::objects::Text;

/// A resource, encoded.
#[derive(Clone, PartialEq, Debug)]
pub struct Resource {
    /// The type.
    pub kind: Kind,
    /// The name.
    pub name: Arc<str>,
    /// The addresses and collections that include the resource.
    pub keys: Box<[Arc<str>]>,
    /// The proxies that may receive it.
    pub audience: Audience,
    /// The message.
    pub body: Bytes,
}

impl Resource {
    /// Creates a resource for all proxies, without keys.
    pub fn for_all(kind: Kind, name: &str, body: Vec<u8>) -> Self {
        Resource { kind, name: name.into(), keys: Box::default(), audience: Audience::All, body: body.into() }
    }
}

/// The proxies that may receive a resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Audience {
    /// Every proxy of the mesh.
    All,
    /// The proxies of these clusters.
    Clusters(Box<[Text]>),
    /// The proxies of all clusters but these.
    OtherClusters(Box<[Text]>),
    /// The proxies of these namespaces, in these clusters.
    Namespaces {
        /// The clusters; empty: all.
        clusters: Box<[Text]>,
        /// The namespaces.
        namespaces: Box<[Text]>,
    },
    /// The proxies of all namespaces but these.
    OtherNamespaces(Box<[Text]>),
    /// The ingress and egress gateways of a namespace.
    Routers {
        /// The cluster.
        cluster: Text,
        /// The namespace.
        namespace: Text,
    },
    /// The proxy whose workload has the resource's name, if its certificate is for this service account.
    Workload(Text),
}

impl Audience {
    /// Returns whether proxies of a cluster may receive the resource.
    pub fn includes_cluster(&self, cluster: &Text) -> bool {
        match self {
            Audience::All | Audience::Workload(_) | Audience::OtherNamespaces(_) => true,
            Audience::Clusters(clusters) => clusters.contains(cluster),
            Audience::OtherClusters(clusters) => !clusters.contains(cluster),
            Audience::Routers { cluster: of, .. } => of == cluster,
            Audience::Namespaces { clusters, .. } => clusters.is_empty() || clusters.contains(cluster),
        }
    }

    /// Returns the part of the audience that is in a cluster. Of an audience that does not name clusters, that is all of it.
    pub fn within(&self, cluster: &Text) -> Audience {
        let only: Box<[Text]> = if self.includes_cluster(cluster) { [cluster.clone()].into() } else { Box::default() };
        match self {
            Audience::All | Audience::Clusters(_) | Audience::OtherClusters(_) => Audience::Clusters(only),
            // No cluster in the list means all.
            Audience::Namespaces { .. } if only.is_empty() => Audience::Clusters(only),
            Audience::Namespaces { namespaces, .. } => {
                Audience::Namespaces { clusters: only, namespaces: namespaces.clone() }
            }
            Audience::OtherNamespaces(_) | Audience::Routers { .. } | Audience::Workload(_) => self.clone(),
        }
    }

    /// Returns whether a proxy may receive the resource of a name.
    pub fn includes(&self, viewer: &Viewer, name: &str) -> bool {
        match self {
            Audience::All => true,
            Audience::Clusters(_) | Audience::OtherClusters(_) => self.includes_cluster(&viewer.cluster),
            Audience::Namespaces { namespaces, .. } => {
                namespaces.contains(&viewer.namespace) && self.includes_cluster(&viewer.cluster)
            }
            Audience::Routers { namespace, .. } => {
                viewer.router && *namespace == viewer.namespace && self.includes_cluster(&viewer.cluster)
            }
            Audience::OtherNamespaces(namespaces) => !namespaces.contains(&viewer.namespace),
            Audience::Workload(account) => *name == *viewer.workload && *account == viewer.account,
        }
    }
}

/// The identity of a proxy that receives resources.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Viewer {
    /// The proxy's cluster.
    pub cluster: Text,
    /// The proxy's namespace.
    pub namespace: Text,
    /// The name of the proxy's workload.
    pub workload: Text,
    /// The service account of the proxy's certificate.
    pub account: Text,
    /// Whether the proxy is an ingress or egress gateway.
    pub router: bool,
}

/// The resources of a [`crate::inventory::Group`].
#[derive(Debug, Default)]
pub struct Compiled {
    /// All resources but endpoints.
    pub resources: Vec<Resource>,
    /// The service of the group, if it is one, also if no cluster defines it any longer.
    pub service: Option<CompiledService>,
    /// What is wrong with the rules of routing of the group's host.
    pub notices: Vec<RuleNotice>,
    /// The exports of the group's service that have no effect.
    pub refused_exports: Vec<RefusedExport>,
}

/// A service's endpoints and facts.
#[derive(Debug)]
pub struct CompiledService {
    /// The hostname.
    pub hostname: Arc<str>,
    /// The endpoints, in no order.
    pub endpoints: Vec<Endpoint>,
    /// The facts for debug pages; `None` if no cluster defines the service.
    pub facts: Option<Arc<ServiceFacts>>,
}

impl From<Vec<Resource>> for Compiled {
    fn from(resources: Vec<Resource>) -> Self {
        Compiled { resources, ..Compiled::default() }
    }
}

/// Returns the version of a message: a hash of its content. Versions outlive the process, so the seed is fixed. 0 is never
/// returned; it stands for a version that is not the controller's.
pub fn version(body: &[u8]) -> u64 {
    foldhash::quality::FixedState::with_seed(0x6973_7468).hash_one(body).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_includes_proxies_by_cluster_namespace_and_account() {
        let viewer = Viewer {
            cluster: "west".into(),
            namespace: "shop".into(),
            workload: "west/shop/a-1".into(),
            account: "a".into(),
            router: false,
        };
        let router = Viewer { router: true, ..viewer.clone() };
        let list = |names: &[&str]| -> Box<[Text]> { names.iter().map(|name| Text::from(*name)).collect() };
        let namespaces = |clusters: &[&str], namespaces: &[&str]| Audience::Namespaces {
            clusters: list(clusters),
            namespaces: list(namespaces),
        };
        for (audience, name, expected) in [
            (Audience::All, "x", true),
            (Audience::Clusters(list(&["west"])), "x", true),
            (Audience::Clusters(list(&["east"])), "x", false),
            (Audience::Clusters(list(&[])), "x", false),
            (Audience::OtherClusters(list(&["east"])), "x", true),
            (Audience::OtherClusters(list(&["east", "west"])), "x", false),
            (namespaces(&[], &["shop", "bank"]), "x", true),
            (namespaces(&[], &["bank"]), "x", false),
            (namespaces(&["west"], &["shop"]), "x", true),
            (namespaces(&["east"], &["shop"]), "x", false),
            (Audience::OtherNamespaces(list(&["bank"])), "x", true),
            (Audience::OtherNamespaces(list(&["bank", "shop"])), "x", false),
            (Audience::Workload("a".into()), "west/shop/a-1", true),
            (Audience::Workload("a".into()), "west/shop/a-2", false),
            (Audience::Workload("b".into()), "west/shop/a-1", false),
        ] {
            assert_eq!(audience.includes(&viewer, name), expected, "{audience:?} {name}");
        }
        for (cluster, namespace, expected) in [("west", "shop", true), ("east", "shop", false), ("west", "bank", false)]
        {
            let audience = Audience::Routers { cluster: cluster.into(), namespace: namespace.into() };
            assert_eq!(audience.includes(&router, "x"), expected, "{audience:?}");
            assert!(!audience.includes(&viewer, "x"), "a sidecar");
        }
    }

    #[test]
    fn the_part_of_an_audience_in_a_cluster() {
        let list = |names: &[&str]| -> Box<[Text]> { names.iter().map(|name| Text::from(*name)).collect() };
        let namespaces =
            |clusters: &[&str]| Audience::Namespaces { clusters: list(clusters), namespaces: list(&["a"]) };
        for (audience, expected) in [
            (Audience::All, Audience::Clusters(list(&["east"]))),
            (Audience::OtherClusters(list(&["west"])), Audience::Clusters(list(&["east"]))),
            (Audience::OtherClusters(list(&["east"])), Audience::Clusters(list(&[]))),
            (Audience::Clusters(list(&["west", "east"])), Audience::Clusters(list(&["east"]))),
            (namespaces(&[]), namespaces(&["east"])),
            (namespaces(&["west"]), Audience::Clusters(list(&[]))),
        ] {
            assert_eq!(audience.within(&"east".into()), expected, "{audience:?}");
        }
    }

    #[test]
    fn versions_are_the_same_in_every_process() {
        // After a change here, proxies receive every resource again at the next restart of the controller.
        assert_eq!(version(b"isthmus"), 14_224_710_281_013_592_675);
        assert_ne!(version(b""), 0);
    }
}
