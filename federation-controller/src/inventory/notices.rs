//! Notices: objects that are refused or have no effect, with the reason, for `/debug/clusters` and `isthmus status`.

use super::{ClusterInventory, Inventory};
use crate::objects::{Key, Record as _, Service, Text};

/// The number of notices of one cluster.
const LINES: usize = 20;

impl Inventory {
    /// Returns the notices of all clusters.
    pub fn notices(&self) -> Vec<String> {
        let mut all = Vec::new();
        for cluster in self.clusters.values() {
            let mut lines: Vec<String> = Vec::new();
            self.notices_of_networks(cluster, &mut lines);
            self.notices_of_gateways(cluster, &mut lines);
            self.notices_of_components(cluster, &mut lines);
            let left_out = cluster.left_out().map(|(kind, count)| {
                format!("{count} objects of kind {} beyond {} are left out", kind.as_str(), kind.limit())
            });
            lines.extend(left_out);
            lines.sort_unstable();
            let rest = lines.len().saturating_sub(LINES);
            lines.truncate(LINES);
            if rest > 0 {
                lines.push(format!("and {rest} more"));
            }
            all.extend(lines.into_iter().map(|line| format!("Cluster {}: {line}", cluster.info.name)));
        }
        all
    }

    fn notices_of_networks(&self, cluster: &ClusterInventory, to: &mut Vec<String>) {
        for (network, count) in cluster.pod_networks().filter(|(network, _)| !self.may_name(cluster, network)) {
            to.push(format!(
                "{count} pods are labelled with network {network}, which is another cluster's: they are not used"
            ));
        }
        if cluster.network().is_empty() && self.clusters.len() > 1 {
            to.push(
                "its network is unknown, so no other cluster can use its services: label the root namespace with topology.istio.io/network, or annotate the remote secret with it"
                    .into(),
            );
        }
        // Only if the label alone decides, not the secret.
        if !cluster.info.own && cluster.info.network.is_empty() {
            for other in self.networks.neighbours(cluster) {
                to.push(format!(
                    "its label names network {}, which is also the network of {other}, so proxies there connect to its pods directly; to decide this on the primary's side, annotate the remote secret with topology.istio.io/network",
                    cluster.network()
                ));
            }
        }
    }

    fn notices_of_gateways(&self, cluster: &ClusterInventory, to: &mut Vec<String>) {
        let gateways = cluster.services().values().filter_map(|service| Some((service, service.network.as_ref()?)));
        for (service, network) in gateways {
            let key = &service.key();
            if !self.may_name(cluster, network) {
                to.push(format!(
                    "Service {key} is labelled as a gateway of network {network}, which is another cluster's: refused"
                ));
            } else if only_by_name(service) {
                to.push(unreachable_gateway(key, service, network));
            }
        }
    }

    /// Every primary has Services of the components, which are never used in place of this controller's own. Their exports
    /// are refused.
    fn notices_of_components(&self, cluster: &ClusterInventory, to: &mut Vec<String>) {
        if cluster.info.own {
            return;
        }
        let exports = cluster.exports().in_namespace(&self.settings.namespace);
        to.extend(exports.map(|of| format!("ServiceExport {} is in the components' namespace: refused", of.key())));
    }

    fn may_name(&self, cluster: &ClusterInventory, network: &Text) -> bool {
        self.networks.may_name(&cluster.info.name, network)
    }
}

/// Returns whether a gateway has host names and no address. Proxies connect to addresses only.
pub(crate) fn only_by_name(service: &Service) -> bool {
    service.external_ips.is_empty() && !service.external_names.is_empty()
}

/// Returns the notice of a gateway without an address.
pub(crate) fn unreachable_gateway(key: &Key, service: &Service, network: &Text) -> String {
    let names: Vec<&str> = service.external_names.iter().take(3).map(|name| &**name).collect();
    format!(
        "Service {key} is a gateway of network {network} that has a host name only ({}): it is not used; give it an address in spec.externalIPs",
        names.join(", ")
    )
}
