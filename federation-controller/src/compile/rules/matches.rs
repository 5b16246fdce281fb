//! The conditions of routes.

use std::collections::BTreeMap;

use api::networking::http_match::{self, Pattern};
use api::networking::re2;
use wire::discovery::string_match::Pattern as WirePattern;
use wire::discovery::{ClientMatch, FieldMatch, HttpMatch, StringMatch};

use super::RoutedProxies;

/// Compiles a condition of a route in an object of a namespace. Returns `None` if requests to the proxies never meet it.
pub(super) fn http(of: &http_match::HttpMatch, proxies: RoutedProxies<'_>, namespace: &str) -> Option<HttpMatch> {
    if !proxies.are_in(&of.gateways, namespace) {
        return None;
    }
    // The routes of a gateway's server are for its port alone.
    let port = match proxies {
        RoutedProxies::Routers { port, .. } if of.port != 0 && of.port != port => return None,
        RoutedProxies::Routers { .. } => 0,
        RoutedProxies::Sidecars => of.port,
    };
    let is_header = |(name, _): &(&String, &http_match::StringMatch)| !name.starts_with(':');
    let headers = of.headers.iter().filter(is_header).map(|(name, value)| field(name, value, false));
    let without = of.without_headers.iter().filter(is_header).map(|(name, value)| field(name, value, true));
    // A field of its own takes precedence over the same as a header.
    let pseudo =
        |own: &Option<http_match::StringMatch>, name: &str| own.as_ref().or_else(|| of.headers.get(name)).map(string);
    Some(HttpMatch {
        path: of.uri.as_ref().map(|uri| StringMatch { ignore_case: of.ignore_uri_case, ..string(uri) }),
        scheme: pseudo(&of.scheme, ":scheme"),
        method: pseudo(&of.method, ":method"),
        authority: pseudo(&of.authority, ":authority"),
        headers: headers.chain(without).collect(),
        query: of.query_params.iter().map(|(name, value)| field(name, value, false)).collect(),
        port,
        // With gateways, these conditions have no meaning, as in Istio.
        client: of.gateways.is_empty().then(|| client(&of.source_labels, &of.source_namespace)).flatten(),
        stat_prefix: of.stat_prefix.clone(),
        further: Vec::new(),
    })
}

/// Compiles a condition on the client's pod.
pub(super) fn client(labels: &BTreeMap<String, String>, namespace: &str) -> Option<ClientMatch> {
    let any = labels.is_empty() && namespace.is_empty();
    (!any).then(|| ClientMatch { labels: labels.clone(), namespace: namespace.to_owned() })
}

/// Compiles a pattern.
pub(super) fn string(of: &http_match::StringMatch) -> StringMatch {
    let pattern = match of.pattern() {
        Pattern::Any => WirePattern::Present(true),
        Pattern::Exact(text) => WirePattern::Exact(text.to_owned()),
        Pattern::Prefix(text) => WirePattern::Prefix(text.to_owned()),
        Pattern::Regex(text) => WirePattern::Regex(re2::translate(text)),
    };
    StringMatch { pattern: Some(pattern), ignore_case: false }
}

/// A field that has to have any value is present, also by the expression `*`, as in Istio.
fn field(name: &str, value: &http_match::StringMatch, invert: bool) -> FieldMatch {
    let value = match value.pattern() {
        Pattern::Regex("*") => StringMatch { pattern: Some(WirePattern::Present(true)), ignore_case: false },
        _ => string(value),
    };
    FieldMatch { name: name.to_owned(), value: Some(value), invert }
}

/// Returns whether every request of every client meets a condition.
pub(super) fn is_any(of: &HttpMatch) -> bool {
    let every_path = of.path.as_ref().is_none_or(|path| match &path.pattern {
        Some(WirePattern::Prefix(prefix)) => prefix == "/" || prefix.is_empty(),
        Some(WirePattern::Regex(regex)) => regex == ".*",
        Some(WirePattern::Present(_)) | None => true,
        Some(WirePattern::Exact(_) | WirePattern::PathPrefix(_)) => false,
    });
    let rest = [&of.scheme, &of.method, &of.authority].into_iter().all(Option::is_none);
    every_path
        && rest
        && of.headers.is_empty()
        && of.query.is_empty()
        && of.port == 0
        && of.client.is_none()
        && of.further.is_empty()
}
