//! One version of one kind of object, and its subresources.

use std::borrow::Cow;

/// A name that is either compiled in or was read from a CustomResourceDefinition.
pub(crate) type Name = Cow<'static, str>;

/// One version of one kind of object, as clients address it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// API group; empty for the core group.
    pub(crate) group: Name,
    /// Version within the group, such as `v1`.
    pub(crate) version: Name,
    /// Kind in CamelCase, as in `kind:` of a manifest.
    pub(crate) kind: Name,
    /// Kind of a list of these objects.
    pub(crate) list_kind: Name,
    /// Resource name in URLs.
    pub(crate) plural: Name,
    /// Name of one, as in `deployment.apps/reviews created`.
    pub(crate) singular: Name,
    /// Abbreviations that `kubectl` accepts.
    pub(crate) short_names: Vec<Name>,
    /// Groups of resources that `kubectl get` accepts, such as `all`.
    pub(crate) categories: Vec<Name>,
    /// Whether objects live in a namespace.
    pub(crate) namespaced: bool,
    /// What can be addressed below an object.
    pub(crate) subresources: Vec<Subresource>,
    /// What can be done with the objects.
    pub(crate) verbs: Verbs,
}

/// What clients may do with the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbs {
    /// Stored: create, read, change, watch and delete.
    All,
    /// Answered at once and never stored, such as a TokenReview.
    CreateOnly,
}

/// A part of an object, or a service of it, with a URL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subresource {
    /// The `status` field alone.
    Status,
    /// Replicas, as an `autoscaling/v1` Scale.
    Scale,
    /// Runs a command in a container.
    Exec,
    /// Joins a running container's streams.
    Attach,
    /// A container's output.
    Log,
    /// Connections to a pod's ports.
    PortForward,
    /// Reverse HTTP proxy to a pod, service or node.
    Proxy,
    /// Asks politely for a pod's deletion.
    Eviction,
    /// Assigns a pod to a node.
    Binding,
    /// A pod's debugging containers.
    EphemeralContainers,
    /// Issues a token for a ServiceAccount.
    Token,
    /// A namespace's finalizers.
    Finalize,
}

/// `group`, `version` and `kind` of what a URL reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupVersionKind<'a> {
    /// API group; empty for the core group.
    pub(crate) group: &'a str,
    /// Version within the group.
    pub(crate) version: &'a str,
    /// Kind in CamelCase.
    pub(crate) kind: &'a str,
}

impl Subresource {
    /// The last segment of the URL.
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

    /// The subresource of that URL segment.
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

    /// The verbs that discovery lists for it.
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

    /// What the subresource of `kind` reads and writes.
    pub(crate) fn object<'a>(self, kind: &'a Kind) -> GroupVersionKind<'a> {
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
    /// The verbs as discovery lists them.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            Self::CreateOnly => &["create"],
        }
    }
}

impl Kind {
    /// `apiVersion` as manifests write it: `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> Name {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            Cow::Owned(format!("{}/{}", self.group, self.version))
        }
    }

    /// `pods`, `deployments.apps`: the resource as messages name it.
    pub(crate) fn group_resource(&self) -> Name {
        if self.group.is_empty() { self.plural.clone() } else { Cow::Owned(format!("{}.{}", self.plural, self.group)) }
    }

    /// Whether `subresource` exists below objects of this kind.
    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether the kind is `kind` of `group`, in any version.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Whether objects are kept; the others are answered at once.
    pub(crate) fn is_stored(&self) -> bool {
        self.verbs == Verbs::All
    }
}
