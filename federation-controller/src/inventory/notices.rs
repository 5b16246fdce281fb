//! What of the clusters' objects is not acted on, and why, in words for people.

use super::{Index, Key};
use crate::inventory::cluster::{ClusterIndex, at_most};
use crate::inventory::collection::Named as _;
use crate::objects::event::{Service, Text};

/// More lines of one cluster help nobody.
const LINES: usize = 20;

impl Index {
    /// What is refused or left out, by cluster. Computed when asked for.
    pub fn notices(&self) -> Vec<String> {
        let mut all = Vec::new();
        for cluster in self.clusters.values() {
            let mut of: Vec<String> = Vec::new();
            self.of_networks(cluster, &mut of);
            self.of_gateways(cluster, &mut of);
            self.of_own_names(cluster, &mut of);
            let left_out = cluster.left_out().map(|(kind, count)| {
                format!("{count} objects of kind {} beyond {} are left out", kind.as_str(), at_most(kind))
            });
            of.extend(left_out);
            of.sort_unstable();
            let rest = of.len().saturating_sub(LINES);
            of.truncate(LINES);
            if rest > 0 {
                of.push(format!("and {rest} more"));
            }
            all.extend(of.into_iter().map(|line| format!("Cluster {}: {line}", cluster.info.name)));
        }
        all
    }

    fn of_networks(&self, cluster: &ClusterIndex, to: &mut Vec<String>) {
        for (network, count) in cluster.pod_networks().filter(|(network, _)| self.foreign(cluster, network)) {
            to.push(format!(
                "{count} pods are labelled with network {network}, which another cluster is on: they are not told to anyone"
            ));
        }
        // Its own word alone, as long as the secret does not say it.
        if !cluster.info.own && cluster.info.network.is_empty() {
            for other in self.homes.neighbours(cluster) {
                to.push(format!(
                    "it says that it is on network {}, as {other} is, so its endpoints are dialled directly there; annotate its secret with topology.istio.io/network to decide that here",
                    cluster.network()
                ));
            }
        }
    }

    fn of_gateways(&self, cluster: &ClusterIndex, to: &mut Vec<String>) {
        let gateways = cluster.services.values().filter_map(|of| Some((of, of.network.as_ref()?)));
        for (service, network) in gateways {
            let key = &service.key();
            if self.foreign(cluster, network) {
                to.push(format!(
                    "Service {key} says it is a gateway of network {network}, which another cluster is on: refused"
                ));
            } else if only_by_name(service) {
                to.push(unreachable_gateway(key, service, network));
            }
        }
    }

    /// That another controller's cluster has the Services of our own components is no problem: every primary has them, and
    /// they are never taken for ours. To export them is one.
    fn of_own_names(&self, cluster: &ClusterIndex, to: &mut Vec<String>) {
        if cluster.info.own {
            return;
        }
        let exports = cluster.exports.keys().filter(|key| key.namespace == self.settings.namespace);
        to.extend(exports.map(|key| format!("ServiceExport {key} is in the namespace of our own components: refused")));
    }

    fn foreign(&self, cluster: &ClusterIndex, network: &Text) -> bool {
        !self.homes.may_name(&cluster.info.name, network)
    }
}

/// A gateway that has host names and no address: nothing is told of it, as a proxy dials addresses only.
pub(crate) fn only_by_name(service: &Service) -> bool {
    service.external_ips.is_empty() && !service.external_names.is_empty()
}

pub(crate) fn unreachable_gateway(key: &Key, service: &Service, network: &Text) -> String {
    let names: Vec<&str> = service.external_names.iter().take(3).map(|name| &**name).collect();
    format!(
        "Service {key} is a gateway of network {network} known by host name only ({}): it is not used; give it an address in spec.externalIPs",
        names.join(", ")
    )
}
