//! The service that a request's host names.

use std::net::IpAddr;

/// Returns a host without its port, and an IPv6 address without brackets.
pub(super) fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Returns the hostname of the ServiceEntry that a host may name: in lower case, without a port and a dot at the end.
pub(super) fn entry(host: &str) -> Option<String> {
    let name = without_port(host).trim_end_matches('.');
    let is_name = !name.is_empty() && !host.starts_with('[') && name.parse::<IpAddr>().is_err();
    is_name.then(|| name.to_ascii_lowercase())
}

/// A service, as a host names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NamedService {
    /// The service with this hostname. It is certain that the host is no name outside of the cluster if it has a single label
    /// or ends with the cluster's domain.
    Hostname {
        /// The hostname.
        hostname: String,
        /// Whether it is certain.
        certain: bool,
    },
    /// The service with this address.
    Address(IpAddr),
}

impl NamedService {
    /// Returns the service that `host` names for a workload in `namespace`: `reviews`, `reviews.default`,
    /// `reviews.default.svc`, the full hostname, or an address. A port in `host` is ignored. Returns `None` if `host` cannot
    /// name a service.
    pub(super) fn parse(host: &str, namespace: &str, domain: &str) -> Option<Self> {
        if let Some(rest) = host.strip_prefix('[') {
            return rest.split_once(']')?.0.parse().ok().map(Self::Address);
        }
        let name = without_port(host);
        if let Ok(address) = name.parse() {
            return Some(Self::Address(address));
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() {
            return None;
        }
        let suffix = format!(".svc.{domain}");
        let short = name.strip_suffix(&suffix).or_else(|| name.strip_suffix(".svc")).unwrap_or(&name);
        let mut labels = short.split('.');
        let is_short = short.len() == name.len();
        let (service, namespace, certain) = match (labels.next(), labels.next(), labels.next()) {
            (Some(service), None, None) if is_short => (service, namespace, true),
            (Some(service), Some(namespace), None) => (service, namespace, !is_short),
            _ => return None,
        };
        Some(Self::Hostname { hostname: format!("{service}.{namespace}{suffix}"), certain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(host: &str) -> Option<NamedService> {
        NamedService::parse(host, "default", "cluster.local")
    }

    #[test]
    fn a_hostname_or_short_name_names_a_service() {
        for (host, certain) in [
            ("reviews", true),
            ("reviews:9080", true),
            // As `example.com` may be.
            ("Reviews.default", false),
            ("reviews.default.svc:80", true),
            ("reviews.default.svc.cluster.local", true),
            ("reviews.default.svc.cluster.local.", true),
        ] {
            let hostname = "reviews.default.svc.cluster.local".to_owned();
            assert_eq!(parse(host), Some(NamedService::Hostname { hostname, certain }), "{host}");
        }
        for host in ["", ":80", "[reviews]:80", "[::1", "www.example.com", "a.b.c.svc.cluster.local"] {
            assert_eq!(parse(host), None, "{host}");
        }
    }

    #[test]
    fn a_name_of_any_domain_may_be_the_host_of_an_entry() {
        for (host, expected) in [
            ("www.Example.com:443", Some("www.example.com")),
            ("example.com.", Some("example.com")),
            ("10.0.0.1:80", None),
            ("[::1]:80", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(entry(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn an_ip_address_names_a_service() {
        for (host, address) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::1]:80", "fd00::1"),
        ] {
            assert_eq!(parse(host), Some(NamedService::Address(address.parse().unwrap())), "{host}");
        }
    }
}
