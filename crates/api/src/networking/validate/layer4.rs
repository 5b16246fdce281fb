//! Routes of TLS and of other connections, and destinations.

use super::virtual_service::of_gateway;
use super::{Check, envoy, matches, names};
use crate::networking::virtual_service::{
    Destination, L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute, VirtualServiceSpec,
};

pub(super) fn tls(route: &TlsRoute, spec: &VirtualServiceSpec, check: &mut Check) {
    if route.matches.is_empty() {
        check.error_of("match", "is missing; a TLS route has at least one match with sniHosts");
    }
    check.each("match", &route.matches, |matched, check| tls_match(matched, spec, check));
    destinations(&route.route, check);
}

fn tls_match(matched: &TlsMatch, spec: &VirtualServiceSpec, check: &mut Check) {
    if matched.sni_hosts.is_empty() {
        check.error_of("sniHosts", "is missing; write the server names to match");
    }
    check.each("sniHosts", &matched.sni_hosts, |host, check| {
        let valid = if spec.applies_to_mesh() { names::wildcard_host(host) } else { of_gateway(host, true) };
        match valid {
            Err(_) if names::is_ip(host) => check.warn("is an IP address, which clients do not send as a server name"),
            Err(message) => check.error(message),
            Ok(()) if spec.hosts.iter().any(|by| names::is_covered(host, by)) => {}
            Ok(()) => check.error(format!("is {host:?}, which no host of spec.hosts covers; add it there")),
        }
    });
    subnets(&matched.destination_subnets, check);
    matches::client(check, matched.port, &matched.source_labels, &matched.source_namespace, &matched.gateways);
}

pub(super) fn tcp(route: &TcpRoute, check: &mut Check) {
    check.each("match", &route.matches, tcp_match);
    destinations(&route.route, check);
}

fn tcp_match(matched: &L4Match, check: &mut Check) {
    subnets(&matched.destination_subnets, check);
    if !matched.source_subnet.is_empty() {
        check.warn_of("sourceSubnet", "is deprecated and has no effect; use sourceLabels or sourceNamespace");
    }
    matches::client(check, matched.port, &matched.source_labels, &matched.source_namespace, &matched.gateways);
}

fn subnets(subnets: &[String], check: &mut Check) {
    check.each("destinationSubnets", subnets, |text, check| check.accept(names::subnet(text)));
}

fn destinations(routes: &[RouteDestination], check: &mut Check) {
    if routes.is_empty() {
        check.error_of("route", "is missing; write at least one destination");
    }
    check.each("route", routes, |route, check| {
        required(&route.destination, check);
        weight(route.weight, check);
    });
    total(routes.iter().map(|route| route.weight), check);
}

/// Checks a destination that has to be there.
pub(super) fn required(destination: &Option<Destination>, check: &mut Check) {
    if destination.is_none() {
        check.error_of("destination", "is missing; write the host to send to");
    }
    check.some("destination", destination, self::destination);
}

/// Checks a destination.
pub(super) fn destination(destination: &Destination, check: &mut Check) {
    check.at(format_args!(".host"), |check| match destination.host.as_str() {
        "*" => check.error("is \"*\"; name the host to send to"),
        host => check.accept(names::wildcard_host(host)),
    });
    if !destination.subset.is_empty() && !names::is_label(&destination.subset) {
        check.error_of("subset", subset_name(&destination.subset));
    }
    check.some("port", &destination.port, |port, check| check.port("number", port.number));
}

/// Describes the name of a subset that is not valid.
pub(super) fn subset_name(name: &str) -> String {
    format!("is {:?}, which is not the name of a subset (letters, digits and dashes, at most 63)", names::shown(name))
}

/// Checks a weight.
pub(super) fn weight(weight: i32, check: &mut Check) {
    if weight < 0 {
        check.error_of("weight", format!("is {weight}; write 0 or more"));
    }
}

/// Checks that several destinations have some weight in all.
pub(super) fn total(weights: impl ExactSizeIterator<Item = i32>, check: &mut Check) {
    let several = weights.len() > 1;
    match weights.map(i64::from).sum::<i64>() {
        0 if several => check.error_of("route", "has several destinations of weight 0 in all; give one a weight"),
        total => envoy::total_weight(total, check),
    }
}
