//! Service accounts, roles and bindings. Each account has only the rights that its component uses.

use api::compatibility::GROUPS;
use api::names::{CLAIMS_CONFIG_MAP, DEBUG_READER, INJECTION_WEBHOOK, WARNING_WEBHOOK};
use api::reader::{RbacRule, SERVING, Served, WATCHED, WRITTEN};
use serde_json::{Value, json};

use crate::components::{CONTROLLER, GATEWAY};
use crate::settings::Installation;

pub(crate) const RBAC: &str = "rbac.authorization.k8s.io/v1";
pub(crate) const READ: &[&str] = &["get", "list", "watch"];

/// The role with the rights of `isthmus status`.
const STATUS_READER: &str = "isthmus-status";
/// The controller's Service with its monitoring port, as the API server authorizes requests that it proxies.
const DEBUG_PORT: &str = "isthmus-controller:15014";

/// Writing the root certificates into the configurations of the admission webhooks.
const WEBHOOKS: [RbacRule; 2] = [
    webhook(&["mutatingwebhookconfigurations"], &[INJECTION_WEBHOOK]),
    webhook(&["validatingwebhookconfigurations"], &[WARNING_WEBHOOK]),
];

/// Asking whether a client may read the debug pages.
const REVIEWING: RbacRule =
    RbacRule { group: "authorization.k8s.io", resources: &["subjectaccessreviews"], verbs: &["create"], names: &[] };

/// WorkloadEntries of the workloads that register for a WorkloadGroup.
const REGISTERING: RbacRule = RbacRule {
    group: "networking.istio.io",
    resources: &["workloadentries"],
    verbs: &["create", "patch", "delete"],
    names: &[],
};

/// The status of rules of routing and of security policies.
const REPORTING: [RbacRule; 7] = [
    status(
        "networking.istio.io",
        &[
            "virtualservices/status",
            "destinationrules/status",
            "gateways/status",
            "serviceentries/status",
            "workloadentries/status",
            "sidecars/status",
            "proxyconfigs/status",
            "workloadgroups/status",
            "envoyfilters/status",
        ],
    ),
    status(api::federation::GROUP, &["ratelimits/status", "federationpolicies/status"]),
    status("policy.linkerd.io", &["servers/status", "httplocalratelimitpolicies/status"]),
    status("split.smi-spec.io", &["trafficsplits/status"]),
    status("specs.smi-spec.io", &["httproutegroups/status"]),
    status("linkerd.io", &["serviceprofiles/status"]),
    status(
        "security.istio.io",
        &["authorizationpolicies/status", "peerauthentications/status", "requestauthentications/status"],
    ),
];

/// Rights in the root namespace: the mesh-wide settings, remote secrets, signing certificates, and the record of which
/// cluster each published intermediate belongs to.
const ROOT_NAMESPACE: &[RbacRule] = &[
    RbacRule { group: "", resources: &["configmaps"], verbs: READ, names: &[] },
    RbacRule {
        group: "",
        resources: &["configmaps"],
        verbs: &["create", "update", "patch"],
        names: &[CLAIMS_CONFIG_MAP],
    },
    RbacRule {
        group: "",
        resources: &["secrets"],
        verbs: &["get", "list", "watch", "create", "update", "patch"],
        names: &[],
    },
];

const fn status(group: &'static str, resources: &'static [&'static str]) -> RbacRule {
    RbacRule { group, resources, verbs: &["patch"], names: &[] }
}

const fn webhook(resources: &'static [&'static str], names: &'static [&'static str]) -> RbacRule {
    RbacRule { group: "admissionregistration.k8s.io", resources, verbs: &["get", "patch"], names }
}

/// The configuration APIs, which a controller reads in its own cluster.
fn configuration() -> Vec<RbacRule> {
    let all_of = |group: &&'static str| RbacRule { group, resources: &["*"], verbs: READ, names: &[] };
    GROUPS.iter().map(all_of).collect()
}

/// The accounts and roles of a cluster.
#[must_use]
pub fn all(of: &Installation) -> Vec<Value> {
    let served = if of.control_plane.is_local() { Served::ByItself } else { Served::ByReader };
    let mut objects = vec![account(GATEWAY, &of.namespace)];
    // The account by which another cluster's controller reads this one, as `isthmus join` makes it.
    objects.extend(api::reader::objects(&of.namespace, served));
    if served == Served::ByReader {
        // A controller writes in its own cluster itself.
        objects.extend(api::reader::writer_objects(&of.namespace));
    }
    if of.control_plane.is_local() {
        objects.extend(controller(of));
        objects.extend(debug_reader(of));
    }
    objects
}

fn controller(of: &Installation) -> Vec<Value> {
    let configuration = configuration();
    let cluster_wide = WATCHED
        .iter()
        .chain(&configuration)
        .chain(SERVING)
        .chain(&WEBHOOKS)
        .chain(&REPORTING)
        .chain(WRITTEN)
        .chain([&REVIEWING, &REGISTERING]);
    let subjects = json!([{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": of.namespace}]);
    let bound = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": CONTROLLER});
    let local = json!({"name": CONTROLLER, "namespace": of.root_namespace});
    vec![
        account(CONTROLLER, &of.namespace),
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": CONTROLLER}, "rules": rules(cluster_wide)}),
        json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": CONTROLLER},
               "roleRef": bound("ClusterRole"), "subjects": subjects}),
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": local, "rules": rules(ROOT_NAMESPACE)}),
        json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": local, "roleRef": bound("Role"), "subjects": subjects}),
    ]
}

/// The account that may read the controller's debug pages, and the rights that `isthmus status` needs to use it: an
/// administrator binds Role `isthmus-status` to other users.
fn debug_reader(of: &Installation) -> Vec<Value> {
    let subjects = json!([{"kind": "ServiceAccount", "name": DEBUG_READER, "namespace": of.namespace}]);
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DEBUG_READER});
    let rights = [
        RbacRule { group: "", resources: &["services/proxy"], verbs: &["get"], names: &[DEBUG_PORT] },
        RbacRule { group: "", resources: &["serviceaccounts/token"], verbs: &["create"], names: &[DEBUG_READER] },
    ];
    vec![
        account(DEBUG_READER, &of.namespace),
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": DEBUG_READER},
               "rules": [{"nonResourceURLs": ["/debug/*"], "verbs": ["get"]}]}),
        json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": DEBUG_READER},
               "roleRef": role, "subjects": subjects}),
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": STATUS_READER, "namespace": of.namespace},
               "rules": rules(&rights)}),
    ]
}

pub(crate) fn account(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

fn rules<'a>(rules: impl IntoIterator<Item = &'a RbacRule>) -> Vec<Value> {
    rules.into_iter().map(RbacRule::to_json).collect()
}
