//! What a name of the mesh stands for: addresses of services and of members of headless services, and SRV records of ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::RecordType;

use proxy::mesh::{DirectEndpoint, Port, Service};

/// The result of a query.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// These addresses; none if the name has none of the queried type, and no other data of that type.
    Addresses(Vec<IpAddr>),
    /// Ports of these hosts.
    Ports(Vec<PortOfHost>),
    /// The name is not part of the mesh.
    NotInMesh,
}

/// The data of an SRV record (RFC 2782).
#[derive(Debug, PartialEq)]
pub(super) struct PortOfHost {
    /// The port.
    pub(super) port: u16,
    /// The host's name.
    pub(super) host: String,
}

/// A DNS name that may be one of the mesh: `<service>.<namespace>.svc.<domain>`, or that with a [`Subject`] before it.
#[derive(Debug, PartialEq)]
pub(super) struct MeshName {
    /// The service's hostname.
    pub(super) service: String,
    /// What of the service.
    pub(super) subject: Subject,
    /// Whether the name is one of `clusterset.local`.
    pub(super) clusterset: bool,
}

/// What a name is of a service.
#[derive(Debug, PartialEq)]
pub(super) enum Subject {
    /// The service itself.
    Service,
    /// `<hostname>.`: a pod of a headless service.
    Member(String),
    /// `<hostname>.<cluster>.`: a pod of a cluster, in `clusterset.local`.
    MemberOf(String, String),
    /// `_<name>._tcp.`: a port.
    Port(String),
}

impl MeshName {
    /// Returns the name of the host of a ServiceEntry.
    pub(super) fn of_entry(name: &str) -> Option<Self> {
        let service = name.trim_end_matches('.').to_ascii_lowercase();
        // Search domains and names of the machine's own have no entries.
        (service.contains('.') && !service.ends_with(".arpa")).then_some(MeshName {
            service,
            subject: Subject::Service,
            clusterset: false,
        })
    }

    /// Parses a name within the cluster's domain.
    pub(super) fn parse(name: &str, domain: &str) -> Option<Self> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = name.strip_suffix(domain)?.strip_suffix(".svc.")?.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        let of = |service: &str, namespace: &str| format!("{service}.{namespace}.svc.{domain}");
        let (service, subject) = match labels[..] {
            [_, _] => (name, Subject::Service),
            [member, service, namespace] => (of(service, namespace), Subject::Member(member.to_owned())),
            // The mesh has no ports of other protocols.
            [port, "_tcp", service, namespace] => {
                (of(service, namespace), Subject::Port(port.strip_prefix('_')?.to_owned()))
            }
            _ => return None,
        };
        Some(MeshName { service, subject, clusterset: false })
    }

    /// Parses a name within `clusterset.local` (KEP-1645, "DNS"). `domain` is that of the clusters.
    pub(super) fn parse_clusterset(name: &str, domain: &str) -> Option<Self> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = name.strip_suffix(CLUSTERSET)?.strip_suffix(".svc.")?.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        let (service, namespace, subject) = match labels[..] {
            [service, namespace] => (service, namespace, Subject::Service),
            [port, "_tcp", service, namespace] => {
                (service, namespace, Subject::Port(port.strip_prefix('_')?.to_owned()))
            }
            [host, cluster, service, namespace] if !host.starts_with('_') => {
                (service, namespace, Subject::MemberOf(host.to_owned(), cluster.to_owned()))
            }
            // `<cluster>.<service>.<namespace>` is reserved.
            _ => return None,
        };
        Some(MeshName { service: format!("{service}.{namespace}.svc.{domain}"), subject, clusterset: true })
    }

    /// Returns what a service with this name answers.
    pub(super) fn answer(&self, service: &Service, kind: RecordType, pod: &AskingPod) -> Answer {
        if self.clusterset && !service.clusterset {
            return Answer::NotInMesh;
        }
        let zone = if self.clusterset { Zone::Clusterset } else { Zone::Cluster };
        match &self.subject {
            Subject::Service if kind == RecordType::SRV => ports_of(service, None, kind, zone),
            Subject::Service => addresses_of(service, kind, pod.routed, zone),
            Subject::Member(member) => addresses_of_member(service, member, kind, &pod.cluster),
            Subject::MemberOf(member, cluster) => addresses_in_cluster(service, member, kind, cluster),
            Subject::Port(port) => ports_of(service, Some(port), kind, zone),
        }
    }
}

/// The zone of exported services.
const CLUSTERSET: &str = "clusterset.local";

/// The zone of a name.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Zone {
    /// The clusters' own domain.
    Cluster,
    /// `clusterset.local`.
    Clusterset,
}

impl Zone {
    /// Returns a service's addresses in the zone.
    fn addresses(self, service: &Service) -> &[IpAddr] {
        match self {
            Zone::Cluster => service.dns_addresses(),
            Zone::Clusterset => service.clusterset_addresses(),
        }
    }

    /// Returns a service's name in the zone.
    fn hostname(self, service: &Service) -> String {
        match self {
            Zone::Cluster => service.hostname.to_string(),
            Zone::Clusterset => format!("{}.{}.svc.{CLUSTERSET}", service.name, service.namespace),
        }
    }
}

/// Returns whether an address is the data of a record of this type.
fn is_of(kind: RecordType, address: &IpAddr) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

