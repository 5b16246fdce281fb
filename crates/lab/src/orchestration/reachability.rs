//! Whether exported services are reachable from other clusters: a lab's definition of "ready".
//!
//! Ready pods are not enough. A controller may not have read another cluster's endpoints yet, and a gateway may not
//! have received a service yet. So two things are checked: each controller knows every endpoint of every exported
//! service that it follows; and at each gateway, from the bridge between clusters, a TLS handshake with the SNI of the
//! service is answered by an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use kube::Client;
use serde::Deserialize;

use super::clients::Clients;
use super::control::{self, ControlReply, ControlRequest};
use crate::topology::{Cluster, Topology, Workload};
use install::client_error;
use install::components::GATEWAY_PORT;
use install::debug_pages::DebugPages;

/// A service that one cluster exports and runs pods of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedService {
    /// Hostname of the service.
    pub hostname: String,
    /// Index of the cluster in the topology.
    pub cluster: usize,
    /// Number of the service's pods in the cluster.
    pub pods: u32,
    /// SNI of the service, one for each port.
    pub server_names: Vec<String>,
}

/// Returns every service that other clusters must be able to reach. Pods without mutual TLS, or with annotations that
/// change their capture, are not waited for.
#[must_use]
pub fn exported(topology: &Topology) -> Vec<ExportedService> {
    let mut found = Vec::new();
    for (index, cluster) in topology.clusters.iter().enumerate() {
        let mut services: BTreeSet<(String, String)> = topology.exports_of(&cluster.name).into_iter().collect();
        if topology.mesh.export_all {
            services.extend(topology.workloads_of(&cluster.name).map(|of| (of.namespace.clone(), of.name.clone())));
        }
        for (namespace, name) in services {
            let own = |of: &&Workload| of.namespace == namespace && of.name == name && meshed(of);
            let pods = topology.workloads_of(&cluster.name).filter(own).map(|of| of.replicas).sum();
            let ports = topology.workloads_of(&cluster.name).filter(own).flat_map(|of| &of.ports);
            let ports: BTreeSet<u16> = ports.map(|port| port.port).collect();
            if pods == 0 || ports.is_empty() {
                continue;
            }
            let hostname = format!("{name}.{namespace}.svc.cluster.local");
            let server_names = ports.iter().map(|port| format!("outbound_.{port}_._.{hostname}")).collect();
            found.push(ExportedService { hostname, cluster: index, pods, server_names });
        }
    }
    found
}

fn meshed(workload: &Workload) -> bool {
    let special = |key: &String| key.starts_with("sidecar.istio.io/") || key.starts_with("traffic.sidecar.istio.io/");
    workload.inject && !workload.annotations.keys().any(special)
}

/// The fields of the controller's service page that are used here.
#[derive(Debug, Default, Deserialize)]
struct ServiceView {
    exports: BTreeMap<String, String>,
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Deserialize)]
struct EndpointView {
    cluster: String,
    health: String,
    weight: u32,
    ip: Option<String>,
}

#[derive(Debug, Deserialize)]
struct GatewayView {
    network: String,
    addresses: Vec<String>,
}

/// Describes what is not reachable yet. The result is empty once everything is.
pub async fn missing(topology: &Topology, clients: &Clients, directory: &Path) -> Vec<String> {
    let exported = exported(topology);
    let mut missing_parts = Vec::new();
    for (primary, client) in topology.clusters.iter().zip(&clients.0).filter(|(cluster, _)| cluster.is_primary()) {
        missing_parts.extend(unknown_to(topology, primary, client, &exported).await);
    }
    if !missing_parts.is_empty() {
        return missing_parts;
    }
    let probes = exported.iter().filter_map(|service| Some((topology.clusters.get(service.cluster)?, service)));
    let probes: Vec<(SocketAddr, String)> = probes
        .flat_map(|(cluster, service)| {
            let gateway = SocketAddr::new(cluster.gateway(), GATEWAY_PORT);
            service.server_names.iter().map(move |name| (gateway, name.clone()))
        })
        .collect();
    let directory = directory.to_owned();
    let checked = tokio::task::spawn_blocking(move || {
        probes.into_iter().filter_map(|(gateway, name)| refused(&directory, gateway, name)).collect()
    });
    checked.await.unwrap_or_else(|error| vec![error.to_string()])
}

fn refused(directory: &Path, gateway: SocketAddr, server_name: String) -> Option<String> {
    match control::send(directory, &ControlRequest::Reach { gateway, server_name: server_name.clone() }) {
        Ok(ControlReply::Done) => None,
        Ok(_) => Some(format!("gateway {gateway}: no handshake for {server_name} was made")),
        Err(error) => Some(format!("gateway {gateway}, {server_name}: {error}")),
    }
}

