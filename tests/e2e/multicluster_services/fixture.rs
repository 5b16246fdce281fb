//! One spec's namespace in two clusters, with the service `hello`.

use std::time::Instant;

use serde_json::{Value, json};

use super::{PATIENCE, STEADY, dns};
use crate::support::{Lab, eventually};

/// The clusters of a spec. They share a network.
pub(super) const CLUSTERS: [&str; 2] = ["west", "east"];

/// The namespace of a spec.
pub(super) struct Fixture<'a> {
    pub(super) lab: &'a Lab,
    pub(super) namespace: String,
}

/// Returns the Service of the suite.
pub(super) fn hello() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"},
        "spec": {
            "selector": {"app": "hello"},
            "ports": [{"name": "tcp", "port": 42, "targetPort": 8042, "protocol": "TCP"},
                      {"name": "udp", "port": 42, "protocol": "UDP"}],
        },
    })
}

impl<'a> Fixture<'a> {
    /// Creates the namespace in both clusters.
    pub(super) fn new(lab: &'a Lab, number: u8) -> Self {
        let namespace = format!("mcs-{number}");
        for cluster in CLUSTERS {
            lab.kubectl(cluster, &["create", "namespace", &namespace]).ok();
        }
        Fixture { lab, namespace }
    }

    /// Deletes the namespaces, without waiting for it.
    pub(super) fn remove(self) {
        for cluster in CLUSTERS {
            self.lab.kubectl(cluster, &["delete", "namespace", &self.namespace, "--wait=false"]).ok();
        }
    }

    /// The name of the service in `clusterset.local`.
    pub(super) fn name(&self) -> String {
        format!("hello.{}.svc.clusterset.local", self.namespace)
    }

    fn apply(&self, cluster: &str, mut object: Value) {
        object["metadata"]["namespace"] = json!(self.namespace);
        self.lab.apply(cluster, &object.to_string());
    }

    /// Creates the Service, changed.
    pub(super) fn service(&self, cluster: &str, change: impl Fn(&mut Value)) {
        let mut service = hello();
        change(&mut service);
        self.apply(cluster, service);
    }

