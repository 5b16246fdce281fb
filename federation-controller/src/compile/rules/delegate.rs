//! Delegates: VirtualServices that have routes on behalf of another one. They are merged as in Istio, one level deep.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::networking::VirtualServiceSpec;
use api::networking::gateway::gateway_of;
use api::networking::http_match::{HttpMatch, Pattern, StringMatch};
use api::networking::http_route::HttpRoute;
use api::networking::virtual_service::MESH_GATEWAY;

use super::Host;
use super::visibility::Visibility;
use crate::objects::{Key, Record as _, VirtualService};

/// The number of conditions that the merging of one route may give.
const MAX_MATCHES: usize = 1_000;

/// The number of pairs of conditions that the merging of all routes of one VirtualService may compare.
const MAX_WORK: usize = 200_000;

/// A route of a VirtualService or of its delegate.
pub(super) struct Route<'a> {
    pub(super) route: Cow<'a, HttpRoute>,
    /// The object that it is written in, and where.
    pub(super) owner: Key,
    pub(super) path: String,
    /// The namespace of short names.
    pub(super) namespace: &'a str,
}

impl Route<'_> {
    pub(super) fn matches_len(&self) -> usize {
        self.route.matches.len()
    }
}

/// Returns the routes of a VirtualService, with those of its delegates in their places.
pub(super) fn routes<'a>(
    host: &mut Host<'_>,
    rule: &'a VirtualService,
    spec: &'a VirtualServiceSpec,
) -> Vec<Route<'a>> {
    let mut routes = Vec::with_capacity(spec.http.len());
    let mut left = MAX_WORK;
    for (index, route) in spec.http.iter().enumerate() {
        let path = format!("http[{index}]");
        if let Some(delegate) = &route.delegate {
            let namespace = if delegate.namespace.is_empty() { &*rule.namespace } else { &delegate.namespace };
            match find(host, rule, &Key::new(namespace, &delegate.name)) {
                Ok((of, spec)) => delegated(host, (rule, route, &path), (of, spec), &mut left, &mut routes),
                Err(why) => host.note_of(rule, "IST0101", format!("{path} has no effect: its delegate, {why}")),
            }
        } else {
            let (owner, namespace) = (rule.key(), &*rule.namespace);
            routes.push(Route { route: Cow::Borrowed(route), owner, path, namespace });
        }
    }
    routes
}

/// Returns the delegate of a VirtualService, or why it has no effect.
fn find<'a>(
    host: &Host<'a>,
    root: &VirtualService,
    key: &Key,
) -> Result<(&'a VirtualService, &'a VirtualServiceSpec), String> {
    let known = host.own.virtual_services().get(key);
    let rule = known.ok_or_else(|| format!("VirtualService {key}, does not exist"))?;
    let spec = rule.spec.as_ref().ok_or_else(|| format!("VirtualService {key}, is invalid"))?;
    if !spec.is_delegate() {
        return Err(format!("VirtualService {key}, has hosts; remove them, or copy its routes"));
    }
    let default = &host.inventory.mesh().virtual_service_export_to;
    if !Visibility::of(&spec.export_to, default, &rule.namespace).includes(&root.namespace) {
        return Err(format!("VirtualService {key}, is not exported to namespace {}", root.namespace));
    }
    Ok((rule, spec))
}

/// Adds the routes of a delegate, within a bound of work.
fn delegated<'a>(
    host: &mut Host<'_>,
    (root, of, path): (&'a VirtualService, &HttpRoute, &str),
    (rule, spec): (&VirtualService, &VirtualServiceSpec),
    left: &mut usize,
    to: &mut Vec<Route<'a>>,
) {
    let key = rule.key();
    for (index, route) in spec.http.iter().enumerate() {
        let within = format!("http[{index}]");
        if route.delegate.is_some() {
            host.note_of(rule, "IST0101", format!("{within} has no effect: a delegate cannot delegate further"));
            continue;
        }
        let work = (1 + of.matches.len()).saturating_mul(1 + route.matches.len());
        let merged = left.checked_sub(work).ok_or(TOO_MANY).and_then(|rest| {
            *left = rest;
            let (mut route, mut of) = (route.clone(), of.clone());
            full_names(host, &mut route, &rule.namespace);
            full_names(host, &mut of, &root.namespace);
            merge(of, route)
        });
        match merged {
            Ok(route) => {
                let route = Cow::Owned(route);
                to.push(Route { route, owner: key.clone(), path: within, namespace: &root.namespace });
            }
            Err(why) => {
                let text = format!("{within} has no effect: {why} those of {path} of VirtualService {}", root.key());
                host.note_of(rule, "IST0101", text);
            }
        }
    }
}

/// Replaces short names of services and gateways, which each VirtualService has in its own namespace.
fn full_names(host: &Host<'_>, route: &mut HttpRoute, namespace: &str) {
    let routes = route.route.iter_mut().filter_map(|to| to.destination.as_mut());
    let mirrors = route.mirrors.iter_mut().filter_map(|to| to.destination.as_mut());
    for to in routes.chain(mirrors).chain(route.mirror.as_mut()) {
        to.host = host.full_host(&to.host, namespace).to_string();
    }
    let gateways = route.matches.iter_mut().flat_map(|matched| &mut matched.gateways);
    for name in gateways.filter(|name| *name != MESH_GATEWAY) {
        let (namespace, gateway) = gateway_of(name, namespace);
        *name = format!("{namespace}/{gateway}");
    }
}

