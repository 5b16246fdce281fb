//! Events: changes in clusters, in the mesh's settings and trust bundle, and of connected proxies.
//!
//! A watch sends, for its cluster and kind: [`Event::Listing`], an [`Event::Upsert`] for each object of the list, and
//! [`Event::Listed`]; from then on upserts and deletes as they happen. A watch that starts over sends the same sequence
//! again. Objects that are not in the new list are removed at its [`Event::Listed`], not before, so a restarted watch
//! changes nothing by itself. A lost connection sends only [`Event::Link`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::compatibility::KindWithoutEffect;
use api::mesh::{ExternalAuthorization, GatewayTopology, PathNormalization, ProxySettings};
use api::networking::DestinationRuleSpec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use wire::name::Role;

use super::{Key, KeySource, Kind, Object, SecretRead, Text};

/// How long the knowledge of a remote cluster holds without proof of life, without `federation.lease` in the mesh settings.
pub const LEASE: Duration = Duration::from_secs(300);

/// A change.
#[derive(Debug)]
pub enum Event {
    /// A cluster is part of the mesh: the controller's own at the start, others by their remote secrets. The event repeats
    /// when the cluster's description changes.
    ClusterAdded(Cluster),
    /// The cluster's remote secret is gone. Its objects are removed.
    ClusterRemoved {
        /// The cluster.
        cluster: Text,
    },
    /// The remote secrets have been read. Clusters of the snapshot that no secret names are removed.
    ClustersListed {
        /// The clusters that a secret names, including those of entries with problems.
        named: BTreeSet<Text>,
    },
    /// The state of the link to a cluster's API server changed. The cluster's objects stay.
    Link {
        /// The cluster.
        cluster: Text,
        /// The state.
        link: Link,
        /// When the link entered the state.
        since: SystemTime,
    },
    /// A list of all objects of one kind begins.
    Listing {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
    },
    /// The list is complete. Objects of the kind that are not in it no longer exist.
    Listed {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
    },
    /// The cluster does not permit the controller to read an optional kind. Known objects of the kind stay.
    Denied {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
        /// The reason of the server.
        why: Text,
    },
    /// An object was added or changed.
    Upsert {
        /// The cluster.
        cluster: Text,
        /// The object.
        object: Object,
    },
    /// An object was deleted.
    Delete {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
        /// The namespace; empty for kinds without namespaces.
        namespace: Text,
        /// The name.
        name: Text,
    },
    /// The mesh-wide settings in the root namespace changed.
    Mesh(Mesh),
    /// The mesh-wide settings were read, and some have no effect.
    MeshNotices(MeshNotices),
    /// The objects of a kind without effect changed.
    WithoutEffect {
        /// The kind.
        kind: &'static KindWithoutEffect,
        /// All objects of the kind in the controller's own cluster, within a bound.
        objects: BTreeSet<Key>,
    },
    /// The trust bundle changed.
    Trust(Trust),
    /// An attempt to fetch the keys of an issuer of tokens has ended.
    Keys {
        /// The place of the keys.
        source: KeySource,
        /// The key set as JSON, or why there is none.
        fetched: Result<Text, Text>,
    },
    /// A Secret of the servers of gateways was read.
    Credential {
        /// The cluster.
        cluster: Text,
        /// The Secret.
        secret: Key,
        /// What was read.
        read: SecretRead,
    },
    /// A proxy opened a stream.
    ProxyConnected {
        /// The proxy's cluster.
        cluster: Text,
        /// The proxy's pod.
        pod: Key,
        /// The proxy's role.
        role: Role,
        /// Receives a value when the pod's workload is published.
        published: oneshot::Sender<()>,
    },
    /// A stream of a proxy ended.
    ProxyDisconnected {
        /// The proxy's cluster.
        cluster: Text,
        /// The proxy's pod.
        pod: Key,
    },
}

/// A cluster of the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// The name.
    pub name: Text,
    /// Whether the controller runs in the cluster.
    pub own: bool,
    /// The network of the cluster's pods by the controller's options, or by the annotation of the remote secret; empty: not
    /// configured. See [`crate::inventory::networks`].
    pub network: Text,
    /// The address of the API server, for status only.
    pub server: Text,
    /// When the cluster's remote secret was created, in seconds since 1970: of two clusters with the same claim, the one that
    /// joined first keeps it.
    #[serde(default)]
    pub joined: i64,
}

impl Cluster {
    /// The role.
    pub fn role(&self) -> ClusterRole {
        if self.own { ClusterRole::Primary } else { ClusterRole::Remote }
    }
}

