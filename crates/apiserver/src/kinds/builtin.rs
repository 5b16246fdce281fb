//! The rows of [`BUILTIN`](super::BUILTIN).

use std::borrow::Cow;
use std::sync::LazyLock;

use super::kind::Subresource::{
    Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy, Scale, Status, Token,
};
use super::kind::{Kind, Subresource, Verbs};

/// Every built-in kind, ordered by group as discovery lists them.
pub(crate) static BUILTIN: LazyLock<Vec<Kind>> = LazyLock::new(|| GROUPS.iter().flat_map(Group::kinds).collect());

struct Group {
    group: &'static str,
    version: &'static str,
    rows: &'static [Row],
}

/// Kind, plural, short names, categories, namespaced, subresources, verbs.
struct Row(
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    bool,
    &'static [Subresource],
    Verbs,
);

impl Group {
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.rows.iter().map(|row| Kind {
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
const KEPT: Verbs = Verbs::All;
const ANSWERED: Verbs = Verbs::CreateOnly;
const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];
const SCALED: &[Subresource] = &[Status, Scale];
const STATUS: &[Subresource] = &[Status];
const POD: &[Subresource] = &[Status, Log, Exec, Attach, PortForward, Proxy, Eviction, Binding, EphemeralContainers];

const GROUPS: &[Group] = &[
    Group {
        group: "",
        version: "v1",
        rows: &[
            Row("ConfigMap", "configmaps", &["cm"], &[], NAMESPACED, &[], KEPT),
            Row("Endpoints", "endpoints", &["ep"], &[], NAMESPACED, &[], KEPT),
            Row("Event", "events", &["ev"], &[], NAMESPACED, &[], KEPT),
            Row("LimitRange", "limitranges", &["limits"], &[], NAMESPACED, &[], KEPT),
            Row("Namespace", "namespaces", &["ns"], &[], CLUSTER, &[Status, Finalize], KEPT),
            Row("Node", "nodes", &["no"], &[], CLUSTER, &[Status, Proxy], KEPT),
            Row("PersistentVolume", "persistentvolumes", &["pv"], &[], CLUSTER, STATUS, KEPT),
            Row("PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], &[], NAMESPACED, STATUS, KEPT),
            Row("Pod", "pods", &["po"], ALL, NAMESPACED, POD, KEPT),
            Row("ReplicationController", "replicationcontrollers", &["rc"], ALL, NAMESPACED, SCALED, KEPT),
            Row("ResourceQuota", "resourcequotas", &["quota"], &[], NAMESPACED, STATUS, KEPT),
            Row("Secret", "secrets", &[], &[], NAMESPACED, &[], KEPT),
            Row("Service", "services", &["svc"], ALL, NAMESPACED, &[Status, Proxy], KEPT),
            Row("ServiceAccount", "serviceaccounts", &["sa"], &[], NAMESPACED, &[Token], KEPT),
        ],
    },
    Group {
        group: "admissionregistration.k8s.io",
        version: "v1",
        rows: &[
            Row(
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                &[],
                API_EXTENSIONS,
                CLUSTER,
                &[],
                KEPT,
            ),
            Row(
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                &[],
                API_EXTENSIONS,
                CLUSTER,
                &[],
                KEPT,
            ),
        ],
    },
    Group {
        group: "apiextensions.k8s.io",
        version: "v1",
        rows: &[Row(
            "CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
            API_EXTENSIONS,
            CLUSTER,
            STATUS,
            KEPT,
        )],
    },
    Group {
        group: "apps",
        version: "v1",
        rows: &[
            Row("DaemonSet", "daemonsets", &["ds"], ALL, NAMESPACED, STATUS, KEPT),
            Row("Deployment", "deployments", &["deploy"], ALL, NAMESPACED, SCALED, KEPT),
            Row("ReplicaSet", "replicasets", &["rs"], ALL, NAMESPACED, SCALED, KEPT),
            Row("StatefulSet", "statefulsets", &["sts"], ALL, NAMESPACED, SCALED, KEPT),
        ],
    },
    Group {
        group: "authentication.k8s.io",
        version: "v1",
        rows: &[
            Row("SelfSubjectReview", "selfsubjectreviews", &[], &[], CLUSTER, &[], ANSWERED),
            Row("TokenReview", "tokenreviews", &[], &[], CLUSTER, &[], ANSWERED),
        ],
    },
    Group {
        group: "authorization.k8s.io",
        version: "v1",
        rows: &[
            Row("LocalSubjectAccessReview", "localsubjectaccessreviews", &[], &[], NAMESPACED, &[], ANSWERED),
            Row("SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], &[], CLUSTER, &[], ANSWERED),
            Row("SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], &[], CLUSTER, &[], ANSWERED),
            Row("SubjectAccessReview", "subjectaccessreviews", &[], &[], CLUSTER, &[], ANSWERED),
        ],
    },
    Group {
        group: "autoscaling",
        version: "v2",
        rows: &[Row("HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], ALL, NAMESPACED, STATUS, KEPT)],
    },
    Group {
        group: "batch",
        version: "v1",
        rows: &[
            Row("CronJob", "cronjobs", &["cj"], ALL, NAMESPACED, STATUS, KEPT),
            Row("Job", "jobs", &[], ALL, NAMESPACED, STATUS, KEPT),
        ],
    },
    Group {
        group: "coordination.k8s.io",
        version: "v1",
        rows: &[Row("Lease", "leases", &[], &[], NAMESPACED, &[], KEPT)],
    },
    Group {
        group: "discovery.k8s.io",
        version: "v1",
        rows: &[Row("EndpointSlice", "endpointslices", &[], &[], NAMESPACED, &[], KEPT)],
    },
    Group {
        group: "events.k8s.io",
        version: "v1",
        rows: &[Row("Event", "events", &["ev"], &[], NAMESPACED, &[], KEPT)],
    },
    Group {
        group: "networking.k8s.io",
        version: "v1",
        rows: &[
            Row("Ingress", "ingresses", &["ing"], &[], NAMESPACED, STATUS, KEPT),
            Row("NetworkPolicy", "networkpolicies", &["netpol"], &[], NAMESPACED, &[], KEPT),
        ],
    },
    Group {
        group: "policy",
        version: "v1",
        rows: &[Row("PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], &[], NAMESPACED, STATUS, KEPT)],
    },
    Group {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        rows: &[
            Row("ClusterRole", "clusterroles", &[], &[], CLUSTER, &[], KEPT),
            Row("ClusterRoleBinding", "clusterrolebindings", &[], &[], CLUSTER, &[], KEPT),
            Row("Role", "roles", &[], &[], NAMESPACED, &[], KEPT),
            Row("RoleBinding", "rolebindings", &[], &[], NAMESPACED, &[], KEPT),
        ],
    },
];
