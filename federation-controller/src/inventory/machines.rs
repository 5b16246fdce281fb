//! Workloads that are no pods: a WorkloadEntry with an IP address is a pod for the rest of the inventory, and an endpoint of the
//! Services of its namespace that select it, as a slice would have it.
//!
//! The pod and its slices are derived: they are in the collections of pods and slices under names that no object has, and neither
//! in lists of the cluster's API server nor in the snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use api::names::NETWORK_LABEL;
use api::networking::WorkloadEntrySpec;
use api::networking::service_entry::TLS_MODE;
use wire::name;

use super::{Affected, ClusterInventory};
use crate::objects::{
    Key, Labels, Pod, Record as _, Service, ServicePort, Slice, SliceEndpoint, TargetPort, Template, Text,
    WorkloadEntry, WorkloadGroup, fields,
};

/// The label of a pod's locality.
const LOCALITY: &str = "topology.istio.io/locality";

/// Returns the key of the pod that stands for a WorkloadEntry.
pub fn pod_key(entry: &Key) -> Key {
    Key { namespace: entry.namespace.clone(), name: name::workload_entry(&entry.name).into() }
}

/// Returns whether a record is derived of a WorkloadEntry.
pub fn is_derived(name: &str) -> bool {
    name::parse_workload_entry(name).is_some()
}

/// Returns the labels of a WorkloadEntry.
pub(super) fn labels_of(entry: &WorkloadEntry) -> Labels {
    fields::labels(entry.spec.as_ref().map(|spec| spec.labels.clone()))
}

/// Returns the address of a workload, if connections can go to it.
fn address_of(spec: &WorkloadEntrySpec) -> Option<IpAddr> {
    spec.address.parse().ok().filter(fields::is_reachable)
}

/// Returns the pod that stands for a WorkloadEntry; `None` if it has no IP address.
fn pod(entry: &WorkloadEntry) -> Option<Pod> {
    let spec = entry.spec.as_deref()?;
    address_of(spec)?;
    let mut labels = spec.labels.clone();
    if spec.accepts_mutual_tls() {
        labels.insert(TLS_MODE.into(), "istio".into());
    }
    if !spec.network.is_empty() {
        labels.insert(NETWORK_LABEL.into(), spec.network.clone());
    }
    if !spec.locality.is_empty() {
        labels.entry(LOCALITY.into()).or_insert_with(|| spec.locality.replace('/', "."));
    }
    let workload = if spec.group.is_empty() { entry.name.clone() } else { spec.group.as_str().into() };
    let template = Template {
        namespace: entry.namespace.clone(),
        service_account: spec.service_account.as_str().into(),
        labels: fields::labels(Some(labels)),
        workload,
        topology: None,
    };
    Some(Pod { name: pod_key(&entry.key()).name, template: Arc::new(template), ..Pod::default() })
}

/// Returns the slice of a Service with a WorkloadEntry as its endpoint; `None` if the Service does not select it.
fn slice(service: &Service, entry: &WorkloadEntry) -> Option<Slice> {
    let spec = entry.spec.as_deref()?;
    let selects = service.selector.as_ref()?.select(&labels_of(entry)) && service.namespace == entry.namespace;
    let ip = address_of(spec).filter(|_| selects)?;
    let pod = pod_key(&entry.key()).name;
    let ports = service.ports.iter().filter_map(|port| Some((port.name.clone(), port_of(spec, port)?)));
    Some(Slice {
        namespace: service.namespace.clone(),
        name: format!("{pod}:{}", service.name).into(),
        service: service.name.clone(),
        ports: ports.collect(),
        endpoints: [SliceEndpoint {
            pod: Some(pod),
            ip,
            ready: !spec.unready,
            serving: !spec.unready,
            ..SliceEndpoint::default()
        }]
        .into(),
        other_ports: None,
    })
}

