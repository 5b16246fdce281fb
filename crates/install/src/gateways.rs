//! Ingress and egress gateways: their Deployments, Services and accounts, and the controller's right to read the TLS
//! credentials beside them.
//!
//! Names and labels are those of Istio's gateways, by which `Gateway` objects and policies select them.

use std::net::IpAddr;

use api::reader::READER;
use serde_json::{Value, json};

use crate::access::{RBAC, READ, account};
use crate::components::{
    CONTROLLER, STATUS_PORT, deployment, proxy_environment, proxy_mounts, proxy_volumes, readiness, service,
};
use crate::settings::Installation;

/// Name of the Role and of its binding, by which the controller reads the Secrets of a namespace with a gateway.
pub const CREDENTIAL_READER: &str = "isthmus-gateway-credentials";
/// The Secrets that a gateway mounts if they exist, with the suffixes of their names: certificates for servers and for TLS that
/// it originates, and authorities of clients and servers. Names and paths are those of Istio's gateways.
const CERTIFICATE_SECRETS: [&str; 2] = ["certs", "ca-certs"];
/// Lowest port that a process without privileges may bind.
const UNPRIVILEGED: u16 = 1024;

/// A gateway between the mesh and what is outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The direction of its traffic.
    pub kind: GatewayKind,
    /// Namespace of the gateway, and of the Secrets that its servers name.
    pub namespace: String,
    /// Ports of its Service, beside that of its readiness.
    pub ports: Vec<GatewayPort>,
    /// LoadBalancer address to request; `None` leaves the choice to the cluster.
    pub address: Option<IpAddr>,
}

/// The direction of a gateway's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayKind {
    /// Into the mesh. The Service is of type LoadBalancer.
    Ingress,
    /// Out of the mesh. The Service has an address inside of the cluster only.
    Egress,
}

/// A port of a gateway's Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPort {
    /// Name of the port.
    pub name: String,
    /// Port of the Service, which servers of `Gateway` objects name.
    pub port: u16,
    /// Port that the gateway binds.
    pub target: u16,
}

impl GatewayPort {
    /// The ports of Istio's gateways: 80 and 443.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        [("http2", 80), ("https", 443)].map(|(name, port)| Self::new(name, port)).into()
    }

    /// Returns a port whose target needs no privileges: 8000 more than a low port.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        let target = if port < UNPRIVILEGED { port + 8000 } else { port };
        Self { name: name.to_owned(), port, target }
    }
}

impl GatewayKind {
    /// Returns the name of the Secret with authorities of clients and servers, which the gateway mounts at
    /// `/etc/istio/ingressgateway-ca-certs` or `/etc/istio/egressgateway-ca-certs`.
    #[must_use]
    pub fn authorities_secret(self) -> String {
        format!("{}-ca-certs", self.name())
    }

    /// Returns the name of the Deployment, Service and account, and the value of the label `app`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "istio-ingressgateway",
            Self::Egress => "istio-egressgateway",
        }
    }

    /// Returns the value of the label `istio`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingressgateway",
            Self::Egress => "egressgateway",
        }
    }
}

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
