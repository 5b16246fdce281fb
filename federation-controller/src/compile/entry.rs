//! The service of a ServiceEntry: of one host, with its endpoints.
//!
//! Of several entries with a host that are visible in a client's namespace, that of the namespace itself takes precedence, then the
//! oldest. A Kubernetes Service takes precedence over all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::networking::service_entry::{EntryPort, Location, Resolution, is_unix};
use api::networking::{ServiceEntrySpec, WorkloadEntrySpec};
use prost::Message;
use wire::discovery::{self, Entry, EntryEndpoint, InboundPort, Port, Protocol, Subset, VirtualAddress};
use wire::{Kind, name};

use super::address;
use super::resource::{Audience, Resource};
use super::rules::visibility::Visibility;
use super::workload;
use crate::inventory::entries::hosts_of;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Pod, ServiceEntry, Text};

/// The number of endpoints of one service.
const MAX_ENDPOINTS: usize = 4096;

/// The number of namespaces whose clients may see another entry of a host than all others.
const MAX_NAMESPACES: usize = 256;

/// The entries of a host, in the order of age, each with the namespaces that see it.
pub(super) struct Entries<'a> {
    inventory: &'a Inventory,
    host: &'a Arc<str>,
    all: Vec<(&'a ServiceEntry, &'a ServiceEntrySpec, Visibility)>,
}

