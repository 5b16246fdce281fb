//! The RouteTable of a host by SMI's and Linkerd's rules: the weights of its TrafficSplit or of the overrides of its
//! ServiceProfile, and the routes of the ServiceProfile or the annotations of the Service.
//!
//! A VirtualService takes precedence. Of several TrafficSplits of a service, the oldest has effect. The ServiceProfile of the
//! client's namespace takes precedence over that of the service's namespace. Annotations have effect without a ServiceProfile.

use std::collections::BTreeSet;

use api::linkerd::annotations::FailureAccrual;
use api::linkerd::{ServiceAnnotations, ServiceProfileSpec};
use wire::discovery::http_route::Action;
use wire::discovery::{Forward, HttpRoute, RouteTable, TcpMatch, TcpRoute};

use super::profile::{self, Route};
use super::routes::MAX_PARTS;
use super::shares::{Shares, Target};
use super::{Host, MAX_NAMESPACES, conditions};
use crate::objects::{Key, Kind, Record as _, Service, ServiceProfile, Text, TrafficSplit};

/// Returns the namespaces whose clients have a ServiceProfile of their own for the host.
pub(super) fn namespaces(host: &mut Host<'_>) -> BTreeSet<Text> {
    let own = host.own;
    let service = host.service().map(|key| key.namespace);
    let profiles =
        own.profiles_of(host.hostname).filter(|of| of.spec.is_some() && Some(&of.namespace) != service.as_ref());
    let mut namespaces = BTreeSet::new();
    for of in profiles {
        if of.spec.as_ref().is_some_and(|spec| !spec.opaque_ports.is_empty()) {
            let text = "opaquePorts has no effect: the ServiceProfile of the service's own namespace decides";
            host.note(Kind::ServiceProfile, &of.key(), "IST0133", text.to_owned());
        }
        if namespaces.len() < MAX_NAMESPACES {
            namespaces.insert(of.namespace.clone());
            continue;
        }
        let text =
            format!("more than {MAX_NAMESPACES} namespaces have a ServiceProfile for {}: it has no effect", of.name);
        host.note(Kind::ServiceProfile, &of.key(), "IST0133", text);
    }
    namespaces
}

/// Notes that a VirtualService takes precedence over all rules of the host.
pub(super) fn note_precedence(host: &mut Host<'_>, winner: &Key) {
    let own = host.own;
    let splits = own.splits_of(host.hostname).map(|of| (Kind::TrafficSplit, of.key()));
    let profiles = own.profiles_of(host.hostname).map(|of| (Kind::ServiceProfile, of.key()));
    for (kind, key) in splits.chain(profiles) {
        let what = if kind == Kind::TrafficSplit { "it has" } else { "its routes and overrides have" };
        let text = format!("VirtualService {winner} is for the same host and takes precedence: {what} no effect there");
        host.note(kind, &key, "IST0109", text);
    }
}

/// Notes what annotations of the Service have no effect. `winner` is the VirtualService that takes precedence.
pub(super) fn note_annotations(host: &mut Host<'_>, winner: Option<&Key>) {
    let Some((key, linkerd)) = annotations(host) else { return };
    for problem in &linkerd.problems {
        host.note(Kind::Service, &key, "IST0133", problem.clone());
    }
    let of_service = host.own.profile(&key.namespace, host.hostname).filter(|of| of.spec.is_some());
    let instead = match (winner, of_service) {
        (Some(winner), _) => format!("VirtualService {winner}"),
        (None, Some(profile)) => format!("ServiceProfile {}", profile.key()),
        (None, None) => return,
    };
    let text = format!("its annotations of retries and time limits have no effect: {instead} takes precedence");
    host.note(Kind::Service, &key, "IST0109", text);
}

/// Returns the annotations of the host's Service.
fn annotations<'a>(host: &Host<'a>) -> Option<(Key, &'a ServiceAnnotations)> {
    let key = host.service()?;
    let service: &Service = host.own.services().get(&key)?;
    Some((key, service.linkerd.as_deref()?))
}

/// Returns when endpoints of the host are ejected by the annotations of its Service. A ServiceProfile disables them.
pub(super) fn failure_accrual(host: &Host<'_>) -> Option<FailureAccrual> {
    let (key, linkerd) = annotations(host)?;
    let profile = host.own.profile(&key.namespace, host.hostname);
    linkerd.accrual.filter(|_| profile.is_none_or(|profile| profile.spec.is_none()))
}

