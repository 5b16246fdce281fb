//! The accounts by which a controller reads and writes in another cluster, with their roles: the reader and the writer.
//!
//! The reader may read the kinds that the controller watches. It may not read Secrets. In a cluster without a
//! controller of its own it may also review tokens and write the ConfigMap with the root certificates. (For server-side
//! apply the API server authorises `create` with the object's name, so that permission is limited to the name as well.)

use serde_json::{Value, json};

use crate::names;

/// The name of the service account and of its roles.
pub const READER: &str = "isthmus-reader";

/// The name of the service account by which a controller writes, and of its role.
///
/// The writer may write Events, the status of ServiceExports, the ServiceImports and EndpointSlices of exported services, and the
/// ServiceEntries and DestinationRules of services that are exported to the cluster.
/// A remote secret has no token of it: the reader requests short-lived ones.
pub const WRITER: &str = "isthmus-writer";

/// Which controller serves the proxies of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The controller that uses the reader.
    ByReader,
    /// The cluster's own controller.
    ByItself,
}

/// A rule of an RBAC role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacRule {
    /// The API group.
    pub group: &'static str,
    /// The resources.
    pub resources: &'static [&'static str],
    /// The verbs.
    pub verbs: &'static [&'static str],
    /// The names of the objects; empty: all.
    pub names: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];

const fn read(group: &'static str, resources: &'static [&'static str]) -> RbacRule {
    RbacRule { group, resources, verbs: READ, names: &[] }
}

/// The kinds that the controller watches.
pub const WATCHED: &[RbacRule] = &[
    read("", &["namespaces", "nodes", "pods", "services"]),
    read("discovery.k8s.io", &["endpointslices"]),
    read("multicluster.x-k8s.io", &["serviceexports"]),
    read("networking.istio.io", &["gateways"]),
    read("security.istio.io", &["authorizationpolicies", "peerauthentications", "requestauthentications"]),
];

/// Permissions for serving a cluster without a controller of its own.
pub const SERVING: &[RbacRule] = &[
    RbacRule { group: "authentication.k8s.io", resources: &["tokenreviews"], verbs: &["create"], names: &[] },
    RbacRule {
        group: "",
        resources: &["configmaps"],
        verbs: &["get", "create", "update", "patch"],
        names: &[names::ROOT_CONFIG_MAP],
    },
    // Whether an account still exists, when its certificate is renewed.
    RbacRule { group: "", resources: &["serviceaccounts"], verbs: &["get"], names: &[] },
];

/// Permission to read the intermediate that a cluster with a controller of its own publishes.
pub const TRUSTING: RbacRule =
    RbacRule { group: "", resources: &["configmaps"], verbs: &["get"], names: &[names::ROOT_CONFIG_MAP] };

/// Permission to renew the reader's own token, so that a remote secret does not expire.
pub const RENEWING: RbacRule =
    RbacRule { group: "", resources: &["serviceaccounts/token"], verbs: &["create"], names: &[READER] };

/// Permission to request tokens of the writer.
pub const REQUESTING: RbacRule =
    RbacRule { group: "", resources: &["serviceaccounts/token"], verbs: &["create"], names: &[WRITER] };

/// Permissions of the writer, and of a controller in its own cluster. The API cannot limit them to labelled objects; the
/// controller changes and deletes only those that it has labelled as its own.
pub const WRITTEN: &[RbacRule] = &[
    RbacRule { group: "", resources: &["events"], verbs: &["get", "create", "patch"], names: &[] },
    RbacRule {
        group: "multicluster.x-k8s.io",
        resources: &["serviceimports"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        names: &[],
    },
    RbacRule { group: "multicluster.x-k8s.io", resources: &["serviceexports"], verbs: &["get"], names: &[] },
    RbacRule {
        group: "multicluster.x-k8s.io",
        resources: &["serviceexports/status", "serviceimports/status"],
        verbs: &["patch"],
        names: &[],
    },
    RbacRule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        names: &[],
    },
    // Of services that are exported to the cluster as ServiceEntries.
    RbacRule {
        group: crate::networking::GROUP,
        resources: &["serviceentries", "destinationrules"],
        verbs: &["get", "list", "create", "patch", "delete"],
        names: &[],
    },
];

impl RbacRule {
    /// Returns the rule in the form of a role.
    pub fn to_json(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// Returns the service account, its roles and their bindings, for one namespace of the components.
pub fn objects(namespace: &str, served: Served) -> Vec<Value> {
    let further = match served {
        Served::ByReader => SERVING,
        Served::ByItself => std::slice::from_ref(&TRUSTING),
    };
    let rules: Vec<Value> = WATCHED.iter().chain(further).map(RbacRule::to_json).collect();
    let subjects = json!([{"kind": "ServiceAccount", "name": READER, "namespace": namespace}]);
    let rbac = "rbac.authorization.k8s.io/v1";
    let bound = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": READER});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": READER, "namespace": namespace}}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": READER}, "rules": rules}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": READER},
               "roleRef": bound("ClusterRole"), "subjects": subjects}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": {"name": READER, "namespace": namespace},
               "rules": [RENEWING.to_json()]}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": READER, "namespace": namespace},
               "roleRef": bound("Role"), "subjects": subjects}),
    ]
}

