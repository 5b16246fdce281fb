//! The sidecar containers, volumes, labels and annotations of a pod, as a JSON patch (RFC 6902).

use api::names;
use serde_json::{Map, Value, json};

use super::probes;
use super::rules::STATUS;
use super::settings::{Settings, SettingsError};
use crate::inventory::ProxyLayers;

/// The name of the init container, which sets up capture before the application runs.
pub const INIT_CONTAINER: &str = "isthmus-init";
/// The name of the sidecar's container, unless it is Istio's.
pub const PROXY_CONTAINER: &str = "isthmus-proxy";
/// The names that the sidecar's container may have: injected pods are known by them.
pub const PROXY_CONTAINERS: [&str; 2] = [PROXY_CONTAINER, "istio-proxy"];
const TOKEN_VOLUME: &str = "istio-token";
const ROOT_VOLUME: &str = "istiod-ca-cert";
/// The health-check port of the sidecar.
const HEALTH_PORT: u16 = 15021;
/// The port of the merged metrics of the sidecar and the application.
const METRICS_PORT: u16 = 15020;
/// The lifetime of the enrolment token in seconds, as in Istio.
const TOKEN_SECONDS: u32 = 43_200;

/// The settings that all injected sidecars share.
#[derive(Debug, Clone)]
pub struct Injector {
    /// The image of the sidecar.
    pub image: String,
    /// The name of the sidecar's container, one of [`PROXY_CONTAINERS`].
    pub proxy_container: String,
    /// The address of the controller, as `HOST:PORT`.
    pub discovery_address: String,
    /// The SPIFFE ID of the controller.
    pub controller_identity: String,
    /// The trust domain of the mesh.
    pub trust_domain: String,
}

/// The cluster and the network of a pod, from the path that the webhook of its cluster calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeCluster {
    /// The cluster.
    pub cluster: String,
    /// The network.
    pub network: String,
}

/// A patch of a pod, with warnings.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The JSON patch operations.
    pub operations: Vec<Value>,
    /// Warnings about annotations without effect.
    pub warnings: Vec<String>,
}

impl Injector {
    /// Returns the patch that adds the sidecar to a pod. `layers` are the settings of its proxy that are not in
    /// annotations.
    ///
    /// # Errors
    /// Returns [`SettingsError`] if an annotation of the pod is invalid.
    pub fn patch(&self, pod: &Value, home: &HomeCluster, layers: &ProxyLayers) -> Result<Patch, SettingsError> {
        let metadata = &pod["metadata"];
        let spec = &pod["spec"];
        let settings = Settings::read(&metadata["annotations"], &declared_ports(spec), layers)?;
        let probes = if settings.keep_probes { probes::Redirected::default() } else { probes::redirect(spec) };
        let mut operations = probes.operations;

        let workload = workload(metadata);
        let mut proxy = self.proxy(pod, home, &settings, &workload);
        if !probes.probers.is_empty()
            && let Some(env) = proxy["env"].as_array_mut()
        {
            env.push(json!({"name": "ISTIO_KUBE_APP_PROBERS", "value": json!(probes.probers).to_string()}));
        }
        let init = self.init(&settings);
        let added = if settings.ordinary_container {
            append(&mut operations, spec, "/spec", "initContainers", vec![init]);
            append(&mut operations, spec, "/spec", "containers", vec![proxy]);
            json!({"initContainers": [INIT_CONTAINER], "containers": [self.proxy_container]})
        } else {
            // A Kubernetes sidecar container (KEP-753): it starts before the application's containers, which wait for
            // its startup probe, and stops after them. It comes first, so that other init containers may use the mesh.
            proxy["restartPolicy"] = json!("Always");
            proxy["startupProbe"] = json!({"httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT},
                                           "periodSeconds": 1, "failureThreshold": 600});
            prepend(&mut operations, spec, "/spec", "initContainers", vec![init, proxy]);
            json!({"initContainers": [INIT_CONTAINER, self.proxy_container], "containers": []})
        };
        append(&mut operations, spec, "/spec", "volumes", volumes(spec));

        let mut labels =
            vec![(names::TLS_MODE_LABEL, "istio".to_owned()), (names::CLUSTER_LABEL, home.cluster.clone())];
        if !home.network.is_empty() {
            labels.push((names::NETWORK_LABEL, home.network.clone()));
        }
        let (name, revision) = canonical(&metadata["labels"], &workload);
        labels.push(("service.istio.io/canonical-name", name));
        labels.push(("service.istio.io/canonical-revision", revision));
        // Labels of the pod's author stay.
        labels.retain(|(key, _)| metadata["labels"][*key].is_null());
        set_all(&mut operations, metadata, "labels", labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());

        let mut status = added;
        status["volumes"] = json!([TOKEN_VOLUME, ROOT_VOLUME]);
        status["revision"] = json!("default");
        let mut annotations = vec![(STATUS.to_owned(), status.to_string())];
        if metadata["annotations"]["prometheus.istio.io/merge-metrics"] != "false" {
            annotations.push(("prometheus.io/scrape".to_owned(), "true".to_owned()));
            annotations.push(("prometheus.io/port".to_owned(), METRICS_PORT.to_string()));
            annotations.push(("prometheus.io/path".to_owned(), "/stats/prometheus".to_owned()));
        }
        set_all(&mut operations, metadata, "annotations", annotations);
        Ok(Patch { operations, warnings: settings.warnings })
    }

