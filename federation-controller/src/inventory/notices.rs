//! Notices: objects that are refused or have no effect, with the reason, for `/debug/clusters` and `isthmus status`.

use std::collections::BTreeSet;

use api::compatibility::KindWithoutEffect;

use super::{ClusterInventory, Inventory, RuleNotice};
use crate::objects::{Key, Kind, Record, Service, Text};

/// The number of notices of one cluster.
const LINES: usize = 20;

/// The number of notices about objects of one cluster.
pub(super) const OBJECTS: usize = 100;

/// The number of notices about rules of routing that are looked at.
const RULES: usize = 1_000;

/// A notice about an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectNotice {
    /// The cluster.
    pub cluster: Text,
    /// The kind of the object.
    pub kind: NoticedKind,
    /// The namespace and name.
    pub object: Key,
    /// What is wrong and what to do.
    pub message: String,
}

/// The kind of an object with a notice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NoticedKind {
    /// A kind that has no effect at all. Its notices last.
    WithoutEffect(&'static KindWithoutEffect),
    /// A watched kind. Its notices may pass, such as that of a LoadBalancer which has no address yet.
    Watched(Kind),
    /// A Service with annotations that set its routes.
    Annotated,
}

impl ObjectNotice {
    /// Returns what has happened in one word, as Events have it.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            NoticedKind::WithoutEffect(_) => "NoEffect",
            NoticedKind::Annotated => "Ineffective",
            NoticedKind::Watched(Kind::Export) => "NotExported",
            NoticedKind::Watched(Kind::FederationPolicy) => "Refused",
            NoticedKind::Watched(
                Kind::Gateway
                | Kind::VirtualService
                | Kind::DestinationRule
                | Kind::ServiceEntry
                | Kind::WorkloadEntry
                | Kind::Sidecar
                | Kind::ProxyConfig
                | Kind::WorkloadGroup
                | Kind::TrafficSplit
                | Kind::HttpRouteGroup
                | Kind::ServiceProfile
                | Kind::EnvoyFilter
                | Kind::RateLimit
                | Kind::Server
                | Kind::HttpLocalRateLimitPolicy,
            ) => "Ineffective",
            NoticedKind::Watched(
                Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication,
            ) => "NotEnforced",
            NoticedKind::Watched(_) => "GatewayNotUsed",
        }
    }
}

/// The notices of one cluster.
#[derive(Default)]
struct Notices {
    lines: Vec<String>,
    objects: Vec<(NoticedKind, Key, String)>,
}

impl Notices {
    fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Adds a notice about an object.
    fn object(&mut self, kind: Kind, key: &Key, line: String) {
        self.objects.push((NoticedKind::Watched(kind), key.clone(), line));
    }

    /// Adds a notice about a rule of routing.
    fn rule(&mut self, of: RuleNotice) {
        let RuleNotice { kind, object, code, text } = of;
        let line = format!("{} {object}: {text} ({code})", kind.as_str());
        let kind = if kind == Kind::Service { NoticedKind::Annotated } else { NoticedKind::Watched(kind) };
        self.objects.push((kind, object, line));
    }
}

