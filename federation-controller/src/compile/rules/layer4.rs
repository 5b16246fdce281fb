//! Routes of connections.

use api::networking::virtual_service::{self, RouteDestination};
use wire::discovery::{self, TcpMatch, TcpRoute, TlsMatch, TlsRoute};

use super::Host;
use super::forward::Place;
use super::matches::{client, is_for_sidecars};
use crate::objects::{Record as _, VirtualService};

/// Compiles the routes of TLS connections.
pub(super) fn tls(host: &mut Host<'_>, rule: &VirtualService, routes: &[virtual_service::TlsRoute]) -> Vec<TlsRoute> {
    let mut compiled = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let matches = route.matches.iter().filter(|of| is_for_sidecars(&of.gateways)).map(|of| TlsMatch {
            server_names: of.sni_hosts.iter().map(|name| name.to_ascii_lowercase()).collect(),
            destination_subnets: of.destination_subnets.clone(),
            port: of.port,
            client: client(&of.source_labels, &of.source_namespace),
        });
        let matches: Vec<TlsMatch> = matches.collect();
        let destinations = destinations(host, rule, &format!("tls[{index}]"), &route.route);
        // A route without a condition matches nothing: each one names servers.
        if !matches.is_empty() && !destinations.is_empty() {
            compiled.push(TlsRoute { matches, destinations });
        }
    }
    compiled
}

/// Compiles the routes of other connections.
pub(super) fn tcp(host: &mut Host<'_>, rule: &VirtualService, routes: &[virtual_service::TcpRoute]) -> Vec<TcpRoute> {
    let mut compiled = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let matches = route.matches.iter().filter(|of| is_for_sidecars(&of.gateways)).map(|of| TcpMatch {
            destination_subnets: of.destination_subnets.clone(),
            // Istio ignores it.
            source_subnet: String::new(),
            port: of.port,
            client: client(&of.source_labels, &of.source_namespace),
        });
        let matches: Vec<TcpMatch> = matches.collect();
        let destinations = destinations(host, rule, &format!("tcp[{index}]"), &route.route);
        if (!matches.is_empty() || route.matches.is_empty()) && !destinations.is_empty() {
            compiled.push(TcpRoute { matches, destinations });
        }
    }
    compiled
}

fn destinations(
    host: &mut Host<'_>,
    rule: &VirtualService,
    path: &str,
    routes: &[RouteDestination],
) -> Vec<discovery::RouteDestination> {
    let key = rule.key();
    let place = Place { owner: &key, path, namespace: &rule.namespace };
    let several = routes.len() > 1;
    let used = routes.iter().filter(|to| !several || to.weight > 0);
    let used = used.filter_map(|to| Some((to.destination.as_ref()?, u32::try_from(to.weight).unwrap_or_default())));
    used.map(|(to, weight)| discovery::RouteDestination { weight, ..host.destination(&place, to) }).collect()
}
