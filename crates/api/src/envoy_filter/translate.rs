//! The patches of an EnvoyFilter as limits on rates.

use serde_json::Value;

use super::fields::{Fields, Notes, typed};
use super::filters::{self, Clusters, GLOBAL, LOCAL};
use super::{ConfigPatch, EnvoyFilterSpec, INSTEAD, actions};
use crate::networking::Problem;
use crate::networking::json::shown;
use crate::rate_limit::{Condition, Descriptor, LimitRule, Limits, RouteDescriptors, Side};

/// The number of patches that are read.
const MAX_PATCHES: usize = 100;
/// The number of descriptors of the routes of an object.
const MAX_DESCRIPTORS: usize = 256;
/// The name of the local filter where routes configure it.
const LOCAL_FILTER: &str = "envoy.filters.http.local_ratelimit";
/// The port of an inbound virtual host precedes this.
const INBOUND_HOST: &str = "inbound|http|";

/// Returns the limits, and what has no effect.
pub(super) fn translate(spec: &EnvoyFilterSpec) -> (Limits, Vec<Problem>) {
    let mut notes = Notes::default();
    let mut translation = Translation::default();
    let patches = || spec.config_patches.iter().take(MAX_PATCHES).enumerate();
    let path = |index: usize| format!("spec.configPatches[{index}]");
    if spec.config_patches.len() > MAX_PATCHES {
        notes.no_effect(&path(MAX_PATCHES), &format!("an EnvoyFilter has at most {MAX_PATCHES} patches"));
    }
    for (index, patch) in patches().filter(|(_, patch)| patch.apply_to == "CLUSTER") {
        match filters::cluster(&patch.patch.0["value"]).filter(|_| patch.operation() == "ADD") {
            Some((name, service)) => drop(translation.clusters.insert(name, service)),
            None => notes.no_effect(&path(index), INSTEAD),
        }
    }
    // Routes first: what they say takes precedence over the filter of all requests.
    for (index, patch) in patches() {
        if matches!(patch.apply_to.as_str(), "HTTP_ROUTE" | "VIRTUAL_HOST") {
            translation.routes(patch, &path(index), &mut notes);
        }
    }
    let mut filters = [false; 2];
    for (index, patch) in patches() {
        match patch.apply_to.as_str() {
            "HTTP_FILTER" => translation.filter(patch, &path(index), &mut filters, &mut notes),
            "HTTP_ROUTE" | "VIRTUAL_HOST" | "CLUSTER" => {}
            _ => notes.no_effect(&path(index), INSTEAD),
        }
    }
    for (path, rule) in std::mem::take(&mut translation.of_routes) {
        if !filters[rule.side as usize] {
            notes.no_effect(&path, "no HTTP_FILTER patch of this object inserts the filter that it configures");
        }
    }
    (translation.limits, notes.0)
}

#[derive(Default)]
struct Translation {
    limits: Limits,
    clusters: Clusters,
    /// The local limits of routes, with their paths.
    of_routes: Vec<(String, LimitRule)>,
}

impl ConfigPatch {
    fn operation(&self) -> &str {
        self.patch.0["operation"].as_str().unwrap_or_default()
    }

    /// Returns the sides that a patch is about, and notes those on which nothing is limited.
    fn sides(&self, path: &str, notes: &mut Notes) -> &'static [Side] {
        let path = format!("{path}.match.context");
        match self.matching.0["context"].as_str().unwrap_or("ANY") {
            "SIDECAR_INBOUND" => &[Side::Inbound],
            "ANY" => &[Side::Inbound, Side::Gateway],
            "GATEWAY" => &[Side::Gateway],
            "SIDECAR_OUTBOUND" => {
                notes.no_effect(&path, "limits apply to requests that a workload receives; write SIDECAR_INBOUND");
                &[]
            }
            other => {
                let text = format!("{:?} is not SIDECAR_INBOUND, GATEWAY or ANY", shown(other));
                notes.no_effect(&path, &text);
                &[]
            }
        }
    }
}

impl Translation {
    /// Reads a patch that inserts a filter.
    fn filter(&mut self, patch: &ConfigPatch, path: &str, filters: &mut [bool; 2], notes: &mut Notes) {
        let value = &patch.patch.0["value"];
        let config = value.get("typed_config").or_else(|| value.get("typedConfig")).unwrap_or(&Value::Null);
        let (url, config) = typed(config);
        let kind = url.rsplit('/').next().unwrap_or_default();
        let inserts = matches!(patch.operation(), "INSERT_BEFORE" | "INSERT_AFTER" | "INSERT_FIRST" | "ADD");
        if !inserts || !matches!(kind, LOCAL | GLOBAL) {
            return notes.no_effect(path, INSTEAD);
        }
        let config_path = format!("{path}.patch.value.typed_config");
        let known = notes.0.len();
        let rule = match kind {
            LOCAL => filters::local(config, &config_path, notes),
            _ => filters::global(config, &config_path, &self.clusters, notes),
        };
        let failed = notes.0.len() > known;
        let port = port(&patch.matching.0["listener"]["portNumber"]);
        for side in patch.sides(path, notes) {
            let mut alternative = 0;
            if kind == LOCAL {
                filters[*side as usize] = true;
                let of_routes: Vec<LimitRule> = self
                    .of_routes
                    .iter()
                    .filter(|(_, rule)| rule.side == *side)
                    .map(|(_, rule)| rule.clone())
                    .collect();
                if of_routes.is_empty() && rule.is_none() && !failed && *side == Side::Inbound {
                    notes.no_effect(path, "it has no token_bucket, and no HTTP_ROUTE patch of this object has one");
                }
                if !of_routes.is_empty() {
                    alternative = *side as u32 + 1;
                    self.limits.rules.extend(of_routes.into_iter().map(|rule| LimitRule { alternative, ..rule }));
                }
            }
            let Some(rule) = &rule else { continue };
            let mut rule = LimitRule { side: *side, alternative, ..rule.clone() };
            if let Some(port) = port {
                rule.matches = vec![vec![Condition::any("destination.port", vec![port.to_string()])]];
            }
            self.limits.rules.push(rule);
        }
    }

