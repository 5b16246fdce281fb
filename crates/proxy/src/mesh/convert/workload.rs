//! Conversion of the own workload, with the limits of its ports.

use std::collections::HashMap;
use std::sync::Arc;

use wire::discovery as message;

use super::{Result, federation, ip, labels, locality, port_number, protocol, workload_labels};
use crate::mesh::model::{ApplicationAddress, InboundLimits, InboundPort, OwnWorkload};

/// The limits of the application's ports. A port keeps its limits when the workload changes, so that connections and
/// requests in progress still count.
#[derive(Debug, Default)]
pub(in crate::mesh) struct PortLimits {
    by_port: HashMap<u16, Arc<InboundLimits>>,
}

impl PortLimits {
    fn set(&mut self, port: u16, message: Option<&message::InboundLimits>) -> Option<Arc<InboundLimits>> {
        let max = |configured: u32| if configured == 0 { u64::MAX } else { configured.into() };
        let configured = message.copied().unwrap_or_default();
        let limited = configured != message::InboundLimits::default();
        if !limited && !self.by_port.contains_key(&port) {
            return None;
        }
        let limits = self.by_port.entry(port).or_default();
        limits.connections.set_max(max(configured.max_connections));
        limits.requests.set_max(max(configured.max_requests));
        limited.then(|| limits.clone())
    }
}

/// Converts the own workload.
pub(in crate::mesh) fn own_workload(message: &message::Workload, limits: &mut PortLimits) -> Result<OwnWorkload> {
    let numbers = message.ports.iter().map(|port| port_number(port.number)).collect::<Result<Vec<_>>>()?;
    let mut ports: Vec<InboundPort> = numbers
        .into_iter()
        .zip(&message.ports)
        .map(|(number, port)| {
            Ok(InboundPort {
                number,
                protocol: protocol(port.protocol),
                service: port.service.as_str().into(),
                limits: limits.set(number, port.limits.as_ref()),
                application: application(port)?,
                callers: port.callers.as_ref().map(federation::callers),
            })
        })
        .collect::<Result<_>>()?;
    ports.sort_by_key(|port| port.number);
    ports.dedup_by_key(|port| port.number);
    Ok(OwnWorkload {
        locality: locality(message.locality.as_ref()),
        cluster: message.cluster.as_str().into(),
        network: message.network.as_str().into(),
        node: message.node.as_str().into(),
        pod_labels: labels(&message.pod_labels),
        labels: workload_labels(message.labels.as_ref()),
        ports: ports.into(),
        probe: message.probe.clone(),
    })
}

/// Returns where the application of a port is, if not at the address that clients connect to.
fn application(port: &message::InboundPort) -> Result<Option<ApplicationAddress>> {
    if !port.target_path.is_empty() {
        return Ok(Some(ApplicationAddress::Unix(port.target_path.as_str().into())));
    }
    if port.target_port == 0 {
        return Ok(None);
    }
    let number = port_number(port.target_port)?;
    let ip = ip(&port.target_ip)?;
    Ok(Some(match ip.is_unspecified() {
        true => ApplicationAddress::SameAddress(number),
        false => ApplicationAddress::At((ip, number).into()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(max_requests: u32) -> message::Workload {
        let limits = Some(message::InboundLimits { max_connections: 0, max_requests });
        let port = message::InboundPort { number: 9080, limits, ..Default::default() };
        message::Workload { ports: vec![port], ..Default::default() }
    }

    #[test]
    fn requests_in_progress_count_when_limits_change() {
        let mut limits = PortLimits::default();
        let mut requests = |max| own_workload(&workload(max), &mut limits).unwrap().ports[0].limits.clone();
        assert_eq!(requests(0), None);
        let one = requests(1).unwrap();
        let permit = one.requests.acquire();
        assert!(permit.is_some() && one.requests.acquire().is_none());
        let two = requests(2).unwrap();
        assert_eq!((two.requests.in_use(), two.requests.acquire().is_some()), (1, true));
        assert_eq!(requests(0), None, "unlimited");
        assert_eq!(requests(1).unwrap().requests.in_use(), 1);
        assert!(two.connections.acquire().is_some());
    }
}