/// Returns the table of clients of a namespace; `None`: of one without a ServiceProfile of its own.
pub(super) fn table(host: &mut Host<'_>, client: Option<&Text>) -> Option<RouteTable> {
    let own = host.own;
    let service = host.service();
    let in_namespace = |namespace: &Text| {
        let profile = own.profile(namespace, host.hostname)?;
        Some((profile, &**profile.spec.as_ref()?))
    };
    let of_service = service.as_ref().map(|key| &key.namespace);
    let profile: Option<(&ServiceProfile, &ServiceProfileSpec)> =
        client.into_iter().chain(of_service).find_map(in_namespace);
    let split = split(host);
    let shares = match (&split, profile) {
        (Some(split), _) => split.spec.as_ref().and_then(|spec| Shares::of_split(host, split, spec)),
        (None, Some((profile, spec))) if !spec.dst_overrides.is_empty() => {
            Some(Shares::of_overrides(host, profile, spec))
        }
        (None, _) => None,
    };
    if let (Some(split), Some((profile, spec))) = (&split, profile)
        && !spec.dst_overrides.is_empty()
    {
        let text = format!("dstOverrides has no effect: TrafficSplit {} splits the host", split.key());
        host.note(Kind::ServiceProfile, &profile.key(), "IST0109", text);
    }
    let annotated = annotations(host).filter(|_| profile.is_none()).map(|(_, of)| profile::annotated(of));
    let source = match (profile, &split, &annotated) {
        (Some((profile, _)), ..) => (Kind::ServiceProfile, profile.key()),
        (None, Some(split), _) => (Kind::TrafficSplit, split.key()),
        (None, None, Some(_)) => (Kind::Service, service?),
        (None, None, None) => return None,
    };
    let says_routes = |spec: &ServiceProfileSpec| !spec.routes.is_empty();
    let routes = match (profile, annotated) {
        (Some((_, spec)), _) if says_routes(spec) => profile::routes(spec),
        (_, Some(route)) => vec![route],
        (_, None) => vec![Route::default()],
    };
    let table = RouteTable {
        source: source.1.to_string(),
        source_kind: source.0.as_str().to_owned(),
        retry_tokens: profile.and_then(|(_, spec)| profile::tokens(spec)),
        ..RouteTable::default()
    };
    let table = fill(host, table, &source, shares.as_ref(), routes);
    (!table.http.is_empty() || !table.tcp.is_empty()).then_some(table)
}

/// Returns the TrafficSplit that has effect. The others have a notice.
fn split(host: &mut Host<'_>) -> Option<TrafficSplit> {
    let mut splits: Vec<&TrafficSplit> = host.own.splits_of(host.hostname).filter(|of| of.spec.is_some()).collect();
    splits.sort_by_key(|of| of.age());
    let (first, others) = splits.split_first()?;
    for of in others {
        let text = format!("TrafficSplit {} is for the same service and older: this one has no effect", first.key());
        host.note(Kind::TrafficSplit, &of.key(), "IST0109", text);
    }
    Some((*first).clone())
}

/// Adds the routes: those of requests that are shared, by port, and of those that are not.
fn fill(
    host: &mut Host<'_>,
    mut table: RouteTable,
    (kind, key): &(Kind, Key),
    shares: Option<&Shares>,
    routes: Vec<Route>,
) -> RouteTable {
    let root = Target::root(host);
    let targets = shares.map_or_else(|| vec![Target::root(host)], |shares| shares.targets(host));
    let condition = shares.and_then(|shares| shares.condition.as_deref());
    let shared = targets.iter().any(|target| !target.is_root);
    // Without shares, a table whose routes say nothing changes nothing.
    let says = |route: &Route| route.timeout_ms > 0 || route.retries.is_some() || route.classes.is_some();
    if !shared && !routes.iter().any(says) {
        return table;
    }
    let (mut parts, last) = (0, routes.len().saturating_sub(1));
    for (index, route) in routes.iter().enumerate() {
        let mut compiled = Vec::new();
        match condition {
            Some(condition) => {
                for target in targets.iter().filter(|target| !target.is_root) {
                    compiled.push(http(route, conditions::both(&route.matches, condition), target));
                }
                compiled.push(http(route, route.matches.clone(), &root));
            }
            None => compiled.extend(targets.iter().map(|target| http(route, route.matches.clone(), target))),
        }
        parts += compiled.iter().map(|of| 1 + of.matches.iter().map(conditions::size).sum::<usize>()).sum::<usize>();
        // The last route, of all other requests, is there in any case.
        if parts > MAX_PARTS && index < last {
            let text = format!("it has more than {MAX_PARTS} routes and conditions: the further ones have no effect");
            host.note(*kind, key, "IST0133", text);
            continue;
        }
        table.http.extend(compiled);
    }
    if condition.is_none() {
        let tcp = targets.iter().filter(|target| !target.is_root).map(|target| TcpRoute {
            matches: target.ports.iter().map(|port| TcpMatch { port: *port, ..TcpMatch::default() }).collect(),
            destinations: target.destinations.clone(),
        });
        table.tcp.extend(tcp);
    }
    table
}

fn http(route: &Route, matches: Vec<wire::discovery::HttpMatch>, target: &Target) -> HttpRoute {
    let any = matches.is_empty().then(wire::discovery::HttpMatch::default);
    let matches = match target.ports.is_empty() {
        true => matches,
        false => {
            let all: Vec<_> = matches.into_iter().chain(any).collect();
            let on = |port: &u32| {
                all.iter().map(|of| wire::discovery::HttpMatch { port: *port, ..of.clone() }).collect::<Vec<_>>()
            };
            target.ports.iter().flat_map(on).collect()
        }
    };
    HttpRoute {
        name: route.name.clone(),
        matches,
        action: Some(Action::Forward(Forward {
            destinations: target.destinations.clone(),
            timeout_ms: route.timeout_ms,
            retries: route.retries.clone(),
            ..Forward::default()
        })),
        response_classes: route.classes.clone(),
        ..HttpRoute::default()
    }
}
