//! The controller and the east-west gateway, and the Services by which they are found.

use serde_json::{Value, json};

use super::{CONTROLLER, GATEWAY, GATEWAY_PORT, ROOT, SYSTEM, WEBHOOKS};
use crate::topology::{Cluster, Topology};

/// Where proxies connect for discovery and certificates.
pub const DISCOVERY: &str = "isthmus-controller.isthmus-system.svc:15012";
const DISCOVERY_PORT: u16 = 15012;
const MONITORING_PORT: u16 = 15014;
const WEBHOOK_PORT: u16 = 15017;
/// The gateway's port for the question whether it is ready.
const STATUS_PORT: u16 = 15021;

fn deployment(name: &str, labels: &Value, replicas: u32, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": SYSTEM, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

fn service(name: &str, labels: &Value, selector: &Value, ports: Value) -> Value {
    let mut spec = json!({"ports": ports});
    if !selector.is_null() {
        spec["selector"] = selector.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": SYSTEM, "labels": labels}, "spec": spec,
    })
}

fn ready(path: &str, port: u16) -> Value {
    json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3})
}

fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// The control plane of a primary.
#[must_use]
pub fn controller(topology: &Topology, cluster: &Cluster) -> Vec<Value> {
    let labels = json!({"app": CONTROLLER, "sidecar.istio.io/inject": "false"});
    let selector = json!({"app": CONTROLLER});
    let args = [
        ("--cluster", cluster.name.as_str()),
        ("--network", &cluster.network),
        ("--namespace", SYSTEM),
        ("--root-namespace", ROOT),
        ("--trust-domain", &topology.mesh.trust_domain),
    ];
    let args: Vec<String> = args.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let spec = json!({
        "serviceAccountName": CONTROLLER,
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "controller",
            "image": "isthmus/federation-controller",
            "args": args,
            "env": [from_field("POD_NAME", "metadata.name"), from_field("POD_NAMESPACE", "metadata.namespace"),
                from_field("INSTANCE_IP", "status.podIP")],
            "ports": [
                {"name": "discovery", "containerPort": DISCOVERY_PORT},
                {"name": "monitoring", "containerPort": MONITORING_PORT},
                {"name": "webhook", "containerPort": WEBHOOK_PORT},
            ],
            "readinessProbe": ready("/ready", MONITORING_PORT),
        }],
    });
    vec![
        deployment(CONTROLLER, &labels, 1, spec),
        service(
            CONTROLLER,
            &labels,
            &selector,
            json!([
                {"name": "tls-discovery", "port": DISCOVERY_PORT, "targetPort": DISCOVERY_PORT},
                {"name": "http-monitoring", "port": MONITORING_PORT, "targetPort": MONITORING_PORT},
                {"name": "tls-webhook", "port": WEBHOOK_PORT, "targetPort": WEBHOOK_PORT},
            ]),
        ),
        service(
            WEBHOOKS,
            &labels,
            &selector,
            json!([{"name": "tls-webhook", "port": 443, "targetPort": WEBHOOK_PORT}]),
        ),
    ]
}

/// The controller's Services in a remote cluster: without pods, they lead to the primary's gateway, which forwards them
/// to the controller by the server name that the callers ask for.
#[must_use]
pub fn controller_elsewhere(primary: &Cluster) -> Vec<Value> {
    let labels = json!({"app": CONTROLLER});
    let mut objects = Vec::new();
    for (name, port_name, port) in [(CONTROLLER, "tls-discovery", DISCOVERY_PORT), (WEBHOOKS, "tls-webhook", 443)] {
        objects.push(service(name, &labels, &Value::Null, json!([{"name": port_name, "port": port}])));
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-of-{}", primary.name), "namespace": SYSTEM,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "isthmus",
                },
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [primary.gateway().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": port_name, "port": GATEWAY_PORT, "protocol": "TCP"}],
        }));
    }
    objects
}

/// The east-west gateway of a cluster.
#[must_use]
pub fn gateway(topology: &Topology, cluster: &Cluster) -> Vec<Value> {
    let labels = json!({
        "app": GATEWAY,
        "istio": "eastwestgateway",
        "sidecar.istio.io/inject": "false",
        api::names::NETWORK_LABEL: cluster.network,
    });
    let args: Vec<String> = [("--cluster", &cluster.name), ("--network", &cluster.network)]
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    let spec = json!({
        "serviceAccountName": GATEWAY,
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "gateway",
            "image": "isthmus/eastwest-gateway",
            "args": args,
            "env": [
                from_field("POD_NAME", "metadata.name"),
                from_field("POD_NAMESPACE", "metadata.namespace"),
                from_field("INSTANCE_IP", "status.podIP"),
                from_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
                {"name": "ISTIO_META_CLUSTER_ID", "value": cluster.name},
                {"name": "ISTIO_META_NETWORK", "value": cluster.network},
                {"name": "TRUST_DOMAIN", "value": topology.mesh.trust_domain},
                {"name": "DISCOVERY_ADDRESS", "value": DISCOVERY},
            ],
            "ports": [{"name": "tls", "containerPort": GATEWAY_PORT}, {"name": "status", "containerPort": STATUS_PORT}],
            "readinessProbe": ready("/healthz/ready", STATUS_PORT),
            "volumeMounts": [
                {"name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true},
                {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true},
            ],
        }],
        "volumes": [
            {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken":
                {"audience": api::names::TOKEN_AUDIENCE, "expirationSeconds": 43200, "path": "istio-token"}}]}},
            {"name": "istiod-ca-cert", "configMap": {"name": api::names::ROOT_CONFIG_MAP}},
        ],
    });
    let mut exposed = service(
        GATEWAY,
        &labels,
        &json!({"app": GATEWAY}),
        json!([
            {"name": "tls", "port": GATEWAY_PORT, "targetPort": GATEWAY_PORT},
            {"name": "status-port", "port": STATUS_PORT, "targetPort": STATUS_PORT},
        ]),
    );
    exposed["spec"]["type"] = json!("LoadBalancer");
    exposed["spec"]["loadBalancerIP"] = json!(cluster.gateway().to_string());
    vec![deployment(GATEWAY, &labels, 1, spec), exposed]
}