/// Returns the writer's account, and the roles by which it writes and the reader requests its tokens, for one namespace of the
/// components.
pub fn writer_objects(namespace: &str) -> Vec<Value> {
    let rules: Vec<Value> = WRITTEN.iter().map(RbacRule::to_json).collect();
    let rbac = "rbac.authorization.k8s.io/v1";
    let bound = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": WRITER});
    let subject = |name: &str| json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": WRITER, "namespace": namespace}}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": WRITER}, "rules": rules}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": WRITER},
               "roleRef": bound("ClusterRole"), "subjects": subject(WRITER)}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": {"name": WRITER, "namespace": namespace},
               "rules": [REQUESTING.to_json()]}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": WRITER, "namespace": namespace},
               "roleRef": bound("Role"), "subjects": subject(READER)}),
    ]
}

/// Returns the number of kinds that the reader may read.
pub fn kinds() -> usize {
    WATCHED.iter().map(|rule| rule.resources.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_reads_no_secret_and_writes_by_name_only() {
        for rule in WATCHED.iter().chain(SERVING) {
            assert!(!rule.resources.iter().any(|r| *r == "secrets" || *r == "*"), "{rule:?}");
            assert!(!rule.verbs.contains(&"*") && !rule.verbs.contains(&"delete"));
            let writes = rule.verbs.iter().any(|verb| !READ.contains(verb));
            assert!(!writes || !rule.names.is_empty() || rule.resources == ["tokenreviews"], "{rule:?}");
        }
        let alone = objects("isthmus-system", Served::ByItself);
        let rules = alone[1]["rules"].as_array().unwrap();
        assert!(
            rules.iter().all(|rule| rule["verbs"]
                .as_array()
                .unwrap()
                .iter()
                .all(|v| READ.contains(&v.as_str().unwrap())))
        );
        let objects = objects("isthmus-system", Served::ByReader);
        assert_eq!(objects.len(), 5);
        assert_eq!(objects[1]["rules"][6]["resourceNames"], json!(["istio-ca-root-cert"]));
        assert_eq!(kinds(), 10);
    }

    #[test]
    fn the_writer_writes_no_workload_and_its_tokens_are_requested_by_name() {
        for rule in WRITTEN {
            assert!(!rule.verbs.contains(&"*") && !rule.resources.contains(&"*"), "{rule:?}");
            assert!(
                !rule.resources.iter().any(|of| ["secrets", "pods", "services", "configmaps"].contains(of)),
                "{rule:?}"
            );
        }
        let objects = writer_objects("isthmus-system");
        assert_eq!(objects[3]["rules"][0]["resourceNames"], json!([WRITER]));
        assert_eq!(objects[4]["subjects"][0]["name"], READER);
    }
}
