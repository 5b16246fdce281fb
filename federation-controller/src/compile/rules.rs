//! The rules of routing of a host: its RouteTable and its DestinationPolicy.
//!
//! - [`routes`] chooses the VirtualService that has effect, by host, visibility and age, and assembles its routes;
//!   [`delegate`] merges those that it delegates to another one. [`http`], [`matches`], [`forward`] and [`layer4`] translate.
//! - [`gateway`] has the routes of the servers of ingress and egress gateways, which merge VirtualServices.
//! - [`service_rules`] has the routes of hosts without a VirtualService: the weights of TrafficSplits and ServiceProfiles
//!   ([`shares`]), the routes of ServiceProfiles ([`profile`]), and their conditions ([`conditions`]).
//! - [`policies`] chooses DestinationRules, and [`merge`] merges them; [`traffic_policy`] and [`load_balancer`] translate. [`subsets`] are those
//!   of a service for all clients.
//!
//! Clients of different namespaces may have different rules. Each outcome that differs is a resource of its own, for the
//! namespaces that have it; all other namespaces share one. Conditions on the labels of a client's pod, and on its
//! namespace within a VirtualService, are part of the resource, and evaluated by the proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::gateway::gateway_of;
use api::networking::virtual_service::MESH_GATEWAY;
use bytes::Bytes;
use wire::Kind as ResourceKind;
use wire::discovery::Protocol;

mod conditions;
mod delegate;
mod forward;
pub(super) mod gateway;
mod http;
mod layer4;
mod load_balancer;
mod matches;
mod merge;
mod policies;
mod profile;
mod routes;
mod service_rules;
mod shares;
pub(super) mod subsets;
mod traffic_policy;
pub(super) mod visibility;

use super::entry;
use super::resource::{Audience, Compiled, Resource};
use crate::inventory::export;
use crate::inventory::rules::{Specificity, full_host};
use crate::inventory::{ClusterInventory, Definition, Inventory, RuleNotice};
use crate::objects::{Key, Kind, Record as _, Text};

/// The number of notices about the rules of one host.
const MAX_NOTICES: usize = 20;

/// The number of namespaces whose clients may have rules of a host that differ from those of all others.
const MAX_NAMESPACES: usize = 256;

/// Compiles the rules of a host. A host that is not one of a service has none.
pub(super) fn compile(inventory: &Inventory, hostname: &Arc<str>) -> Compiled {
    let Some(own) = inventory.primary() else { return Compiled::default() };
    let proxies = RoutedProxies::Sidecars;
    let mut host = Host { inventory, own, hostname, ports: Ports::new(), proxies, notices: Vec::new() };
    let Some(ports) = host.ports_of(hostname) else {
        host.note_unknown();
        return Compiled { notices: host.notices, ..Compiled::default() };
    };
    host.ports = ports;
    let mut resources = routes::compile(&mut host);
    resources.extend(policies::compile(&mut host));
    Compiled { resources, notices: host.notices, ..Compiled::default() }
}

/// The proxies that routes are compiled for.
#[derive(Clone, Copy)]
enum RoutedProxies<'a> {
    /// All sidecars.
    Sidecars,
    /// The routers that a Gateway selects, for one port of its servers.
    Routers { gateway: &'a Key, port: u32 },
}

impl RoutedProxies<'_> {
    /// Returns whether a condition with a list of gateways, in an object of a namespace, is for these proxies; empty: the list
    /// of the VirtualService, which includes them.
    fn are_in(self, gateways: &[String], namespace: &str) -> bool {
        let is = |name: &String| match self {
            RoutedProxies::Sidecars => name == MESH_GATEWAY,
            RoutedProxies::Routers { gateway, .. } => {
                name != MESH_GATEWAY && gateway_of(name, namespace) == (&*gateway.namespace, &*gateway.name)
            }
        };
        gateways.is_empty() || gateways.iter().any(is)
    }
}

/// The ports of a service, with their declared protocols.
type Ports = BTreeMap<u16, Protocol>;

/// The host whose rules are compiled.
struct Host<'a> {
    inventory: &'a Inventory,
    /// The cluster that rules are read from.
    own: &'a ClusterInventory,
    hostname: &'a Arc<str>,
    ports: Ports,
    proxies: RoutedProxies<'a>,
    notices: Vec<RuleNotice>,
}

