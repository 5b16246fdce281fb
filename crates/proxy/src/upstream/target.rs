//! The endpoints of a service port as places to connect to.
//!
//! A pod of this network is reached at its own address; what is behind another network, at each address of that
//! network's gateways, with the service port and hostname in the SNI. A network whose gateways are not known cannot be
//! reached: its endpoints are left out (Istio keeps their pod addresses, which lead nowhere, or worse, to somebody
//! else's pod).

use std::net::SocketAddr;
use std::sync::Arc;

use balance::{Endpoint as Choice, Locality};
use identity::{Expectation, SpiffeId};
use rustls_pki_types::ServerName;

use crate::mesh::{Endpoint, Gateway, Reach, Service, Snapshot, WorkloadLabels};

/// A place to connect to.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// How it proves who it is; `None` for plaintext.
    pub tls: Option<Tls>,
    /// Behind another network's gateway.
    pub remote: bool,
    /// The endpoint's cluster.
    pub cluster: Arc<str>,
    /// What telemetry says of it; nothing where the gateway hides it.
    pub labels: Arc<WorkloadLabels>,
}

/// Mutual TLS with a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// The server name that is sent.
    pub sni: ServerName<'static>,
    /// Who may answer.
    pub expected: Expectation,
}

impl Target {
    /// A place outside of the mesh.
    pub fn plaintext(address: SocketAddr) -> Self {
        Self { address, tls: None, remote: false, cluster: Arc::default(), labels: Arc::default() }
    }
}

/// The server name by which proxies of the mesh are asked for a service port.
pub fn sni(port: u16, hostname: &str) -> String {
    format!("outbound_.{port}_._.{hostname}")
}

/// The places to connect to for a port of a service.
pub fn targets(service: &Service, port: u16, snapshot: &Snapshot) -> Vec<Choice<Arc<Target>>> {
    let endpoints = service.endpoints.as_deref().unwrap_or_default();
    // A name that is too long for TLS cannot be asked for; the plaintext endpoints still can.
    let sni = ServerName::try_from(sni(port, &service.hostname)).ok();
    let scale = scale(endpoints, snapshot);
    endpoints
        .iter()
        .flat_map(|endpoint| match &endpoint.reach {
            Reach::Direct(_) => direct(endpoint, port, sni.as_ref(), scale, snapshot).into_iter().collect::<Vec<_>>(),
            Reach::Gateways { .. } => through_gateways(endpoint, port, sni.as_ref(), scale, snapshot),
        })
        .map(|mut choice| {
            if !snapshot.settings.locality_load_balancing {
                choice.locality = Locality::default();
            }
            choice
        })
        .collect()
}

fn direct(
    endpoint: &Endpoint,
    port: u16,
    sni: Option<&ServerName<'static>>,
    scale: u32,
    snapshot: &Snapshot,
) -> Option<Choice<Arc<Target>>> {
    let Reach::Direct(direct) = &endpoint.reach else { return None };
    let (_, pod_port) = direct.ports.iter().find(|(service_port, _)| *service_port == port)?;
    let tls = if direct.mutual_tls {
        // Without a known identity the expectation is empty, and nobody can meet it.
        Some(Tls { sni: sni?.clone(), expected: expected(direct.identity.iter(), endpoint, snapshot) })
    } else {
        None
    };
    let target = Target {
        address: SocketAddr::new(direct.ip, *pod_port),
        tls,
        remote: false,
        cluster: endpoint.cluster.clone(),
        labels: direct.labels.clone(),
    };
    Some(choice(endpoint, endpoint.id.clone(), endpoint.weight.saturating_mul(scale), target))
}

fn through_gateways(
    endpoint: &Endpoint,
    port: u16,
    sni: Option<&ServerName<'static>>,
    scale: u32,
    snapshot: &Snapshot,
) -> Vec<Choice<Arc<Target>>> {
    let Reach::Gateways { identities, ports } = &endpoint.reach else { return Vec::new() };
    if !ports.is_empty() && !ports.contains(&port) {
        return Vec::new();
    }
    let Some(sni) = sni else { return Vec::new() };
    let gateways = gateways_of(endpoint, snapshot);
    let weight = endpoint.weight.saturating_mul(scale) / u32::try_from(gateways.len()).unwrap_or(u32::MAX).max(1);
    let tls = Tls { sni: sni.clone(), expected: expected(identities.iter(), endpoint, snapshot) };
    let target = |address| Target {
        address,
        tls: Some(tls.clone()),
        remote: true,
        cluster: endpoint.cluster.clone(),
        labels: Arc::default(),
    };
    gateways
        .iter()
        .map(|gateway| {
            let id = format!("{}|{}", endpoint.id, gateway.address).into();
            choice(endpoint, id, weight, target(gateway.address))
        })
        .collect()
}

/// Who may answer for an endpoint: one of these identities, and signed by the intermediate of the endpoint's cluster
/// where that is known, so that a stolen intermediate cannot speak for another cluster.
fn expected<'a>(
    identities: impl Iterator<Item = &'a SpiffeId>,
    endpoint: &Endpoint,
    snapshot: &Snapshot,
) -> Expectation {
    let expected = Expectation::any_of(identities.cloned());
    if snapshot.issuers.contains(&endpoint.cluster) {
        expected.in_clusters([endpoint.cluster.clone()])
    } else {
        expected
    }
}

fn choice(endpoint: &Endpoint, id: Arc<str>, weight: u32, target: Target) -> Choice<Arc<Target>> {
    Choice { id, locality: endpoint.locality.clone(), weight, health: endpoint.health, target: Arc::new(target) }
}

/// The gateways of the endpoint's network and cluster; where that cluster has none of its own, all of the network.
fn gateways_of<'a>(endpoint: &Endpoint, snapshot: &'a Snapshot) -> Vec<&'a Gateway> {
    let all = snapshot.gateways.get(&endpoint.network).map(|gateways| &**gateways).unwrap_or_default();
    let own: Vec<_> = all.iter().filter(|gateway| gateway.cluster == endpoint.cluster).collect();
    if own.is_empty() { all.iter().collect() } else { own }
}

/// The smallest number by which weights are multiplied so that each can be split evenly among gateways.
fn scale(endpoints: &[Endpoint], snapshot: &Snapshot) -> u32 {
    fn gcd(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    /// Beyond this a difference of one in a weight no longer matters.
    const LARGEST: u32 = 2520;
    endpoints
        .iter()
        .filter(|endpoint| matches!(endpoint.reach, Reach::Gateways { .. }))
        .filter_map(|endpoint| u32::try_from(gateways_of(endpoint, snapshot).len()).ok())
        .filter(|count| *count > 0)
        .fold(1, |scale, count| if scale > LARGEST { scale } else { scale / gcd(scale, count) * count })
}

#[cfg(test)]
mod tests;