impl Inventory {
    /// Returns the notices of all clusters.
    pub fn notices(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.mesh_notices.lines.iter().take(LINES).map(|line| format!("Mesh settings: {line}")).collect();
        if let Some(domain) = self.mesh_notices.trust_domain.as_ref().filter(|domain| **domain != self.trust_domain) {
            all.push(format!(
                "Mesh settings: trustDomain is {domain}, but the controller was started with --trust-domain={}, which decides",
                self.trust_domain
            ));
        }
        all.extend(self.lines_without_effect());
        for cluster in self.clusters.values() {
            let Notices { mut lines, objects } = self.notices_of(cluster);
            lines.extend(objects.into_iter().map(|(_, _, line)| line));
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

    /// Returns the notices about objects, a bounded number of each cluster.
    pub fn object_notices(&self) -> BTreeSet<ObjectNotice> {
        let mut all: BTreeSet<ObjectNotice> = self.objects_without_effect().collect();
        for cluster in self.clusters.values().filter(|cluster| cluster.synced()) {
            let mut objects = self.notices_of(cluster).objects;
            objects.sort_unstable();
            let name = &cluster.info.name;
            all.extend(objects.into_iter().take(OBJECTS).map(|(kind, object, message)| ObjectNotice {
                cluster: name.clone(),
                kind,
                object,
                message,
            }));
        }
        all
    }

    fn notices_of(&self, cluster: &ClusterInventory) -> Notices {
        let mut notices = Notices::default();
        self.notices_of_networks(cluster, &mut notices);
        self.notices_of_gateways(cluster, &mut notices);
        self.notices_of_components(cluster, &mut notices);
        notices_of_denied(cluster, &mut notices);
        if cluster.synced() {
            self.notices_of_exports(cluster, &mut notices);
            if cluster.info.own {
                let rules: BTreeSet<RuleNotice> = self.all_rule_notices().collect();
                rules.into_iter().take(RULES).for_each(|of| notices.rule(of));
            }
            let policies: BTreeSet<RuleNotice> = self.policy_notices(cluster).collect();
            policies.into_iter().take(RULES).for_each(|of| notices.rule(of));
            let gateways: BTreeSet<RuleNotice> = self.gateway_notices(cluster).collect();
            gateways.into_iter().take(RULES).for_each(|of| notices.rule(of));
        }
        for (kind, count) in cluster.left_out() {
            notices.push(format!("{count} objects of kind {} beyond {} are left out", kind.as_str(), kind.limit()));
        }
        notices
    }

    fn notices_of_networks(&self, cluster: &ClusterInventory, to: &mut Notices) {
        for (network, count) in cluster.pod_networks().filter(|(network, _)| !self.may_name(cluster, network)) {
            to.push(format!(
                "{count} pods are labelled with network {network}, which is another cluster's: they are not used"
            ));
        }
        if let Some(mut others) = self.networks.refusal(cluster) {
            let (network, other) = (cluster.claimed_network(), others.next().map_or("", |name| name));
            to.push(format!(
                "its label names network {network}, which is the network of {other}: refused, because its label alone cannot put it on another cluster's network; if they share it, say so on the primary's side: isthmus join --network {network}, or annotate the remote secret with topology.istio.io/network"
            ));
        } else if cluster.network().is_empty() && self.clusters.len() > 1 {
            to.push(
                "its network is unknown, so no other cluster can use its services: label the root namespace with topology.istio.io/network, or annotate the remote secret with it"
                    .into(),
            );
        }
    }

    fn notices_of_gateways(&self, cluster: &ClusterInventory, to: &mut Notices) {
        let gateways = cluster.gateway_services().filter_map(|service| Some((service, service.network.as_ref()?)));
        for (service, network) in gateways {
            let key = &service.key();
            if !self.may_name(cluster, network) {
                to.object(Kind::Service, key, format!(
                    "Service {key} is labelled as a gateway of network {network}, which is another cluster's: refused"
                ));
            } else if only_by_name(service) {
                to.object(Kind::Service, key, unreachable_gateway(key, service, network));
            } else if service.gateway_node_port().is_some() {
                if cluster.nodes_selected_by(service).next().is_none() {
                    to.object(Kind::Service, key, format!(
                        "Service {key} is a gateway of network {network} whose annotation traffic.istio.io/nodeSelector selects no node with an address: it is not used"
                    ));
                }
            } else if service.external_ips.is_empty() {
                to.object(Kind::Service, key, format!(
                    "Service {key} is a gateway of network {network} without an address: it is not used; make it a LoadBalancer, give it an address in spec.externalIPs, or reach it at its node port by the annotation traffic.istio.io/nodeSelector with the labels of nodes ({{}}: all)"
                ));
            } else if service.gateway_port == Some(0) {
                to.object(Kind::Service, key, format!(
                    "Service {key} is a gateway of network {network} whose label networking.istio.io/gatewayPort is not a port: it is not used"
                ));
            } else if !service.ports.iter().any(|port| port.number == service.gateway_port()) {
                to.object(Kind::Service, key, format!(
                    "Service {key} is a gateway of network {network} that does not expose port {}: it is not used; expose the port, or name another one in the label networking.istio.io/gatewayPort",
                    service.gateway_port()
                ));
            }
        }
    }

    /// Exports without effect.
    fn notices_of_exports(&self, cluster: &ClusterInventory, to: &mut Notices) {
        for (key, text) in self.refusal_lines(cluster) {
            match cluster.exports().contains(key) {
                true => to.object(Kind::Export, key, format!("ServiceExport {key} has no effect: {text}")),
                false => to.push(text),
            }
        }
        for export in cluster.exports().values() {
            let key = &export.key();
            let reason = match cluster.services().get(key) {
                _ if never_exported(key) => "no cluster exports services of kube-system, or default/kubernetes",
                None => "the cluster has no such Service",
                Some(service) if service.external => "the Service is of type ExternalName",
                Some(service) if service.node_local => {
                    "the Service has internalTrafficPolicy Local, so its endpoints serve their own node alone"
                }
                Some(_) if lacks_sidecars(cluster, key) => "no endpoint has a sidecar, so other networks cannot use it",
                Some(_) => continue,
            };
            to.object(Kind::Export, key, format!("ServiceExport {key} has no effect: {reason}"));
        }
        let exports = cluster.exports().values().next().is_some() || cluster.gateways_with_pods().next().is_some();
        let network = cluster.network();
        let elsewhere = |of: &&ClusterInventory| of.network() != network && !of.network().is_empty();
        let lacks_gateway = !network.is_empty() && !cluster.gateway_networks().any(|of| of == network);
        if exports
            && lacks_gateway
            && let Some(other) = self.clusters.values().find(elsewhere)
        {
            to.push(format!(
                "it exports services and has no east-west gateway of network {network}, so clusters of other networks, such as {}, cannot use them: label a Service of type LoadBalancer with topology.istio.io/network",
                other.info.name
            ));
        }
        let exporting = cluster.gateways().values().filter(|gateway| gateway.exports());
        for gateway in exporting.filter(|gateway| !cluster.selects_pods(gateway)) {
            let key = &gateway.key();
            let line = format!("Gateway {key} exports nothing: its selector matches no pod of the cluster");
            to.object(Kind::Gateway, key, line);
        }
    }

    /// Every primary has Services of the components, which are never used in place of this controller's own. Their exports
    /// are refused.
    fn notices_of_components(&self, cluster: &ClusterInventory, to: &mut Notices) {
        if cluster.info.own {
            return;
        }
        let exports = cluster.exports().in_namespace(&self.settings.namespace);
        for key in exports.map(Record::key) {
            to.object(Kind::Export, &key, format!("ServiceExport {key} is in the components' namespace: refused"));
        }
    }

    fn may_name(&self, cluster: &ClusterInventory, network: &Text) -> bool {
        self.networks.may_name(&cluster.info.name, network)
    }
}

/// Kinds that the cluster denies the controller.
fn notices_of_denied(cluster: &ClusterInventory, to: &mut Notices) {
    let Some((_, why)) = cluster.denied().next() else { return };
    let kinds: Vec<&str> = cluster.denied().map(|(kind, _)| kind.as_str()).collect();
    let grant = match cluster.info.own {
        true => "permit it in the ClusterRole of the controller's service account",
        false => "`isthmus join` grants it to the reader account; a cluster that was joined before needs it again",
    };
    to.push(format!(
        "the controller is not permitted to read objects of kind {} there, so those that it has not read have no effect ({why}): {grant}",
        kinds.join(", ")
    ));
}

/// Returns whether a service is each cluster's own, whatever is exported.
pub(crate) fn never_exported(service: &Key) -> bool {
    &*service.namespace == "kube-system" || (&*service.namespace == "default" && &*service.name == "kubernetes")
}

/// Returns whether a service has endpoints, and no pod of them has a sidecar.
fn lacks_sidecars(cluster: &ClusterInventory, service: &Key) -> bool {
    let endpoints = || cluster.slices_of(service).flat_map(|slice| &slice.endpoints);
    let keys = endpoints()
        .filter_map(|endpoint| endpoint.pod.as_ref())
        .map(|name| Key { namespace: service.namespace.clone(), name: name.clone() });
    let mut pods = keys.filter_map(|pod| cluster.pods().get(&pod));
    endpoints().next().is_some() && !pods.any(|pod| pod.accepts_mutual_tls())
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
