//! Allocation of cluster IPs and node ports: assigned when a Service is written, and kept until it is deleted.
//!
//! [`addresses`] decides IP families and cluster IPs.

mod addresses;

use std::collections::HashSet;
use std::net::IpAddr;

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
    if let Err(cause) = addresses::assign(&api.service_networks, service, old, &used.addresses)
        .and_then(|()| assign_node_ports(service, old, &used))
    {
        return Err(Status::invalid(&served.kind, object::name(service), vec![cause]));
    }
    Ok(())
}

#[derive(Default)]
struct ServiceAllocations {
    addresses: HashSet<IpAddr>,
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
            used.addresses.extend(addresses::of(&service).filter_map(|address| address.parse::<IpAddr>().ok()));
            for port in object::list(&service, "/spec/ports") {
                if let Some(number) = node_port(port) {
                    used.node_ports.insert((number, protocol(port)));
                }
            }
        }
        used
    }
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

    fn assigned(
        mut service: Value,
        old: Option<&Value>,
        used: &ServiceAllocations,
    ) -> std::result::Result<Value, StatusCause> {
        assign_node_ports(&mut service, old, used)?;
        Ok(service)
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
