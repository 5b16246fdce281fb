//! Destinations of routes, and what happens to requests on the way.

use api::networking::http_route::{HeaderOperations, Headers, HttpRetry, HttpRewrite};
use api::networking::re2;
use api::networking::virtual_service::Destination;
use wire::discovery::{Forward, HeaderEdit, Mirror, RegexRewrite, Retries, Rewrite, RouteDestination, rewrite};

use super::delegate::Route;
use super::http::{authority, ms, share};
use super::{Host, Ports, RoutedProxies};
use crate::objects::{Key, Kind};

/// The place of a destination in a rule, for notices.
pub(super) struct Place<'a> {
    /// The object.
    pub(super) owner: &'a Key,
    /// The route.
    pub(super) path: &'a str,
    /// The namespace of short names.
    pub(super) namespace: &'a str,
    /// The route is one of connections.
    pub(super) opaque: bool,
}

/// Compiles where the requests of a route go. Returns `None` if it has no destination.
pub(super) fn forward(host: &mut Host<'_>, of: &Route<'_>) -> Option<Forward> {
    let place = Place { owner: &of.owner, path: &of.path, namespace: of.namespace, opaque: false };
    let route = &*of.route;
    let several = route.route.len() > 1;
    let mut rewritten = authority(request_of(route.headers.as_ref()));
    let mut destinations = Vec::with_capacity(route.route.len());
    for to in route.route.iter().filter(|to| !several || to.weight > 0) {
        let Some(destination) = &to.destination else { continue };
        let headers = to.headers.as_ref();
        let mut request_headers = host.edits(&place, request_of(headers));
        // A route has one rewrite for all destinations.
        match authority(request_of(headers)) {
            Some(of) if several => request_headers.get_or_insert_default().set.push(host_header(of)),
            of => rewritten = rewritten.or(of),
        }
        destinations.push(RouteDestination {
            weight: u32::try_from(to.weight).unwrap_or_default(),
            request_headers,
            response_headers: host.edits(&place, headers.and_then(|of| of.response.as_ref())),
            ..host.destination(&place, destination)
        });
    }
    if destinations.is_empty() {
        return None;
    }
    let single = route.mirror.as_ref().map(|to| (to, route.mirror_share()));
    let several = route.mirrors.iter().filter_map(|of| {
        Some((of.destination.as_ref()?, of.percentage.as_ref().map_or(100.0, |percentage| percentage.value)))
    });
    let mut mirrors = Vec::new();
    for (to, percent) in single.into_iter().chain(several).filter(|(_, percent)| share(*percent) > 0) {
        mirrors.push(Mirror { destination: Some(host.destination(&place, to)), share: share(percent) });
    }
    Some(Forward {
        destinations,
        timeout_ms: route.timeout.map(ms).unwrap_or_default(),
        retries: route.retries.as_ref().map(retries),
        rewrite: rewrite(route.rewrite.as_ref(), rewritten),
        mirrors,
    })
}

fn retries(of: &HttpRetry) -> Retries {
    let conditions = of.retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty());
    Retries {
        attempts: u32::try_from(of.attempts).unwrap_or_default(),
        per_try_timeout_ms: of.per_try_timeout.map(ms).unwrap_or_default(),
        retry_on: conditions.map(str::to_owned).collect(),
        backoff_ms: of.backoff.map(ms).unwrap_or_default(),
        same_hosts: of.retry_ignore_previous_hosts == Some(false),
        remote_localities: of.retry_remote_localities == Some(true),
        budgeted: false,
    }
}

fn request_of(headers: Option<&Headers>) -> Option<&HeaderOperations> {
    headers?.request.as_ref()
}

fn host_header(authority: &str) -> HeaderEdit {
    HeaderEdit { name: "host".to_owned(), value: authority.to_owned() }
}

/// Compiles a rewrite. Changes of headers may set the authority as well.
fn rewrite(of: Option<&HttpRewrite>, authority: Option<&str>) -> Option<Rewrite> {
    let regex = of.and_then(|of| of.uri_regex_rewrite.as_ref()).map(|regex| {
        rewrite::Path::Regex(RegexRewrite {
            pattern: re2::translate(&regex.pattern),
            substitution: regex.rewrite.clone(),
        })
    });
    let uri = of.map(|of| &of.uri).filter(|uri| !uri.is_empty()).map(|uri| rewrite::Path::Uri(uri.clone()));
    let own = of.map(|of| &*of.authority).filter(|authority| !authority.is_empty());
    let rewrite = Rewrite { path: regex.or(uri), authority: own.or(authority).unwrap_or_default().to_owned() };
    (rewrite != Rewrite::default()).then_some(rewrite)
}

impl Host<'_> {
    /// Compiles a destination without weight and headers. Notes what it lacks.
    pub(super) fn destination(&mut self, place: &Place<'_>, of: &Destination) -> RouteDestination {
        let to = self.full_host(&of.host, place.namespace);
        let ports = if *to == **self.hostname && matches!(self.proxies, RoutedProxies::Sidecars) {
            Some(self.ports.clone())
        } else {
            self.ports_of(&to)
        };
        let port = of.port.as_ref().map_or(0, |port| port.number);
        let (own, hostname) = (&self.ports, self.hostname);
        let lacks = match &ports {
            None => Some(format!("no service of the mesh has host {to}, to which requests go: they fail")),
            Some(ports) if port != 0 && !ports.keys().any(|known| u32::from(*known) == port) => {
                Some(format!("{to} has no port {port}: requests to it fail"))
            }
            Some(ports)
                if port == 0 && self.needs_port(place, ports) && !own.keys().any(|own| ports.contains_key(own)) =>
            {
                let of = match self.proxies {
                    RoutedProxies::Sidecars => hostname.to_string(),
                    RoutedProxies::Routers { gateway, port } => format!("Gateway {gateway} ({port})"),
                };
                Some(format!("{to} has no port of {of}, so that requests to it fail: name a port of {to}"))
            }
            Some(_) if !of.subset.is_empty() && !self.has_subset(&to, &of.subset) => {
                Some(format!("no DestinationRule for {to} has subset {}: requests to it fail", of.subset))
            }
            Some(_) => None,
        };
        if let Some(lacks) = lacks {
            self.note(Kind::VirtualService, place.owner, "IST0101", format!("{}: {lacks}", place.path));
        }
        // Without a port, that of the request or connection, as in Istio; of a connection, and of all traffic of a gateway, the
        // only one of the service.
        let router = matches!(self.proxies, RoutedProxies::Routers { .. });
        let is_only = |ports: &Ports| (place.opaque || router) && ports.len() == 1;
        let only = ports.filter(is_only).and_then(|ports| ports.keys().next().copied());
        let port = if port == 0 { only.map_or(0, u32::from) } else { port };
        RouteDestination { host: to.to_string(), port, subset: of.subset.clone(), ..RouteDestination::default() }
    }

    /// Returns whether a destination of a service with these ports has to name one of them, or has that of the request.
    fn needs_port(&self, place: &Place<'_>, ports: &Ports) -> bool {
        !place.opaque && (matches!(self.proxies, RoutedProxies::Sidecars) || ports.len() != 1)
    }

    /// Returns whether any DestinationRule for a host has a subset.
    fn has_subset(&self, hostname: &str, subset: &str) -> bool {
        let specs = self.own.policies_for(hostname).filter_map(|(_, rule)| rule.spec.as_ref());
        specs.flat_map(|spec| &spec.subsets).any(|of| of.name == subset)
    }
}
