//! The installation of a lab's cluster, from the topology.

use crate::orchestration::authorities::MeshAuthorities;
use crate::topology::{Cluster, ClusterGateway, ClusterGatewayPort, Topology};
use install::gateways::{Gateway, GatewayKind, GatewayPort};
use install::{ControlPlane, Images, Installation, KeyServers};
use ipnet::IpNet;

/// How often controllers fetch the keys of issuers, in seconds, so that the rehearsal of a rotation takes no minutes.
const KEY_REFRESH: u32 = 2;

/// Returns the parameters of the installation of `cluster`. `issuers` is the certificate authority of the issuers of tokens,
/// PEM, if the topology has any.
#[must_use]
pub fn of(
    topology: &Topology,
    cluster: &Cluster,
    authorities: &MeshAuthorities,
    issuers: Option<&str>,
) -> Installation {
    let control_plane = match topology.cluster(cluster.primary()) {
        Some(primary) if primary.name != cluster.name => {
            ControlPlane::Remote { primary: primary.name.clone(), gateway: primary.gateway() }
        }
        _ => ControlPlane::Local { signing: authorities.secrets_of(topology, cluster) },
    };
    Installation {
        cluster: cluster.name.clone(),
        network: cluster.network.clone(),
        trust_domain: topology.mesh.trust_domain.clone(),
        namespace: api::names::SYSTEM_NAMESPACE.to_owned(),
        root_namespace: api::names::ROOT_NAMESPACE.to_owned(),
        control_plane,
        images: Images::default(),
        gateway_address: Some(cluster.gateway()),
        expose_gateway_health: false,
        gateways: gateways(cluster),
        proxy_container: topology.mesh.proxy_container.clone(),
        roots_pem: authorities.roots_pem().to_owned(),
        controller_issuer_pem: authorities.issuer_pem_of(cluster.primary()),
        key_servers: issuers.map(|authorities_pem| KeyServers {
            authorities_pem: authorities_pem.to_owned(),
            addresses: topology.issuer_addresses().into_iter().map(IpNet::from).collect(),
            refresh_seconds: KEY_REFRESH,
        }),
        mesh_config: mesh_config(topology),
        injected_namespaces: injected_namespaces(topology, cluster),
    }
}

fn gateways(cluster: &Cluster) -> Vec<Gateway> {
    let port =
        |port: &ClusterGatewayPort| GatewayPort { name: port.name.clone(), port: port.port, target: port.target_port };
    let gateway = |(kind, gateway): (GatewayKind, &ClusterGateway)| Gateway {
        kind,
        namespace: gateway.namespace.clone(),
        ports: gateway.ports.iter().map(port).collect(),
        address: (kind == GatewayKind::Ingress).then(|| cluster.ingress_address()),
    };
    cluster.gateways().map(gateway).collect()
}

fn mesh_config(topology: &Topology) -> serde_json::Map<String, serde_json::Value> {
    let mut settings = serde_json::Map::new();
    settings.insert("accessLogFile".to_owned(), "/dev/stdout".into());
    if topology.mesh.export_all {
        settings.insert("federation".to_owned(), serde_json::json!({"exportAll": true}));
    }
    settings.extend(topology.mesh.config.clone());
    settings
}

/// `default` and the namespaces of the cluster's workloads.
fn injected_namespaces(topology: &Topology, cluster: &Cluster) -> Vec<String> {
    let mut all = vec!["default".to_owned()];
    for workload in topology.workloads_of(&cluster.name) {
        let reserved = [api::names::SYSTEM_NAMESPACE, api::names::ROOT_NAMESPACE].contains(&&*workload.namespace);
        if !reserved && !all.contains(&workload.namespace) {
            all.push(workload.namespace.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn topology(name: &str) -> Topology {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies").join(name);
        Topology::load(&path).unwrap_or_else(|error| panic!("{error}"))
    }

    fn signing(topology: &Topology, cluster: &str, authorities: &MeshAuthorities) -> Vec<install::SigningSecret> {
        match of(topology, topology.cluster(cluster).expect("a cluster"), authorities, None).control_plane {
            ControlPlane::Local { signing } => signing,
            ControlPlane::Remote { .. } => Vec::new(),
        }
    }

    #[test]
    fn a_primary_holds_the_intermediate_of_each_cluster_it_serves() {
        let topology = topology("three-regions.yaml");
        let authorities = MeshAuthorities::generate(&topology).expect("authorities");
        let secrets = signing(&topology, "west", &authorities);
        let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(names, ["cacerts", "cacerts-east", "cacerts-central"]);
        for secret in &secrets {
            for entry in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
                assert!(secret.entries[entry].starts_with("-----BEGIN"), "{entry} of {}", secret.name);
            }
        }
        assert!(signing(&topology, "east", &authorities).is_empty(), "a remote holds no signing key");
        let east = of(&topology, topology.cluster("east").expect("a cluster"), &authorities, None);
        let ControlPlane::Remote { primary, gateway } = east.control_plane else { panic!("east is a remote") };
        assert_eq!((primary.as_str(), gateway.to_string().as_str()), ("west", "203.0.113.10"));
        assert_eq!(east.gateway_address.map(|address| address.to_string()).as_deref(), Some("203.0.113.20"));
        assert_eq!(east.injected_namespaces, ["default"]);
    }

    #[test]
    fn two_primaries_share_a_root_but_no_intermediate() {
        let topology = topology("multi-primary.yaml");
        let authorities = MeshAuthorities::generate(&topology).expect("authorities");
        let [west, east] = ["west", "east"].map(|name| signing(&topology, name, &authorities));
        assert_eq!((west.len(), east.len()), (1, 1), "neither holds the other's");
        assert_eq!(west[0].entries["root-cert.pem"], east[0].entries["root-cert.pem"]);
        assert_ne!(west[0].entries["ca-cert.pem"], east[0].entries["ca-cert.pem"]);
    }
}
