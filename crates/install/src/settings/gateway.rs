//! The parameters of ingress and egress gateways.

use std::net::IpAddr;

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
