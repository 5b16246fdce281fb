//! The endpoints of a service's port as addresses to connect to.
//!
//! A pod in this network is reached at its own address; endpoints behind another network, at each address of that network's
//! gateways, with the service port, subset and hostname in the SNI. A network without known gateways cannot be reached: its
//! endpoints are left out (Istio keeps their pod addresses, which lead nowhere or to another pod).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balance::{Endpoint as Candidate, FailoverPriority, Health, Locality};
use identity::{Expectation, SpiffeId};
use rustls_pki_types::ServerName;

use super::cluster::ClusterKey;
use super::originate::Origination;
use crate::mesh::{
    ClientTls, ClusterPath, DirectEndpoint, Endpoint, GatewayAddress, MeshSnapshot, OwnWorkload, Reach, Service,
    Subset, WorkloadLabels,
};

/// An address to connect to.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The mutual TLS of the mesh to expect; `None` for plaintext.
    pub tls: Option<TargetTls>,
    /// TLS with a server outside the mesh instead.
    pub origination: Option<Arc<Origination>>,
    /// The target is behind another network's gateway.
    pub remote: bool,
    /// The endpoint's cluster.
    pub cluster: Arc<str>,
    /// The endpoint's labels in telemetry; empty behind a gateway.
    pub labels: Arc<WorkloadLabels>,
    /// The path to the endpoint's cluster, if that is another one than the proxy's.
    pub path: Option<Arc<ClusterPath>>,
}

/// Mutual TLS with a target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetTls {
    /// The server name to send.
    pub sni: ServerName<'static>,
    /// The identities to accept.
    pub expected: Expectation,
}

impl Target {
    /// Returns a target outside the mesh.
    pub fn plaintext(address: SocketAddr) -> Self {
        let (cluster, labels) = Default::default();
        Self { address, tls: None, origination: None, remote: false, cluster, labels, path: None }
    }

    /// Notes that a connection was established or a response arrived, if the target is in another cluster.
    pub fn succeeded(&self, now: Instant) {
        if let Some(path) = &self.path {
            path.succeeded(now);
        }
    }

    /// Notes that no connection was established, or that one was lost because nothing was acknowledged.
    pub fn failed(&self, now: Instant) {
        if let Some(path) = &self.path {
            path.failed(now);
        }
    }
}

/// Returns the targets of a cluster of a service; none if its subset does not exist.
pub fn targets(service: &Service, key: &ClusterKey, snapshot: &MeshSnapshot) -> Vec<Candidate<Arc<Target>>> {
    let subset = (!key.subset.is_empty()).then(|| service.subset(&key.subset));
    let Some(subset) = subset.map_or(Some(None), |found| found.map(Some)) else { return Vec::new() };
    let sni = wire::name::sni(key.port, &key.subset, &service.hostname);
    let policy = service.policy.traffic(key.port, &key.subset);
    let rules = policy.balancing.locality.as_ref();
    let context = Context {
        port: key.port,
        subset,
        chosen: key.endpoint.as_deref(),
        // A name that is too long for TLS cannot be sent; plaintext endpoints can still be reached.
        sni: ServerName::try_from(sni).ok(),
        scale: scale(service.endpoints(), snapshot),
        tls: &policy.tls,
        origination: Origination::new(
            &policy.tls,
            key.server_name.as_ref().unwrap_or(&service.hostname),
            service.entry.as_ref().map(|entry| &*entry.names).unwrap_or_default(),
        ),
        host: key.server_name.as_ref().filter(|_| service.is_dynamic()),
        priority: rules
            .map(|rules| &rules.priority)
            .filter(|priority| !priority.is_empty())
            .zip(snapshot.own.as_deref()),
        snapshot,
    };
    if let Some(address) = key.address {
        return context.at_address(address, service.endpoints()).into_iter().collect();
    }
    let mut targets = Vec::with_capacity(service.endpoints().len());
    let included = |endpoint: &&Endpoint| context.chosen.is_none_or(|chosen| *endpoint.id == *chosen);
    for endpoint in service.endpoints().iter().filter(included) {
        context.add(endpoint, &mut targets);
    }
    targets
}

/// What the targets of one service port have in common.
struct Context<'a> {
    port: u16,
    subset: Option<&'a Subset>,
    chosen: Option<&'a str>,
    sni: Option<ServerName<'static>>,
    scale: u32,
    tls: &'a ClientTls,
    origination: Option<Arc<Origination>>,
    /// The host whose addresses are the endpoints, of a wildcard of `DYNAMIC_DNS`.
    host: Option<&'a Arc<str>>,
    /// The labels that rank endpoints, and the workload that they are compared with.
    priority: Option<(&'a FailoverPriority, &'a OwnWorkload)>,
    snapshot: &'a MeshSnapshot,
}

