//! The controller and the east-west gateway, and the Services by which they are found.

use api::names;
use serde_json::{Value, json};

use crate::settings::{ControlPlane, Installation, KeyServers};

/// Name of the controller's Deployment, Service and account.
pub const CONTROLLER: &str = "isthmus-controller";
/// Name of the Service by which the API server reaches the controller's webhook.
pub const WEBHOOKS: &str = "isthmus-webhooks";
/// Name of the east-west gateway's Deployment, Service and account.
pub const GATEWAY: &str = "isthmus-eastwestgateway";
/// Name of the ConfigMap with the certificate authorities of servers of keys.
pub(crate) const KEY_SERVERS: &str = "isthmus-key-servers";
/// Its key, and the name of the file.
pub(crate) const KEY_SERVERS_FILE: &str = "ca.pem";
/// Where the controller has the file.
const KEY_SERVERS_PATH: &str = "/var/run/secrets/key-servers";
/// The gateway's port for mutual TLS from other networks.
pub const GATEWAY_PORT: u16 = 15443;
/// The controller's port for discovery and certificates.
pub const DISCOVERY_PORT: u16 = 15012;
/// The controller's port for metrics, readiness and debug pages.
pub const MONITORING_PORT: u16 = 15014;
/// The controller's port for admission requests.
const WEBHOOK_PORT: u16 = 15017;
/// The port of gateways for readiness.
pub(crate) const STATUS_PORT: u16 = 15021;

/// The controller and its Services; in a remote cluster, the Services alone.
#[must_use]
pub fn control_plane(of: &Installation) -> Vec<Value> {
    match &of.control_plane {
        ControlPlane::Local { .. } => controller(of),
        ControlPlane::Remote { primary, gateway } => {
            [(CONTROLLER, "tls-discovery", DISCOVERY_PORT), (WEBHOOKS, "tls-webhook", 443)]
                .into_iter()
                .flat_map(|(name, port_name, port)| {
                    let service = service(
                        &of.namespace,
                        name,
                        &json!({"app": CONTROLLER}),
                        &Value::Null,
                        json!([{"name": port_name, "port": port}]),
                    );
                    [service, primary_endpoint(of, name, port_name, primary, gateway)]
                })
                .collect()
        }
    }
}

fn controller(of: &Installation) -> Vec<Value> {
    let labels = json!({"app": CONTROLLER, "sidecar.istio.io/inject": "false"});
    let selector = json!({"app": CONTROLLER});
    let mut args = vec![
        ("--cluster", &of.cluster),
        ("--network", &of.network),
        ("--namespace", &of.namespace),
        ("--root-namespace", &of.root_namespace),
        ("--trust-domain", &of.trust_domain),
    ];
    args.extend(of.proxy_container.as_ref().map(|name| ("--proxy-container", name)));
    let mut args = arguments(&args);
    args.extend(of.key_servers.iter().flat_map(key_server_arguments));
    let mut spec = json!({
        "serviceAccountName": CONTROLLER,
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "controller",
            "image": of.images.controller,
            "args": args,
            "env": [from_field("POD_NAME", "metadata.name"), from_field("POD_NAMESPACE", "metadata.namespace"),
                from_field("INSTANCE_IP", "status.podIP")],
            "ports": [
                {"name": "discovery", "containerPort": DISCOVERY_PORT},
                {"name": "monitoring", "containerPort": MONITORING_PORT},
                {"name": "webhook", "containerPort": WEBHOOK_PORT},
            ],
            "readinessProbe": readiness("/ready", MONITORING_PORT),
        }],
    });
    if of.key_servers.is_some() {
        spec["containers"][0]["volumeMounts"] =
            json!([{"name": "key-servers", "mountPath": KEY_SERVERS_PATH, "readOnly": true}]);
        spec["volumes"] = json!([{"name": "key-servers", "configMap": {"name": KEY_SERVERS}}]);
    }
    let ports = json!([
        {"name": "tls-discovery", "port": DISCOVERY_PORT, "targetPort": DISCOVERY_PORT},
        {"name": "http-monitoring", "port": MONITORING_PORT, "targetPort": MONITORING_PORT},
        {"name": "tls-webhook", "port": WEBHOOK_PORT, "targetPort": WEBHOOK_PORT},
    ]);
    let webhook = json!([{"name": "tls-webhook", "port": 443, "targetPort": WEBHOOK_PORT}]);
    vec![
        deployment(&of.namespace, CONTROLLER, &labels, spec),
        service(&of.namespace, CONTROLLER, &labels, &selector, ports),
        service(&of.namespace, WEBHOOKS, &labels, &selector, webhook),
    ]
}

