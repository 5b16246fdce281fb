//! Answers to DNS questions about names of the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use crate::controllers::ClusterView;
use crate::controllers::endpoint_slice::SERVICE_NAME;

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";
/// Time to live of an answer, in seconds. It is short because objects change within milliseconds.
pub(super) const TTL: u32 = 5;

/// Addresses of hosts outside of the cluster's domain, by name in lower case.
pub type OutsideHosts = BTreeMap<String, Vec<IpAddr>>;

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsAnswer {
    /// NOERROR, NXDOMAIN or SERVFAIL.
    pub code: ResponseCode,
    /// Whether the name belongs to this cluster.
    pub authoritative: bool,
    /// The answer section.
    pub records: Vec<Record>,
    /// The SOA record of a negative answer, so that it may be cached.
    pub soa: Option<Record>,
}

/// The data of a name, before the type of record is considered.
enum NameData {
    /// The name does not exist.
    Nothing,
    /// The data of the name.
    Data(Vec<RData>),
    /// An alias of a name outside of the cluster.
    Alias(String),
}

/// Answers a question about `name`.
#[must_use]
pub fn answer(view: &ClusterView, outside: &OutsideHosts, name: &Name, kind: RecordType) -> DnsAnswer {
    let text = name.to_lowercase().to_ascii();
    let text = text.trim_end_matches('.');
    if let Ok(address) = name.parse_arpa_name()
        && text.ends_with(".arpa")
    {
        return reverse(view, name, address.addr(), kind);
    }
    let Some(prefix) =
        text.strip_suffix(DOMAIN).and_then(|prefix| prefix.strip_suffix('.').or(prefix.is_empty().then_some("")))
    else {
        if let Some(addresses) = outside.get(text) {
            let data = addresses.iter().map(|ip| address(*ip));
            let wanted = data.filter(|data| kind == RecordType::ANY || data.record_type() == kind);
            let records: Vec<Record> = wanted.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
            return if records.is_empty() { absent_in(text, ResponseCode::NoError) } else { present(records) };
        }
        // A single label cannot be a host outside. Other names may be, but there is no server to query.
        let code = if text.contains('.') { ResponseCode::ServFail } else { ResponseCode::NXDomain };
        return DnsAnswer { code, authoritative: false, records: Vec::new(), soa: None };
    };
    let labels: Vec<&str> = prefix.split('.').filter(|label| !label.is_empty()).collect();
    let found = match labels.as_slice() {
        [] | ["svc"] | ["pod"] => NameData::Data(Vec::new()),
        [namespace, "svc" | "pod"] if view.namespaces.get("", namespace).is_some() => NameData::Data(Vec::new()),
        [address, namespace, "pod"] if view.namespaces.get("", namespace).is_some() => pod(address),
        [service, namespace, "svc"] => of_service(view, service, namespace),
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            ports(view, &port[1..], &protocol[1..], service, namespace)
        }
        [host, service, namespace, "svc"] => of_host(view, host, service, namespace),
        _ => NameData::Nothing,
    };
    let record = |data: RData| Record::from_rdata(name.clone(), TTL, data);
    match found {
        NameData::Nothing => absent(ResponseCode::NXDomain),
        NameData::Alias(target) => match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
            Ok(target) => present(vec![record(RData::CNAME(CNAME(target)))]),
            Err(_) => absent(ResponseCode::ServFail),
        },
        NameData::Data(data) => {
            let wanted = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
            let records: Vec<Record> = data.into_iter().filter(wanted).map(record).collect();
            if records.is_empty() { absent(ResponseCode::NoError) } else { present(records) }
        }
    }
}

pub(super) fn present(records: Vec<Record>) -> DnsAnswer {
    DnsAnswer { code: ResponseCode::NoError, authoritative: true, records, soa: None }
}

fn absent(code: ResponseCode) -> DnsAnswer {
    absent_in(DOMAIN, code)
}

/// Returns a negative answer of a zone, which is the cluster's domain or the name of a host outside.
pub(super) fn absent_in(zone: &str, code: ResponseCode) -> DnsAnswer {
    let name = |text: &str| Name::from_ascii(text).expect("a constant name is well formed");
    let soa = SOA::new(name("ns.dns.cluster.local."), name("hostmaster.cluster.local."), 1, 7200, 1800, 86400, TTL);
    let zone = Name::from_ascii(format!("{zone}.")).ok();
    let soa = zone.map(|zone| Record::from_rdata(zone, TTL, RData::SOA(soa)));
    DnsAnswer { code, authoritative: true, records: Vec::new(), soa }
}

pub(super) fn address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn slices_of(view: &ClusterView, service: &Service) -> Vec<Arc<EndpointSlice>> {
    let mut slices = view.slices.list();
    slices.retain(|slice| {
        slice.metadata.namespace == service.metadata.namespace
            && slice.labels().get(SERVICE_NAME) == service.metadata.name.as_ref()
    });
    slices
}

