//! Routes of connections. As in Istio, routes of TLS connections are for ports whose declared protocol is TLS, and the others
//! for other ports.

use api::networking::virtual_service::{self, RouteDestination};
use wire::discovery::{self, Protocol, TcpMatch, TcpRoute, TlsMatch, TlsRoute};

use super::forward::Place;
use super::matches::client;
use super::{Host, RoutedProxies};
use crate::inventory::rules::is_wildcard;
use crate::objects::{Record as _, VirtualService};

/// Compiles the routes of TLS connections.
pub(super) fn tls(host: &mut Host<'_>, rule: &VirtualService, routes: &[virtual_service::TlsRoute]) -> Vec<TlsRoute> {
    let mut compiled = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = format!("tls[{index}]");
        let proxies = host.proxies;
        let for_these = route.matches.iter().filter(|of| proxies.are_in(&of.gateways, &rule.namespace));
        let matches = for_these.clone().flat_map(|of| {
            let with_port = |port| TlsMatch {
                server_names: of.sni_hosts.iter().map(|name| name.to_ascii_lowercase()).collect(),
                destination_subnets: of.destination_subnets.clone(),
                port,
                client: client(&of.source_labels, &of.source_namespace),
            };
            host.ports_matching(of.port, true).into_iter().map(with_port)
        });
        let matches: Vec<TlsMatch> = matches.collect();
        if matches.is_empty() && for_these.count() > 0 {
            note_protocol(host, rule, &path, "of protocol TLS or HTTPS that it matches");
        }
        let destinations = destinations(host, rule, &path, &route.route);
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
        let path = format!("tcp[{index}]");
        let proxies = host.proxies;
        let for_these = route.matches.iter().filter(|of| proxies.are_in(&of.gateways, &rule.namespace));
        let matches = for_these.clone().flat_map(|of| {
            let with_port = |port| TcpMatch {
                destination_subnets: of.destination_subnets.clone(),
                // Istio ignores it.
                source_subnet: String::new(),
                port,
                client: client(&of.source_labels, &of.source_namespace),
            };
            host.ports_matching(of.port, false).into_iter().map(with_port)
        });
        let mut matches: Vec<TcpMatch> = matches.collect();
        let any = if route.matches.is_empty() { host.ports_matching(0, false) } else { Vec::new() };
        // A route without a condition matches everything, of a service without ports of TLS.
        let is_catch_all = any == [0];
        if !is_catch_all {
            matches.extend(any.into_iter().map(|port| TcpMatch { port, ..TcpMatch::default() }));
        }
        let has_any = is_catch_all || !matches.is_empty();
        if !has_any && (route.matches.is_empty() || for_these.count() > 0) {
            note_protocol(host, rule, &path, "of another protocol than TLS and HTTPS that it matches");
        }
        let destinations = destinations(host, rule, &path, &route.route);
        if has_any && !destinations.is_empty() {
            compiled.push(TcpRoute { matches, destinations });
        }
    }
    compiled
}

impl Host<'_> {
    /// Returns the ports of a condition on connections of TLS, or of others. A port of 0 is any, in the condition and in the
    /// result.
    fn ports_matching(&self, port: u32, tls: bool) -> Vec<u32> {
        let of_protocol = self.ports.iter().filter(|(_, protocol)| (**protocol == Protocol::Tls) == tls);
        let ports: Vec<u32> = of_protocol.map(|(number, _)| u32::from(*number)).collect();
        match port {
            0 if ports.len() == self.ports.len() => vec![0],
            0 => ports,
            port => ports.into_iter().filter(|of| *of == port).collect(),
        }
    }
}

/// Notes that a route has no effect for its protocol. Of several hosts, another one may have the port.
fn note_protocol(host: &mut Host<'_>, rule: &VirtualService, path: &str, lacks: &str) {
    if matches!(host.proxies, RoutedProxies::Routers { .. }) {
        // Another server of the Gateway may have the port.
        return;
    }
    let hosts = rule.spec.iter().flat_map(|spec| &spec.hosts);
    if hosts.clone().count() == 1 && !hosts.clone().any(|host| is_wildcard(host)) {
        host.note_of(rule, "IST0133", format!("{path} has no effect: {} has no port {lacks}", host.hostname));
    }
}

fn destinations(
    host: &mut Host<'_>,
    rule: &VirtualService,
    path: &str,
    routes: &[RouteDestination],
) -> Vec<discovery::RouteDestination> {
    let key = rule.key();
    let place = Place { owner: &key, path, namespace: &rule.namespace, opaque: true };
    let several = routes.len() > 1;
    let used = routes.iter().filter(|to| !several || to.weight > 0);
    let used = used.filter_map(|to| Some((to.destination.as_ref()?, u32::try_from(to.weight).unwrap_or_default())));
    used.map(|(to, weight)| discovery::RouteDestination { weight, ..host.destination(&place, to) }).collect()
}