impl Context<'_> {
    fn add(&self, endpoint: &Endpoint, targets: &mut Vec<Candidate<Arc<Target>>>) {
        match &endpoint.reach {
            Reach::Direct(_) => targets.extend(self.direct(endpoint)),
            Reach::Named(named) => {
                let host = self.host.unwrap_or(&named.host);
                let addresses = self.snapshot.resolved.get(host).map(|all| &**all).unwrap_or_default();
                let used = if named.first_only { 1 } else { addresses.len() };
                for address in addresses.iter().take(used) {
                    let id = format!("{}|{address}", endpoint.id).into();
                    targets.extend(self.at(endpoint, &named.at, *address, id));
                }
            }
            Reach::Gateways(_) => self.through_gateways(endpoint, targets),
        }
    }

    fn direct(&self, endpoint: &Endpoint) -> Option<Candidate<Arc<Target>>> {
        let Reach::Direct(direct) = &endpoint.reach else { return None };
        self.at(endpoint, direct, direct.ip, endpoint.id.clone())
    }

    /// Returns an endpoint at an address.
    fn at(
        &self,
        endpoint: &Endpoint,
        direct: &DirectEndpoint,
        ip: IpAddr,
        id: Arc<str>,
    ) -> Option<Candidate<Arc<Target>>> {
        if self.subset.is_some_and(|subset| !direct.is_in(subset)) {
            return None;
        }
        // Of the service's address, not of the pod's, as with kube-proxy.
        let own_node = self.snapshot.own.as_ref().map(|own| &own.node).filter(|node| !node.is_empty());
        if self.chosen.is_none() && direct.only_node.as_ref().is_some_and(|node| Some(node) != own_node) {
            return None;
        }
        let port = direct.port(self.port)?;
        let tls = match self.tls {
            ClientTls::Disable | ClientTls::Originate(_) => None,
            ClientTls::Auto if !direct.mutual_tls || direct.plaintext_ports.contains(&port) => None,
            ClientTls::Auto | ClientTls::Mesh { sni: None, .. } => {
                // Without a known identity the expectation is empty, and no certificate meets it.
                Some(TargetTls { sni: self.sni.clone()?, expected: self.expected(direct.identity.iter(), endpoint) })
            }
            ClientTls::Mesh { sni: Some(sni), .. } => {
                Some(TargetTls { sni: sni.clone(), expected: self.expected(direct.identity.iter(), endpoint) })
            }
        };
        let target = Target {
            address: SocketAddr::new(ip, port),
            tls,
            origination: self.origination.clone(),
            remote: false,
            cluster: endpoint.cluster.clone(),
            labels: direct.workload.clone(),
            path: self.path_to(endpoint),
        };
        let weight = endpoint.weight.saturating_mul(self.scale);
        Some(self.candidate(endpoint, id, weight, target))
    }

    /// Returns an address that the client connected to, which may lead to any pod of the service: with the mesh's TLS if the
    /// policy says so, in plaintext otherwise.
    fn at_address(&self, address: SocketAddr, endpoints: &[Endpoint]) -> Option<Candidate<Arc<Target>>> {
        let tls = match self.tls {
            ClientTls::Mesh { sni, identities } => {
                let all = endpoints.iter().filter_map(|endpoint| match &endpoint.reach {
                    Reach::Direct(direct) => direct.identity.as_ref(),
                    Reach::Named(named) => named.at.identity.as_ref(),
                    Reach::Gateways(_) => None,
                });
                let expected = match identities {
                    Some(only) => Expectation::any_of(only.iter().cloned()),
                    None => Expectation::any_of(all.cloned()),
                };
                Some(TargetTls { sni: sni.clone().or_else(|| self.sni.clone())?, expected })
            }
            ClientTls::Disable | ClientTls::Auto | ClientTls::Originate(_) => None,
        };
        let target = Target { tls, origination: self.origination.clone(), ..Target::plaintext(address) };
        Some(Candidate {
            id: address.to_string().into(),
            locality: Locality::default(),
            priority: 0,
            weight: 1,
            health: Health::Ready,
            target: Arc::new(target),
        })
    }

    fn through_gateways(&self, endpoint: &Endpoint, targets: &mut Vec<Candidate<Arc<Target>>>) {
        let Reach::Gateways(summary) = &endpoint.reach else { return };
        // A gateway forwards by the server name of the mesh's TLS.
        let Some(sni) = &self.sni else { return };
        if matches!(self.tls, ClientTls::Disable | ClientTls::Originate(_)) {
            return;
        }
        let of_subset = *summary.subset == *self.subset.map_or("", |subset| &subset.name);
        if !of_subset || (!summary.ports.is_empty() && !summary.ports.contains(&self.port)) {
            return;
        }
        let gateways = gateways_of(endpoint, self.snapshot);
        let share = u32::try_from(gateways.len()).unwrap_or(u32::MAX).max(1);
        let weight = endpoint.weight.saturating_mul(self.scale) / share;
        let tls = TargetTls { sni: sni.clone(), expected: self.expected(summary.identities.iter(), endpoint) };
        let path = self.path_to(endpoint);
        targets.extend(gateways.into_iter().map(|gateway| {
            let target = Target {
                address: gateway.address,
                tls: Some(tls.clone()),
                origination: None,
                remote: true,
                cluster: endpoint.cluster.clone(),
                labels: Arc::default(),
                path: path.clone(),
            };
            self.candidate(endpoint, format!("{}|{}", endpoint.id, gateway.address).into(), weight, target)
        }));
    }

    /// Returns the path to an endpoint's cluster, if the endpoint is one of another cluster of the mesh.
    fn path_to(&self, endpoint: &Endpoint) -> Option<Arc<ClusterPath>> {
        let own = &self.snapshot.own.as_ref()?.cluster;
        let other = !endpoint.cluster.is_empty() && endpoint.cluster != *own;
        other.then(|| self.snapshot.paths.to(&endpoint.cluster)).flatten()
    }

    /// Returns the certificates to accept for an endpoint: with one of these identities and, if the intermediate of the
    /// endpoint's cluster is known, signed by it. A stolen intermediate then cannot impersonate another cluster.
    fn expected<'a>(&self, identities: impl Iterator<Item = &'a SpiffeId>, endpoint: &Endpoint) -> Expectation {
        let expected = match self.tls {
            ClientTls::Mesh { identities: Some(only), .. } => Expectation::any_of(only.iter().cloned()),
            _ => Expectation::any_of(identities.cloned()),
        };
        if self.snapshot.issuers.contains(&endpoint.cluster) {
            expected.in_clusters([endpoint.cluster.clone()])
        } else {
            expected
        }
    }

    fn candidate(&self, endpoint: &Endpoint, id: Arc<str>, weight: u32, target: Target) -> Candidate<Arc<Target>> {
        let locality = endpoint.locality.clone();
        let health = match endpoint.health {
            Health::Ready if self.snapshot.settings.drained.contains(&endpoint.cluster) => Health::Degraded,
            health => health,
        };
        let rank = |(priority, own): (&FailoverPriority, &OwnWorkload)| {
            priority.rank(|key| own_label(own, key), |key| endpoint_label(endpoint, key))
        };
        let priority = self.priority.map(rank).unwrap_or_default();
        Candidate { id, locality, priority, weight, health, target: Arc::new(target) }
    }
}