/// Why the conditions of a route and its delegate are not merged.
const OUTSIDE: &str = "its conditions are not within";
const TOO_MANY: &str = "its conditions are too many together with";

/// Merges a route with that of a delegate, whose fields take precedence. Returns why their conditions are not merged.
fn merge(root: HttpRoute, mut delegate: HttpRoute) -> Result<HttpRoute, &'static str> {
    delegate.matches = merge_matches(root.matches, delegate.matches)?;
    delegate.name = merge_names(&root.name, &delegate.name);
    delegate.direct_response = delegate.direct_response.or(root.direct_response);
    delegate.rewrite = delegate.rewrite.or(root.rewrite);
    delegate.timeout = delegate.timeout.or(root.timeout);
    delegate.retries = delegate.retries.or(root.retries);
    delegate.fault = delegate.fault.or(root.fault);
    delegate.mirror = delegate.mirror.or(root.mirror);
    delegate.mirror_percent = delegate.mirror_percent.or(root.mirror_percent);
    delegate.mirror_percent_snake = delegate.mirror_percent_snake.or(root.mirror_percent_snake);
    delegate.mirror_percentage = delegate.mirror_percentage.or(root.mirror_percentage);
    delegate.cors_policy = delegate.cors_policy.or(root.cors_policy);
    delegate.headers = delegate.headers.or(root.headers);
    if delegate.mirrors.is_empty() {
        delegate.mirrors = root.mirrors;
    }
    Ok(delegate)
}

fn merge_names(root: &str, delegate: &str) -> String {
    match (root, delegate) {
        (root, "") => root.to_owned(),
        ("", delegate) => delegate.to_owned(),
        (root, delegate) => format!("{root}-{delegate}"),
    }
}

/// Merges conditions. Each of the delegate has to be within one of the root.
fn merge_matches(root: Vec<HttpMatch>, delegate: Vec<HttpMatch>) -> Result<Vec<HttpMatch>, &'static str> {
    if root.is_empty() {
        return Ok(delegate);
    }
    if delegate.is_empty() {
        return Ok(root);
    }
    let mut merged = Vec::new();
    for leaf in &delegate {
        let before = merged.len();
        let within = root.iter().filter(|root| !conflict(root, leaf));
        merged.extend(within.map(|root| merge_match(root, leaf)).take(MAX_MATCHES + 1));
        if merged.len() == before {
            return Err(OUTSIDE);
        }
        if merged.len() > MAX_MATCHES {
            return Err(TOO_MANY);
        }
    }
    Ok(merged)
}

fn merge_match(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let mut merged = leaf.clone();
    merged.name = merge_names(&root.name, &leaf.name);
    merged.uri = merged.uri.or_else(|| root.uri.clone());
    merged.scheme = merged.scheme.or_else(|| root.scheme.clone());
    merged.method = merged.method.or_else(|| root.method.clone());
    merged.authority = merged.authority.or_else(|| root.authority.clone());
    inherit(&mut merged.headers, &root.headers);
    inherit(&mut merged.without_headers, &root.without_headers);
    inherit(&mut merged.query_params, &root.query_params);
    inherit(&mut merged.source_labels, &root.source_labels);
    for (leaf, root) in
        [(&mut merged.source_namespace, &root.source_namespace), (&mut merged.stat_prefix, &root.stat_prefix)]
    {
        if leaf.is_empty() {
            leaf.clone_from(root);
        }
    }
    if merged.port == 0 {
        merged.port = root.port;
    }
    if merged.gateways.is_empty() {
        merged.gateways.clone_from(&root.gateways);
    }
    merged
}

fn inherit<T: Clone>(leaf: &mut BTreeMap<String, T>, root: &BTreeMap<String, T>) {
    for (key, value) in root {
        leaf.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// Returns whether a condition of a delegate is not within one of the root.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let fields = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let of_maps = maps.into_iter().flat_map(|(root, leaf)| leaf.iter().map(|(key, leaf)| (root.get(key), Some(leaf))));
    fields
        .into_iter()
        .map(|(root, leaf)| (root.as_ref(), leaf.as_ref()))
        .chain(of_maps)
        .any(|(root, leaf)| strings_conflict(root, leaf))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port != 0 && leaf.port != 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty()
            && !leaf.source_namespace.is_empty()
            && root.source_namespace != leaf.source_namespace)
        || leaf.source_labels.iter().any(|(key, leaf)| root.source_labels.get(key).is_some_and(|root| root != leaf))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

fn strings_conflict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    match (root.pattern(), leaf.pattern()) {
        (Pattern::Exact(root), Pattern::Exact(leaf)) => root != leaf,
        (Pattern::Prefix(root), Pattern::Exact(leaf) | Pattern::Prefix(leaf)) => !leaf.starts_with(root),
        _ => true,
    }
}
