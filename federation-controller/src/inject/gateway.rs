//! Pods of Istio's injection template `gateway`, as its Helm chart `gateway` makes them.
//!
//! Such a pod is a gateway itself: its container `istio-proxy`, with the image `auto`, becomes the router, as a JSON patch
//! (RFC 6902). As in Istio, what the container says itself takes precedence over the template, entry by entry in lists. A pod
//! without the container gets it. Nothing is captured, so there is no init container.

use serde_json::{Map, Value, json};

use super::rules::STATUS;
use super::settings::{Settings, SettingsError, TRAFFIC};
use super::template::{
    HEALTH_PORT, HomeCluster, Injector, Patch, ROOT_VOLUME, TOKEN_VOLUME, append, labels_of_home, override_all,
    resources, set_all, set_labels, volumes, workload,
};
use crate::inventory::ProxyLayers;

/// The name of the container.
const CONTAINER: &str = "istio-proxy";
/// The beginning of a warning of the settings of proxies in front of a gateway, which the controller compiles.
const TOPOLOGY: &str = "proxy.istio.io/config: gatewayTopology:";
/// The image that stands for that of the template.
const AUTO: &str = "auto";
/// The port of metrics. A gateway has no application whose metrics could be merged.
const METRICS_PORT: u16 = 15090;

impl Injector {
    /// Returns the patch that makes a pod a gateway.
    ///
    /// # Errors
    /// Returns [`SettingsError`] if an annotation of the pod is invalid.
    pub fn gateway_patch(&self, pod: &Value, home: &HomeCluster, layers: &ProxyLayers) -> Result<Patch, SettingsError> {
        let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
        let mut settings = Settings::read(&metadata["annotations"], &[], layers)?;
        warn_of_capture(&mut settings, &metadata["annotations"]);
        // The router's name of the setting.
        if let Some(threads) = settings.env.remove("CONCURRENCY") {
            settings.env.insert("ISTHMUS_WORKERS".to_owned(), threads);
        }
        let workload = workload(metadata);
        let template = self.router(home, &settings, &workload);
        let mut operations = Vec::new();
        let containers = spec["containers"].as_array().into_iter().flatten();
        match containers.enumerate().find(|(_, container)| container["name"] == CONTAINER) {
            Some((index, own)) => complete(&mut operations, index, own, template),
            None => append(&mut operations, spec, "/spec", "containers", vec![Value::Object(template)]),
        }
        append(&mut operations, spec, "/spec", "volumes", volumes(spec));
        set_labels(&mut operations, metadata, labels_of_home(metadata, home, &workload));
        let status = json!({
            "initContainers": [], "containers": [CONTAINER], "volumes": [TOKEN_VOLUME, ROOT_VOLUME], "revision": "default",
        });
        let mut annotations = vec![(STATUS.to_owned(), status.to_string())];
        if metadata["annotations"]["prometheus.io/scrape"] != "false" {
            annotations.push(("prometheus.io/scrape".to_owned(), "true".to_owned()));
            annotations.push(("prometheus.io/port".to_owned(), METRICS_PORT.to_string()));
            annotations.push(("prometheus.io/path".to_owned(), "/stats/prometheus".to_owned()));
        }
        set_all(&mut operations, metadata, "annotations", annotations);
        Ok(Patch { operations, warnings: settings.warnings })
    }

    /// Returns the container of the template.
    fn router(&self, home: &HomeCluster, settings: &Settings, workload: &str) -> Map<String, Value> {
        let mut env = self.place(home, workload);
        override_all(&mut env, settings);
        let container = json!({
            "name": CONTAINER,
            "image": settings.image.as_ref().unwrap_or(&self.router_image),
            "env": env,
            "ports": [{"name": "http-envoy-prom", "containerPort": METRICS_PORT, "protocol": "TCP"}],
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
        });
        match container {
            Value::Object(container) => container,
            _ => Map::new(),
        }
    }
}

/// Replaces the warnings of what differs from a sidecar: nothing is captured, and `gatewayTopology` has effect.
fn warn_of_capture(settings: &mut Settings, annotations: &Value) {
    settings.warnings.retain(|warning| !warning.starts_with(TRAFFIC) && !warning.starts_with(TOPOLOGY));
    let names = annotations.as_object().into_iter().flat_map(Map::keys).filter(|name| name.starts_with(TRAFFIC));
    settings
        .warnings
        .extend(names.map(|name| format!("{name}: has no effect on a gateway, whose traffic is not captured")));
}

/// Adds operations that complete a container with the fields of the template.
fn complete(operations: &mut Vec<Value>, index: usize, own: &Value, template: Map<String, Value>) {
    for (field, value) in template {
        let value = match (field.as_str(), &own[&field]) {
            ("image", image) if *image == AUTO || image.is_null() => value,
            ("env", Value::Array(entries)) => merged(&value, entries, "name"),
            ("ports", Value::Array(entries)) => merged(&value, entries, "containerPort"),
            ("volumeMounts", Value::Array(entries)) => merged(&value, entries, "mountPath"),
            (_, Value::Null) => value,
            // Empty resources, as many charts write them, are none.
            ("resources", Value::Object(entries)) if entries.is_empty() => value,
            _ => continue,
        };
        // `add` replaces a member that exists.
        operations.push(json!({"op": "add", "path": format!("/spec/containers/{index}/{field}"), "value": value}));
    }
}

/// Returns the entries of the template that no own entry has the key of, followed by the own ones.
fn merged(template: &Value, own: &[Value], key: &str) -> Value {
    let of_template = template.as_array().into_iter().flatten();
    let new = of_template.filter(|entry| !own.iter().any(|other| other[key] == entry[key]));
    new.chain(own).cloned().collect()
}
