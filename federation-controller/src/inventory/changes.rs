//! What a change of an object affects. Each method stores a change of one kind, and looks at no more objects than the
//! change affects.

use std::net::IpAddr;

use api::security::peer_authentication::Mode;

use super::cluster::{Affected, ClusterInventory, PodSelector, Stored};
use crate::objects::{
    Export, FederationPolicy, Key, Namespace, Node, PeerAuthentication, Pod, Record, Rule, RuleSpec, Service, Slice,
    Text, Watched,
};

impl ClusterInventory {
    /// The network of a system namespace is the cluster's network.
    pub(super) fn change_namespace(&mut self, key: Key, new: Option<Namespace>) -> Affected {
        let before = self.claimed_network().clone();
        self.collections.namespaces.replace(&key, new);
        if *self.claimed_network() == before {
            return Affected::default();
        }
        self.network_changed = true;
        let mut affected = self.everything();
        affected.networks.insert(before);
        affected
    }

    /// The labels of a node are the locality of its pods. Gateways with node ports are reached at its addresses.
    pub(super) fn change_node(&mut self, key: Key, new: Option<Node>) -> Affected {
        let mut affected = Affected::default();
        let old = self.nodes().get(&key);
        let place = |node: &Node| (node.region.clone(), node.zone.clone(), node.subzone.clone());
        if old.map(place) != new.as_ref().map(place) {
            self.affect_node(&key.name, &mut affected);
        }
        let gateways = self.gateway_services().filter(|service| service.node_selector.is_some());
        affected.networks.extend(gateways.filter_map(|service| service.network.clone()));
        let before = self.locality();
        let versions = [self.collections.nodes.get(&key), new.as_ref()].map(|node| node.map(locality));
        for (locality, adds) in versions.into_iter().zip([false, true]).filter_map(|(of, adds)| Some((of?, adds))) {
            let count = self.relations.localities.entry(locality.clone()).or_default();
            *count = if adds { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.relations.localities.remove(&locality);
            }
        }
        self.collections.nodes.replace(&key, new);
        if self.locality() != before {
            // Endpoints and pods without a node have the cluster's locality.
            self.affect_node("", &mut affected);
        }
        affected
    }

    /// A service's ports are the inbound ports of its pods.
    pub(super) fn change_service(&mut self, key: Key, new: Option<Service>) -> Affected {
        let mut affected = Affected::default();
        let versions = [self.services().get(&key), new.as_ref()];
        affected.networks.extend(versions.into_iter().flatten().filter_map(|service| service.network.clone()));
        for slice in self.slices_of(&key) {
            affected.pods.extend(slice.pod_keys());
        }
        let with_ipv6 = |service: Option<&Service>| {
            usize::from(service.is_some_and(|service| service.cluster_ips.iter().any(IpAddr::is_ipv6)))
        };
        let (before, after) = (with_ipv6(self.services().get(&key)), with_ipv6(new.as_ref()));
        let used = self.uses_ipv6();
        self.relations.ipv6_services = self.relations.ipv6_services + after - before;
        // Services of all clusters have an allocated IPv6 address in this one.
        affected.everywhere = self.uses_ipv6() != used;
        let definition = |service: &Service| {
            let ports: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
            (service.external, service.node_local, ports)
        };
        if self.services().get(&key).map(definition) != new.as_ref().map(definition) {
            affected.definitions.insert(key.clone());
        }
        let linkerd = |service: Option<&Service>| service.and_then(|service| service.linkerd.clone());
        if self.info.own && linkerd(self.services().get(&key)) != linkerd(new.as_ref()) {
            affected.rules.insert(format!("{}.{}.svc.{}", key.name, key.namespace, self.domain()).into());
        }
        let is_gateway = new.as_ref().is_some_and(|service| service.network.is_some());
        let network = |service: Option<&Service>| service.and_then(|service| service.network.clone());
        self.network_changed |= network(self.services().get(&key)) != network(new.as_ref());
        match new {
            Some(new) => {
                let id = self.collections.services.insert(new);
                match is_gateway {
                    true => self.relations.gateway_services.insert(id),
                    false => self.relations.gateway_services.remove(&id),
                };
            }
            None => {
                if let Some((id, _)) = self.collections.services.remove(&key) {
                    self.relations.gateway_services.remove(&id);
                }
            }
        }
        self.derive_of_service(&key, &mut affected);
        affected.services.insert(key);
        affected
    }

