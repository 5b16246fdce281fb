//! ServiceEntries and WorkloadEntries.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Check, names};
use crate::networking::problem::Severity;
use crate::networking::service_entry::{
    EntryPort, Location, Resolution, ServiceEntry, WorkloadEntry, WorkloadEntrySpec, allocates, is_unix,
};

/// The number of hosts and of endpoints that an object may have, as in Istio.
const MAX_HOSTS: usize = 256;
const MAX_ENDPOINTS: usize = 4096;

/// The protocols of ports.
const PROTOCOLS: [&str; 11] =
    ["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "UDP", "MYSQL", "REDIS"];

pub(super) fn check_entry(entry: &ServiceEntry, check: &mut Check) {
    let spec = &entry.spec;
    hosts(entry, check);
    if spec.addresses.iter().any(|address| address.contains('/'))
        && !matches!(spec.resolution, Resolution::None | Resolution::Static)
    {
        check.error_of("addresses", "has a CIDR block, which only resolution NONE and STATIC permit; write addresses");
    }
    check.each("addresses", &spec.addresses, |address, check| {
        check.accept(names::subnet(address));
    });
    ports(&spec.ports, spec.resolution, check);
    addresses_of_tcp(entry, check);
    endpoints(entry, check);
    let own = entry.metadata.namespace.as_deref().unwrap_or(".");
    let hidden = spec.export_to == ["~"];
    if !hidden {
        names::export_to(check, own, &spec.export_to, false);
    }
    check.each("subjectAltNames", &spec.subject_alt_names, |name, check| {
        if name.is_empty() {
            check.error("is empty; write an identity, or remove it");
        } else if spec.location == Location::Internal && !name.starts_with("spiffe://") {
            check.warn(
                "has no effect with MESH_INTERNAL, whose endpoints have SPIFFE IDs; write spiffe://…, or remove it",
            );
        }
    });
    if let Some(selector) = &spec.workload_selector {
        check.at(format_args!(".workloadSelector"), |check| {
            names::label_map(check, "labels", &selector.labels);
            if selector.labels.is_empty() {
                check.warn_of("labels", "is empty, so all workloads of the namespace are endpoints; write labels");
            }
        });
        if !spec.endpoints.is_empty() {
            check.error_of("workloadSelector", "cannot be set beside endpoints; keep one of them");
        }
    }
}

pub(super) fn check_workload(entry: &WorkloadEntry, check: &mut Check) {
    endpoint(&entry.spec, None, check);
}

fn hosts(entry: &ServiceEntry, check: &mut Check) {
    let spec = &entry.spec;
    match spec.hosts.len() {
        0 => check.error_of("hosts", "is empty; write the name of a host"),
        1..=MAX_HOSTS => {}
        count => check.error_of("hosts", format!("has {count} hosts, but at most {MAX_HOSTS} are possible")),
    }
    let mut seen = HashSet::new();
    check.each("hosts", &spec.hosts, |host, check| {
        check.accept(names::wildcard_host(host));
        if host == "*" {
            check.error("is \"*\", but a wildcard needs a domain, such as \"*.example.com\"");
        } else if host.starts_with('*') && !matches!(spec.resolution, Resolution::None | Resolution::DynamicDns) {
            check.error("is a wildcard, which only resolution NONE and DYNAMIC_DNS permit; write the hosts");
        } else if !host.starts_with('*') && spec.resolution == Resolution::DynamicDns {
            check.error("is no wildcard, which resolution DYNAMIC_DNS needs; write resolution DNS");
        }
        if !seen.insert(host.to_ascii_lowercase()) {
            check.error(format!("is {:?} a second time; remove one", names::shown(host)));
        }
    });
}

fn ports(all: &[EntryPort], resolution: Resolution, check: &mut Check) {
    let (mut numbers, mut known) = (HashSet::new(), HashSet::new());
    check.each("ports", all, |port, check| {
        check.port("number", port.number);
        if !numbers.insert(port.number) {
            check.error_of("number", format!("is {}, which another port has; remove one", port.number));
        }
        if port.name.is_empty() {
            check.error_of("name", "is missing; name the port");
        } else if !known.insert(&port.name) {
            check.error_of("name", format!("is {:?}, which another port has; rename one", names::shown(&port.name)));
        }
        if !port.protocol.is_empty() && !PROTOCOLS.iter().any(|known| port.protocol.eq_ignore_ascii_case(known)) {
            let protocol = names::shown(&port.protocol);
            check.error_of("protocol", format!("is {protocol:?}, but must be one of {}", PROTOCOLS.join(", ")));
        }
        if resolution == Resolution::DynamicDns && !port.names_hosts() {
            check.warn_of(
                "protocol",
                "has no host to resolve, so connections to wildcards go nowhere; write HTTP or TLS",
            );
        }
        if !port.is_tcp() {
            check.warn_of("protocol", "is UDP, which the mesh does not carry: the port has no effect");
        }
        if port.target_port != 0 {
            check.port("targetPort", port.target_port);
            if resolution == Resolution::None {
                check.warn_of("targetPort", "has no effect with resolution NONE: connections keep their port");
            }
        }
    });
}

/// Warns of ports of TCP to which nothing leads: those of an entry without addresses of its own or of the controller.
fn addresses_of_tcp(entry: &ServiceEntry, check: &mut Check) {
    let spec = &entry.spec;
    let allocated = spec.resolution != Resolution::None && allocates(&entry.metadata);
    if !spec.addresses.is_empty() || allocated {
        return;
    }
    check.each("ports", &spec.ports, |port, check| {
        if port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("TCP") {
            let text = "is a port of TCP, which needs an address by which connections to it are known; write addresses, or a protocol with hosts";
            check.found("IST0134", Severity::Warning, text);
        }
    });
}

fn endpoints(entry: &ServiceEntry, check: &mut Check) {
    let spec = &entry.spec;
    let (count, selects) = (spec.endpoints.len(), spec.workload_selector.is_some());
    match spec.resolution {
        Resolution::None | Resolution::DynamicDns if count > 0 => {
            check
                .error_of("endpoints", "cannot be set: the resolution has none; remove it, or write resolution STATIC");
        }
        Resolution::Static if count == 0 && !selects => {
            check.warn_of("endpoints", "is empty, so nothing answers; write endpoints, or a workloadSelector");
        }
        Resolution::DnsRoundRobin if count > 1 => {
            check.error_of("endpoints", "has more than one endpoint, but resolution DNS_ROUND_ROBIN has one name");
        }
        _ if count > MAX_ENDPOINTS => {
            check.error_of("endpoints", format!("has {count} endpoints, but at most {MAX_ENDPOINTS} are possible"));
        }
        _ => {}
    }
    if spec.resolution.is_dns() && selects {
        check.warn_of("workloadSelector", "has no effect with DNS: names of selected workloads are not resolved");
    }
    check.each("endpoints", &spec.endpoints, |of, check| {
        endpoint(of, Some(spec.resolution), check);
        for name in of.ports.keys().filter(|name| spec.ports.iter().all(|port| port.name != **name)) {
            check.at(format_args!(".ports[{}]", names::shown(name)), |check| {
                check.error("is not a port of the service; write the name of one of its ports");
            });
        }
    });
}

/// Checks a workload. `resolution` is that of its ServiceEntry, if it is an endpoint of one.
fn endpoint(of: &WorkloadEntrySpec, resolution: Option<Resolution>, check: &mut Check) {
    check.at(format_args!(".address"), |check| address(of, resolution, check));
    for (name, port) in &of.ports {
        check.at(format_args!(".ports"), |check| check.port(names::shown(name), *port));
    }
    names::label_map(check, "labels", &of.labels);
    if of.locality.split('/').count() > 3 {
        check.error_of("locality", "has more than three parts; write region/zone/subzone");
    }
}

fn address(of: &WorkloadEntrySpec, resolution: Option<Resolution>, check: &mut Check) {
    let address = &*of.address;
    if address.is_empty() {
        if of.network.is_empty() {
            check.error("is missing; write an IP address, or the network whose gateways lead to it");
        } else if resolution.is_some_and(Resolution::is_dns) {
            check.error("is missing; with DNS, write a name or an IP address");
        }
    } else if is_unix(address) {
        if resolution.is_some_and(|resolution| resolution != Resolution::Static) {
            check.error("is a Unix socket, which only resolution STATIC permits");
        } else {
            check.warn("is a Unix socket, which has no effect: endpoints are reached by TCP; write an IP address");
        }
    } else if address.parse::<IpAddr>().is_err() {
        if resolution == Some(Resolution::Static) {
            check.error(format!(
                "is {:?}, but must be an IP address; for a name, write resolution DNS",
                names::shown(address)
            ));
        } else {
            check.accept(names::host(address));
        }
    }
}
