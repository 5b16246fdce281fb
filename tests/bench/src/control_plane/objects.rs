//! The objects of the clusters, as users and Kubernetes create them.

use serde_json::{Value, json};

use super::MeshSize;

/// The names of the first clusters. The first one runs the controller.
pub const CLUSTERS: [&str; 2] = ["west", "east"];
/// The number of nodes of a cluster, alternately in two zones.
const NODES: usize = 10;

/// The name of a cluster.
pub fn cluster_name(cluster: usize) -> String {
    CLUSTERS.get(cluster).map_or_else(|| format!("cluster-{cluster}"), |name| (*name).to_owned())
}

/// The number of the cluster with a name.
pub fn cluster_of(name: &str) -> Option<usize> {
    CLUSTERS.iter().position(|of| *of == name).or_else(|| name.strip_prefix("cluster-")?.parse().ok())
}

/// The network of a cluster.
pub fn network(cluster: usize) -> String {
    format!("net-{}", cluster_name(cluster))
}

/// A service's name.
pub fn service_name(service: usize) -> String {
    format!("s{service}")
}

/// A service's hostname.
pub fn hostname(service: usize) -> String {
    format!("s{service}.default.svc.cluster.local")
}

/// The number of the service with a hostname.
pub fn service_of(hostname: &str) -> Option<usize> {
    hostname.strip_prefix('s')?.split_once('.')?.0.parse().ok()
}

/// A pod's name, as a ReplicaSet generates it.
pub fn pod_name(service: usize, pod: usize) -> String {
    // Five characters of Kubernetes' alphabet.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = service * 7919 + pod * 104_729;
    let mut suffix = String::new();
    for _ in 0..5 {
        suffix.push(char::from(LETTERS[rest % LETTERS.len()]));
        rest = rest / LETTERS.len() + service + pod;
    }
    format!("s{service}-7d9f8c6b5-{suffix}{pod}")
}

/// A pod's address. Clusters use the same addresses.
pub fn pod_ip(service: usize, pod: usize, size: &MeshSize) -> String {
    let number = service * size.most_pods() + pod;
    format!("10.{}.{}.{}", 16 + (number >> 16), (number >> 8) & 255, number & 255)
}

/// The objects that a new cluster needs, with their paths.
pub fn base(cluster: usize) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (name, labels) in
        [("istio-system", json!({"topology.istio.io/network": network(cluster)})), ("isthmus-system", json!({}))]
    {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        all.push(("/api/v1/namespaces".to_owned(), namespace));
    }
    let definitions = install::definitions::all().into_iter();
    all.extend(definitions.map(|it| ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(), it)));
    for node in 0..NODES {
        let cluster = cluster_name(cluster);
        let labels = json!({
            "topology.kubernetes.io/region": cluster,
            "topology.kubernetes.io/zone": format!("{cluster}-{}", ["a", "b"][node % 2]),
        });
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("{cluster}-node-{node}"), "labels": labels},
        });
        all.push(("/api/v1/nodes".to_owned(), node));
    }
    all
}

/// The east-west gateway's Service with an address for other networks.
pub fn gateway(cluster: usize) -> (String, Value) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "isthmus-eastwestgateway",
            "labels": {"topology.istio.io/network": network(cluster), "istio": "eastwestgateway"},
        },
        "spec": {"ports": [{"name": "tls", "port": 15443}], "externalIPs": [format!("172.30.0.{}", cluster + 1)]},
    });
    ("/api/v1/namespaces/isthmus-system/services".to_owned(), service)
}

/// A Secret of the root namespace.
pub fn secret(name: &str, labels: &Value, data: &Value) -> (String, Value) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data,
    });
    ("/api/v1/namespaces/istio-system/secrets".to_owned(), secret)
}

/// A service's objects without endpoints: those of [`unexported`], and its export.
pub fn service(service: usize) -> [(String, Value); 3] {
    let export = json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport", "metadata": {"name": service_name(service)},
    });
    let [account, object] = unexported(service);
    [account, object, ("/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/serviceexports".to_owned(), export)]
}

/// A Service, and the service account of its pods.
pub fn unexported(service: usize) -> [(String, Value); 2] {
    let name = service_name(service);
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    [
        ("/api/v1/namespaces/default/serviceaccounts".to_owned(), account),
        ("/api/v1/namespaces/default/services".to_owned(), object),
    ]
}

/// The ReplicaSet of a service's pods. Without an owner, pods would be garbage collected.
pub fn replica_set(service: usize) -> (String, Value) {
    let name = service_name(service);
    let labels = json!({"app": name});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": format!("{name}-7d9f8c6b5")},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "registry.example/app:1.0"}]},
            },
        },
    });
    ("/apis/apps/v1/namespaces/default/replicasets".to_owned(), object)
}

/// A pod after injection, owned by the ReplicaSet with the UID `owner`. It has fields that the controller must skip.
pub fn pod(cluster: usize, service: usize, pod: usize, owner: &str) -> (String, Value) {
    let name = service_name(service);
    let labels = json!({
        "app": name, "version": "v1", "pod-template-hash": "7d9f8c6b5",
        "security.istio.io/tlsMode": "istio", "topology.istio.io/network": network(cluster),
        "service.istio.io/canonical-name": name, "service.istio.io/canonical-revision": "v1",
    });
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/{name}:1.0"),
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        })
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(service, pod), "generateName": format!("{name}-7d9f8c6b5-"), "labels": labels,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d9f8c6b5"),
                "uid": owner, "controller": true,
            }],
        },
        "spec": {
            "serviceAccountName": name, "nodeName": node(cluster, pod),
            "containers": [container("app"), container("isthmus-proxy")],
        },
    });
    ("/api/v1/namespaces/default/pods".to_owned(), object)
}

/// The node of a pod.
fn node(cluster: usize, pod: usize) -> String {
    format!("{}-node-{}", cluster_name(cluster), pod % NODES)
}

/// The path of a service's EndpointSlice.
pub fn slice_path(service: usize) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s{service}-abcde")
}

/// A service's EndpointSlice in one cluster, with all endpoints ready.
pub fn slice(cluster: usize, service: usize, pods: usize, size: &MeshSize) -> (String, Value) {
    let endpoints: Vec<Value> = (0..pods)
        .map(|pod| {
            let zone = format!("{}-{}", cluster_name(cluster), ["a", "b"][pod % NODES % 2]);
            json!({
                "addresses": [pod_ip(service, pod, size)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod_name(service, pod), "namespace": "default"},
                "nodeName": node(cluster, pod), "zone": zone,
            })
        })
        .collect();
    let name = service_name(service);
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-abcde"), "labels": {
            "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(), object)
}