    /// A slice has the endpoints of a service.
    pub(super) fn change_slice(&mut self, key: Key, new: Option<Slice>) -> Affected {
        let mut affected = Affected::default();
        self.relations.endpoints += new.as_ref().map_or(0, |new| new.endpoints.len());
        if let Some((id, old)) = self.collections.slices.remove(&key) {
            self.relations.endpoints -= old.endpoints.len();
            self.relations.slices_of.remove(&old.namespace, &old.service, id);
            for pod in old.pod_keys() {
                self.relations.slices_with.remove(&pod.namespace, &pod.name, id);
                affected.pods.insert(pod);
            }
            for node in nodes_of(&old) {
                self.relations.slices_on.remove(&node, &id);
            }
            self.affect_service(old.service_key(), &mut affected);
            self.affect_entries_of_slice(&old, &mut affected);
        }
        if let Some(mut new) = new {
            // Pod and slice share one copy of the pod's name, whichever came first.
            for name in new.endpoints.iter_mut().filter_map(|endpoint| endpoint.pod.as_mut()) {
                let pod = Key { namespace: new.namespace.clone(), name: name.clone() };
                if let Some(pod) = self.collections.pods.get(&pod) {
                    *name = pod.name.clone();
                }
            }
            self.affect_service(new.service_key(), &mut affected);
            let id = self.collections.slices.insert(new);
            let Some(new) = self.collections.slices.at(id) else { return affected };
            self.relations.slices_of.insert(&new.namespace, &new.service, id);
            for pod in new.pod_keys() {
                self.relations.slices_with.insert(&pod.namespace, &pod.name, id);
                affected.pods.insert(pod);
            }
            for node in nodes_of(new) {
                self.relations.slices_on.insert(&node, &id);
            }
            if let Some(new) = self.collections.slices.at(id) {
                self.affect_entries_of_slice(new, &mut affected);
            }
        }
        affected
    }

    /// A pod has the labels and identity of its endpoints.
    pub(super) fn change_pod(&mut self, key: Key, mut new: Option<Pod>) -> Affected {
        let mut affected = Affected::default();
        affected.pods.insert(key.clone());
        for slice in self.slices_with(&key) {
            self.affect_service(slice.service_key(), &mut affected);
            // Pod and slice share one copy of the pod's name, whichever came first.
            let mut names = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
            if let (Some(new), Some(name)) = (&mut new, names.find(|name| **name == key.name)) {
                new.name = name.clone();
            }
        }
        for pod in [self.pods().get(&key), new.as_ref()] {
            self.affect_entries_of_pod(pod, &mut affected);
        }
        let [before, after] = [self.pods().get(&key), new.as_ref()].map(|pod| self.exporting_gateways(pod));
        let old = self.pods().get(&key).map(|old| (old.node.clone(), old.network().cloned()));
        if let Some((node, network)) = old {
            if let Some(id) = self.pods().id(&key) {
                self.relations.pods_on.remove(&node, &id);
            }
            if let Some(count) = network.and_then(|network| self.relations.pod_networks.get_mut(&network)) {
                *count -= 1;
                if *count == 0 {
                    self.network_changed = true;
                    self.relations.pod_networks.retain(|_, count| *count > 0);
                }
            }
        }
        // A Gateway exports while it has pods: its first pod and its last one change the exports.
        let mut exports_change = false;
        for gateway in before.difference(&after) {
            if self.relations.gateway_pods.remove(gateway, &key) {
                self.index_hosts(gateway, false);
                exports_change = true;
            }
        }
        for gateway in after.difference(&before) {
            if self.relations.gateway_pods.insert(gateway, &key) {
                self.index_hosts(gateway, true);
                exports_change = true;
            }
        }
        affected.whole = exports_change;
        match new {
            Some(new) => {
                let (node, network) = (new.node.clone(), new.network().cloned());
                let id = self.collections.pods.insert(new);
                self.relations.pods_on.insert(&node, &id);
                if let Some(network) = network {
                    let count = self.relations.pod_networks.entry(network).or_default();
                    *count += 1;
                    self.network_changed |= *count == 1;
                }
            }
            None => drop(self.collections.pods.remove(&key)),
        }
        affected
    }

    /// A ServiceExport exports the service of its name.
    pub(super) fn change_export(&mut self, key: Key, new: Option<Export>) -> Affected {
        self.collections.exports.replace(&key, new);
        // Who may call the pods of a service depends on whether it is exported.
        let pods = self.slices_of(&key).flat_map(Slice::pod_keys).collect();
        Affected { services: [key.clone()].into(), definitions: [key].into(), pods, ..Affected::default() }
    }

    /// A FederationPolicy decides about exports of every cluster.
    pub(super) fn change_federation_policy(&mut self, key: Key, new: Option<FederationPolicy>) -> Affected {
        let old = self.federation_policies().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: &FederationPolicy| of.spec.clone();
        let changed = old.as_ref().and_then(in_force) != new.as_ref().and_then(in_force);
        self.collections.federation_policies.replace(&key, new);
        Affected { everywhere: changed, admissions: changed, ..Affected::default() }
    }

    /// A policy has a resource of its own, to which the workloads refer that it selects. A policy of the root namespace
    /// selects workloads of every namespace, as in Istio.
    pub fn change_policy<T: Stored>(&mut self, key: Key, new: Option<T>) -> Affected {
        let mut affected = Affected { policies: [(T::KIND, key.clone())].into(), ..Affected::default() };
        let old = T::collection(&mut self.collections).get(&key).cloned();
        for selector in [old.as_ref(), new.as_ref()].into_iter().flatten().filter_map(T::selector) {
            let namespace = selector.namespace.filter(|namespace| *namespace != self.root_namespace()).cloned();
            let labels = selector.labels.clone();
            // The own cluster's policies are for all workloads that the controller serves, others' for their own.
            let clusters = if self.info.own { Watched::Primary } else { T::WATCHED };
            affected.selectors.push(PodSelector { clusters, namespace, labels, routers: false });
        }
        T::collection(&mut self.collections).replace(&key, new);
        affected
    }

