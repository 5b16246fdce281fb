//! Gateways of clusters, certificates of their servers, and servers outside of the mesh.

use std::net::{IpAddr, SocketAddr};

use install::gateways::GatewayKind;
use serde::{Deserialize, Serialize};

use super::{Cluster, Topology};
use crate::topology::IpFamily;

/// An ingress or egress gateway of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterGateway {
    /// Namespace of the gateway.
    pub namespace: String,
    /// Ports of its Service, each once.
    pub ports: Vec<ClusterGatewayPort>,
}

/// A port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterGatewayPort {
    /// Name of the port.
    pub name: String,
    /// Port of the Service.
    pub port: u16,
    /// Port that the gateway binds.
    pub target_port: u16,
    /// Port of this machine's loopback; any free one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

/// A server outside of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// Host name of the server.
    pub host: String,
    /// Ports of the server, each once.
    pub ports: Vec<ExternalPort>,
}

/// A port of a server outside of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPort {
    /// The port.
    pub port: u16,
    /// Whether the server speaks TLS.
    pub tls: bool,
}

/// A certificate of a gateway's server, in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayCertificate {
    /// Name of the Secret.
    pub secret: String,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Names of the certificate, at least one.
    pub hosts: Vec<String>,
    /// Names of the clusters that get the Secret.
    pub clusters: Vec<String>,
}

/// A port of an ingress gateway, which this machine reaches at its loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressPort<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Namespace of the gateway.
    pub namespace: &'a str,
    /// The port.
    pub port: &'a ClusterGatewayPort,
    /// The LoadBalancer address and port.
    pub address: SocketAddr,
}

impl Cluster {
    /// Returns the gateways of the cluster.
    pub fn gateways(&self) -> impl Iterator<Item = (GatewayKind, &ClusterGateway)> {
        let ingress = self.ingress_gateway.iter().map(|gateway| (GatewayKind::Ingress, gateway));
        ingress.chain(self.egress_gateway.iter().map(|gateway| (GatewayKind::Egress, gateway)))
    }
}

impl Topology {
    /// Returns the ports of all ingress gateways, in the order of the file.
    pub fn ingress_ports(&self) -> impl Iterator<Item = IngressPort<'_>> {
        self.clusters.iter().flat_map(|cluster| {
            cluster.ingress_gateway.iter().flat_map(move |gateway| {
                gateway.ports.iter().map(move |port| IngressPort {
                    cluster,
                    namespace: &gateway.namespace,
                    port,
                    address: SocketAddr::new(cluster.ingress_address(), port.port),
                })
            })
        })
    }

    /// Returns the servers outside of the mesh with their addresses, of those families that a cluster has.
    pub fn external_addresses(&self) -> impl Iterator<Item = (&External, Vec<IpAddr>)> {
        let families: Vec<IpFamily> = IpFamily::ALL.into_iter().filter(|family| self.has_family(*family)).collect();
        (0..)
            .zip(&self.external)
            .map(move |(index, server)| (server, families.iter().map(|family| family.external(index).addr()).collect()))
    }

    /// Reports whether the lab has an authority for certificates of gateways and of servers outside of the mesh.
    #[must_use]
    pub fn has_edges(&self) -> bool {
        !self.external.is_empty() || self.clusters.iter().any(|cluster| cluster.gateways().next().is_some())
    }
}