    fn image<'a>(&'a self, settings: &'a Settings) -> &'a str {
        settings.image.as_deref().unwrap_or(&self.image)
    }

    fn init(&self, settings: &Settings) -> Value {
        let mut args = vec!["init".to_owned()];
        let mut list = |flag: &str, values: Vec<String>| {
            if !values.is_empty() {
                args.push(format!("{flag}={}", values.join(",")));
            }
        };
        list("--exclude-inbound-ports", settings.exclude_inbound_ports.iter().map(ToString::to_string).collect());
        list("--exclude-outbound-ports", settings.exclude_outbound_ports.iter().map(ToString::to_string).collect());
        list("--exclude-outbound-cidrs", settings.exclude_outbound_ranges.iter().map(ToString::to_string).collect());
        json!({
            "name": INIT_CONTAINER,
            "image": self.image(settings),
            "args": args,
            "resources": resources(settings),
            "securityContext": {
                "allowPrivilegeEscalation": false, "privileged": false,
                "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
                "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": true,
            },
        })
    }

    fn proxy(&self, pod: &Value, home: &HomeCluster, settings: &Settings, workload: &str) -> Value {
        json!({
            "name": self.proxy_container,
            "image": self.image(settings),
            "args": [],
            "env": self.environment(pod, home, settings, workload),
            "ports": [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}],
            "readinessProbe": {
                "httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT},
                "initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 4,
            },
            "resources": resources(settings),
            "securityContext": {
                "allowPrivilegeEscalation": false, "privileged": false, "capabilities": {"drop": ["ALL"]},
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [
                {"name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/tokens", "readOnly": true},
                {"name": ROOT_VOLUME, "mountPath": "/var/run/secrets/istio", "readOnly": true},
            ],
        })
    }

    fn environment(&self, pod: &Value, home: &HomeCluster, settings: &Settings, workload: &str) -> Vec<Value> {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let value = |name: &str, value: &str| json!({"name": name, "value": value});
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let containers: Vec<&str> = containers.filter_map(|container| container["name"].as_str()).collect();
        let mut env = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("HOST_IP", "status.hostIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            value("ISTIO_META_CLUSTER_ID", &home.cluster),
            value("ISTIO_META_NETWORK", &home.network),
            value("ISTIO_META_WORKLOAD_NAME", workload),
            value("ISTIO_META_APP_CONTAINERS", &containers.join(",")),
            value("DISCOVERY_ADDRESS", &self.discovery_address),
            value("ISTHMUS_CONTROLLER_IDENTITY", &self.controller_identity),
            value("TRUST_DOMAIN", &self.trust_domain),
        ];
        let annotations = &pod["metadata"]["annotations"];
        if annotations["prometheus.io/scrape"] == "true" {
            // The location of the application's metrics, for the merged metrics.
            let mut own = Map::new();
            for key in ["scrape", "port", "path", "scheme"] {
                if let Some(text) = annotations[format!("prometheus.io/{key}")].as_str() {
                    own.insert(key.to_owned(), json!(text));
                }
            }
            env.push(value("ISTIO_PROMETHEUS_ANNOTATIONS", &Value::Object(own).to_string()));
        }
        for (name, text) in &settings.env {
            env.retain(|entry| entry["name"] != **name);
            env.push(value(name, text));
        }
        env
    }
}

