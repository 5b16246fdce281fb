//! The VirtualService that has effect on a host, and its RouteTable. Without one, [`service_rules`] has the table.
//!
//! Sidecars merge nothing, as in Istio: of the VirtualServices that a client's namespace sees, the one with the most
//! specific host has effect, then one that is exported to that namespace alone, then the oldest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use api::networking::VirtualServiceSpec;
use bytes::Bytes;
use prost::Message;
use wire::Kind as ResourceKind;
use wire::discovery::{HttpRoute, RouteTable};

use super::visibility::Visibility;
use super::{ByNamespace, Host, MAX_NAMESPACES, delegate, http, layer4, service_rules};
use crate::compile::resource::Resource;
use crate::inventory::rules::Specificity;
use crate::objects::{Key, Kind, Record as _, Text, VirtualService};

/// The number of routes and conditions of one table.
pub(super) const MAX_PARTS: usize = 20_000;

/// A VirtualService for the host. The first one in order has effect.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    specificity: Specificity,
    audience: Breadth,
    rule: &'a VirtualService,
}

/// To whom a VirtualService is exported, from a client's point of view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    /// To the client's namespace, which is its own.
    Own,
    /// To the client's namespace by name.
    Named,
    /// To all namespaces.
    Public,
}

impl Candidate<'_> {
    fn precedes(&self, other: &Self) -> bool {
        let rank = |of: &Self| (Reverse(of.specificity), of.audience);
        (rank(self), self.rule.age()) < (rank(other), other.rule.age())
    }
}

/// Compiles the tables of a host.
pub(super) fn compile(host: &mut Host<'_>) -> Vec<Resource> {
    let own = host.own;
    let (mut public, mut named): (Option<Candidate<'_>>, BTreeMap<Text, Candidate<'_>>) = (None, BTreeMap::new());
    let mut candidates: Vec<(Specificity, &VirtualService)> = Vec::new();
    for (specificity, rule) in own.routes_for(host.hostname) {
        let Some(spec) = &rule.spec else { continue };
        candidates.push((specificity, rule));
        match Visibility::of(&spec.export_to, &host.inventory.mesh().virtual_service_export_to, &rule.namespace) {
            Visibility::Public => {
                let candidate = Candidate { specificity, audience: Breadth::Public, rule };
                if public.as_ref().is_none_or(|best| candidate.precedes(best)) {
                    public = Some(candidate);
                }
            }
            Visibility::Namespaces(namespaces) => {
                for namespace in namespaces {
                    let audience = if namespace == rule.namespace { Breadth::Own } else { Breadth::Named };
                    let candidate = Candidate { specificity, audience, rule };
                    if named.len() >= MAX_NAMESPACES && !named.contains_key(&namespace) {
                        host.note_of(rule, "IST0133", format!("more than {MAX_NAMESPACES} namespaces have routes of their own to {}: it has no effect in {namespace}", host.hostname));
                        continue;
                    }
                    let best = named.entry(namespace).or_insert(candidate);
                    if candidate.precedes(best) {
                        *best = candidate;
                    }
                }
            }
        }
    }
    for best in named.values_mut() {
        if let Some(public) = public.filter(|public| public.precedes(best)) {
            *best = public;
        }
    }
    note_duplicates(host, &candidates, public.iter().chain(named.values()));
    let mut tables: BTreeMap<Key, Bytes> = BTreeMap::new();
    let mut table = |candidate: &Candidate<'_>| {
        tables.entry(candidate.rule.key()).or_insert_with(|| table(host, candidate.rule).encode_to_vec().into()).clone()
    };
    let mut most = public.as_ref().map(&mut table);
    let mut others: BTreeMap<Text, Option<Bytes>> =
        named.iter().map(|(namespace, best)| (namespace.clone(), Some(table(best)))).collect();
    let winner = public.as_ref().or(named.values().next()).map(|winner| winner.rule.key());
    if let Some(winner) = &winner {
        service_rules::note_precedence(host, winner);
    }
    service_rules::note_annotations(host, winner.as_ref());
    if public.is_none() {
        let bytes = |table: RouteTable| Bytes::from(table.encode_to_vec());
        most = service_rules::table(host, None).map(bytes);
        for namespace in service_rules::namespaces(host) {
            others.entry(namespace.clone()).or_insert_with(|| service_rules::table(host, Some(&namespace)).map(bytes));
        }
    }
    ByNamespace { most, others }.resources(ResourceKind::RouteTable, host.hostname, &[])
}

/// Of VirtualServices with the same host, those without effect have a notice.
fn note_duplicates<'a>(
    host: &mut Host<'_>,
    candidates: &[(Specificity, &VirtualService)],
    winners: impl Iterator<Item = &'a Candidate<'a>>,
) {
    let winners: BTreeMap<Key, Specificity> = winners.map(|best| (best.rule.key(), best.specificity)).collect();
    for (specificity, rule) in candidates.iter().filter(|(_, rule)| !winners.contains_key(&rule.key())) {
        if let Some((winner, _)) = winners.iter().find(|(_, of)| *of == specificity) {
            let text =
                format!("VirtualService {winner} is for the same host and takes precedence for {}", host.hostname);
            host.note_of(rule, "IST0109", text);
        }
    }
}

/// Returns the table of a VirtualService.
fn table(host: &mut Host<'_>, rule: &VirtualService) -> RouteTable {
    let mut table = RouteTable { source: rule.key().to_string(), ..RouteTable::default() };
    let Some(spec) = &rule.spec else { return table };
    table.http = requests(host, rule, spec, &mut 0);
    table.tls = layer4::tls(host, rule, &spec.tls);
    table.tcp = layer4::tcp(host, rule, &spec.tcp);
    table
}

/// Compiles the routes of requests of a VirtualService, up to the first that matches every request. `parts` counts the routes
/// and conditions of the table.
pub(super) fn requests(
    host: &mut Host<'_>,
    rule: &VirtualService,
    spec: &VirtualServiceSpec,
    parts: &mut usize,
) -> Vec<HttpRoute> {
    let mut compiled = Vec::new();
    let mut routes = delegate::routes(host, rule, spec).into_iter();
    for route in routes.by_ref() {
        *parts += 1 + route.matches_len();
        if *parts > MAX_PARTS {
            host.note_of(
                rule,
                "IST0133",
                format!("it has more than {MAX_PARTS} routes and conditions: the further ones have no effect"),
            );
            break;
        }
        if let Some(route) = http::route(host, &route) {
            let all = http::matches_all(&route);
            compiled.push(route);
            if all {
                break;
            }
        }
    }
    for route in routes {
        let text = format!("{} has no effect: an earlier route matches every request to {}", route.path, host.hostname);
        host.note(Kind::VirtualService, &route.owner, "IST0130", text);
    }
    compiled
}

impl Host<'_> {
    /// Adds a notice about a VirtualService.
    pub(super) fn note_of(&mut self, rule: &VirtualService, code: &'static str, text: String) {
        self.note(Kind::VirtualService, &rule.key(), code, text);
    }
}