/// Returns ready endpoints with their host names: the pod's, or the address with dashes.
fn endpoints(slices: &[Arc<EndpointSlice>]) -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            for address in addresses.filter(|_| ready) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                found.push((host, address));
            }
        }
    }
    found.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    found.dedup();
    found
}

pub(super) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut addresses: Vec<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn of_service(view: &ClusterView, service: &str, namespace: &str) -> NameData {
    let Some(service) = view.services.get(namespace, service) else { return NameData::Nothing };
    if let Some(spec) = &service.spec
        && spec.type_.as_deref() == Some("ExternalName")
    {
        return spec.external_name.clone().map_or(NameData::Nothing, NameData::Alias);
    }
    let mut data: Vec<RData> = if is_headless(&service) {
        endpoints(&slices_of(view, &service)).into_iter().map(|(_, ip)| address(ip)).collect()
    } else {
        cluster_ips(&service).into_iter().map(address).collect()
    };
    if data.is_empty() && is_headless(&service) {
        // CoreDNS returns NXDOMAIN for a headless service without endpoints, and clients rely on it to give up.
        return NameData::Nothing;
    }
    let first = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let target = format!("{}.{namespace}.svc.{DOMAIN}.", service.name_any());
    data.extend(first.filter_map(|port| srv(port.port, &target)));
    NameData::Data(data)
}

fn of_host(view: &ClusterView, host: &str, service: &str, namespace: &str) -> NameData {
    let Some(service) = view.services.get(namespace, service).filter(|service| is_headless(service)) else {
        return NameData::Nothing;
    };
    let data: Vec<RData> = endpoints(&slices_of(view, &service))
        .into_iter()
        .filter(|(name, _)| name == host)
        .map(|(_, ip)| address(ip))
        .collect();
    if data.is_empty() { NameData::Nothing } else { NameData::Data(data) }
}

fn ports(view: &ClusterView, port: &str, protocol: &str, service: &str, namespace: &str) -> NameData {
    let Some(service) = view.services.get(namespace, service) else { return NameData::Nothing };
    let of_protocol = |other: Option<&str>| other.unwrap_or("TCP").eq_ignore_ascii_case(protocol);
    let domain = format!("{}.{namespace}.svc.{DOMAIN}.", service.name_any());
    let mut data = Vec::new();
    if is_headless(&service) {
        for slice in slices_of(view, &service) {
            let number = slice
                .ports
                .iter()
                .flatten()
                .find(|other| other.name.as_deref() == Some(port) && of_protocol(other.protocol.as_deref()));
            let Some(number) = number.and_then(|number| number.port) else { continue };
            let hosts = endpoints(std::slice::from_ref(&slice));
            data.extend(hosts.into_iter().filter_map(|(host, _)| srv(number, &format!("{host}.{domain}"))));
        }
    } else {
        let named = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .filter(|other| other.name.as_deref() == Some(port) && of_protocol(other.protocol.as_deref()));
        data.extend(named.filter_map(|port| srv(port.port, &domain)));
    }
    if data.is_empty() { NameData::Nothing } else { NameData::Data(data) }
}

pub(super) fn srv(port: i32, target: &str) -> Option<RData> {
    Some(RData::SRV(SRV::new(0, 100, u16::try_from(port).ok()?, Name::from_ascii(target).ok()?)))
}

fn pod(dashed: &str) -> NameData {
    let dotted = dashed.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let parsed = dotted.or_else(|_| dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
    parsed.map_or(NameData::Nothing, |ip| NameData::Data(vec![address(ip)]))
}

fn reverse(view: &ClusterView, name: &Name, address: IpAddr, kind: RecordType) -> DnsAnswer {
    let mut names = Vec::new();
    for service in view.services.list() {
        let domain = format!("{}.{}.svc.{DOMAIN}.", service.name_any(), service.namespace().unwrap_or_default());
        if cluster_ips(&service).contains(&address) {
            names.push(domain);
        } else if is_headless(&service) {
            let hosts = endpoints(&slices_of(view, &service));
            names.extend(hosts.iter().filter(|(_, ip)| *ip == address).map(|(host, _)| format!("{host}.{domain}")));
        }
    }
    if names.is_empty() {
        return absent(ResponseCode::NXDomain);
    }
    let names = names.iter().filter_map(|text| Name::from_ascii(text).ok());
    let records: Vec<Record> =
        names.map(|target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)))).collect();
    if matches!(kind, RecordType::PTR | RecordType::ANY) { present(records) } else { absent(ResponseCode::NoError) }
}

#[cfg(test)]
mod tests;
