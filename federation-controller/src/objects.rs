//! The kinds of objects that the controller reads from clusters, and the events by which they arrive.
//!
//! Each kind has a file: the record (the fields that are kept), the object as an API server sends it, and the extractor
//! from one to the other. [`for_each_kind`] registers the kinds; watches, collections, snapshots and status follow from
//! that list. [`event`] defines the events between clusters and the inventory. `docs/adding-a-kind.md` describes how to
//! add a kind.
//!
//! A server may belong to somebody else. A field that Kubernetes would not have admitted is left out ([`fields`]): names
//! that are not DNS names, endpoints at addresses of the dialling host, lists beyond the bounds. One odd object never
//! stops a watch.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod credential;
pub mod event;
mod export;
mod federation;
pub(crate) mod fields;
mod gateway;
#[cfg(test)]
mod hostile;
pub(crate) mod intern;
mod keys;
mod labels;
mod metadata;
mod namespace;
mod node;
mod pod;
mod rate_limits;
pub(crate) mod raw;
mod rule;
mod service;
mod service_entry;
mod service_rules;
mod slice;

pub use credential::{ROOTS_SUFFIX, SecretRead, ServerCredential};
pub use export::{Export, Exported, MAX_TARGETS};
pub use federation::FederationPolicy;
pub use gateway::Gateway;
pub use keys::{KeySource, Keys};
pub use labels::Labels;
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{Pod, Template};
pub use rate_limits::{EnvoyFilter, HttpLocalRateLimitPolicy, RateLimit, Server};
pub use rule::{
    AuthorizationPolicy, DestinationRule, PeerAuthentication, ProxyConfig, RequestAuthentication, Rule, RuleProblem,
    RuleSpec, Sidecar, VirtualService,
};
pub use service::{DeclaredPort, IpFamily, Service, ServiceDetails, ServicePort, TargetPort, Transport};
pub use service_entry::{ServiceEntry, WorkloadEntry, WorkloadGroup};
pub use service_rules::{HttpRouteGroup, ServiceProfile, TrafficSplit};
pub use slice::{OtherPort, Slice, SliceEndpoint, Spot};

use intern::Strings;

/// What is kept of one remote cluster, in bytes, as if its objects shared nothing ([`Record::size`]). 200,000 pods with fifteen
/// labels come to 200 MB.
pub const KEPT: usize = 256 << 20;

/// A short string that many records share.
pub type Text = Arc<str>;

/// Calls a macro with every kind: the collection's name, the record, and the method of
/// [`crate::inventory::ClusterInventory`] that stores a change and returns what the change affects.
macro_rules! for_each_kind {
    ($macro:ident) => {
        $macro! {
            namespaces: Namespace, change_namespace;
            nodes: Node, change_node;
            services: Service, change_service;
            slices: Slice, change_slice;
            pods: Pod, change_pod;
            exports: Export, change_export;
            gateways: Gateway, change_gateway;
            virtual_services: VirtualService, change_virtual_service;
            destination_rules: DestinationRule, change_destination_rule;
            traffic_splits: TrafficSplit, change_traffic_split;
            route_groups: HttpRouteGroup, change_route_group;
            service_profiles: ServiceProfile, change_service_profile;
            sidecars: Sidecar, change_security_policy;
            proxy_configs: ProxyConfig, change_proxy_config;
            authorization_policies: AuthorizationPolicy, change_security_policy;
            peer_authentications: PeerAuthentication, change_peer_authentication;
            request_authentications: RequestAuthentication, change_security_policy;
            envoy_filters: EnvoyFilter, change_security_policy;
            rate_limits: RateLimit, change_security_policy;
            federation_policies: FederationPolicy, change_federation_policy;
            servers: Server, change_server;
            local_rate_limits: HttpLocalRateLimitPolicy, change_local_rate_limit;
            service_entries: ServiceEntry, change_service_entry;
            workload_entries: WorkloadEntry, change_workload_entry;
            workload_groups: WorkloadGroup, change_workload_group;
        }
    };
}
pub(crate) use for_each_kind;

/// What the controller keeps of an object of one kind.
pub trait Record: Clone + PartialEq + fmt::Debug + Into<Object> + Send + Sync + 'static {
    /// The object as an API server sends it.
    type Source: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static;
    /// The kind.
    const KIND: Kind;
    /// The kind's name in Kubernetes.
    const NAME: &'static str;
    /// The clusters in which the kind is watched.
    const WATCHED: Watched = Watched::EveryCluster;
    /// Whether a cluster may lack the kind, or deny the controller access to it.
    const OPTIONAL: bool = false;
    /// Whether the collection has an index by namespace.
    const BY_NAMESPACE: bool = false;
    /// Whether each object is compiled into a resource of its own.
    const OWN_RESOURCE: bool = false;
    /// The number of objects that are kept of one remote cluster.
    const LIMIT: usize;

    /// Extracts the record, or returns `None` if the object is of no interest.
    fn extract(object: Self::Source) -> Option<Self>;

    /// The namespace; `None` for kinds without namespaces.
    fn namespace(&self) -> Option<&Text>;

    /// The name.
    fn name(&self) -> &Text;

    /// The pods that the object selects. The collection has an index of selectors.
    fn selector(&self) -> Option<Selector<'_>> {
        None
    }

    /// Replaces the record's strings by the shared copies.
    fn intern(&mut self, strings: &mut Strings);

    /// Returns about how many bytes the record takes if it shares nothing with others.
    fn size(&self) -> usize;

    /// The namespace and name.
    fn key(&self) -> Key {
        Key { namespace: self.namespace().cloned().unwrap_or_default(), name: self.name().clone() }
    }
}

