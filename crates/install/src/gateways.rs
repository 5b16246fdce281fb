//! Ingress and egress gateways: their Deployments, Services and accounts, and the controller's right to read the TLS
//! credentials beside them.
//!
//! Names and labels are those of Istio's gateways, by which `Gateway` objects and policies select them.

use api::reader::READER;
use serde_json::{Value, json};

use crate::access::{RBAC, READ, account};
use crate::components::{
    CONTROLLER, STATUS_PORT, deployment, proxy_environment, proxy_mounts, proxy_volumes, readiness, service,
};
use crate::settings::Installation;
pub use crate::settings::{Gateway, GatewayKind, GatewayPort};

/// Name of the Role and of its binding, by which the controller reads the Secrets of a namespace with a gateway.
pub const CREDENTIAL_READER: &str = "isthmus-gateway-credentials";
/// The Secrets that a gateway mounts if they exist, with the suffixes of their names: certificates for servers and for TLS that
/// it originates, and authorities of clients and servers. Names and paths are those of Istio's gateways.
const CERTIFICATE_SECRETS: [&str; 2] = ["certs", "ca-certs"];

/// Returns the namespaces of the gateways, each once.
pub(crate) fn namespaces(of: &Installation) -> Vec<&String> {
    let mut all: Vec<&String> = of.gateways.iter().map(|gateway| &gateway.namespace).collect();
    all.sort();
    all.dedup();
    all
}

/// The objects of all gateways of a cluster.
pub(crate) fn all(of: &Installation) -> Vec<Value> {
    let access = namespaces(of).into_iter().flat_map(|namespace| credential_reader(of, namespace));
    access.chain(of.gateways.iter().flat_map(|gateway| components(of, gateway))).collect()
}

fn components(of: &Installation, gateway: &Gateway) -> [Value; 3] {
    let (name, label, namespace) = (gateway.kind.name(), gateway.kind.label(), &gateway.namespace);
    let selector = json!({"app": name, "istio": label});
    let labels = json!({
        "app": name,
        "istio": label,
        "service.istio.io/canonical-name": name,
        "service.istio.io/canonical-revision": "latest",
        "sidecar.istio.io/inject": "false",
    });
    let ports = gateway.ports.iter().map(|port| json!({"name": port.name, "containerPort": port.target}));
    let container_ports: Vec<Value> =
        ports.chain([json!({"name": "status-port", "containerPort": STATUS_PORT})]).collect();
    let mut env = proxy_environment(of);
    env.push(json!({"name": "ISTIO_META_WORKLOAD_NAME", "value": name}));
    let mounts = [proxy_mounts(), certificate_mounts(gateway.kind)].concat();
    let volumes = [proxy_volumes(), certificate_volumes(gateway.kind)].concat();
    let spec = json!({
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            // As in Istio, for tools that look for that name.
            "name": "istio-proxy",
            "image": of.images.router,
            "env": env,
            "ports": container_ports,
            "readinessProbe": readiness("/healthz/ready", STATUS_PORT),
            "securityContext": {
                "allowPrivilegeEscalation": false, "privileged": false, "capabilities": {"drop": ["ALL"]},
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    [
        account(name, namespace),
        deployment(namespace, name, &labels, spec),
        exposed(gateway, service(namespace, name, &labels, &selector, service_ports(gateway))),
    ]
}

fn certificate_volumes(kind: GatewayKind) -> Vec<Value> {
    let volume = |suffix: &str| {
        let secret = format!("{}-{suffix}", kind.name());
        json!({"name": format!("{}-{suffix}", kind.label()), "secret": {"secretName": secret, "optional": true}})
    };
    CERTIFICATE_SECRETS.map(volume).into()
}

fn certificate_mounts(kind: GatewayKind) -> Vec<Value> {
    let mount = |suffix: &str| {
        let name = format!("{}-{suffix}", kind.label());
        json!({"name": name, "mountPath": format!("/etc/istio/{name}"), "readOnly": true})
    };
    CERTIFICATE_SECRETS.map(mount).into()
}

fn service_ports(gateway: &Gateway) -> Value {
    let status = json!({"name": "status-port", "port": STATUS_PORT, "targetPort": STATUS_PORT});
    let ports =
        gateway.ports.iter().map(|port| json!({"name": port.name, "port": port.port, "targetPort": port.target}));
    std::iter::once(status).chain(ports).collect()
}

fn exposed(gateway: &Gateway, mut service: Value) -> Value {
    service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    if gateway.kind == GatewayKind::Ingress {
        service["spec"]["type"] = json!("LoadBalancer");
        if let Some(address) = gateway.address {
            service["spec"]["loadBalancerIP"] = json!(address);
        }
    }
    service
}

/// The right to read the Secrets of one namespace: for the cluster's own controller, or for the account by which another
/// cluster's controller serves this one. No account may read Secrets in all namespaces.
fn credential_reader(of: &Installation, namespace: &str) -> [Value; 2] {
    let metadata = json!({"name": CREDENTIAL_READER, "namespace": namespace});
    let account = if of.control_plane.is_local() { CONTROLLER } else { READER };
    [
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": metadata,
               "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": READ}]}),
        json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata,
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": CREDENTIAL_READER},
               "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": of.namespace}]}),
    ]
}

#[cfg(test)]
mod tests;