fn key_server_arguments(of: &KeyServers) -> [String; 3] {
    let addresses: Vec<String> = of.addresses.iter().map(ToString::to_string).collect();
    [
        format!("--key-server-ca={KEY_SERVERS_PATH}/{KEY_SERVERS_FILE}"),
        format!("--key-server-addresses={}", addresses.join(",")),
        format!("--key-refresh={}", of.refresh_seconds),
    ]
}

/// The endpoint of a controller Service in a remote cluster: the primary's gateway, which forwards connections to the
/// controller by their SNI. The Service has no selector, so nothing else adds endpoints to it.
fn primary_endpoint(of: &Installation, service: &str, port: &str, primary: &str, gateway: &std::net::IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-of-{primary}"), "namespace": of.namespace,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "isthmus",
            },
        },
        "addressType": if gateway.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [gateway], "conditions": {"ready": true}}],
        "ports": [{"name": port, "port": GATEWAY_PORT, "protocol": "TCP"}],
    })
}

/// The east-west gateway of a cluster.
#[must_use]
pub fn gateway(of: &Installation) -> Vec<Value> {
    let labels = json!({
        "app": GATEWAY,
        "istio": "eastwestgateway",
        "sidecar.istio.io/inject": "false",
        names::NETWORK_LABEL: of.network,
    });
    let spec = json!({
        "serviceAccountName": GATEWAY,
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "gateway",
            "image": of.images.gateway,
            "args": arguments(&[("--cluster", &of.cluster), ("--network", &of.network)]),
            "env": proxy_environment(of),
            "ports": [{"name": "tls", "containerPort": GATEWAY_PORT}, {"name": "status", "containerPort": STATUS_PORT}],
            "readinessProbe": readiness("/healthz/ready", STATUS_PORT),
            "volumeMounts": proxy_mounts(),
        }],
        "volumes": proxy_volumes(),
    });
    let mut ports = vec![json!({"name": "tls", "port": GATEWAY_PORT, "targetPort": GATEWAY_PORT})];
    if of.expose_gateway_health {
        ports.push(json!({"name": "status-port", "port": STATUS_PORT, "targetPort": STATUS_PORT}));
    }
    let mut exposed = service(&of.namespace, GATEWAY, &labels, &json!({"app": GATEWAY}), ports.into());
    exposed["spec"]["type"] = json!("LoadBalancer");
    if let Some(address) = of.gateway_address {
        exposed["spec"]["loadBalancerIP"] = json!(address);
    }
    vec![deployment(&of.namespace, GATEWAY, &labels, spec), exposed]
}

/// The environment of a proxy without a pod of its own application: its place in the mesh and its controller.
pub(crate) fn proxy_environment(of: &Installation) -> Vec<Value> {
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        from_field("INSTANCE_IP", "status.podIP"),
        from_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        value("ISTIO_META_CLUSTER_ID", &of.cluster),
        value("ISTIO_META_NETWORK", &of.network),
        value("TRUST_DOMAIN", &of.trust_domain),
        value(
            "ISTHMUS_CONTROLLER_IDENTITY",
            &format!("spiffe://{}/ns/{}/sa/{CONTROLLER}", of.trust_domain, of.namespace),
        ),
        value("DISCOVERY_ADDRESS", &format!("{CONTROLLER}.{}.svc:{DISCOVERY_PORT}", of.namespace)),
    ]
}

/// The token by which a proxy enrols, and the mesh's roots.
pub(crate) fn proxy_volumes() -> Vec<Value> {
    vec![
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken":
            {"audience": names::TOKEN_AUDIENCE, "expirationSeconds": 43200, "path": "istio-token"}}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": names::ROOT_CONFIG_MAP}}),
    ]
}

/// Where a proxy finds [`proxy_volumes`].
pub(crate) fn proxy_mounts() -> Vec<Value> {
    vec![
        json!({"name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true}),
        json!({"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true}),
    ]
}

pub(crate) fn deployment(namespace: &str, name: &str, labels: &Value, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

pub(crate) fn service(namespace: &str, name: &str, labels: &Value, selector: &Value, ports: Value) -> Value {
    let mut spec = json!({"ports": ports});
    if !selector.is_null() {
        spec["selector"] = selector.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec,
    })
}

fn arguments(pairs: &[(&str, &String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

pub(crate) fn readiness(path: &str, port: u16) -> Value {
    json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3})
}

fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}