impl<'a> Entries<'a> {
    /// Returns the entries of a host in force.
    pub(super) fn of(inventory: &'a Inventory, host: &'a Arc<str>) -> Self {
        let default = &inventory.mesh().service_export_to;
        let visible = |entry: &'a ServiceEntry| {
            let spec = entry.spec.as_deref()?;
            Some((entry, spec, Visibility::of(&spec.export_to, default, &entry.namespace)))
        };
        Entries { inventory, host, all: inventory.entries(host).into_iter().filter_map(visible).collect() }
    }

    /// Returns whether an address is allocated for the host.
    pub(super) fn needs_address(&self) -> bool {
        self.all.iter().any(|(entry, spec, _)| self.has_host(entry) && allocates(entry, spec))
    }

    /// Returns whether the host is one of an entry itself, not one below a wildcard.
    fn has_host(&self, entry: &ServiceEntry) -> bool {
        hosts_of(entry).any(|host| host == *self.host)
    }

    /// Returns the services, one for each entry that clients see. `allocated` is the address of the host.
    pub(super) fn resources(&self, subsets: &[Subset], allocated: Option<Ipv4Addr>) -> Vec<Resource> {
        let most = self.all.iter().position(|(.., visibility)| *visibility == Visibility::Public);
        let mut named: BTreeSet<&Text> = BTreeSet::new();
        for (entry, _, visibility) in &self.all {
            named.insert(&entry.namespace);
            if let Visibility::Namespaces(namespaces) = visibility {
                named.extend(namespaces);
            }
        }
        let mut others: BTreeMap<Option<usize>, Vec<Text>> = BTreeMap::new();
        for namespace in named.into_iter().take(MAX_NAMESPACES) {
            let seen = self.seen_in(namespace);
            if seen != most {
                others.entry(seen).or_default().push(namespace.clone());
            }
        }
        let mut different: Vec<Text> = others.values().flatten().cloned().collect();
        different.sort_unstable();
        let audience = if different.is_empty() { Audience::All } else { Audience::OtherNamespaces(different.into()) };
        let mut resources: Vec<Resource> =
            most.map(|at| self.resource(at, audience, subsets, allocated)).into_iter().collect();
        for (at, namespaces) in others {
            let audience = Audience::Namespaces { clusters: Box::default(), namespaces: namespaces.into() };
            resources.extend(at.map(|at| self.resource(at, audience, subsets, allocated)));
        }
        resources
    }

    /// Returns the entry that clients of a namespace see.
    fn seen_in(&self, namespace: &Text) -> Option<usize> {
        let seen = || self.all.iter().enumerate().filter(|(_, (.., visibility))| visibility.includes(namespace));
        let own = seen().find(|(_, (entry, ..))| entry.namespace == *namespace);
        own.or_else(|| seen().next()).map(|(at, _)| at)
    }

    fn resource(&self, at: usize, audience: Audience, subsets: &[Subset], allocated: Option<Ipv4Addr>) -> Resource {
        let (entry, spec, _) = &self.all[at];
        let addresses = self.addresses(entry, spec, allocated);
        let clusters = || self.inventory.clusters().map(|cluster| &cluster.info.name);
        let keys = addresses.iter().flat_map(|ip| clusters().map(|cluster| name::address(cluster, *ip).into()));
        let endpoints = self.endpoints(entry, spec);
        let identities: BTreeSet<&String> = endpoints.iter().flat_map(|endpoint| &endpoint.identities).collect();
        let ports = spec.ports.iter().filter(|port| port.is_tcp()).filter_map(port);
        let body = discovery::Service {
            hostname: self.host.to_string(),
            name: self.host.to_string(),
            namespace: entry.namespace.to_string(),
            ports: ports.collect(),
            addresses: addresses
                .iter()
                .map(|ip| VirtualAddress { cluster: String::new(), ip: name::ip_to_bytes(*ip) })
                .collect(),
            identities: identities.into_iter().cloned().collect(),
            subsets: subsets.to_vec(),
            entry: Some(Entry {
                resolution: resolution(spec.resolution).into(),
                endpoints,
                subject_alt_names: spec.subject_alt_names.clone(),
                external: spec.location == Location::External,
            }),
            ..discovery::Service::default()
        };
        let body = body.encode_to_vec().into();
        Resource { kind: Kind::Service, name: self.host.clone(), keys: keys.collect(), audience, body }
    }

    fn addresses(&self, entry: &ServiceEntry, spec: &ServiceEntrySpec, allocated: Option<Ipv4Addr>) -> Vec<IpAddr> {
        if !self.has_host(entry) {
            // The addresses are the wildcard's.
            return Vec::new();
        }
        if allocates(entry, spec) {
            let with_ipv6 = self.inventory.clusters().any(ClusterInventory::uses_ipv6);
            let ipv6 = allocated.filter(|_| with_ipv6).map(address::ipv6);
            return allocated.map(IpAddr::from).into_iter().chain(ipv6).collect();
        }
        spec.addresses.iter().filter_map(|address| address.parse().ok()).collect()
    }

    fn endpoints(&self, entry: &ServiceEntry, spec: &ServiceEntrySpec) -> Vec<EntryEndpoint> {
        let of = |workload: &WorkloadEntrySpec| self.workload(entry, spec, workload);
        let mut endpoints: Vec<EntryEndpoint> = match spec.resolution {
            Resolution::None => Vec::new(),
            Resolution::DynamicDns => self.named_by_host(of),
            _ if spec.workload_selector.is_some() => self.selected(entry, spec),
            Resolution::Static => spec.endpoints.iter().filter_map(of).collect(),
            Resolution::Dns | Resolution::DnsRoundRobin if spec.endpoints.is_empty() => self.named_by_host(of),
            Resolution::Dns | Resolution::DnsRoundRobin => spec.endpoints.iter().filter_map(of).collect(),
        };
        endpoints.truncate(MAX_ENDPOINTS);
        endpoints
    }

    /// Returns the endpoint that has the name of the host itself.
    fn named_by_host(&self, of: impl Fn(&WorkloadEntrySpec) -> Option<EntryEndpoint>) -> Vec<EntryEndpoint> {
        let host = WorkloadEntrySpec { address: self.host.to_string(), ..WorkloadEntrySpec::default() };
        of(&host).into_iter().collect()
    }

    /// Returns the workloads that an entry selects. Names are not resolved for them.
    fn selected(&self, entry: &ServiceEntry, spec: &ServiceEntrySpec) -> Vec<EntryEndpoint> {
        let Some(own) = self.inventory.primary() else { return Vec::new() };
        let workloads = own.selected_workloads(entry).into_iter().filter_map(|workload| workload.spec.as_deref());
        let workloads = workloads.filter_map(|workload| self.workload(entry, spec, workload));
        let mut all: Vec<EntryEndpoint> = workloads.filter(|endpoint| endpoint.host.is_empty()).collect();
        all.extend(own.selected_pods(entry).into_iter().map(|(pod, ip)| self.pod(own, spec, pod, ip)));
        all
    }

    fn workload(
        &self,
        entry: &ServiceEntry,
        spec: &ServiceEntrySpec,
        workload: &WorkloadEntrySpec,
    ) -> Option<EntryEndpoint> {
        if is_unix(&workload.address) {
            return None;
        }
        let ip = workload.address.parse::<IpAddr>().ok();
        if spec.resolution == Resolution::Static && ip.is_none() && !workload.address.is_empty() {
            return None;
        }
        let mut parts = workload.locality.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let in_mesh = spec.location == Location::Internal;
        Some(EntryEndpoint {
            ip: ip.map(name::ip_to_bytes).unwrap_or_default(),
            host: if ip.is_some() { String::new() } else { workload.address.to_ascii_lowercase() },
            ports: ports_of(spec, |port| workload.port(port)),
            labels: workload.labels.clone(),
            region: part(),
            zone: part(),
            subzone: part(),
            weight: workload.weight.max(1),
            network: workload.network.clone(),
            identities: self.identities(spec, &entry.namespace, &workload.service_account),
            mutual_tls: in_mesh && workload.accepts_mutual_tls(),
            ..EntryEndpoint::default()
        })
    }

    fn pod(&self, cluster: &ClusterInventory, spec: &ServiceEntrySpec, pod: &Pod, ip: IpAddr) -> EntryEndpoint {
        let location = workload::location(cluster, Some(pod), None);
        let network = self.inventory.networks().of_pod(cluster, Some(pod)).unwrap_or_else(|| cluster.network());
        EntryEndpoint {
            ip: name::ip_to_bytes(ip),
            ports: ports_of(spec, EntryPort::target),
            labels: pod.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            region: location.region.to_string(),
            zone: location.zone.to_string(),
            subzone: location.subzone.to_string(),
            weight: 1,
            network: network.to_string(),
            identities: self.identities(spec, &pod.namespace, &pod.service_account),
            mutual_tls: spec.location == Location::Internal && pod.accepts_mutual_tls(),
            pod: pod.name.to_string(),
            cluster: cluster.info.name.to_string(),
            ..EntryEndpoint::default()
        }
    }

    /// Returns the identities that an endpoint may present: those that the entry names, else that of its service account.
    fn identities(&self, spec: &ServiceEntrySpec, namespace: &str, account: &str) -> Vec<String> {
        if spec.location == Location::External {
            return Vec::new();
        }
        let named: Vec<String> =
            spec.subject_alt_names.iter().filter(|name| name.starts_with("spiffe://")).cloned().collect();
        if !named.is_empty() || account.is_empty() {
            return named;
        }
        let domain = self.inventory.trust_domain();
        identity::SpiffeId::new(domain, namespace, account).map(|id| id.as_str().to_owned()).into_iter().collect()
    }
}

