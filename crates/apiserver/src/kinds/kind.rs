//! The description of a kind: one version of a resource, and its subresources.

use std::borrow::Cow;

/// A name that is compiled in, or read from a CustomResourceDefinition.
pub(crate) type KindName = Cow<'static, str>;

/// One version of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceKind {
    /// API group; empty for the core group.
    pub(crate) group: KindName,
    /// Version, such as `v1`.
    pub(crate) version: KindName,
    /// Kind in CamelCase, as in `kind:` of a manifest.
    pub(crate) kind: KindName,
    /// Kind of lists of these objects.
    pub(crate) list_kind: KindName,
    /// Resource name in URLs.
    pub(crate) plural: KindName,
    /// Singular name, as in `deployment.apps/reviews created`.
    pub(crate) singular: KindName,
    /// Short names that `kubectl` accepts.
    pub(crate) short_names: Vec<KindName>,
    /// Categories that `kubectl get` accepts, such as `all`.
    pub(crate) categories: Vec<KindName>,
    /// Whether objects have a namespace.
    pub(crate) namespaced: bool,
    /// Subresources of an object.
    pub(crate) subresources: Vec<Subresource>,
    /// Verbs on objects.
    pub(crate) verbs: Verbs,
}

/// The verbs that a resource supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbs {
    /// Stored objects: create, read, update, watch and delete.
    All,
    /// Create only: the response has the result, and nothing is stored, as for a TokenReview.
    CreateOnly,
    /// Get and list only: objects are measured when they are read, and nothing is stored.
    ReadOnly,
}

/// A subresource of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subresource {
    /// The `status` field.
    Status,
    /// Replicas, as an `autoscaling/v1` Scale.
    Scale,
    /// Runs a command in a container.
    Exec,
    /// Attaches to the streams of a running container.
    Attach,
    /// A container's output.
    Log,
    /// Connections to a pod's ports.
    PortForward,
    /// HTTP proxy to a pod, service or node.
    Proxy,
    /// Deletes a pod unless a disruption budget forbids it.
    Eviction,
    /// Assigns a pod to a node.
    Binding,
    /// A pod's ephemeral containers.
    EphemeralContainers,
    /// Issues a token for a ServiceAccount.
    Token,
    /// A namespace's finalizers.
    Finalize,
}

/// Group, version and kind of the objects at a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupVersionKind<'a> {
    /// API group; empty for the core group.
    pub(crate) group: &'a str,
    /// Version.
    pub(crate) version: &'a str,
    /// Kind in CamelCase.
    pub(crate) kind: &'a str,
}

impl Subresource {
    /// The name in URLs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::Log => "log",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Eviction => "eviction",
            Self::Binding => "binding",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Token => "token",
            Self::Finalize => "finalize",
        }
    }

    /// The subresource with that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        const ALL: [Subresource; 12] = [
            Subresource::Status,
            Subresource::Scale,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Eviction,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Token,
            Subresource::Finalize,
        ];
        ALL.into_iter().find(|subresource| subresource.name() == name)
    }

    /// The verbs in discovery.
    pub(crate) fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale | Self::EphemeralContainers => &["get", "patch", "update"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
            Self::Log => &["get"],
            Self::Proxy => &["create", "delete", "get", "patch", "update"],
            Self::Eviction | Self::Binding | Self::Token => &["create"],
            Self::Finalize => &["update"],
        }
    }

    /// The objects that the subresource of `kind` reads and writes.
    pub(crate) fn object<'a>(self, kind: &'a ResourceKind) -> GroupVersionKind<'a> {
        let (group, version, name) = match self {
            Self::Scale => ("autoscaling", "v1", "Scale"),
            Self::Exec => ("", "v1", "PodExecOptions"),
            Self::Attach => ("", "v1", "PodAttachOptions"),
            Self::PortForward => ("", "v1", "PodPortForwardOptions"),
            Self::Proxy => match &*kind.kind {
                "Node" => ("", "v1", "NodeProxyOptions"),
                "Service" => ("", "v1", "ServiceProxyOptions"),
                _ => ("", "v1", "PodProxyOptions"),
            },
            Self::Eviction => ("policy", "v1", "Eviction"),
            Self::Binding => ("", "v1", "Binding"),
            Self::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            Self::Status | Self::Log | Self::EphemeralContainers | Self::Finalize => {
                (&*kind.group, &*kind.version, &*kind.kind)
            }
        };
        GroupVersionKind { group, version, kind: name }
    }
}

impl Verbs {
    /// The verbs in discovery.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            Self::CreateOnly => &["create"],
            Self::ReadOnly => &["get", "list"],
        }
    }
}

impl ResourceKind {
    /// `apiVersion` in manifests: `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> KindName {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            Cow::Owned(format!("{}/{}", self.group, self.version))
        }
    }

    /// The qualified resource name in messages: `pods`, `deployments.apps`.
    pub(crate) fn group_resource(&self) -> KindName {
        if self.group.is_empty() { self.plural.clone() } else { Cow::Owned(format!("{}.{}", self.plural, self.group)) }
    }

    /// Returns whether the kind has the subresource.
    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Returns whether the kind is `kind` of `group`, in any version.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Returns whether objects are stored.
    pub(crate) fn is_stored(&self) -> bool {
        self.verbs == Verbs::All
    }
}