/// Returns a service's addresses of the queried type. A headless service has the addresses of its pods in this network, of all
/// clusters; without pods here, the address that stands for those behind gateways. Without either, the cluster's own DNS
/// answers.
fn addresses_of(service: &Service, kind: RecordType, routed: Routed, zone: Zone) -> Answer {
    if service.headless {
        let pods: Vec<IpAddr> = service.ready_pods().flat_map(DirectEndpoint::ips).collect();
        if !pods.is_empty() {
            return Answer::Addresses(pods.into_iter().filter(|pod| is_of(kind, pod)).collect());
        }
    }
    let addresses = zone.addresses(service);
    if addresses.is_empty() {
        return Answer::NotInMesh;
    }
    // An address that the controller allocated exists in both families, whatever the pod has.
    let own = zone == Zone::Cluster && service.own_addresses > 0;
    let usable = |address: &IpAddr| own || routed.includes(*address);
    let first = |kind| addresses.iter().copied().find(|address| usable(address) && is_of(kind, address));
    Answer::Addresses(match kind {
        RecordType::ANY => [RecordType::A, RecordType::AAAA].into_iter().filter_map(first).collect(),
        kind => first(kind).into_iter().collect(),
    })
}

/// Returns the addresses of a headless service's ready pods in this network that have this hostname: of this cluster, or if it
/// has none, of other clusters. A pod behind a gateway has no address here.
fn addresses_of_member(service: &Service, member: &str, kind: RecordType, cluster: &str) -> Answer {
    if !service.headless {
        return Answer::NotInMesh;
    }
    let named = |own: bool| -> Vec<IpAddr> {
        let endpoints =
            service.ready_endpoints().filter(|(of, pod)| (*of == cluster) == own && host_of(pod) == *member);
        endpoints.flat_map(|(_, pod)| pod.ips()).collect()
    };
    let own = named(true);
    let addresses = if own.is_empty() { named(false) } else { own };
    if addresses.is_empty() {
        return Answer::NotInMesh;
    }
    Answer::Addresses(addresses.into_iter().filter(|address| is_of(kind, address)).collect())
}

/// Returns the addresses of the ready pods of one cluster, of a headless service, that have this hostname.
fn addresses_in_cluster(service: &Service, member: &str, kind: RecordType, cluster: &str) -> Answer {
    let named = service.ready_endpoints().filter(|(of, pod)| *of == cluster && host_of(pod) == *member);
    let addresses: Vec<IpAddr> = named.filter(|_| service.headless).flat_map(|(_, pod)| pod.ips()).collect();
    if addresses.is_empty() {
        return Answer::NotInMesh;
    }
    Answer::Addresses(addresses.into_iter().filter(|address| is_of(kind, address)).collect())
}

/// Returns the hosts with a named port, or with any: the ready pods of a headless service, or the service.
fn ports_of(service: &Service, name: Option<&str>, kind: RecordType, zone: Zone) -> Answer {
    let named = || service.ports.iter().filter(move |port| name.is_none_or(|name| *port.name == *name));
    let hostname = &zone.hostname(service);
    let pods = service.ready_endpoints().filter(|_| service.headless).flat_map(|(cluster, pod)| {
        let host = match zone {
            Zone::Cluster => format!("{}.{hostname}", host_of(pod)),
            Zone::Clusterset => format!("{}.{cluster}.{hostname}", host_of(pod)),
        };
        let of = move |port: &Port| Some(PortOfHost { port: pod.port(port.number)?, host: host.clone() });
        named().filter_map(of)
    });
    let mut ports: Vec<PortOfHost> = pods.collect();
    if ports.is_empty() && !zone.addresses(service).is_empty() {
        ports.extend(named().map(|port| PortOfHost { port: port.number, host: hostname.clone() }));
    }
    match kind {
        _ if ports.is_empty() => Answer::NotInMesh,
        RecordType::SRV | RecordType::ANY => Answer::Ports(ports),
        _ => Answer::Addresses(Vec::new()),
    }
}

/// Returns the first label of a pod's name within a headless service: its hostname, else its address with dashes, as in the
/// cluster's own DNS.
fn host_of(pod: &DirectEndpoint) -> String {
    match &*pod.hostname {
        "" => pod.ip.to_string().replace(['.', ':'], "-"),
        hostname => hostname.to_owned(),
    }
}

/// The pod whose queries are answered.
#[derive(Debug, Clone)]
pub(super) struct AskingPod {
    /// Its cluster.
    pub(super) cluster: Arc<str>,
    /// The address families that it uses.
    pub(super) routed: Routed,
}

/// The address families to which the pod has a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed {
    ipv4: bool,
    ipv6: bool,
}

impl Routed {
    /// Asks the kernel for a route to the addresses that the controller allocates. A pod without a route to either gets both.
    pub(super) fn of_this_pod() -> Self {
        // Connecting a datagram socket sends nothing; it fails without a route.
        let is_routed = |from: IpAddr, to: IpAddr| {
            std::net::UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((to, 9))).is_ok()
        };
        let ipv4 = is_routed(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(240, 240, 0, 1).into());
        let allocated = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, 1);
        let ipv6 = is_routed(Ipv6Addr::UNSPECIFIED.into(), allocated.into());
        Routed { ipv4: ipv4 || !ipv6, ipv6: ipv6 || !ipv4 }
    }

    fn includes(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

#[cfg(test)]
mod tests;
