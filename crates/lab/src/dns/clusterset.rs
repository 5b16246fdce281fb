//! Answers to DNS questions about names of `clusterset.local`: the services that clusters export (KEP-1645, "DNS", schema
//! 1.0.0).
//!
//! A name exists while the cluster has the ServiceImport. A headless service has the addresses of its ready endpoints, of the
//! clusters whose EndpointSlices are in this one, and each endpoint has a name with its cluster's.

use std::net::IpAddr;
use std::sync::Arc;

use api::export::{CLUSTERSET_DOMAIN, SOURCE_CLUSTER_LABEL, ServiceImport};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use super::answer::{DnsAnswer, TTL, absent_in, address, dashed, present, srv};
use crate::controllers::cache::Cache;
use crate::controllers::imports;

/// The version of the schema, as `dns-version.clusterset.local` has it.
const VERSION: &str = "1.0.0";

/// A ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    /// `<hostname>.<cluster>`.
    name: String,
    address: IpAddr,
}

/// Answers a question about a name; `None` if the name is of another zone.
pub(super) fn answer(
    imports: &Cache<ServiceImport>,
    slices: &[Arc<EndpointSlice>],
    name: &Name,
    kind: RecordType,
) -> Option<DnsAnswer> {
    let text = name.to_lowercase().to_ascii();
    let prefix = text.trim_end_matches('.').strip_suffix(CLUSTERSET_DOMAIN)?;
    let prefix = if prefix.is_empty() { "" } else { prefix.strip_suffix('.')? };
    let labels: Vec<&str> = prefix.split('.').filter(|label| !label.is_empty()).collect();
    let find = |namespace: &str, service: &str| imports.get(namespace, service);
    let data = match labels.as_slice() {
        [] | ["svc"] => Some(Vec::new()),
        ["dns-version"] => Some(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
        [service, namespace, "svc"] => find(namespace, service).and_then(|import| of_import(&import, slices)),
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            find(namespace, service).and_then(|import| ports(&import, slices, Some((&port[1..], &protocol[1..]))))
        }
        [host, cluster, service, namespace, "svc"] => {
            let import = find(namespace, service).filter(|import| imports::is_headless(import));
            import.and_then(|import| {
                let name = format!("{host}.{cluster}");
                let found = hosts(&imports::slices_of(&import, slices)).into_iter().filter(|host| host.name == name);
                some(found.map(|host| address(host.address)).collect())
            })
        }
        _ => None,
    };
    let Some(data) = data else { return Some(absent_in(CLUSTERSET_DOMAIN, ResponseCode::NXDomain)) };
    let wanted = data.into_iter().filter(|data| kind == RecordType::ANY || data.record_type() == kind);
    let records: Vec<Record> = wanted.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
    Some(match records.is_empty() {
        true => absent_in(CLUSTERSET_DOMAIN, ResponseCode::NoError),
        false => present(records),
    })
}

fn some(data: Vec<RData>) -> Option<Vec<RData>> {
    (!data.is_empty()).then_some(data)
}

/// Returns the data of a service's own name: its addresses, and the SRV records of all ports. A headless service without ready
/// endpoints does not exist.
fn of_import(import: &ServiceImport, slices: &[Arc<EndpointSlice>]) -> Option<Vec<RData>> {
    let addresses: Vec<IpAddr> = match imports::is_headless(import) {
        true => hosts(&imports::slices_of(import, slices)).into_iter().map(|host| host.address).collect(),
        false => imports::addresses_of(import),
    };
    if addresses.is_empty() && imports::is_headless(import) {
        return None;
    }
    let mut data: Vec<RData> = addresses.into_iter().map(address).collect();
    data.extend(ports(import, slices, None).unwrap_or_default());
    Some(data)
}

/// Returns the SRV records of a port by name and protocol, or of all ports, each once.
fn ports(import: &ServiceImport, slices: &[Arc<EndpointSlice>], wanted: Option<(&str, &str)>) -> Option<Vec<RData>> {
    let is = |name: Option<&str>, protocol: Option<&str>| {
        wanted.is_none_or(|(port, of)| name == Some(port) && protocol.unwrap_or("TCP").eq_ignore_ascii_case(of))
    };
    let domain = format!("{}.{}.svc.{CLUSTERSET_DOMAIN}.", import.name_any(), import.namespace().unwrap_or_default());
    let mut targets: Vec<(i32, String)> = Vec::new();
    if imports::is_headless(import) {
        for slice in imports::slices_of(import, slices) {
            let of_slice = slice.ports.iter().flatten();
            for port in of_slice.filter(|port| is(port.name.as_deref(), port.protocol.as_deref())) {
                let Some(number) = port.port else { continue };
                targets.extend(hosts(&[slice]).into_iter().map(|host| (number, format!("{}.{domain}", host.name))));
            }
        }
    } else {
        let named = import.spec.ports.iter().filter(|port| is(port.name.as_deref(), port.protocol.as_deref()));
        targets.extend(named.map(|port| (port.port, domain.clone())));
    }
    // One number may have several protocols.
    targets.sort();
    targets.dedup();
    some(targets.iter().filter_map(|(port, target)| srv(*port, target)).collect())
}