/// A selector of pods.
#[derive(Clone, Copy, Debug)]
pub struct Selector<'a> {
    /// The namespace of the pods; `None`: every namespace.
    pub namespace: Option<&'a Text>,
    /// The labels that a selected pod has.
    pub labels: &'a Labels,
}

/// The clusters in which a kind is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watched {
    /// Every cluster: workloads and endpoints, and security policies, which protect the cluster that they are in.
    EveryCluster,
    /// The controller's own cluster: configuration of the whole mesh.
    Primary,
}

impl Watched {
    /// Returns whether the kind is watched in a cluster.
    pub const fn includes(self, role: event::ClusterRole) -> bool {
        matches!(self, Watched::EveryCluster) || matches!(role, event::ClusterRole::Primary)
    }
}

macro_rules! define_kinds {
    ($($collection:ident: $Record:ident, $change:ident;)+) => {
        /// A watched kind.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Kind {
            $(#[doc = concat!("[`", stringify!($Record), "`].")] $Record,)+
        }

        impl Kind {
            /// All kinds.
            pub const ALL: [Kind; [$(stringify!($Record)),+].len()] = [$(Kind::$Record),+];

            /// Returns the kind's name in Kubernetes.
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$Record => <$Record as Record>::NAME,)+ }
            }

            /// Returns the kind of an API group and a name.
            pub fn of(group: &str, kind: &str) -> Option<Kind> {
                $(if <<$Record as Record>::Source as kube::Resource>::group(&()) == group
                    && <<$Record as Record>::Source as kube::Resource>::kind(&()) == kind
                {
                    return Some(Kind::$Record);
                })+
                None
            }

            /// Returns the clusters in which the kind is watched.
            pub const fn watched(self) -> Watched {
                match self { $(Kind::$Record => <$Record as Record>::WATCHED,)+ }
            }

            /// Returns the number of objects that are kept of one remote cluster.
            pub const fn limit(self) -> usize {
                match self { $(Kind::$Record => <$Record as Record>::LIMIT,)+ }
            }
        }

        /// A record of any kind. Its serialized form is part of the snapshot's format.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Object {
            $(#[doc = concat!("A [`", stringify!($Record), "`].")] $Record($Record),)+
        }

        impl Object {
            /// The kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$Record(_) => Kind::$Record,)+ }
            }

            /// The namespace and name.
            pub fn key(&self) -> Key {
                match self { $(Object::$Record(record) => record.key(),)+ }
            }

            /// Returns the work of storing the record: the number of its parts that have a place in an index.
            pub fn work(&self) -> u64 {
                let parts = match self {
                    Object::Slice(slice) => slice.endpoints.len(),
                    Object::Gateway(gateway) => gateway.spec.as_ref().map_or(0, |spec| spec.parts()),
                    Object::ServiceEntry(entry) => entry.spec.as_ref().map_or(0, |spec| spec.parts()),
                    Object::VirtualService(rule) => rule.spec.as_ref().map_or(0, |spec| spec.parts()),
                    Object::TrafficSplit(rule) => rule.spec.as_ref().map_or(0, |spec| spec.parts()),
                    Object::ServiceProfile(rule) => rule.spec.as_ref().map_or(0, |spec| spec.dst_overrides.len()),
                    _ => 0,
                };
                1 + parts as u64
            }

            /// Returns about how many bytes the record takes if it shares nothing with others.
            pub fn size(&self) -> usize {
                match self { $(Object::$Record(record) => record.size(),)+ }
            }

            /// Replaces the record's strings by the shared copies.
            pub(crate) fn intern(&mut self, strings: &mut Strings) {
                match self { $(Object::$Record(record) => record.intern(strings),)+ }
            }
        }

        $(
            impl From<$Record> for Object {
                fn from(record: $Record) -> Self {
                    Object::$Record(record)
                }
            }
        )+
    };
}
for_each_kind!(define_kinds);

impl Kind {
    /// Returns the kinds that are watched in a cluster.
    pub fn watched_in(role: event::ClusterRole) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| kind.watched().includes(role))
    }
}

/// A namespace and a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The namespace; empty for kinds without namespaces.
    pub namespace: Text,
    /// The name.
    pub name: Text,
}

impl Key {
    /// Returns the key of a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::event::ClusterRole;
    use super::*;

    /// The permissions of the reader account are written in the `api` crate, which the lab and `isthmus join` use.
    #[test]
    fn the_reader_account_may_read_the_kinds_of_every_cluster_and_no_other() {
        macro_rules! resources {
            ($($collection:ident: $Record:ident, $change:ident;)+) => {
                [$((Kind::$Record, resource::<$Record>()),)+]
            };
        }
        fn resource<T: Record>() -> (String, String) {
            use kube::Resource as _;
            (T::Source::group(&()).into_owned(), T::Source::plural(&()).into_owned())
        }
        let mut watched: Vec<(String, String)> = for_each_kind!(resources)
            .into_iter()
            .filter(|(kind, _)| kind.watched().includes(ClusterRole::Remote))
            .map(|(_, resource)| resource)
            .collect();
        watched.sort();
        let rules = api::reader::WATCHED.iter();
        let mut readable: Vec<(String, String)> =
            rules.flat_map(|rule| rule.resources.iter().map(|of| (rule.group.into(), (*of).into()))).collect();
        readable.sort();
        assert_eq!(watched, readable);
    }

    #[test]
    fn configuration_is_watched_in_the_primary_cluster_only() {
        assert!(Watched::Primary.includes(ClusterRole::Primary) && !Watched::Primary.includes(ClusterRole::Remote));
        assert!(Watched::EveryCluster.includes(ClusterRole::Primary));
        assert!(Watched::EveryCluster.includes(ClusterRole::Remote));
    }
}
