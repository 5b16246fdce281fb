//! The parameters of an installation.

mod gateway;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use gateway::{Gateway, GatewayKind, GatewayPort};
use ipnet::IpNet;
use serde_json::{Map, Value};

/// The parameters of what one cluster of the mesh gets.
#[derive(Clone)]
pub struct Installation {
    /// Name of the cluster in the mesh.
    pub cluster: String,
    /// Network of the cluster.
    pub network: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Namespace of the components.
    pub namespace: String,
    /// Root namespace: mesh-wide settings, remote secrets and signing certificates.
    pub root_namespace: String,
    /// The controller that serves the cluster's proxies.
    pub control_plane: ControlPlane,
    /// Container images.
    pub images: Images,
    /// LoadBalancer address to request for the east-west gateway; `None` leaves the choice to the cluster.
    pub gateway_address: Option<IpAddr>,
    /// Whether the gateway's LoadBalancer has the port for readiness as well, for load balancers that probe it. The kubelet
    /// needs no Service, and whoever reaches the port can take part in its connections.
    pub expose_gateway_health: bool,
    /// Ingress and egress gateways, at most one of each kind in a namespace.
    pub gateways: Vec<Gateway>,
    /// The name of the container of injected sidecars, if it is not the default.
    pub proxy_container: Option<String>,
    /// The mesh's root certificates, PEM.
    pub roots_pem: String,
    /// The certificate that signs the controller's own, PEM. Empty: the controller makes its own, and writes it.
    pub controller_issuer_pem: String,
    /// Servers of keys of tokens beside those that the controller trusts anyway.
    pub key_servers: Option<KeyServers>,
    /// Keys of the mesh-wide settings (Istio's MeshConfig), in addition to `trustDomain`.
    pub mesh_config: Map<String, Value>,
    /// Namespaces to create with sidecar injection enabled.
    pub injected_namespaces: Vec<String>,
}

/// Servers from which the controller fetches keys of tokens, beside those at public addresses whose certificates the system
/// trusts.
#[derive(Debug, Clone)]
pub struct KeyServers {
    /// Certificate authorities of the servers, PEM.
    pub authorities_pem: String,
    /// Addresses of the servers.
    pub addresses: Vec<IpNet>,
    /// Seconds between two requests for the keys of an issuer.
    pub refresh_seconds: u32,
}

/// The controller that serves a cluster's proxies.
#[derive(Clone)]
pub enum ControlPlane {
    /// The cluster is a primary and runs its own controller.
    Local {
        /// Signing Secrets of the primary and of the remote clusters that it serves. Without any, the controller generates a
        /// root of its own.
        signing: Vec<SigningSecret>,
    },
    /// The cluster is a remote and uses a primary's controller.
    Remote {
        /// Name of the primary.
        primary: String,
        /// Address of the primary's east-west gateway.
        gateway: IpAddr,
    },
}

impl ControlPlane {
    /// Reports whether the cluster runs its own controller.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }
}

/// A Secret with a signing certificate and its key, as `isthmus ca intermediate` writes it.
#[derive(Clone)]
pub struct SigningSecret {
    /// Name of the Secret: [`api::names::CACERTS_SECRET`] or [`api::names::cacerts_of`].
    pub name: String,
    /// Its entries: `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` and `root-cert.pem`.
    pub entries: BTreeMap<String, String>,
}

/// Container images of the components.
#[derive(Debug, Clone)]
pub struct Images {
    /// Image of the federation controller.
    pub controller: String,
    /// Image of the east-west gateway.
    pub gateway: String,
    /// Image of ingress and egress gateways.
    pub router: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            controller: "isthmus/federation-controller".to_owned(),
            gateway: "isthmus/eastwest-gateway".to_owned(),
            router: "isthmus/router".to_owned(),
        }
    }
}