    /// A security policy, of which the last valid version is in force.
    pub(super) fn change_security_policy<S: RuleSpec>(&mut self, key: Key, new: Option<Rule<S>>) -> Affected
    where
        Rule<S>: Stored,
    {
        let old = Rule::<S>::collection(&mut self.collections).get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: &Rule<S>| (of.created, of.spec.clone(), of.selector.clone(), of.dry_run);
        if old.as_ref().map(in_force) == new.as_ref().map(in_force) {
            Rule::<S>::collection(&mut self.collections).replace(&key, new);
            return Affected::default();
        }
        self.change_policy(key, new)
    }

    /// Where a PeerAuthentication disables TLS, clients send plaintext to the pods that it selects.
    pub(super) fn change_peer_authentication(&mut self, key: Key, new: Option<PeerAuthentication>) -> Affected {
        let disables = |cluster: &Self| cluster.peer_authentications().values().any(disables_tls);
        let before = disables(self);
        let mut affected = self.change_security_policy(key, new);
        if before || disables(self) {
            affected.work += self.peer_authentications().len() as u64;
            // The precedence of others may have changed as well.
            match self.info.own {
                true => affected.everywhere = true,
                false => affected.whole = true,
            }
        }
        affected
    }

    /// The services and workloads on a node; of the empty name, those without a node.
    fn affect_node(&self, name: &str, affected: &mut Affected) {
        for slice in self.relations.slices_on.of(name).filter_map(|id| self.slices().at(*id)) {
            self.affect_service(slice.service_key(), affected);
        }
        for pod in self.relations.pods_on.of(name).filter_map(|id| self.pods().at(*id)) {
            self.affect_services_of(pod, affected);
            affected.pods.insert(pod.key());
        }
    }

    /// The services of all slices that list a pod.
    fn affect_services_of(&self, pod: &Pod, affected: &mut Affected) {
        // By the hash of the name alone: another pod's service is computed in vain once in four billion.
        let ids = self.relations.slices_with.of(&pod.namespace, &pod.name);
        for slice in ids.filter_map(|id| self.slices().at(id)) {
            self.affect_service(slice.service_key(), affected);
        }
    }

    /// A service, and its network if it is a gateway, whose locality is that of its endpoints.
    fn affect_service(&self, service: Key, affected: &mut Affected) {
        affected.networks.extend(self.services().get(&service).and_then(|service| service.network.clone()));
        affected.services.insert(service);
    }
}

/// Returns whether a PeerAuthentication disables TLS on a port.
fn disables_tls(policy: &PeerAuthentication) -> bool {
    policy
        .spec
        .as_ref()
        .is_some_and(|spec| spec.mode() == Mode::Disable || spec.ports().any(|(_, mode)| mode == Mode::Disable))
}

/// Returns the nodes of a slice's endpoints; empty for endpoints without one.
fn nodes_of(slice: &Slice) -> impl Iterator<Item = Text> {
    slice.endpoints.iter().map(|endpoint| endpoint.node.clone().unwrap_or_default())
}

fn locality(node: &Node) -> (Text, Text) {
    (node.region.clone(), node.zone.clone())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::inventory::SystemNamespaces;
    use crate::objects::event::Cluster;
    use crate::objects::{Gateway, Labels};

    #[test]
    fn a_changed_policy_affects_its_resource_and_the_pods_that_it_selects_and_selected() {
        let system = SystemNamespaces {
            root: "istio-system".into(),
            own: "isthmus-system".into(),
            domain: "cluster.local".into(),
        };
        let info = Cluster { name: "west".into(), own: true, network: "".into(), server: "".into(), joined: 0 };
        let mut cluster = ClusterInventory::new(info, system, SystemTime::UNIX_EPOCH);
        let gateway =
            |app: &str| Gateway::exporting("istio-system", "g", [("app".into(), app.into())].into(), &["*.local"]);
        let key = gateway("a").key();
        let select = |app: &str| PodSelector {
            clusters: Watched::Primary,
            namespace: None,
            labels: Labels::from([("app".into(), app.into())]),
            routers: false,
        };
        let affected = cluster.change_policy(key.clone(), Some(gateway("a")));
        assert_eq!(affected.policies, [(crate::objects::Kind::Gateway, key.clone())].into());
        assert_eq!(affected.selectors, [select("a")]);
        let affected = cluster.change_policy(key.clone(), Some(gateway("b")));
        assert_eq!(affected.selectors, [select("a"), select("b")]);
        let affected = cluster.change_policy::<Gateway>(key.clone(), None);
        assert_eq!(affected.selectors, [select("b")]);
        assert!(!cluster.gateways().contains(&key));
    }
}