/// Returns the workload's port for a port of a Service, as Istio finds it: by the name of the service's port, else by the name
/// that `targetPort` is, else the number that it is, else the service's own. `None` if the name is of no port.
fn port_of(spec: &WorkloadEntrySpec, port: &ServicePort) -> Option<u16> {
    let named = |name: &Text| spec.ports.get(&**name).copied();
    let number = match (named(&port.name), &port.target) {
        (Some(number), _) => number,
        (None, TargetPort::Name(name)) => named(name)?,
        (None, TargetPort::Number(number)) => (*number).into(),
        (None, TargetPort::Same) => port.number.into(),
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

impl ClusterInventory {
    /// Replaces the pod and the slices of a WorkloadEntry that has changed.
    pub(super) fn derive_of_entry(&mut self, entry: &Key, affected: &mut Affected) {
        let key = pod_key(entry);
        let known = self.workload_entries().get(entry).cloned();
        let (old, new) = (self.pods().get(&key).cloned(), known.as_ref().and_then(pod));
        if old != new {
            affected.merge(self.change_pod(key.clone(), new));
        }
        let services = |service: &&Service| service.namespace == entry.namespace;
        let selecting = known.iter().flat_map(|known| {
            let services = self.services().values().filter(services);
            services.filter_map(|service| slice(service, known))
        });
        let mut slices: Vec<(Key, Option<Slice>)> = selecting.map(|slice| (slice.key(), Some(slice))).collect();
        let kept: Vec<Key> = slices.iter().map(|(kept, _)| kept.clone()).collect();
        let gone = self.slices_with(&key).map(Slice::key).filter(|of| !kept.contains(of));
        slices.extend(gone.map(|key| (key, None)));
        self.replace_slices(slices, affected);
    }

    /// Replaces the slices of a Service that has changed.
    pub(super) fn derive_of_service(&mut self, service: &Key, affected: &mut Affected) {
        if self.workload_entries().is_empty() {
            return;
        }
        let known = self.services().get(service);
        let of = |entry: &WorkloadEntry| {
            let key = Key {
                namespace: service.namespace.clone(),
                name: format!("{}:{}", pod_key(&entry.key()).name, service.name).into(),
            };
            (key, known.and_then(|known| slice(known, entry)))
        };
        let slices: Vec<_> = self.workload_entries().in_namespace(&service.namespace).map(of).collect();
        self.replace_slices(slices, affected);
    }

    fn replace_slices(&mut self, slices: Vec<(Key, Option<Slice>)>, affected: &mut Affected) {
        for (key, slice) in slices {
            if self.slices().get(&key) != slice.as_ref() {
                affected.merge(self.change_slice(key, slice));
            }
        }
    }

    /// Returns the WorkloadEntries that were registered for a group, in no order.
    pub fn entries_of_group(&self, group: &Key) -> impl Iterator<Item = &WorkloadEntry> {
        let of = |entry: &&WorkloadEntry| entry.spec.as_ref().is_some_and(|spec| *spec.group == *group.name);
        self.workload_entries().in_namespace(&group.namespace).filter(of)
    }

    /// Returns the group for which a WorkloadEntry was registered.
    pub fn group_of(&self, entry: &WorkloadEntry) -> Option<&WorkloadGroup> {
        let name = entry.spec.as_ref().map(|spec| &*spec.group).filter(|group| !group.is_empty())?;
        self.workload_groups().get(&Key::new(&entry.namespace, name))
    }

    /// Returns the WorkloadEntry that a pod stands for.
    pub fn entry_of_pod(&self, pod: &Key) -> Option<&WorkloadEntry> {
        let name = name::parse_workload_entry(&pod.name)?;
        self.workload_entries().get(&Key { namespace: pod.namespace.clone(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_workload_is_found_as_in_istio() {
        let spec: WorkloadEntrySpec =
            serde_json::from_value(serde_json::json!({"address": "10.0.0.1", "ports": {"http": 8080, "admin": 9000}}))
                .unwrap();
        let port = |name: &str, target| ServicePort { name: name.into(), number: 80, target, ..ServicePort::default() };
        for (port, expected) in [
            (port("http", TargetPort::Number(1)), Some(8080)),
            (port("web", TargetPort::Name("admin".into())), Some(9000)),
            (port("web", TargetPort::Name("other".into())), None),
            (port("web", TargetPort::Number(81)), Some(81)),
            (port("web", TargetPort::Same), Some(80)),
        ] {
            assert_eq!(port_of(&spec, &port), expected, "{port:?}");
        }
    }

    #[test]
    fn addresses_of_the_dialling_host_are_no_workloads() {
        for (address, usable) in [("10.0.0.1", true), ("127.0.0.1", false), ("169.254.169.254", false), ("vm", false)] {
            let spec = WorkloadEntrySpec { address: address.into(), ..WorkloadEntrySpec::default() };
            assert_eq!(address_of(&spec).is_some(), usable, "{address}");
        }
    }
}