/// The role of a cluster for this controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterRole {
    /// The controller runs in the cluster and reads the mesh's configuration from it.
    Primary,
    /// The controller watches the cluster through a remote secret.
    Remote,
}

/// The state of the link to a cluster's API server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The first lists are not complete.
    Connecting,
    /// The watches are running.
    Connected,
    /// The server is unreachable, for this reason. The cluster's objects stay.
    Lost(Text),
    /// The server refuses the controller's credentials or lacks a permission, for this reason.
    Refused(Text),
    /// The controller does not read the cluster, for this reason. Nothing waits for its objects.
    Excluded(Text),
}

/// Mesh-wide settings, in the form in which proxies and the pipeline use them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Mesh {
    /// `meshId`.
    pub mesh_id: Text,
    /// `outboundTrafficPolicy.mode: REGISTRY_ONLY`.
    pub registry_only: bool,
    /// `accessLogFile`.
    pub access_log_file: Text,
    /// `accessLogEncoding: JSON`.
    pub access_log_json: bool,
    /// `accessLogFormat`.
    pub access_log_format: Text,
    /// `connectTimeout` in milliseconds; 0: not configured.
    pub connect_timeout_ms: u32,
    /// `protocolDetectionTimeout`.
    pub protocol_detection_timeout_ms: u32,
    /// `localityLbSetting.enabled`.
    pub locality_load_balancing: bool,
    /// Whether every cluster exports every service, except `default/kubernetes` and the services of `kube-system` and of the
    /// components' own namespace.
    pub export_all: bool,
    /// `federation.lease` in milliseconds; 0: not configured.
    #[serde(default)]
    pub lease_ms: u32,
    /// `defaultServiceExportTo`, of Services and ServiceEntries; empty: all namespaces.
    #[serde(default)]
    pub service_export_to: Vec<Text>,
    /// `defaultVirtualServiceExportTo`; empty: all namespaces.
    #[serde(default)]
    pub virtual_service_export_to: Vec<Text>,
    /// `defaultDestinationRuleExportTo`; empty: all namespaces.
    #[serde(default)]
    pub destination_rule_export_to: Vec<Text>,
    /// `defaultTrafficPolicy`, as the policy of a DestinationRule for every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_policy: Option<Arc<DestinationRuleSpec>>,
    /// `pathNormalization`.
    #[serde(default)]
    pub path_normalization: PathNormalization,
    /// `trustDomainAliases`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_domain_aliases: Vec<String>,
    /// `extensionProviders`: the servers that policies of action CUSTOM ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_authorizations: Vec<ExternalAuthorization>,
    /// `defaultConfig`: the settings of injected proxies.
    #[serde(default)]
    pub proxy_settings: Arc<ProxySettings>,
    /// `defaultConfig.gatewayTopology`: the proxies in front of gateways.
    #[serde(default)]
    pub gateway_topology: GatewayTopology,
}

impl Mesh {
    /// Returns how long the knowledge of a remote cluster holds without proof of life.
    pub fn lease(&self) -> Duration {
        if self.lease_ms == 0 { LEASE } else { Duration::from_millis(self.lease_ms.into()) }
    }
}

impl Default for Mesh {
    /// Istio's defaults, without exports.
    fn default() -> Self {
        Mesh {
            mesh_id: Text::default(),
            registry_only: false,
            access_log_file: Text::default(),
            access_log_json: false,
            access_log_format: Text::default(),
            connect_timeout_ms: 0,
            protocol_detection_timeout_ms: 0,
            locality_load_balancing: true,
            export_all: false,
            lease_ms: 0,
            service_export_to: Vec::new(),
            virtual_service_export_to: Vec::new(),
            destination_rule_export_to: Vec::new(),
            default_policy: None,
            path_normalization: PathNormalization::default(),
            trust_domain_aliases: Vec::new(),
            external_authorizations: Vec::new(),
            proxy_settings: Arc::default(),
            gateway_topology: GatewayTopology::default(),
        }
    }
}

/// What the mesh-wide settings say without effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MeshNotices {
    /// Settings that are invalid or have no effect, each with the reason.
    pub lines: Vec<Text>,
    /// `trustDomain`, which the controller's own option decides.
    pub trust_domain: Option<Text>,
}

/// The trust bundle, which verifies certificates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// The mesh's trust domain.
    pub trust_domain: Text,
    /// Root certificates, DER.
    pub roots: Vec<Bytes>,
    /// The clusters, each with the SHA-256 of its intermediate's SubjectPublicKeyInfo.
    pub issuers: Vec<(Text, Bytes)>,
    /// Whether the controller signs for other clusters, whose proxies then need to reach it.
    pub serves_others: bool,
}
