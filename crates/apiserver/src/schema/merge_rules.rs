//! The merge rules of built-in kinds. Lists without a rule are atomic, maps granular.

use ListType::{Atomic, Map, Set};

/// How the items of a list are identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// The list is one value: it is replaced and owned as a whole.
    Atomic,
    /// Items are unique scalars.
    Set,
    /// Items are objects that are identified by these fields.
    Map(&'static [&'static str]),
}

/// How a list merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergeRule {
    /// In a strategic merge patch.
    pub(crate) strategic: ListType,
    /// In server-side apply.
    pub(crate) apply: ListType,
}

const NAME: ListType = Map(&["name"]);
const TYPE: ListType = Map(&["type"]);
const IP: ListType = Map(&["ip"]);
const MOUNT: ListType = Map(&["mountPath"]);
const DEVICE: ListType = Map(&["devicePath"]);

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CORE: &str = "io.k8s.api.core.v1.";
const API: &str = "io.k8s.api.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Package, structure, field, strategic, apply.
type MergeRow = (&'static str, &'static str, &'static str, ListType, ListType);

const ROWS: &[MergeRow] = &[
    (META, "ObjectMeta", "finalizers", Set, Set),
    (META, "ObjectMeta", "ownerReferences", Map(&["uid"]), Map(&["uid"])),
    (CORE, "Container", "env", NAME, NAME),
    (CORE, "Container", "ports", Map(&["containerPort"]), Map(&["containerPort", "protocol"])),
    (CORE, "Container", "volumeDevices", DEVICE, DEVICE),
    (CORE, "Container", "volumeMounts", MOUNT, MOUNT),
    (CORE, "ContainerStatus", "allocatedResourcesStatus", NAME, NAME),
    (CORE, "ContainerStatus", "volumeMounts", MOUNT, MOUNT),
    (CORE, "EphemeralContainer", "env", NAME, NAME),
    (CORE, "EphemeralContainer", "ports", Map(&["containerPort"]), Map(&["containerPort", "protocol"])),
    (CORE, "EphemeralContainer", "volumeDevices", DEVICE, DEVICE),
    (CORE, "EphemeralContainer", "volumeMounts", MOUNT, MOUNT),
    (CORE, "NamespaceStatus", "conditions", TYPE, TYPE),
    (CORE, "NodeSpec", "podCIDRs", Set, Set),
    (CORE, "NodeStatus", "addresses", TYPE, TYPE),
    (CORE, "NodeStatus", "conditions", TYPE, TYPE),
    (CORE, "PersistentVolumeClaimStatus", "conditions", TYPE, TYPE),
    (CORE, "PodSpec", "containers", NAME, NAME),
    (CORE, "PodSpec", "ephemeralContainers", NAME, NAME),
    (CORE, "PodSpec", "hostAliases", IP, IP),
    (CORE, "PodSpec", "imagePullSecrets", NAME, NAME),
    (CORE, "PodSpec", "initContainers", NAME, NAME),
    (CORE, "PodSpec", "resourceClaims", NAME, NAME),
    (CORE, "PodSpec", "schedulingGates", NAME, NAME),
    (CORE, "PodSpec", "topologySpreadConstraints", Map(&["topologyKey"]), Map(&["topologyKey", "whenUnsatisfiable"])),
    (CORE, "PodSpec", "volumes", NAME, NAME),
    (CORE, "PodStatus", "conditions", TYPE, TYPE),
    (CORE, "PodStatus", "hostIPs", IP, Atomic),
    (CORE, "PodStatus", "podIPs", IP, IP),
    (CORE, "PodStatus", "resourceClaimStatuses", NAME, NAME),
    (CORE, "ReplicationControllerStatus", "conditions", TYPE, TYPE),
    (CORE, "ResourceRequirements", "claims", Atomic, NAME),
    (CORE, "ResourceStatus", "resources", Atomic, Map(&["resourceID"])),
    (CORE, "ServiceAccount", "secrets", NAME, NAME),
    (CORE, "ServiceSpec", "ports", Map(&["port"]), Map(&["port", "protocol"])),
    (CORE, "ServiceStatus", "conditions", TYPE, TYPE),
    (API, "admissionregistration.v1.MutatingWebhook", "matchConditions", NAME, NAME),
    (API, "admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", NAME, NAME),
    (API, "admissionregistration.v1.ValidatingWebhook", "matchConditions", NAME, NAME),
    (API, "admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", NAME, NAME),
    (API, "apps.v1.DaemonSetStatus", "conditions", TYPE, TYPE),
    (API, "apps.v1.DeploymentStatus", "conditions", TYPE, TYPE),
    (API, "apps.v1.ReplicaSetStatus", "conditions", TYPE, TYPE),
    (API, "apps.v1.StatefulSetStatus", "conditions", TYPE, TYPE),
    (API, "autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", TYPE, TYPE),
    (API, "batch.v1.JobStatus", "conditions", TYPE, Atomic),
    (API, "batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", Atomic, Set),
    (API, "batch.v1.UncountedTerminatedPods", "failed", Atomic, Set),
    (API, "batch.v1.UncountedTerminatedPods", "succeeded", Atomic, Set),
    (API, "discovery.v1.Endpoint", "addresses", Atomic, Set),
    (API, "policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE, TYPE),
    (CRD, "CustomResourceDefinitionStatus", "conditions", Atomic, TYPE),
    (CRD, "JSONSchemaProps", "x-kubernetes-validations", Map(&["rule"]), Map(&["rule"])),
];

/// Fields with a strategy other than `merge`: structure, field, `patchStrategy`.
pub(crate) const PATCH_STRATEGIES: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.PodSpec", "volumes", "merge,retainKeys"),
    ("io.k8s.api.apps.v1.DeploymentSpec", "strategy", "retainKeys"),
];

/// Structures that are atomic in server-side apply.
const ATOMIC_STRUCTS: &[(&str, &[&str])] = &[
    (META, &["LabelSelector", "FieldsV1"]),
    (
        CORE,
        &[
            "ConfigMapKeySelector",
            "EndpointAddress",
            "EndpointPort",
            "LocalObjectReference",
            "NodeSelector",
            "NodeSelectorTerm",
            "ObjectFieldSelector",
            "ObjectReference",
            "ResourceFieldSelector",
            "ScopeSelector",
            "ScopedResourceSelectorRequirement",
            "SecretKeySelector",
            "SecretReference",
            "TypedLocalObjectReference",
        ],
    ),
    (META, &["OwnerReference"]),
    (API, &["discovery.v1.EndpointPort", "rbac.v1.RoleRef", "rbac.v1.Subject", "networking.v1.ServiceBackendPort"]),
];

/// Maps that are atomic in server-side apply.
const ATOMIC_FIELDS: &[(&str, &str)] =
    &[("PodSpec", "nodeSelector"), ("ReplicationControllerSpec", "selector"), ("ServiceSpec", "selector")];

/// The rule of a list, or None if it is atomic.
pub(crate) fn rule(structure: &str, field: &str) -> Option<MergeRule> {
    let row = ROWS.iter().find(|(package, name, list, ..)| *list == field && is(structure, package, name))?;
    Some(MergeRule { strategic: row.3, apply: row.4 })
}

/// Returns whether values of a structure are atomic in server-side apply.
pub(crate) fn is_atomic_struct(structure: &str) -> bool {
    ATOMIC_STRUCTS.iter().any(|(package, names)| names.iter().any(|name| is(structure, package, name)))
}

/// Returns whether a map is atomic in server-side apply.
pub(crate) fn is_atomic_field(structure: &str, field: &str) -> bool {
    ATOMIC_FIELDS.iter().any(|(name, map)| *map == field && is(structure, CORE, name))
}

fn is(structure: &str, package: &str, name: &str) -> bool {
    structure.strip_prefix(package) == Some(name)
}

/// Structure and field of every rule.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = (String, String)> {
    ROWS.iter().map(|(package, name, field, ..)| (format!("{package}{name}"), (*field).to_owned()))
}
