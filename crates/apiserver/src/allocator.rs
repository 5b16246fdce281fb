//! Allocation of cluster IPs and node ports: assigned when a Service is written, and kept until it is deleted.
//!
//! As in Kubernetes, a requested address may be any of the network; addresses are assigned from its upper part.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;

use crate::api::Api;
use crate::object;
use crate::registry::ServedResource;
use crate::status::{Result, Status, StatusCause};
use crate::storage::GroupResource;

/// Range of node ports.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Number of addresses at the start of the network that are reserved for explicit requests.
const RESERVED_ADDRESSES: u32 = 256;

/// Locks Services against other writes until the returned guard is dropped, so that a free address stays free.
pub(crate) async fn lock_services<'a>(api: &'a Api, served: &ServedResource) -> Option<MutexGuard<'a, ()>> {
    if served.kind.is("", "Service") { Some(api.service_writes.lock().await) } else { None }
}

/// Assigns the cluster IP and node ports that the Service's type requires, unless it has them.
pub(crate) fn assign(api: &Api, served: &ServedResource, service: &mut Value, old: Option<&Value>) -> Result<()> {
    if !served.kind.is("", "Service") {
        return Ok(());
    }
    let used = ServiceAllocations::collect(api, object::uid(service));
    if let Err(cause) =
        assign_address(api.service_network, service, old, &used).and_then(|()| assign_node_ports(service, old, &used))
    {
        return Err(Status::invalid(&served.kind, object::name(service), vec![cause]));
    }
    Ok(())
}

#[derive(Default)]
struct ServiceAllocations {
    addresses: HashSet<Ipv4Addr>,
    node_ports: HashSet<(u16, String)>,
}

impl ServiceAllocations {
    /// The allocations of all Services except the one with the UID `except`.
    fn collect(api: &Api, except: &str) -> Self {
        let mut used = Self::default();
        for service in api.store.list(&GroupResource::new("", "services"), None).1 {
            if object::uid(&service) == except {
                continue;
            }
            if let Ok(address) = object::text(&service, "/spec/clusterIP").parse() {
                used.addresses.insert(address);
            }
            for port in object::list(&service, "/spec/ports") {
                if let Some(number) = node_port(port) {
                    used.node_ports.insert((number, protocol(port)));
                }
            }
        }
        used
    }
}