/// Returns the ready endpoints of slices.
fn hosts(slices: &[&EndpointSlice]) -> Vec<Host> {
    let mut found = Vec::new();
    for slice in slices {
        let Some(cluster) = slice.labels().get(SOURCE_CLUSTER_LABEL) else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            for address in addresses.filter(|_| ready) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                found.push(Host { name: format!("{host}.{cluster}"), address });
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn imports() -> Cache<ServiceImport> {
        let cache = Cache::default();
        let put = |name: &str, spec: Value| {
            let object = json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "1"}, "spec": spec});
            assert!(cache.put(serde_json::from_value(object).unwrap()));
        };
        put(
            "cart",
            json!({"type": "ClusterSetIP", "ips": ["240.240.0.7", "2001:2::f0f0:7"],
                   "ports": [{"name": "tcp", "port": 42}, {"name": "udp", "port": 42, "protocol": "UDP"}]}),
        );
        put("db", json!({"type": "Headless", "ports": [{"name": "sql", "port": 5432}]}));
        put("idle", json!({"type": "Headless", "ports": []}));
        cache
    }

    fn slices() -> Vec<Arc<EndpointSlice>> {
        let slice = |cluster: &str, endpoints: Value| {
            let labels = json!({"multicluster.kubernetes.io/service-name": "db",
                                "multicluster.kubernetes.io/source-cluster": cluster});
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": format!("db-{cluster}"), "namespace": "shop", "labels": labels},
                    "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "sql", "port": 9091}],
                }))
                .unwrap(),
            )
        };
        vec![
            slice(
                "west",
                json!([{"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                                 {"addresses": ["10.244.0.6"], "hostname": "db-1", "conditions": {"ready": false}}]),
            ),
            slice("east", json!([{"addresses": ["10.245.0.5"], "hostname": "db-0"}, {"addresses": ["10.245.0.6"]}])),
        ]
    }

    fn resolve(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let name = Name::from_ascii(format!("{name}.clusterset.local.")).unwrap();
        let answer = answer(&imports(), &slices(), &name, kind).unwrap();
        assert!(answer.authoritative);
        (answer.code, answer.records.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn imports_have_addresses_and_ports() {
        let (ok, absent) = (ResponseCode::NoError, ResponseCode::NXDomain);
        let srv = "0 100 42 cart.shop.svc.clusterset.local.";
        for (name, kind, code, expected) in [
            ("cart.shop.svc", RecordType::A, ok, vec!["240.240.0.7"]),
            ("CART.shop.svc", RecordType::AAAA, ok, vec!["2001:2::f0f0:7"]),
            ("cart.shop.svc", RecordType::SRV, ok, vec![srv]),
            ("_udp._udp.cart.shop.svc", RecordType::SRV, ok, vec![srv]),
            ("_udp._tcp.cart.shop.svc", RecordType::SRV, absent, vec![]),
            ("cart.shop.svc", RecordType::MX, ok, vec![]),
            ("west.cart.shop.svc", RecordType::A, absent, vec![]),
            ("other.shop.svc", RecordType::A, absent, vec![]),
            ("idle.shop.svc", RecordType::A, absent, vec![]),
            ("db.shop.svc", RecordType::A, ok, vec!["10.245.0.6", "10.245.0.5", "10.244.0.5"]),
            ("db-0.west.db.shop.svc", RecordType::A, ok, vec!["10.244.0.5"]),
            ("db-0.east.db.shop.svc", RecordType::A, ok, vec!["10.245.0.5"]),
            ("db-1.west.db.shop.svc", RecordType::A, absent, vec![]),
            (
                "_sql._tcp.db.shop.svc",
                RecordType::SRV,
                ok,
                vec![
                    "0 100 9091 10-245-0-6.east.db.shop.svc.clusterset.local.",
                    "0 100 9091 db-0.east.db.shop.svc.clusterset.local.",
                    "0 100 9091 db-0.west.db.shop.svc.clusterset.local.",
                ],
            ),
            ("10-245-0-6.east.db.shop.svc", RecordType::A, ok, vec!["10.245.0.6"]),
            ("dns-version", RecordType::TXT, ok, vec!["1.0.0"]),
        ] {
            assert_eq!(resolve(name, kind), (code, expected.into_iter().map(str::to_owned).collect()), "{name} {kind}");
        }
        let other = Name::from_ascii("cart.shop.svc.cluster.local.").unwrap();
        assert_eq!(answer(&imports(), &slices(), &other, RecordType::A), None);
        let other = Name::from_ascii("xclusterset.local.").unwrap();
        assert_eq!(answer(&imports(), &slices(), &other, RecordType::A), None);
    }
}