fn resources(settings: &Settings) -> Value {
    // An idle sidecar uses at most 12 MiB; further memory depends on the pod's traffic.
    let mut resources = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    for ((kind, what), value) in &settings.resources {
        resources[kind][what] = json!(value);
    }
    resources
}

fn volumes(spec: &Value) -> Vec<Value> {
    let token = json!({"serviceAccountToken":
        {"audience": names::TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "istio-token"}});
    let all = [
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [token]}}),
        json!({"name": ROOT_VOLUME, "configMap": {"name": names::ROOT_CONFIG_MAP}}),
    ];
    let taken = |name: &Value| spec["volumes"].as_array().into_iter().flatten().any(|volume| volume["name"] == *name);
    all.into_iter().filter(|volume| !taken(&volume["name"])).collect()
}

fn declared_ports(spec: &Value) -> Vec<u16> {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports.filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok()).collect()
}

/// Returns the name of the pod's workload: the Deployment of its ReplicaSet, its owner, or the pod itself.
fn workload(metadata: &Value) -> String {
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners.clone().find(|owner| owner["controller"] == true).or_else(|| owners.clone().next());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(owner) = owner else {
        let name = text(&metadata["name"]);
        return if name.is_empty() { text(&metadata["generateName"]).trim_end_matches('-').to_owned() } else { name };
    };
    let name = text(&owner["name"]);
    match metadata["labels"]["pod-template-hash"].as_str() {
        Some(hash) if owner["kind"] == "ReplicaSet" => {
            name.strip_suffix(hash).and_then(|name| name.strip_suffix('-')).unwrap_or(&name).to_owned()
        }
        _ => name,
    }
}

/// Returns the canonical name and revision of a workload for telemetry, by Istio's order of labels.
fn canonical(labels: &Value, workload: &str) -> (String, String) {
    let first = |keys: &[&str], default: &str| {
        let found = keys.iter().find_map(|key| labels[*key].as_str().filter(|value| !value.is_empty()));
        found.unwrap_or(default).to_owned()
    };
    (first(&["app.kubernetes.io/name", "app"], workload), first(&["app.kubernetes.io/version", "version"], "latest"))
}

/// Adds operations that append to a list, which may be absent.
fn append(operations: &mut Vec<Value>, parent: &Value, path: &str, field: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    if parent[field].is_array() {
        let add =
            items.into_iter().map(|item| json!({"op": "add", "path": format!("{path}/{field}/-"), "value": item}));
        operations.extend(add);
    } else {
        operations.push(json!({"op": "add", "path": format!("{path}/{field}"), "value": items}));
    }
}

/// Adds operations that put items before those of a list, which may be absent.
fn prepend(operations: &mut Vec<Value>, parent: &Value, path: &str, field: &str, items: Vec<Value>) {
    if !parent[field].is_array() {
        return append(operations, parent, path, field, items);
    }
    let add = items.into_iter().rev();
    operations.extend(add.map(|item| json!({"op": "add", "path": format!("{path}/{field}/0"), "value": item})));
}

/// Adds operations that set entries of a map in the metadata, which may be absent.
fn set_all(operations: &mut Vec<Value>, metadata: &Value, field: &str, entries: Vec<(String, String)>) {
    if entries.is_empty() {
        return;
    }
    if metadata[field].is_object() {
        operations.extend(entries.into_iter().map(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            json!({"op": "add", "path": format!("/metadata/{field}/{key}"), "value": value})
        }));
    } else {
        let map: Map<String, Value> = entries.into_iter().map(|(key, value)| (key, json!(value))).collect();
        operations.push(json!({"op": "add", "path": format!("/metadata/{field}"), "value": map}));
    }
}