fn assign_address(
    network: (Ipv4Addr, u8),
    service: &mut Value,
    old: Option<&Value>,
    used: &ServiceAllocations,
) -> std::result::Result<(), StatusCause> {
    let spec = object::field(service, "spec");
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    if text("type") == "ExternalName" {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
        return Ok(());
    }
    let mut wanted = text("clusterIP");
    if wanted.is_empty() {
        wanted = spec.get("clusterIPs").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or("").to_owned();
    }
    if wanted.is_empty()
        && let Some(old) = old
    {
        wanted = object::text(old, "/spec/clusterIP").to_owned();
    }
    let kept = old.is_some_and(|old| object::text(old, "/spec/clusterIP") == wanted);
    let address = match wanted.as_str() {
        "None" => wanted,
        "" => choose(network, &used.addresses)?.to_string(),
        _ if kept => wanted,
        _ => check(network, &wanted, &used.addresses)?.to_string(),
    };
    spec.insert("clusterIP".into(), json!(address));
    spec.insert("clusterIPs".into(), json!([address]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    spec.entry("internalTrafficPolicy").or_insert_with(|| json!("Cluster"));
    Ok(())
}

fn size((_, prefix): (Ipv4Addr, u8)) -> u32 {
    u32::MAX >> prefix.min(31)
}

fn choose(network: (Ipv4Addr, u8), used: &HashSet<Ipv4Addr>) -> std::result::Result<Ipv4Addr, StatusCause> {
    let (base, size) = (u32::from(network.0), size(network));
    let first = if size > RESERVED_ADDRESSES * 2 { RESERVED_ADDRESSES } else { 1 };
    let start = rand::rng().random_range(first..size);
    // The last address is the broadcast address.
    let free = (start..size)
        .chain(first..start)
        .map(|offset| Ipv4Addr::from(base + offset))
        .find(|address| !used.contains(address));
    free.ok_or_else(|| {
        StatusCause::new("InternalError", "spec.clusterIP", "failed to allocate a serviceIP: range is full")
    })
}

fn check(
    network: (Ipv4Addr, u8),
    wanted: &str,
    used: &HashSet<Ipv4Addr>,
) -> std::result::Result<Ipv4Addr, StatusCause> {
    let invalid = |why: String| {
        StatusCause::new(
            "FieldValueInvalid",
            "spec.clusterIPs",
            format!("Invalid value: [{wanted:?}]: failed to allocate IP {wanted}: {why}"),
        )
    };
    let address: Ipv4Addr = wanted.parse().map_err(|_| invalid("must be a valid IPv4 address".into()))?;
    let offset = u32::from(address).wrapping_sub(u32::from(network.0));
    if offset == 0 || offset >= size(network) {
        return Err(invalid(format!(
            "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {}/{}",
            network.0, network.1
        )));
    }
    if used.contains(&address) { Err(invalid("provided IP is already allocated".into())) } else { Ok(address) }
}

fn assign_node_ports(
    service: &mut Value,
    old: Option<&Value>,
    used: &ServiceAllocations,
) -> std::result::Result<(), StatusCause> {
    let kind = object::text(service, "/spec/type").to_owned();
    let automatic = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
    let needs = kind == "NodePort" || kind == "LoadBalancer" && automatic;
    let mut taken = used.node_ports.clone();
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for (at, port) in ports.into_iter().flatten().enumerate() {
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            if let Some(map) = port.as_object_mut() {
                map.remove("nodePort");
            }
            continue;
        }
        let protocol = protocol(port);
        let before = || {
            let ports = old.map_or(&[][..], |old| object::list(old, "/spec/ports"));
            ports
                .iter()
                .find(|known| known.get("port") == port.get("port") && self::protocol(known) == protocol)
                .and_then(node_port)
        };
        let field = format!("spec.ports[{at}].nodePort");
        let number = match node_port(port).or_else(before) {
            Some(number) if !NODE_PORTS.contains(&number) => {
                let why = format!(
                    "Invalid value: {number}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                );
                return Err(StatusCause::new("FieldValueInvalid", field, why));
            }
            Some(number) if taken.contains(&(number, protocol.clone())) => {
                let why = format!("Invalid value: {number}: provided port is already allocated");
                return Err(StatusCause::new("FieldValueInvalid", field, why));
            }
            Some(number) => number,
            None if !needs => continue,
            None => {
                let start = rand::rng().random_range(NODE_PORTS);
                let free = (start..=*NODE_PORTS.end())
                    .chain(NODE_PORTS)
                    .find(|number| !taken.contains(&(*number, protocol.clone())));
                free.ok_or_else(|| {
                    StatusCause::new("InternalError", field, "failed to allocate a nodePort: range is full")
                })?
            }
        };
        taken.insert((number, protocol));
        port["nodePort"] = json!(number);
    }
    Ok(())
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

fn protocol(port: &Value) -> String {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);

    fn assigned(
        mut service: Value,
        old: Option<&Value>,
        used: &ServiceAllocations,
    ) -> std::result::Result<Value, StatusCause> {
        assign_address(NETWORK, &mut service, old, used)?;
        assign_node_ports(&mut service, old, used)?;
        Ok(service)
    }

    #[test]
    fn addresses_are_assigned_kept_and_requested() {
        let used = ServiceAllocations::default();
        let first = assigned(json!({"spec": {"ports": [{"port": 80}]}}), None, &used).expect("free");
        let address: Ipv4Addr = object::text(&first, "/spec/clusterIP").parse().expect("an address");
        assert!(u32::from(address) >= u32::from(NETWORK.0) + RESERVED_ADDRESSES);
        let again = assigned(json!({"spec": {}}), Some(&first), &used).expect("kept");
        assert_eq!(again["spec"]["clusterIP"], first["spec"]["clusterIP"]);
        let asked = assigned(json!({"spec": {"clusterIP": "10.96.0.10"}}), None, &used).expect("free");
        assert_eq!(asked["spec"]["clusterIPs"], json!(["10.96.0.10"]));
        let none = assigned(json!({"spec": {"clusterIP": "None"}}), None, &used).expect("headless");
        assert_eq!(none["spec"]["clusterIP"], "None");
    }

    #[test]
    fn used_and_out_of_range_addresses_are_rejected() {
        let used =
            ServiceAllocations { addresses: [Ipv4Addr::new(10, 96, 0, 1)].into(), ..ServiceAllocations::default() };
        for address in ["10.96.0.1", "10.97.0.1", "10.96.0.0", "fe80::1", "x"] {
            assert!(assigned(json!({"spec": {"clusterIP": address}}), None, &used).is_err(), "{address}");
        }
    }

    #[test]
    fn node_ports_depend_on_the_type() {
        let used = ServiceAllocations::default();
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 81}]}});
        let service = assigned(service, None, &used).expect("free");
        let ports: HashSet<_> = object::list(&service, "/spec/ports").iter().filter_map(node_port).collect();
        assert_eq!(ports.len(), 2);
        let again = assigned(json!({"spec": {"type": "NodePort", "ports": [{"port": 81}]}}), Some(&service), &used)
            .expect("kept");
        assert_eq!(again["spec"]["ports"][0]["nodePort"], service["spec"]["ports"][1]["nodePort"]);
        let internal =
            assigned(json!({"spec": {"type": "ClusterIP", "ports": [{"port": 81, "nodePort": 30001}]}}), None, &used);
        assert_eq!(internal.expect("legal")["spec"]["ports"][0].get("nodePort"), None);
    }
}
