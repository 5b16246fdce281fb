//! The table of [`BUILTIN`] kinds.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::kind::Subresource::{
    Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy, Scale, Status, Token,
};
use super::kind::{ResourceKind, Subresource, Verbs};

/// The built-in kinds, in discovery order.
pub(crate) static BUILTIN: LazyLock<Vec<ResourceKind>> =
    LazyLock::new(|| GROUPS.iter().flat_map(BuiltinGroup::kinds).collect());

struct BuiltinGroup {
    group: &'static str,
    version: &'static str,
    rows: &'static [BuiltinRow],
}

/// Kind, plural, short names, categories, namespaced, subresources, verbs.
struct BuiltinRow(
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    bool,
    &'static [Subresource],
    Verbs,
);

impl BuiltinGroup {
    fn kinds(&self) -> impl Iterator<Item = ResourceKind> {
        self.rows.iter().map(|row| ResourceKind {
            group: Cow::Borrowed(self.group),
            version: Cow::Borrowed(self.version),
            kind: Cow::Borrowed(row.0),
            list_kind: Cow::Owned(format!("{}List", row.0)),
            plural: Cow::Borrowed(row.1),
            singular: Cow::Owned(row.0.to_ascii_lowercase()),
            short_names: row.2.iter().copied().map(Cow::Borrowed).collect(),
            categories: row.3.iter().copied().map(Cow::Borrowed).collect(),
            namespaced: row.4,
            subresources: row.5.to_vec(),
            verbs: row.6,
        })
    }
}

const NAMESPACED: bool = true;
const CLUSTER: bool = false;
const STORED: Verbs = Verbs::All;
const CREATE_ONLY: Verbs = Verbs::CreateOnly;
const READ_ONLY: Verbs = Verbs::ReadOnly;
const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];
const STATUS_AND_SCALE: &[Subresource] = &[Status, Scale];
const STATUS: &[Subresource] = &[Status];
const POD: &[Subresource] = &[Status, Log, Exec, Attach, PortForward, Proxy, Eviction, Binding, EphemeralContainers];

