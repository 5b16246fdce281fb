//! A VirtualService as a whole: its hosts, gateways and kinds of routes.

use super::{Check, http, layer4, names, reachability};
use crate::networking::VirtualService;
use crate::networking::virtual_service::VirtualServiceSpec;

pub(super) fn check(service: &VirtualService, check: &mut Check) {
    let spec = &service.spec;
    if spec.is_delegate() {
        let sections =
            [("gateways", spec.gateways.is_empty()), ("tls", spec.tls.is_empty()), ("tcp", spec.tcp.is_empty())];
        for (field, _) in sections.iter().filter(|(_, empty)| !empty) {
            check.error_of(
                field,
                "cannot be set without hosts: a delegate has http routes alone; add hosts or remove it",
            );
        }
    }
    names::gateways(check, &spec.gateways);
    hosts(spec, check);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        check.error("has no routes; write http, tls or tcp");
    }
    check.each("http", &spec.http, |route, check| http::check(route, spec, check));
    check.each("tls", &spec.tls, |route, check| layer4::tls(route, spec, check));
    check.each("tcp", &spec.tcp, layer4::tcp);
    let own = service.metadata.namespace.as_deref().unwrap_or(".");
    names::export_to(check, own, &spec.export_to, false);
    reachability::check(spec, check);
}

fn hosts(spec: &VirtualServiceSpec, check: &mut Check) {
    let by_sni = spec.tls.iter().flat_map(|route| &route.matches).any(|matched| !matched.sni_hosts.is_empty());
    let mut valid = true;
    check.each("hosts", &spec.hosts, |host, check| {
        let before = check.problems.len();
        if spec.applies_to_mesh() {
            if host == "*" {
                check.error("is \"*\", which only gateways can serve; name hosts, or set gateways without \"mesh\"");
            } else if !names::is_ip(host) {
                check.accept(names::wildcard_host(host));
            }
        } else if !names::is_ip(host) {
            check.accept(of_gateway(host, by_sni));
        }
        valid &= check.problems.len() == before;
    });
    if !valid {
        return;
    }
    for (first, second) in names::overlapping(&spec.hosts) {
        let message =
            format!("is covered by {:?} of the same VirtualService; remove one", names::shown(&spec.hosts[first]));
        check.at(format_args!(".hosts[{second}]"), |check| check.error(message));
    }
}

/// Checks a host that gateways serve. Names of the mesh's own server names have a first label of their own.
pub(super) fn of_gateway(host: &str, by_sni: bool) -> Result<(), String> {
    match host.strip_prefix("outbound_.") {
        Some(rest) if by_sni => match rest.split_once("_.").map(|(port, _)| port.parse::<u16>()) {
            Some(Ok(_)) => Ok(()),
            _ => Err("is not a server name of the mesh: outbound_.<port>_.<subset>_.<host>".to_owned()),
        },
        _ => names::wildcard_host(host),
    }
}