    /// Creates the export, in the API's newest version.
    pub(super) fn export(&self, cluster: &str, spec: Value) {
        self.apply(
            cluster,
            json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
                   "metadata": {"name": "hello"}, "spec": spec}),
        );
    }

    /// Exports a second cluster's Service, later by more than the second that timestamps show.
    pub(super) fn second(&self, cluster: &str, change: impl Fn(&mut Value), spec: Value) {
        self.import("west");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        self.service(cluster, change);
        self.export(cluster, spec);
    }

    pub(super) fn unexport(&self, cluster: &str) {
        self.lab.kubectl(cluster, &["-n", &self.namespace, "delete", "serviceexport", "hello"]).ok();
    }

    /// Returns the export, in the API's oldest version.
    pub(super) fn export_of(&self, cluster: &str) -> Value {
        let kind = "serviceexports.v1alpha1.multicluster.x-k8s.io";
        self.lab.kubectl(cluster, &["-n", &self.namespace, "get", kind, "hello", "-o", "json"]).json()
    }

    /// Waits for a condition of an export, as `<status>/<reason>`.
    pub(super) fn condition(&self, cluster: &str, kind: &str, expected: &str) {
        let found = eventually(PATIENCE, || {
            let export = self.export_of(cluster);
            let conditions = export["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let condition = conditions.into_iter().find(|of| of["type"] == *kind).unwrap_or_default();
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let found = format!("{}/{}", text("status"), text("reason"));
            if found == expected { Ok(()) } else { Err(found) }
        });
        assert_eq!(found, Ok(()), "{kind} of {cluster} is not {expected}");
    }

    /// Waits for a conflict on both exports.
    pub(super) fn conflict(&self, reasons: &str) {
        CLUSTERS.iter().for_each(|cluster| self.condition(cluster, "Conflict", &format!("True/{reasons}")));
    }

    fn find_import(&self, cluster: &str) -> Option<Value> {
        let arguments = ["-n", &self.namespace, "get", "serviceimport", "hello", "--ignore-not-found", "-o", "json"];
        let text = self.lab.kubectl(cluster, &arguments).ok();
        serde_json::from_str(&text).ok()
    }

    pub(super) fn imported(&self, cluster: &str) -> bool {
        self.find_import(cluster).is_some()
    }

    /// Waits for the import and its status.
    pub(super) fn import(&self, cluster: &str) -> Value {
        let found = eventually(PATIENCE, || match self.find_import(cluster) {
            Some(import) if !import["status"]["conditions"].is_null() && import["spec"]["ports"].is_array() => {
                let pending = import["status"]["conditions"][0]["reason"] == "Pending";
                if pending { Err(Some(import)) } else { Ok(import) }
            }
            other => Err(other),
        });
        found.unwrap_or_else(|found| panic!("{cluster} has no import: {found:?}"))
    }

    /// Returns the ports of an import as `<name>/<number>`.
    pub(super) fn ports(&self, cluster: &str) -> Vec<String> {
        let ports = self.import(cluster)["spec"]["ports"].as_array().cloned().unwrap_or_default();
        ports.iter().map(|port| format!("{}/{}", port["name"].as_str().unwrap_or_default(), port["port"])).collect()
    }

    /// Waits until no cluster has the import.
    pub(super) fn gone(&self) {
        for cluster in CLUSTERS {
            let gone = eventually(PATIENCE, || if self.imported(cluster) { Err(()) } else { Ok(()) });
            assert_eq!(gone, Ok(()), "the import in {cluster} stays");
        }
    }

    /// Asserts that something holds for a while.
    pub(super) fn steady(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < STEADY {
            assert!(holds(), "{what}");
        }
    }

    /// Waits for the slices of the API.
    pub(super) fn slices(&self, cluster: &str, count: usize) -> Vec<Value> {
        let label = "multicluster.kubernetes.io/service-name=hello";
        let found = eventually(PATIENCE, || {
            let arguments = ["-n", &self.namespace, "get", "endpointslices", "-l", label, "-o", "json"];
            let slices = self.lab.kubectl(cluster, &arguments).json()["items"].as_array().cloned().unwrap_or_default();
            let filled = slices.iter().all(|of| of["endpoints"].as_array().is_some_and(|all| !all.is_empty()));
            if slices.len() == count && filled { Ok(slices) } else { Err(slices) }
        });
        found.unwrap_or_else(|found| panic!("{cluster} has not {count} slices: {found:?}"))
    }

    fn template(&self, cluster: &str) -> Value {
        json!({
            "metadata": {"labels": {"app": "hello"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "hello", "image": "isthmus/testapp",
                    "env": [{"name": "CLUSTER", "value": cluster}, {"name": "PORT", "value": "8042"}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8042}, "periodSeconds": 1},
                }],
            },
        })
    }

    /// Runs pods that answer with the name of their cluster.
    pub(super) fn deploy(&self, cluster: &str, replicas: u8) {
        let selector = json!({"matchLabels": {"app": "hello"}});
        self.apply(
            cluster,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
                   "spec": {"replicas": replicas, "selector": selector, "template": self.template(cluster)}}),
        );
    }

    pub(super) fn deploy_stateful(&self, cluster: &str, replicas: u8) {
        let selector = json!({"matchLabels": {"app": "hello"}});
        self.apply(
            cluster,
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "hello"},
                   "spec": {"replicas": replicas, "selector": selector, "serviceName": "hello",
                            "podManagementPolicy": "Parallel", "template": self.template(cluster)}}),
        );
    }

    /// Waits for ready pods, and returns their addresses.
    pub(super) fn pod_ips(&self, cluster: &str, count: usize) -> Vec<String> {
        let found = eventually(PATIENCE, || {
            let arguments = ["-n", &self.namespace, "get", "pods", "-l", "app=hello", "-o", "json"];
            let pods = self.lab.kubectl(cluster, &arguments).json()["items"].as_array().cloned().unwrap_or_default();
            let ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
            let ips: Vec<String> = ready.filter_map(|pod| Some(pod["status"]["podIP"].as_str()?.to_owned())).collect();
            if ips.len() == count { Ok(ips) } else { Err(pods) }
        });
        found.unwrap_or_else(|found| panic!("{cluster} has not {count} ready pods: {found:?}"))
    }

    /// Runs the pod that asks, whose container has arguments alone.
    pub(super) fn request_pod(&self, cluster: &str) {
        let container = json!({"name": "request", "image": "busybox",
            "args": ["/bin/sh", "-ec", "while :; do echo '.'; sleep 5 ; done"]});
        self.apply(
            cluster,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "request", "labels": {"app": "request"}},
                   "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}),
        );
        let running = eventually(PATIENCE, || {
            let arguments = ["-n", &self.namespace, "get", "pod", "request", "-o", "jsonpath={.status.phase}"];
            let phase = self.lab.kubectl(cluster, &arguments).ok();
            if phase == "Running" { Ok(()) } else { Err(phase) }
        });
        assert_eq!(running, Ok(()), "the pod does not run in {cluster}");
    }

    fn target(&self, cluster: &str) -> String {
        format!("{cluster}/{}/request", self.namespace)
    }

    /// Waits until a name has these IPv4 addresses; none: it does not exist.
    pub(super) fn resolves(&self, cluster: &str, name: &str, expected: &[&str]) {
        let mut expected: Vec<String> = expected.iter().map(|&ip| ip.to_owned()).collect();
        expected.sort();
        let found = eventually(PATIENCE, || {
            let found = dns::addresses(self.lab, &self.target(cluster), name);
            if found == expected { Ok(()) } else { Err(found) }
        });
        assert_eq!(found, Ok(()), "{name} in {cluster} is not {expected:?}");
    }

    /// Waits until a question has a number of answers with these labels in them.
    pub(super) fn answers(&self, cluster: &str, name: &str, kind: u16, count: u16, labels: &[&str]) {
        let found = eventually(PATIENCE, || {
            let answer = dns::ask(self.lab, &self.target(cluster), name, kind);
            let has = |label: &&str| answer.bytes.windows(label.len()).any(|part| part == label.as_bytes());
            if answer.count == count && labels.iter().all(has) { Ok(()) } else { Err(answer) }
        });
        assert!(found.is_ok(), "{name} in {cluster}: {found:?}");
    }

    /// Calls the service by its name.
    pub(super) fn call(&self, cluster: &str, port: u16) -> Result<Value, String> {
        self.lab.get(&self.target(cluster), &format!("http://{}:{port}/", self.name()))
    }

    /// Waits until the service is reached, and asserts that then one cluster alone answers.
    pub(super) fn reaches(&self, cluster: &str, port: u16, expected: &str) {
        self.request_pod(cluster);
        let first = eventually(PATIENCE, || self.call(cluster, port));
        assert!(first.is_ok(), "{cluster} does not reach port {port}: {first:?}");
        for _ in 0..10 {
            let answer = self.call(cluster, port).unwrap_or_else(|error| panic!("{cluster}, port {port}: {error}"));
            assert_eq!(answer["cluster"], expected, "{cluster}, port {port}");
        }
    }
}
