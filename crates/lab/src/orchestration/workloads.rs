//! The manifests of a topology's workloads.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::controllers::scheduler::ZONE;
use crate::topology::{Cluster, Program, Topology, Workload, WorkloadController};

/// Returns the service accounts, Services, Deployments, StatefulSets and exports of one cluster.
#[must_use]
pub fn all(topology: &Topology, cluster: &Cluster) -> Vec<Value> {
    let mut objects = Vec::new();
    let mut accounts = BTreeSet::new();
    let mut services = BTreeSet::new();
    for workload in topology.workloads_of(&cluster.name) {
        if accounts.insert((&workload.namespace, &workload.service_account)) && workload.service_account != "default" {
            objects.push(json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": workload.service_account, "namespace": workload.namespace},
            }));
        }
        let needs_service = !workload.ports.is_empty() || workload.controller == WorkloadController::StatefulSet;
        if services.insert((&workload.namespace, &workload.name)) && needs_service {
            objects.push(service(cluster, workload));
        }
        objects.push(controller(cluster, workload));
    }
    for (namespace, name) in topology.exports_of(&cluster.name) {
        objects.push(json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport",
            "metadata": {"name": name, "namespace": namespace},
        }));
    }
    objects
}

fn service(cluster: &Cluster, workload: &Workload) -> Value {
    let ports: Vec<Value> = workload
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.port, "targetPort": port.target_port}))
        .collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": workload.name, "namespace": workload.namespace, "labels": {"app": workload.name}},
        "spec": {"selector": {"app": workload.name}, "ports": ports},
    });
    if workload.controller == WorkloadController::StatefulSet {
        service["spec"]["clusterIP"] = json!("None");
    }
    if cluster.ip_families.len() > 1 {
        service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    }
    service
}

/// Returns the Deployment or StatefulSet of a workload.
fn controller(cluster: &Cluster, workload: &Workload) -> Value {
    let mut labels = json!({"app": workload.name});
    let mut selector = json!({"app": workload.name});
    if let Some(version) = &workload.version {
        labels["version"] = json!(version);
        selector["version"] = json!(version);
    }
    if !workload.inject {
        labels["sidecar.istio.io/inject"] = json!("false");
    }
    let mut spec = json!({
        "serviceAccountName": workload.service_account,
        "terminationGracePeriodSeconds": 5,
        "containers": [container(cluster, workload)],
    });
    if let Some(zone) = &workload.zone {
        spec["nodeSelector"] = json!({ZONE: zone});
    }
    let mut controller = json!({
        "apiVersion": "apps/v1", "kind": workload.controller.kind(),
        "metadata": {"name": workload.controller_name, "namespace": workload.namespace, "labels": labels},
        "spec": {
            "replicas": workload.replicas,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels, "annotations": workload.annotations}, "spec": spec},
        },
    });
    if workload.controller == WorkloadController::StatefulSet {
        controller["spec"]["serviceName"] = json!(workload.name);
    }
    controller
}

fn container(cluster: &Cluster, workload: &Workload) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut env = vec![
        value("CLUSTER", &cluster.name),
        value("REGION", &cluster.region),
        // The scheduler copies the node's zone to the pod, as Kubernetes does since 1.35 (KEP-4742).
        field("ZONE", &format!("metadata.labels['{ZONE}']")),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        value("SERVICE", &workload.name),
    ];
    if let Some(version) = &workload.version {
        env.push(value("VERSION", version));
    }
    env.extend(workload.env.iter().map(|(name, text)| value(name, text)));
    let ports: Vec<Value> =
        workload.ports.iter().map(|port| json!({"name": port.name, "containerPort": port.target_port})).collect();
    let mut container = json!({"name": workload.name, "env": env, "ports": ports});
    match &workload.program {
        Program::TestApp => {
            container["image"] = json!("isthmus/testapp");
            let port = workload.ports.iter().find(|port| port.name.starts_with("http"));
            if let Some(port) = port {
                container["readinessProbe"] =
                    json!({"httpGet": {"path": "/ready", "port": port.target_port}, "periodSeconds": 1});
            }
        }
        Program::Command { command } => {
            container["image"] = json!("localhost/host");
            container["command"] = json!(command);
        }
    }
    container
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn topology(name: &str) -> Topology {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies").join(name);
        Topology::load(&path).unwrap_or_else(|error| panic!("{error}"))
    }

    fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
        objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    #[test]
    fn workloads_are_pinned_exported_and_named() {
        let topology = topology("primary-remote.yaml");
        let west = all(&topology, topology.cluster("west").expect("a cluster"));
        let reviews = find(&west, "Deployment", "reviews").expect("reviews");
        assert_eq!(reviews["spec"]["replicas"], 2);
        assert_eq!(reviews["spec"]["template"]["metadata"]["labels"]["version"], "v1");
        assert!(find(&west, "ServiceExport", "reviews").is_some() && find(&west, "ServiceExport", "ratings").is_none());
        assert!(find(&west, "ServiceAccount", "frontend").is_some());
        let east = all(&topology, topology.cluster("east").expect("a cluster"));
        assert!(find(&east, "ServiceExport", "ratings").is_some() && find(&east, "Deployment", "frontend").is_none());
    }

    #[test]
    fn stateful_sets_have_a_headless_service() {
        let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: [{name: west, role: primary}]\n  workloads:\n    - {name: db, cluster: west, replicas: 3, controller: StatefulSet, version: v1}\n    - {name: idle, cluster: west, controller: StatefulSet, kind: command, command: [sleep, infinity]}\n";
        let topology = Topology::parse(Path::new("my.yaml"), text).unwrap_or_else(|error| panic!("{error}"));
        let objects = all(&topology, &topology.clusters[0]);
        for (name, ports) in [("db", 3), ("idle", 0)] {
            let service = find(&objects, "Service", name).expect("a headless Service");
            assert_eq!(service["spec"]["clusterIP"], "None");
            assert_eq!(service["spec"]["ports"].as_array().map(Vec::len), Some(ports));
            let set = find(&objects, "StatefulSet", name).expect("a StatefulSet");
            assert_eq!(set["spec"]["serviceName"], name);
        }
        assert_eq!(find(&objects, "StatefulSet", "db").expect("found")["spec"]["replicas"], 3);
    }

    #[test]
    fn every_object_is_complete_and_named_once() {
        let topology = topology("three-regions.yaml");
        for cluster in &topology.clusters {
            let mut seen = BTreeSet::new();
            for object in all(&topology, cluster) {
                let metadata = &object["metadata"];
                let key = format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"]);
                assert!(object["apiVersion"].is_string() && metadata["name"].is_string(), "{object}");
                assert!(seen.insert(key.clone()), "{key} twice in {}", cluster.name);
            }
        }
    }
}