/// Describes what the controller of `primary` does not know yet.
async fn unknown_to(
    topology: &Topology,
    primary: &Cluster,
    client: &Client,
    exported: &[ExportedService],
) -> Vec<String> {
    let follows = |cluster: &Cluster| {
        cluster.name == primary.name || primary.secrets_of.contains(&cluster.name) || cluster.primary() == primary.name
    };
    let mut missing_parts = Vec::new();
    let pages = DebugPages::new(client.clone(), api::names::SYSTEM_NAMESPACE);
    let gateways: Result<Vec<GatewayView>, String> = page(&pages, "gateways").await;
    for cluster in topology.clusters.iter().filter(|cluster| follows(cluster)) {
        let known = |row: &GatewayView| row.network == cluster.network && !row.addresses.is_empty();
        match &gateways {
            Ok(rows) if rows.iter().any(known) => {}
            Ok(_) => {
                missing_parts.push(format!("{}: the controller knows no gateway of {}", primary.name, cluster.network))
            }
            Err(error) => {
                missing_parts.push(format!("{}: the controller does not list gateways: {error}", primary.name))
            }
        }
    }
    for service in exported {
        let Some(cluster) = topology.clusters.get(service.cluster).filter(|cluster| follows(cluster)) else { continue };
        let page: Result<ServiceView, String> = page(&pages, &format!("services/{}", service.hostname)).await;
        let part = match page {
            Ok(page) => page.missing(&cluster.name, service.pods),
            Err(error) => Some(error),
        };
        let description =
            part.map(|part| format!("{}: {} of {}: {part}", primary.name, service.hostname, cluster.name));
        missing_parts.extend(description);
    }
    missing_parts
}

impl ServiceView {
    /// Describes what is missing of `pods` pods of `cluster`: as endpoints for their own network, and in summaries for
    /// other networks.
    fn missing(&self, cluster: &str, pods: u32) -> Option<String> {
        if !self.exports.contains_key(cluster) {
            return Some("not exported yet".to_owned());
        }
        let ready = |row: &&EndpointView| row.cluster == cluster && row.health == "ready";
        let (mut own, mut summed) = (0, 0);
        for row in self.endpoints.iter().filter(ready) {
            match row.ip {
                Some(_) => own += 1,
                None => summed += row.weight,
            }
        }
        (own.min(summed) < pods).then(|| format!("{} of {pods} endpoints are known", own.min(summed)))
    }
}

async fn page<T: serde::de::DeserializeOwned>(pages: &DebugPages, page: &str) -> Result<T, String> {
    let text = pages.read(page).await.map_err(|error| client_error::describe(&error))?;
    serde_json::from_str(&text).map_err(|_| format!("the controller's page /debug/{page} has another form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(text: &str) -> Topology {
        let head = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nmetadata: {name: t}\nspec:\n";
        let clusters = "  clusters:\n  - {name: west, role: primary}\n  - {name: east, role: remote}\n";
        Topology::parse(Path::new("t.yaml"), &format!("{head}{clusters}{text}"))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn exported_services_must_be_reachable() {
        let found = exported(&topology(
            "  workloads:
  - {name: a, clusters: [west, east], replicas: 2, exported: true, ports: [{name: http, port: 9080}, {name: tcp, port: 9090}]}
  - {name: own, cluster: west}
  - {name: none, cluster: west, replicas: 0, exported: true}
  - {name: plain, cluster: west, inject: false, exported: true}
  - {name: special, cluster: west, exported: true, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: '9080'}}
",
        ));
        let of = |cluster: usize| ExportedService {
            hostname: "a.default.svc.cluster.local".into(),
            cluster,
            pods: 2,
            server_names: vec![
                "outbound_.9080_._.a.default.svc.cluster.local".into(),
                "outbound_.9090_._.a.default.svc.cluster.local".into(),
            ],
        };
        assert_eq!(found, [of(0), of(1)]);
    }

    #[test]
    fn missing_endpoints_are_described() {
        let row = |cluster: &str, health: &str, weight: u32, ip: Option<&str>| EndpointView {
            cluster: cluster.into(),
            health: health.into(),
            weight,
            ip: ip.map(str::to_owned),
        };
        let page = |endpoints: Vec<EndpointView>| ServiceView {
            exports: [("east".to_owned(), "ServiceExport".to_owned())].into(),
            endpoints,
        };
        let one = || row("east", "ready", 1, Some("10.244.0.2"));
        let cases = [
            (ServiceView::default(), Some("not exported yet")),
            (page(vec![]), Some("0 of 2 endpoints are known")),
            (page(vec![one(), one()]), Some("0 of 2 endpoints are known")),
            (page(vec![one(), one(), row("west", "ready", 2, None)]), Some("0 of 2 endpoints are known")),
            (
                page(vec![one(), row("east", "unready", 1, Some("10.244.0.3")), row("east", "ready", 1, None)]),
                Some("1 of 2 endpoints are known"),
            ),
            (page(vec![one(), one(), row("east", "ready", 2, None)]), None),
            (page(vec![one(), one(), row("east", "ready", 1, None), row("east", "ready", 1, None)]), None),
        ];
        for (page, expected) in cases {
            assert_eq!(page.missing("east", 2).as_deref(), expected, "{page:?}");
        }
    }
}