impl<'a> Host<'a> {
    fn domain(&self) -> &'a str {
        &self.inventory.settings().cluster_domain
    }

    /// Returns the Service of the host.
    fn service(&self) -> Option<Key> {
        self.inventory.settings().service_of(self.hostname)
    }

    /// Returns the full name of a host in a rule of a namespace.
    fn full_host(&self, host: &str, namespace: &str) -> Text {
        full_host(host, namespace, self.domain())
    }

    /// Returns the ports of a service, or `None` if there is no such service. Clusters that export it say which, and the
    /// one that rules are read from; no other cluster does, unless the service is in others alone.
    fn ports_of(&self, hostname: &str) -> Option<Ports> {
        let mut definitions: Vec<Definition<'_>> =
            self.inventory.definitions(hostname).filter(|of| !of.service.external).collect();
        if definitions.is_empty() {
            return entry::ports(self.inventory, hostname);
        }
        let decides =
            |of: &Definition<'_>| of.cluster.info.own || export::reason(self.inventory, *of, hostname).is_some();
        if definitions.iter().any(decides) {
            definitions.retain(decides);
        }
        let mut ports = Ports::new();
        for port in definitions.iter().flat_map(|of| &of.service.ports) {
            ports.entry(port.number).or_insert(port.protocol);
        }
        Some(ports)
    }

    /// Adds a notice about a rule.
    fn note(&mut self, kind: Kind, object: &Key, code: &'static str, text: String) {
        let notice = RuleNotice { kind, object: object.clone(), code: code.into(), text };
        if self.notices.len() < MAX_NOTICES && !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Adds the notices about rules for a host that no service has.
    fn note_unknown(&mut self) {
        let unknown = format!("no service of the mesh has host {}", self.hostname);
        let exact = |specificity| specificity == Specificity::Exact;
        for (_, rule) in self.own.routes_for(self.hostname).filter(|(of, _)| exact(*of)) {
            self.note(
                Kind::VirtualService,
                &rule.key(),
                "IST0101",
                format!("{unknown}: its routes have no effect there"),
            );
        }
        for (_, rule) in self.own.policies_for(self.hostname).filter(|(of, _)| exact(*of)) {
            self.note(Kind::DestinationRule, &rule.key(), "IST0174", format!("{unknown}: it has no effect"));
        }
        let own = self.own;
        for split in own.splits_of(self.hostname) {
            self.note(Kind::TrafficSplit, &split.key(), "IST0101", format!("{unknown}: it has no effect"));
        }
        for profile in own.profiles_of(self.hostname) {
            let text = format!("{unknown}: it has no effect; its name is to be the full name of a service");
            self.note(Kind::ServiceProfile, &profile.key(), "IST0101", text);
        }
    }
}

/// What the clients of each namespace have.
#[derive(Clone)]
struct ByNamespace {
    /// Of all namespaces but those in `others`.
    most: Option<Bytes>,
    others: BTreeMap<Text, Option<Bytes>>,
}

impl ByNamespace {
    /// Returns a resource for each outcome.
    fn resources(self, kind: ResourceKind, name: &Arc<str>, keys: &[Arc<str>]) -> Vec<Resource> {
        let mut different: BTreeMap<Option<Bytes>, Vec<Text>> = BTreeMap::new();
        for (namespace, body) in self.others.into_iter().filter(|(_, body)| *body != self.most) {
            different.entry(body).or_default().push(namespace);
        }
        let mut all: Vec<Text> = different.values().flatten().cloned().collect();
        all.sort_unstable();
        let audience = if all.is_empty() { Audience::All } else { Audience::OtherNamespaces(all.into()) };
        let most = self.most.into_iter().map(|body| (audience.clone(), body));
        let others = different.into_iter().filter_map(|(body, namespaces)| {
            let audience = Audience::Namespaces { clusters: Box::default(), namespaces: namespaces.into() };
            Some((audience, body?))
        });
        let resource = |(audience, body)| Resource { kind, name: name.clone(), keys: keys.into(), audience, body };
        most.chain(others).map(resource).collect()
    }
}
