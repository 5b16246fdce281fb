//! The routes of the servers of a Gateway: for each server, a table of each host that it has in common with VirtualServices.
//!
//! As in Istio, the VirtualServices of a host are merged, the oldest first, and routes that match every request come last.
//! Of a host of a server and one of a VirtualService, the one that the other covers names the table. Routers of different
//! namespaces may see different VirtualServices.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::networking::gateway::{Carries, Server};
use bytes::Bytes;
use prost::Message as _;
use wire::Kind as ResourceKind;
use wire::discovery::{HttpRoute, Protocol, RouteTable};

use super::visibility::Visibility;
use super::{ByNamespace, Host, MAX_NAMESPACES, Ports, RoutedProxies, http, layer4, matches, routes};
use crate::compile::resource::Compiled;
use crate::inventory::Inventory;
use crate::objects::{Key, Kind, Record as _, Text, VirtualService};

/// Returns the collection of the tables of a server. Names of ports are unique within a Gateway.
pub(in crate::compile) fn collection(gateway: &Key, server: &Server) -> String {
    format!("{gateway}/{}", server.port.as_ref().map_or("", |port| &port.name))
}

/// Compiles the tables of a host on a Gateway.
pub(in crate::compile) fn compile(inventory: &Inventory, key: &Key, hostname: &Text) -> Compiled {
    let Some(own) = inventory.primary() else { return Compiled::default() };
    let Some((gateway, spec)) = own.gateways().get(key).and_then(|of| Some((of, of.spec.as_ref()?))) else {
        return Compiled::default();
    };
    let mut bound: Vec<(bool, &VirtualService)> = own.bound_to(key, hostname).collect();
    bound.sort_by_key(|(_, rule)| rule.age());
    let proxies = RoutedProxies::Routers { gateway: key, port: 0 };
    let mut host = Host { inventory, own, hostname, ports: Ports::new(), proxies, notices: Vec::new() };
    let mut servers: BTreeMap<usize, Vec<(bool, Option<&Text>)>> = BTreeMap::new();
    for of in own.servers_for(key, hostname) {
        servers.entry(of.server).or_default().push((*of.host == **hostname, of.namespace.as_ref()));
    }
    let mut known: HashMap<(u32, u8, Vec<Key>), ByNamespace> = HashMap::new();
    let mut resources = Vec::new();
    for (index, hosts) in servers {
        let Some((server, port)) = spec.servers.get(index).and_then(|of| Some((of, of.port.as_ref()?))) else {
            continue;
        };
        let admits = |own: bool, rule: &VirtualService| {
            hosts
                .iter()
                .any(|(of_server, namespace)| (own || *of_server) && namespace.is_none_or(|of| *of == rule.namespace))
        };
        let rules: Vec<&VirtualService> =
            bound.iter().filter(|(own, rule)| admits(*own, rule)).map(|(_, rule)| *rule).collect();
        if rules.is_empty() {
            continue;
        }
        let carries = server.carries();
        let content = (port.number, carries as u8, rules.iter().map(|rule| rule.key()).collect());
        let tables = known.entry(content).or_insert_with(|| {
            host.proxies = RoutedProxies::Routers { gateway: key, port: port.number };
            let protocol = if carries == Carries::Tls { Protocol::Tls } else { Protocol::Tcp };
            host.ports = u16::try_from(port.number).map(|number| (number, protocol)).into_iter().collect();
            by_namespace(&mut host, carries, &rules)
        });
        let collection = Text::from(collection(&gateway.key(), server));
        let name = Text::from(format!("{collection}|{hostname}"));
        resources.extend(tables.clone().resources(ResourceKind::RouteTable, &name, &[collection]));
    }
    Compiled { resources, notices: host.notices, ..Compiled::default() }
}

/// Returns the tables that routers of each namespace have.
fn by_namespace(host: &mut Host<'_>, carries: Carries, rules: &[&VirtualService]) -> ByNamespace {
    let default = &host.inventory.mesh().virtual_service_export_to;
    let visible: Vec<(&VirtualService, Visibility)> = rules
        .iter()
        .filter_map(|rule| Some((*rule, Visibility::of(&rule.spec.as_ref()?.export_to, default, &rule.namespace))))
        .collect();
    let mut namespaces: BTreeSet<&Text> = BTreeSet::new();
    for (rule, visibility) in &visible {
        let Visibility::Namespaces(named) = visibility else { continue };
        let before = namespaces.len();
        namespaces.extend(named.iter().take(MAX_NAMESPACES - before.min(MAX_NAMESPACES)));
        if named.iter().any(|namespace| !namespaces.contains(namespace)) {
            let text = format!(
                "more than {MAX_NAMESPACES} namespaces have routes of their own to {}: it has no effect in the further ones",
                host.hostname
            );
            host.note_of(rule, "IST0133", text);
        }
    }
    let public: Vec<&VirtualService> =
        visible.iter().filter(|(_, of)| *of == Visibility::Public).map(|(rule, _)| *rule).collect();
    let most = table(host, carries, &public);
    let others = namespaces.into_iter().map(|namespace| {
        let seen: Vec<&VirtualService> =
            visible.iter().filter(|(_, of)| of.includes(namespace)).map(|(rule, _)| *rule).collect();
        (namespace.clone(), table(host, carries, &seen))
    });
    ByNamespace { others: others.collect(), most }
}

/// Merges VirtualServices, the oldest first. Returns `None` if none of them has a route for what the servers carry.
fn table(host: &mut Host<'_>, carries: Carries, rules: &[&VirtualService]) -> Option<Bytes> {
    let mut table = RouteTable::default();
    let (mut all, mut parts) = (None, 0);
    for rule in rules {
        let Some(spec) = &rule.spec else { continue };
        if is_empty(&table) && all.is_none() {
            table.source = rule.key().to_string();
        }
        match carries {
            Carries::Http => {
                for route in routes::requests(host, rule, spec, &mut parts) {
                    let (specific, catch_all) = split(route);
                    table.http.extend(specific);
                    match (&all, catch_all) {
                        (None, Some(route)) => all = Some((rule.key(), route)),
                        (Some((earlier, _)), Some(_)) => note_unreached(host, rule, earlier),
                        (_, None) => {}
                    }
                }
            }
            Carries::Tcp => table.tcp.extend(layer4::tcp(host, rule, &spec.tcp)),
            Carries::Tls => table.tls.extend(layer4::tls(host, rule, &spec.tls)),
        }
    }
    table.http.extend(all.map(|(_, route)| route));
    (!is_empty(&table)).then(|| table.encode_to_vec().into())
}

fn is_empty(table: &RouteTable) -> bool {
    table.http.is_empty() && table.tcp.is_empty() && table.tls.is_empty()
}

/// Splits a route into the part with conditions and the one that matches every request.
fn split(mut route: HttpRoute) -> (Option<HttpRoute>, Option<HttpRoute>) {
    if !http::matches_all(&route) {
        return (Some(route), None);
    }
    let specific: Vec<_> = route.matches.iter().filter(|matched| !matches::is_any(matched)).cloned().collect();
    route.matches.retain(matches::is_any);
    let specific = (!specific.is_empty()).then(|| HttpRoute { matches: specific, ..route.clone() });
    (specific, Some(route))
}

fn note_unreached(host: &mut Host<'_>, rule: &VirtualService, earlier: &Key) {
    let text = format!(
        "its route for every request to {} has no effect: that of VirtualService {earlier}, which is older, takes precedence",
        host.hostname
    );
    host.note(Kind::VirtualService, &rule.key(), "IST0130", text);
}