/// Returns whether an address is allocated for the hosts of an entry.
fn allocates(entry: &ServiceEntry, spec: &ServiceEntrySpec) -> bool {
    spec.addresses.is_empty() && !entry.unallocated && !matches!(spec.resolution, Resolution::None)
}

fn ports_of(spec: &ServiceEntrySpec, target: impl Fn(&EntryPort) -> u32) -> BTreeMap<u32, u32> {
    spec.ports.iter().filter(|port| port.is_tcp()).map(|port| (port.number, target(port))).collect()
}

fn port(port: &EntryPort) -> Option<Port> {
    let valid = (1..=65535).contains(&port.number);
    valid.then(|| Port {
        number: port.number,
        name: port.name.clone(),
        protocol: protocol(&port.protocol).into(),
        server_names: Vec::new(),
    })
}

/// Returns the ports of a workload that serve hosts of the ServiceEntries which select it.
pub(super) fn inbound_ports<'a>(
    cluster: &'a ClusterInventory,
    key: &'a Key,
    pod: &'a Pod,
) -> impl Iterator<Item = InboundPort> + use<'a> {
    let own = cluster.entry_of_pod(key).and_then(|entry| entry.spec.clone());
    let selecting = cluster.service_entries().selecting(&[&pod.namespace], &pod.labels);
    selecting.flat_map(move |entry| {
        let own = own.clone();
        let ports = entry.spec.iter().flat_map(|spec| &spec.ports).filter(|port| port.is_tcp());
        ports.filter_map(move |of| {
            let number = own.as_ref().map_or_else(|| of.target(), |own| own.port(of));
            (1..=65535).contains(&number).then(|| InboundPort {
                number,
                protocol: protocol(&of.protocol).into(),
                service: hosts_of(entry).next().map(|host| host.to_string()).unwrap_or_default(),
                service_port: of.number,
                ..InboundPort::default()
            })
        })
    })
}

/// Returns the ports of the entries of a host, with their protocols. The oldest entry with a port decides; `None` without entries.
pub(super) fn ports(inventory: &Inventory, host: &str) -> Option<BTreeMap<u16, Protocol>> {
    let entries = inventory.entries(host);
    let specs = entries.iter().filter_map(|entry| entry.spec.as_deref());
    let mut ports = BTreeMap::new();
    let mut any = false;
    for spec in specs {
        any = true;
        for port in spec.ports.iter().filter(|port| port.is_tcp()) {
            if let Ok(number) = u16::try_from(port.number) {
                ports.entry(number).or_insert(protocol(&port.protocol));
            }
        }
    }
    any.then_some(ports)
}

/// Returns the protocol that the name of one in a port of Istio's API stands for.
pub(super) fn protocol(of: &str) -> Protocol {
    match of.to_ascii_uppercase().as_str() {
        "HTTP" | "GRPC-WEB" => Protocol::Http,
        "HTTP2" => Protocol::Http2,
        "GRPC" => Protocol::Grpc,
        "HTTPS" | "TLS" => Protocol::Tls,
        "" => Protocol::Unspecified,
        _ => Protocol::Tcp,
    }
}

fn resolution(of: Resolution) -> discovery::Resolution {
    match of {
        Resolution::None => discovery::Resolution::None,
        Resolution::Static => discovery::Resolution::Static,
        Resolution::Dns => discovery::Resolution::Dns,
        Resolution::DnsRoundRobin => discovery::Resolution::DnsRoundRobin,
        Resolution::DynamicDns => discovery::Resolution::DynamicDns,
    }
}