/// Returns a label of the own pod for `failoverPriority`. The labels of its place come from discovery.
fn own_label<'a>(own: &'a OwnWorkload, key: &str) -> &'a str {
    match key {
        "topology.istio.io/network" => &own.network,
        "topology.istio.io/cluster" => &own.cluster,
        "topology.kubernetes.io/region" => &own.locality.region,
        "topology.kubernetes.io/zone" => &own.locality.zone,
        "topology.istio.io/subzone" => &own.locality.subzone,
        "kubernetes.io/hostname" => &own.node,
        key => own.pod_label(key).unwrap_or_default(),
    }
}

/// Returns a label of an endpoint. Of endpoints behind a gateway, the labels of their place are known.
fn endpoint_label<'a>(endpoint: &'a Endpoint, key: &str) -> &'a str {
    match key {
        "topology.istio.io/network" => return &endpoint.network,
        "topology.istio.io/cluster" => return &endpoint.cluster,
        "topology.kubernetes.io/region" => return &endpoint.locality.region,
        "topology.kubernetes.io/zone" => return &endpoint.locality.zone,
        "topology.istio.io/subzone" => return &endpoint.locality.subzone,
        _ => {}
    }
    let direct = match &endpoint.reach {
        Reach::Direct(direct) => direct,
        Reach::Named(named) => &named.at,
        Reach::Gateways(_) => return "",
    };
    match key {
        "kubernetes.io/hostname" => &direct.node,
        key => direct.label(key).unwrap_or_default(),
    }
}

/// Returns the gateways of the endpoint's network in the endpoint's own cluster. A gateway forwards to pods of its own cluster
/// only, so another cluster's gateway would answer with a pod that the client does not expect.
fn gateways_of<'a>(endpoint: &Endpoint, snapshot: &'a MeshSnapshot) -> Vec<&'a GatewayAddress> {
    let all = snapshot.gateways.get(&endpoint.network).map(|gateways| &**gateways).unwrap_or_default();
    all.iter().filter(|gateway| gateway.cluster == endpoint.cluster).collect()
}

/// Returns the smallest factor by which weights can be split evenly among gateways.
fn scale(endpoints: &[Endpoint], snapshot: &MeshSnapshot) -> u32 {
    fn gcd(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    /// Beyond this factor a difference of one in a weight no longer matters.
    const MAX: u32 = 2520;
    endpoints
        .iter()
        .filter(|endpoint| matches!(endpoint.reach, Reach::Gateways(_)))
        .filter_map(|endpoint| u32::try_from(gateways_of(endpoint, snapshot).len()).ok())
        .filter(|count| *count > 0)
        .fold(1, |scale, count| if scale > MAX { scale } else { scale / gcd(scale, count) * count })
}

#[cfg(test)]
mod tests;
