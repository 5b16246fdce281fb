//! The account by which a primary's controller reads another cluster: what it may do, and nothing more.
//!
//! It reads the kinds that are watched. It may not read Secrets. In a cluster that has no controller of its own it may do two
//! things beside: ask whose a token is, and write ConfigMaps of the one name under which the roots are published. (For
//! server-side apply an API server authorises `create` with the object's name, so even that can be bound to the name.)

use serde_json::{Value, json};

use crate::names;

/// Name of the account, and of its role.
pub const READER: &str = "isthmus-reader";

/// Who serves the proxies of the cluster that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The reader's controller.
    ByReader,
    /// A controller of its own.
    ByItself,
}

/// A rule of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// API group.
    pub group: &'static str,
    /// Resources.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Names; empty: all.
    pub names: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];

const fn read(group: &'static str, resources: &'static [&'static str]) -> Rule {
    Rule { group, resources, verbs: READ, names: &[] }
}

/// What is watched.
pub const WATCHED: &[Rule] = &[
    read("", &["namespaces", "nodes", "pods", "services"]),
    read("discovery.k8s.io", &["endpointslices"]),
    read("multicluster.x-k8s.io", &["serviceexports"]),
    read("networking.istio.io", &["gateways"]),
];

/// What serving a cluster without a controller of its own takes.
pub const SERVING: &[Rule] = &[
    Rule { group: "authentication.k8s.io", resources: &["tokenreviews"], verbs: &["create"], names: &[] },
    Rule {
        group: "",
        resources: &["configmaps"],
        verbs: &["get", "create", "update", "patch"],
        names: &[names::ROOT_CONFIG_MAP],
    },
];

/// Finding out who signs in a cluster with a controller of its own.
pub const TRUSTING: Rule =
    Rule { group: "", resources: &["configmaps"], verbs: &["get"], names: &[names::ROOT_CONFIG_MAP] };

/// Renewing its own token, so that a remote secret does not run out.
pub const RENEWING: Rule =
    Rule { group: "", resources: &["serviceaccounts/token"], verbs: &["create"], names: &[READER] };

impl Rule {
    /// As a role has it.
    pub fn to_json(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// The account, its role, and what binds them, for one namespace of the components.
pub fn objects(namespace: &str, served: Served) -> Vec<Value> {
    let beside = match served {
        Served::ByReader => SERVING,
        Served::ByItself => std::slice::from_ref(&TRUSTING),
    };
    let rules: Vec<Value> = WATCHED.iter().chain(beside).map(Rule::to_json).collect();
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

/// How many kinds it may read.
pub fn kinds() -> usize {
    WATCHED.iter().map(|rule| rule.resources.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_no_secret_and_writes_by_name_alone() {
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
        assert_eq!(objects[1]["rules"][5]["resourceNames"], json!(["istio-ca-root-cert"]));
        assert_eq!(kinds(), 7);
    }
}
