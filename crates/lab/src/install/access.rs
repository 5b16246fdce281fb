//! Who may do what. Every account has the least that its component uses.

use serde_json::{Value, json};

use super::{CONTROLLER, GATEWAY, ROOT, SYSTEM};
use crate::topology::Cluster;

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

const READ: &[&str] = &["get", "list", "watch"];

/// Accounts and roles of a cluster.
#[must_use]
pub fn all(cluster: &Cluster) -> Vec<Value> {
    let mut objects = vec![account(GATEWAY)];
    objects.extend(reader(cluster));
    if cluster.is_primary() {
        objects.extend(controller());
    }
    objects
}

/// The kinds that a controller watches in its own cluster and in every other one.
fn watched() -> Vec<Value> {
    vec![
        rule(&[""], &["namespaces", "nodes", "pods", "services"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["multicluster.x-k8s.io"], &["serviceexports", "serviceimports"], READ),
        rule(&["networking.istio.io"], &["*"], READ),
        rule(&["security.istio.io", "telemetry.istio.io"], &["*"], READ),
    ]
}

/// What issuing certificates to a cluster's workloads takes: asking who a token is of, and publishing the root.
fn issuing() -> Vec<Value> {
    vec![
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&[""], &["configmaps"], &["get", "list", "watch", "create", "update", "patch"]),
    ]
}

/// The account by which another cluster's controller reads this one, exactly as `isthmus join` makes it.
fn reader(cluster: &Cluster) -> Vec<Value> {
    use api::reader::Served;
    api::reader::objects(SYSTEM, if cluster.is_primary() { Served::ByItself } else { Served::ByReader })
}

fn controller() -> Vec<Value> {
    let mut rules: Vec<Value> = watched().into_iter().chain(issuing()).collect();
    rules.extend([
        rule(&["multicluster.x-k8s.io"], &["serviceexports/status"], &["update", "patch"]),
        rule(&["admissionregistration.k8s.io"], &["mutatingwebhookconfigurations"], &["get", "list", "watch", "patch"]),
        rule(&[""], &["events"], &["create", "patch"]),
    ]);
    let mut objects = vec![account(CONTROLLER)];
    objects.extend(cluster_role(CONTROLLER, rules));
    // Remote secrets and signing certificates, in the one namespace that has them.
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": CONTROLLER, "namespace": ROOT},
        "rules": [
            rule(&[""], &["secrets"], &["get", "list", "watch", "create", "update", "patch"]),
            rule(&["coordination.k8s.io"], &["leases"], &["get", "create", "update", "patch"]),
        ],
    }));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": CONTROLLER, "namespace": ROOT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": CONTROLLER},
        "subjects": [{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": SYSTEM}],
    }));
    objects
}

/// A service account of the system namespace.
fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": SYSTEM}})
}

fn cluster_role(name: &str, rules: Vec<Value>) -> [Value; 2] {
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}],
        }),
    ]
}