const GROUPS: &[BuiltinGroup] = &[
    BuiltinGroup {
        group: "",
        version: "v1",
        rows: &[
            BuiltinRow("ConfigMap", "configmaps", &["cm"], &[], NAMESPACED, &[], STORED),
            BuiltinRow("Endpoints", "endpoints", &["ep"], &[], NAMESPACED, &[], STORED),
            BuiltinRow("Event", "events", &["ev"], &[], NAMESPACED, &[], STORED),
            BuiltinRow("LimitRange", "limitranges", &["limits"], &[], NAMESPACED, &[], STORED),
            BuiltinRow("Namespace", "namespaces", &["ns"], &[], CLUSTER, &[Status, Finalize], STORED),
            BuiltinRow("Node", "nodes", &["no"], &[], CLUSTER, &[Status, Proxy], STORED),
            BuiltinRow("PersistentVolume", "persistentvolumes", &["pv"], &[], CLUSTER, STATUS, STORED),
            BuiltinRow("PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], &[], NAMESPACED, STATUS, STORED),
            BuiltinRow("Pod", "pods", &["po"], ALL, NAMESPACED, POD, STORED),
            BuiltinRow(
                "ReplicationController",
                "replicationcontrollers",
                &["rc"],
                ALL,
                NAMESPACED,
                STATUS_AND_SCALE,
                STORED,
            ),
            BuiltinRow("ResourceQuota", "resourcequotas", &["quota"], &[], NAMESPACED, STATUS, STORED),
            BuiltinRow("Secret", "secrets", &[], &[], NAMESPACED, &[], STORED),
            BuiltinRow("Service", "services", &["svc"], ALL, NAMESPACED, &[Status, Proxy], STORED),
            BuiltinRow("ServiceAccount", "serviceaccounts", &["sa"], &[], NAMESPACED, &[Token], STORED),
        ],
    },
    BuiltinGroup {
        group: "admissionregistration.k8s.io",
        version: "v1",
        rows: &[
            BuiltinRow(
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                &[],
                API_EXTENSIONS,
                CLUSTER,
                &[],
                STORED,
            ),
            BuiltinRow(
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                &[],
                API_EXTENSIONS,
                CLUSTER,
                &[],
                STORED,
            ),
        ],
    },
    BuiltinGroup {
        group: "apiextensions.k8s.io",
        version: "v1",
        rows: &[BuiltinRow(
            "CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
            API_EXTENSIONS,
            CLUSTER,
            STATUS,
            STORED,
        )],
    },
    BuiltinGroup {
        group: "apps",
        version: "v1",
        rows: &[
            BuiltinRow("ControllerRevision", "controllerrevisions", &[], &[], NAMESPACED, &[], STORED),
            BuiltinRow("DaemonSet", "daemonsets", &["ds"], ALL, NAMESPACED, STATUS, STORED),
            BuiltinRow("Deployment", "deployments", &["deploy"], ALL, NAMESPACED, STATUS_AND_SCALE, STORED),
            BuiltinRow("ReplicaSet", "replicasets", &["rs"], ALL, NAMESPACED, STATUS_AND_SCALE, STORED),
            BuiltinRow("StatefulSet", "statefulsets", &["sts"], ALL, NAMESPACED, STATUS_AND_SCALE, STORED),
        ],
    },
    BuiltinGroup {
        group: "authentication.k8s.io",
        version: "v1",
        rows: &[
            BuiltinRow("SelfSubjectReview", "selfsubjectreviews", &[], &[], CLUSTER, &[], CREATE_ONLY),
            BuiltinRow("TokenReview", "tokenreviews", &[], &[], CLUSTER, &[], CREATE_ONLY),
        ],
    },
    BuiltinGroup {
        group: "authorization.k8s.io",
        version: "v1",
        rows: &[
            BuiltinRow("LocalSubjectAccessReview", "localsubjectaccessreviews", &[], &[], NAMESPACED, &[], CREATE_ONLY),
            BuiltinRow("SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], &[], CLUSTER, &[], CREATE_ONLY),
            BuiltinRow("SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], &[], CLUSTER, &[], CREATE_ONLY),
            BuiltinRow("SubjectAccessReview", "subjectaccessreviews", &[], &[], CLUSTER, &[], CREATE_ONLY),
        ],
    },
    BuiltinGroup {
        group: "autoscaling",
        version: "v2",
        rows: &[BuiltinRow(
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            &["hpa"],
            ALL,
            NAMESPACED,
            STATUS,
            STORED,
        )],
    },
    BuiltinGroup {
        group: "batch",
        version: "v1",
        rows: &[
            BuiltinRow("CronJob", "cronjobs", &["cj"], ALL, NAMESPACED, STATUS, STORED),
            BuiltinRow("Job", "jobs", &[], ALL, NAMESPACED, STATUS, STORED),
        ],
    },
    BuiltinGroup {
        group: "coordination.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("Lease", "leases", &[], &[], NAMESPACED, &[], STORED)],
    },
    BuiltinGroup {
        group: "discovery.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("EndpointSlice", "endpointslices", &[], &[], NAMESPACED, &[], STORED)],
    },
    BuiltinGroup {
        group: "events.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("Event", "events", &["ev"], &[], NAMESPACED, &[], STORED)],
    },
    BuiltinGroup {
        group: "networking.k8s.io",
        version: "v1",
        rows: &[
            BuiltinRow("Ingress", "ingresses", &["ing"], &[], NAMESPACED, STATUS, STORED),
            BuiltinRow("IngressClass", "ingressclasses", &[], &[], CLUSTER, &[], STORED),
            BuiltinRow("NetworkPolicy", "networkpolicies", &["netpol"], &[], NAMESPACED, &[], STORED),
        ],
    },
    BuiltinGroup {
        group: "node.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("RuntimeClass", "runtimeclasses", &[], &[], CLUSTER, &[], STORED)],
    },
    BuiltinGroup {
        group: "policy",
        version: "v1",
        rows: &[BuiltinRow("PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], &[], NAMESPACED, STATUS, STORED)],
    },
    BuiltinGroup {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        rows: &[
            BuiltinRow("ClusterRole", "clusterroles", &[], &[], CLUSTER, &[], STORED),
            BuiltinRow("ClusterRoleBinding", "clusterrolebindings", &[], &[], CLUSTER, &[], STORED),
            BuiltinRow("Role", "roles", &[], &[], NAMESPACED, &[], STORED),
            BuiltinRow("RoleBinding", "rolebindings", &[], &[], NAMESPACED, &[], STORED),
        ],
    },
    BuiltinGroup {
        group: "scheduling.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("PriorityClass", "priorityclasses", &["pc"], &[], CLUSTER, &[], STORED)],
    },
    BuiltinGroup {
        group: "storage.k8s.io",
        version: "v1",
        rows: &[BuiltinRow("StorageClass", "storageclasses", &["sc"], &[], CLUSTER, &[], STORED)],
    },
    // The last group, so that `pods` and `nodes` without a group are those of the core group.
    BuiltinGroup {
        group: "metrics.k8s.io",
        version: "v1beta1",
        rows: &[
            BuiltinRow("NodeMetrics", "nodes", &[], &[], CLUSTER, &[], READ_ONLY),
            BuiltinRow("PodMetrics", "pods", &[], &[], NAMESPACED, &[], READ_ONLY),
        ],
    },
];