    /// Reads a patch of virtual hosts or routes.
    fn routes(&mut self, patch: &ConfigPatch, path: &str, notes: &mut Notes) {
        let value_path = format!("{path}.patch.value");
        let value = &patch.patch.0["value"];
        let rate_limits = ["rate_limits", "rateLimits"];
        let route = if patch.apply_to == "HTTP_ROUTE" { &value["route"] } else { value };
        let limits: Vec<(String, &Value)> = rate_limits
            .iter()
            .filter_map(|name| value.get(name).or_else(|| route.get(name)))
            .flat_map(|list| list.as_array().into_iter().flatten())
            .enumerate()
            .map(|(index, item)| (format!("{value_path}.rate_limits[{index}]"), item))
            .collect();
        let filters = value.get("typed_per_filter_config").or_else(|| value.get("typedPerFilterConfig"));
        let local = filters.and_then(|filters| filters.get(LOCAL_FILTER)).map(typed);
        if patch.operation() != "MERGE" || (limits.is_empty() && local.is_none()) {
            return notes.no_effect(path, INSTEAD);
        }
        let known: &[&str] = &["rate_limits", "typed_per_filter_config", "route", "name"];
        Fields::of(value, &*value_path, known, notes);
        if patch.apply_to == "HTTP_ROUTE" {
            Fields::of(route, format!("{value_path}.route"), &["rate_limits"], notes);
        }
        let descriptors: Vec<Descriptor> = limits
            .iter()
            .take(MAX_DESCRIPTORS)
            .filter_map(|(path, item)| actions::descriptor(item, path, notes))
            .collect();
        let rule = local.and_then(|(url, config)| {
            let path = format!("{value_path}.typed_per_filter_config");
            if url.rsplit('/').next() != Some(LOCAL) {
                notes.no_effect(&path, INSTEAD);
                return None;
            }
            filters::local(config, &path, notes)
        });
        for side in patch.sides(path, notes) {
            let Some(matches) = matches(patch, *side, path, notes) else { continue };
            if !descriptors.is_empty() {
                let descriptors = descriptors.clone();
                self.limits.route_descriptors.push(RouteDescriptors {
                    side: *side,
                    matches: matches.clone(),
                    descriptors,
                });
            }
            if let Some(rule) = &rule {
                self.of_routes.push((value_path.clone(), LimitRule { side: *side, matches, ..rule.clone() }));
            }
        }
    }
}

/// Returns the number of a port.
fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

/// Returns the requests of the virtual hosts and routes that a patch is about; `None`: there are none.
fn matches(patch: &ConfigPatch, side: Side, path: &str, notes: &mut Notes) -> Option<Vec<Vec<Condition>>> {
    let configuration = &patch.matching.0["routeConfiguration"];
    let (host, path) = (&configuration["vhost"], format!("{path}.match.routeConfiguration.vhost"));
    let name = host["name"].as_str().unwrap_or_default();
    let mut conditions = Vec::new();
    if let Some(port) = port(&configuration["portNumber"]).filter(|_| side == Side::Inbound) {
        conditions.push(Condition::any("destination.port", vec![port.to_string()]));
    }
    match (side, name) {
        (_, "") => {}
        (Side::Inbound, name) => match name.strip_prefix(INBOUND_HOST).filter(|port| port.parse::<u16>().is_ok()) {
            Some(port) => conditions.push(Condition::any("destination.port", vec![port.to_owned()])),
            // Of a gateway, for a patch of any context.
            None if patch.matching.0["context"].as_str().is_none_or(|of| of == "ANY") => return None,
            None => {
                let text = format!("{:?} is no virtual host of a workload, such as \"inbound|http|9080\"", shown(name));
                notes.no_effect(&path, &text);
                return None;
            }
        },
        (Side::Gateway, name) if name.starts_with(INBOUND_HOST) => return None,
        (Side::Gateway, name) => {
            let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
            if host.is_empty() || host.contains('*') && host != "*" {
                let text = format!("{:?} is no host, such as \"shop.example.com:80\" or \"*:80\"", shown(name));
                notes.no_effect(&path, &text);
                return None;
            }
            if host != "*" {
                conditions.push(Condition::any("request.host", vec![host.to_owned(), format!("{host}:*")]));
            }
        }
    }
    let route = host["route"]["name"].as_str().unwrap_or_default();
    // The only route of an inbound virtual host.
    if !route.is_empty() && (side, route) != (Side::Inbound, "default") {
        notes.no_effect(&format!("{path}.route.name"), "limits are not by the names of routes; match a virtual host");
        return None;
    }
    Some(if conditions.is_empty() { Vec::new() } else { vec![conditions] })
}
