//! What a service of a ServiceEntry has beside a Kubernetes Service, and its endpoints.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use balance::{Health, Locality};
use wire::discovery as message;

use super::convert::{Result, ip, labels, port_number, spiffe};
use super::model::{DirectEndpoint, Endpoint, Reach, Service, Summary, WorkloadLabels};

/// How the endpoints of an entry are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolution {
    /// The endpoint is the address that the application connects to.
    #[default]
    None,
    /// Endpoints have addresses.
    Static,
    /// The names of endpoints are resolved, and each address is an endpoint.
    Dns,
    /// The same, with the first address alone.
    DnsRoundRobin,
    /// The host of each request or connection to a wildcard is resolved.
    DynamicDns,
}

/// What a service of a ServiceEntry has beside a Kubernetes Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// The endpoints are outside of the mesh.
    pub external: bool,
    /// The names of which the certificate of a server outside of the mesh must have one, where the policy names none.
    pub names: Box<[Box<str>]>,
}

/// An endpoint at the addresses of a name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedEndpoint {
    /// The name, in lower case.
    pub host: Arc<str>,
    /// Only the first address is used.
    pub first_only: bool,
    /// The endpoint, with an unspecified address.
    pub at: Arc<DirectEndpoint>,
}

/// Gives a service of an entry its endpoints, as a proxy of `network` reaches them.
pub(super) fn add(service: &mut Service, entry: &message::Entry, network: &str) -> Result<()> {
    let resolution = match message::Resolution::try_from(entry.resolution) {
        Ok(message::Resolution::None) => Resolution::None,
        Ok(message::Resolution::Static) => Resolution::Static,
        Ok(message::Resolution::Dns) => Resolution::Dns,
        Ok(message::Resolution::DnsRoundRobin) => Resolution::DnsRoundRobin,
        Ok(message::Resolution::DynamicDns) => Resolution::DynamicDns,
        Err(_) => return Err(format!("{} is not a resolution", entry.resolution)),
    };
    let mut endpoints = Vec::with_capacity(entry.endpoints.len());
    for (number, of) in entry.endpoints.iter().enumerate() {
        // A pod of another network has no address here.
        if of.pod.is_empty() || *of.network == *network {
            endpoints.push(endpoint(service, of, number, resolution)?);
        }
    }
    service.endpoints = Some(endpoints.into());
    service.entry = Some(Arc::new(Entry {
        resolution,
        external: entry.external,
        names: entry.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
    }));
    Ok(())
}

fn endpoint(service: &Service, of: &message::EntryEndpoint, number: usize, resolution: Resolution) -> Result<Endpoint> {
    let ports: Box<[(u16, u16)]> = of
        .ports
        .iter()
        .map(|(port, target)| Ok((port_number(*port)?, port_number(*target)?)))
        .collect::<Result<_>>()?;
    let identities: Box<[_]> = of.identities.iter().map(|id| spiffe(id)).collect::<Result<_>>()?;
    let address = if of.ip.is_empty() { None } else { Some(ip(&of.ip)?) };
    let place = address.map_or_else(|| of.host.clone(), |address| address.to_string());
    let reach = if address.is_none() && of.host.is_empty() {
        let ports = ports.iter().map(|(port, _)| *port).collect();
        Reach::Gateways(Summary { identities, ports, subset: Arc::default() })
    } else {
        let direct = Arc::new(DirectEndpoint {
            ip: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            further_ip: None,
            ports,
            identity: identities.first().cloned(),
            mutual_tls: of.mutual_tls,
            plaintext_ports: Box::default(),
            workload: workload(service, of),
            labels: labels(&of.labels),
            pod: of.pod.as_str().into(),
            hostname: Arc::default(),
            node: Arc::default(),
            only_node: None,
        });
        match address {
            Some(_) => Reach::Direct(direct),
            None => Reach::Named(Arc::new(NamedEndpoint {
                host: of.host.as_str().into(),
                first_only: resolution == Resolution::DnsRoundRobin,
                at: direct,
            })),
        }
    };
    Ok(Endpoint {
        // The number tells endpoints of one address apart.
        id: format!("{}/{place}/{number}", service.hostname).into(),
        cluster: of.cluster.as_str().into(),
        network: of.network.as_str().into(),
        locality: Locality::new(&of.region, &of.zone, &of.subzone),
        health: Health::Ready,
        weight: of.weight.max(1),
        reach,
    })
}

fn workload(service: &Service, of: &message::EntryEndpoint) -> Arc<WorkloadLabels> {
    let label = |keys: &[&str]| -> Arc<str> {
        keys.iter().find_map(|key| of.labels.get(*key)).map(|value| value.as_str().into()).unwrap_or_default()
    };
    Arc::new(WorkloadLabels {
        workload: label(&["service.istio.io/workload-name"]),
        namespace: service.namespace.clone(),
        app: label(&["app", "app.kubernetes.io/name"]),
        version: label(&["version", "app.kubernetes.io/version"]),
        canonical_service: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]),
        canonical_revision: label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]),
    })
}
