//! The objects of a new cluster: namespaces, default roles, and the Service of the API server.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::defaults;
use crate::storage::GroupResource;
use crate::strategy::prepare;

const RBAC: &str = "rbac.authorization.k8s.io";

/// API groups that the `view` role can read.
const VIEWABLE_GROUPS: [&str; 8] = [
    "apps",
    "batch",
    "autoscaling",
    "policy",
    "networking.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "coordination.k8s.io",
];

/// Creates the objects. `endpoints` are the addresses at which pods reach the API server.
pub(crate) fn fill(api: &Api, endpoints: &[SocketAddr]) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        seed(api, "", "namespaces", json!({ "metadata": { "name": name } }));
    }
    roles(api);
    api_server_service(api, endpoints);
}

fn roles(api: &Api) {
    let rule = |groups: Value, resources: Value, verbs: Value| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let read = json!(["get", "list", "watch"]);
    let write = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    let mut groups = vec![""];
    groups.extend(VIEWABLE_GROUPS);
    let viewable = json!([
        "bindings",
        "configmaps",
        "endpoints",
        "events",
        "limitranges",
        "namespaces",
        "namespaces/status",
        "persistentvolumeclaims",
        "pods",
        "pods/log",
        "pods/status",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "services/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "controllerrevisions",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
        "daemonsets",
        "daemonsets/status",
        "jobs",
        "jobs/status",
        "cronjobs",
        "cronjobs/status",
        "horizontalpodautoscalers",
        "horizontalpodautoscalers/status",
        "poddisruptionbudgets",
        "poddisruptionbudgets/status",
        "ingresses",
        "ingresses/status",
        "networkpolicies",
        "endpointslices",
        "leases",
    ]);
    let mut editable = viewable.clone();
    let more = [
        "secrets",
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "pods/eviction",
        "services/proxy",
        "serviceaccounts/token",
    ];
    if let Some(list) = editable.as_array_mut() {
        list.extend(more.iter().map(|resource| json!(resource)));
    }
    let view = vec![rule(json!(groups), viewable, read)];
    let edit = vec![rule(json!(groups), editable, write.clone())];
    let mut admin = edit.clone();
    admin.push(rule(json!([RBAC]), json!(["roles", "rolebindings"]), write));
    role(
        api,
        "cluster-admin",
        json!([
            rule(json!(["*"]), json!(["*"]), json!(["*"])),
            { "nonResourceURLs": ["*"], "verbs": ["*"] },
        ]),
        None,
    );
    for (name, rules) in [("admin", admin), ("edit", edit), ("view", view)] {
        // Roles of custom resources are aggregated by label, such as `rbac.authorization.k8s.io/aggregate-to-view:
        // "true"`.
        role(api, name, json!(rules), Some(format!("{RBAC}/aggregate-to-{name}")));
    }
    metrics_reader(api);
    role(
        api,
        "system:discovery",
        json!([{
            "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"],
            "verbs": ["get"],
        }]),
        None,
    );
    role(
        api,
        "system:public-info-viewer",
        json!([{ "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"] }]),
        None,
    );
    role(
        api,
        "system:basic-user",
        json!([
            rule(
                json!(["authorization.k8s.io"]),
                json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                json!(["create"])
            ),
            rule(json!(["authentication.k8s.io"]), json!(["selfsubjectreviews"]), json!(["create"])),
        ]),
        None,
    );
    role(
        api,
        "system:auth-delegator",
        json!([
            rule(json!(["authentication.k8s.io"]), json!(["tokenreviews"]), json!(["create"])),
            rule(json!(["authorization.k8s.io"]), json!(["subjectaccessreviews"]), json!(["create"])),
        ]),
        None,
    );
    role(
        api,
        "system:service-account-issuer-discovery",
        json!([{
            "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"],
        }]),
        None,
    );
    bind(api, "cluster-admin", &["system:masters"]);
    bind(api, "system:discovery", &["system:authenticated"]);
    bind(api, "system:basic-user", &["system:authenticated"]);
    bind(api, "system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]);
    bind(api, "system:service-account-issuer-discovery", &["system:serviceaccounts"]);
}

/// The role by which readers of pods read their metrics, as metrics-server has it.
fn metrics_reader(api: &Api) {
    let labels: Map<String, Value> = ["admin", "edit", "view"]
        .map(|role| (format!("{RBAC}/aggregate-to-{role}"), json!("true")))
        .into_iter()
        .collect();
    let rule =
        json!({ "apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] });
    let metadata = json!({ "name": "system:aggregated-metrics-reader", "labels": labels });
    seed(api, RBAC, "clusterroles", json!({ "metadata": metadata, "rules": [rule] }));
}

fn role(api: &Api, name: &str, rules: Value, aggregated_by: Option<String>) {
    let mut role = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } }, "rules": rules,
    });
    if let Some(label) = aggregated_by {
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
    }
    seed(api, RBAC, "clusterroles", role);
}

fn bind(api: &Api, role: &str, groups: &[&str]) {
    let subjects: Vec<Value> =
        groups.iter().map(|group| json!({ "kind": "Group", "apiGroup": RBAC, "name": group })).collect();
    let binding = json!({
        "metadata": { "name": role, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } },
        "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": role },
        "subjects": subjects,
    });
    seed(api, RBAC, "clusterrolebindings", binding);
}

/// Creates the Service `kubernetes` in `default`, by which pods reach the API server. As in Kubernetes it has an address of
/// the cluster's first IP family.
fn api_server_service(api: &Api, endpoints: &[SocketAddr]) {
    let Some(network) = api.service_networks.first() else { return };
    let Some(address) = network.hosts().next() else { return };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let port = endpoints.first().map_or(443, SocketAddr::port);
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    seed(
        api,
        "",
        "services",
        json!({
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": labels },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }],
            },
            "status": { "loadBalancer": {} },
        }),
    );
    let own = endpoints.iter().map(SocketAddr::ip).filter(|ip| ip.is_ipv4() == address.is_ipv4());
    let addresses: Vec<String> = own.map(|ip| ip.to_string()).collect();
    if addresses.is_empty() {
        return;
    }
    seed(
        api,
        "",
        "endpoints",
        json!({
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
            "subsets": [{
                "addresses": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
                "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
            }],
        }),
    );
    seed(
        api,
        "discovery.k8s.io",
        "endpointslices",
        json!({
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": family,
            "endpoints": [{ "addresses": addresses, "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
        }),
    );
}

fn seed(api: &Api, group: &str, plural: &str, mut object: Value) {
    let Some(served) = api.served(&GroupResource::new(group, plural)) else { return };
    let status = object.get("status").cloned();
    object["apiVersion"] = json!(served.kind.api_version());
    object["kind"] = json!(served.kind.kind);
    prepare::for_create(&served, &mut object);
    if let Some(status) = status {
        object["status"] = status;
    }
    defaults::apply(&served.kind, &mut object);
    prepare::identify(&mut object);
    if let Err(status) = api.insert(&served, object) {
        tracing::error!(%status, "cannot create an object of the new cluster");
    }
}
