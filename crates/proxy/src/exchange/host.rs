//! The service that a request's host names.

/// Returns the hostname of the service that `host` names for a workload in `namespace`: `reviews`, `reviews.default`,
/// `reviews.default.svc`, or the full hostname, with or without a port. Returns `None` if `host` cannot name a service.
pub(super) fn hostname_of(host: &str, namespace: &str, domain: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let suffix = format!(".svc.{domain}");
    let short = name.strip_suffix(&suffix).or_else(|| name.strip_suffix(".svc")).unwrap_or(&name);
    let mut labels = short.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(service), None, None) if short.len() == name.len() => Some(format!("{service}.{namespace}{suffix}")),
        (Some(service), Some(namespace), None) => Some(format!("{service}.{namespace}{suffix}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_services() {
        let full = Some("reviews.default.svc.cluster.local".to_owned());
        for host in [
            "reviews",
            "reviews:9080",
            "Reviews.default",
            "reviews.default.svc:80",
            "reviews.default.svc.cluster.local",
            "reviews.default.svc.cluster.local.",
        ] {
            assert_eq!(hostname_of(host, "default", "cluster.local"), full, "{host}");
        }
        for host in ["", "10.0.0.1:80", "[::1]:80", "www.example.com", "a.b.c.svc.cluster.local"] {
            assert_eq!(hostname_of(host, "default", "cluster.local"), None, "{host}");
        }
    }
}
