//! Checks of a mesh, by the controller of a primary.

use std::collections::BTreeSet;
use std::time::Duration;

use federation_controller::debug::{ClusterRow, ClustersPage, GatewayRow, ProxyRow, ServiceRow, ServicesPage};
use install::debug_pages::DebugPages;
use lab::console::Patience;
use serde::de::DeserializeOwned;

use super::report::Finding;
use crate::access::{ClusterAccess, UNREADABLE_PAGE, describe};
use crate::status::age_of;

/// An intermediate that ends within this time is worth a warning.
const EXPIRY: Duration = Duration::from_secs(7 * 86_400);
/// A link that has been silent for this long is worth a warning, though it counts as connected.
const SILENT: Duration = Duration::from_secs(60);

/// What the controller of a primary reports.
pub(super) struct Mesh {
    pub(super) clusters: Vec<ClusterRow>,
    pub(super) gateways: Vec<GatewayRow>,
    pub(super) services: Vec<ServiceRow>,
    pub(super) proxies: Vec<ProxyRow>,
}

/// Checks the mesh of a primary.
pub(super) async fn check(
    primary: &ClusterAccess,
    namespace: &str,
    patience: &Patience,
) -> (Option<Mesh>, Vec<Finding>) {
    let name = primary.name.as_str();
    let pages = DebugPages::new(primary.client.clone(), namespace);
    let (page, mesh) = match read(primary, &pages, patience).await {
        Ok(read) => read,
        Err(error) => {
            let text = format!("does not answer: {}", describe(&error));
            let advice = format!("check that it runs: {} -n {namespace} get pods", primary.kubectl);
            return (None, vec![Finding::failure("controller", name, text).advise(advice)]);
        }
    };
    let mut findings = vec![version(name, &page.version)];
    for row in &mesh.clusters {
        findings.extend(link(name, row));
        findings.push(trust(name, row));
    }
    findings.extend(proxies(name, &mesh));
    for problem in &page.problems {
        findings.push(Finding::warning("objects", name, problem.clone()));
    }
    (Some(mesh), findings)
}

async fn read(
    primary: &ClusterAccess,
    pages: &DebugPages,
    patience: &Patience,
) -> anyhow::Result<(ClustersPage, Mesh)> {
    async fn page<T: DeserializeOwned>(pages: &DebugPages, name: &str) -> anyhow::Result<T> {
        let text = pages.read(name).await?;
        serde_json::from_str(&text).map_err(|_| anyhow::anyhow!(UNREADABLE_PAGE))
    }
    let all = async {
        let (clusters, gateways) = (page::<ClustersPage>(pages, "clusters").await?, page(pages, "gateways").await?);
        let (services, proxies) = (page::<ServicesPage>(pages, "service-table").await?, page(pages, "proxies").await?);
        let rows = clusters.clusters.clone();
        anyhow::Ok((clusters, Mesh { clusters: rows, gateways, services: services.services, proxies }))
    };
    patience.answer(&primary.controller(), all).await?
}

fn version(name: &str, version: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match version {
        "" => Finding::unknown("version", name, "the controller does not state its version"),
        version if version == own => Finding::ok("version", name, format!("isthmus {version}")),
        version => Finding::warning("version", name, format!("isthmus {version}, while this command is {own}"))
            .advise("use the command of the controller's version"),
    }
}

/// Checks the link to a cluster: whether the primary reaches its API server.
fn link(primary: &str, row: &ClusterRow) -> Option<Finding> {
    let own = row.role == "primary" && row.secret.is_none();
    let place = if own { primary.to_owned() } else { format!("{primary} -> {}", row.name) };
    let contact = row.contact_age_ms.map(Duration::from_millis);
    let age = contact.map_or_else(|| "never".to_owned(), |age| format!("{} ago", age_of(age)));
    if row.link != "connected" {
        let why = row.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("API server {}{why}, last answer {age}", row.link);
        let advice = match row.link.as_str() {
            "refused" if !own => format!("renew the credentials: isthmus join --context {primary} {}", row.name),
            _ => format!("check that {primary} reaches {}", row.server),
        };
        return Some(Finding::failure("link", &place, text).advise(advice));
    }
    if own {
        return None;
    }
    let mut text = format!("API server {} answered {age}", row.server);
    if !row.unconfirmed.is_empty() {
        text = format!("it lists no {} any more, which is not confirmed", row.unconfirmed.join(", "));
        return Some(
            Finding::warning("link", &place, text).advise("the last known objects stay until it is confirmed"),
        );
    }
    Some(match contact {
        Some(age) if age > SILENT => Finding::warning("link", &place, text)
            .advise("check the network between them: the link counts as connected, but is silent"),
        _ => Finding::ok("link", &place, text),
    })
}

/// Checks the certificate that signs for a cluster.
fn trust(primary: &str, row: &ClusterRow) -> Finding {
    let place = row.name.as_str();
    let Some(trust) = &row.trust else {
        return Finding::unknown("intermediate", place, format!("{primary} has no certificate that signs for it"))
            .advise("create one: isthmus ca");
    };
    let left = trust.expires_in_s.map(Duration::from_secs);
    let valid =
        left.map_or_else(|| "its own controller signs".to_owned(), |left| format!("valid for {}", age_of(left)));
    if left.is_some_and(|left| left.is_zero()) {
        return Finding::failure("intermediate", place, "it has expired").advise("create a new one: isthmus ca");
    }
    if !trust.own_intermediate {
        return Finding::warning("intermediate", place, format!("the root itself signs, {valid}")).advise(
            "create an intermediate for each cluster: isthmus ca; certificates then prove the cluster of a workload",
        );
    }
    match left.is_some_and(|left| left < EXPIRY) {
        true => Finding::warning("intermediate", place, valid).advise("create a new one: isthmus ca"),
        false => Finding::ok("intermediate", place, format!("own, {valid}")),
    }
}

/// Checks the proxies: those of other clusters prove that these reach the controller.
fn proxies(primary: &str, mesh: &Mesh) -> Vec<Finding> {
    let clusters: BTreeSet<&str> = mesh.clusters.iter().map(|row| row.name.as_str()).collect();
    let mut findings = Vec::new();
    for cluster in clusters {
        let of: Vec<&ProxyRow> = mesh.proxies.iter().filter(|proxy| proxy.cluster == cluster).collect();
        let place = if cluster == primary { primary.to_owned() } else { format!("{cluster} -> {primary}") };
        let rejected = of.iter().filter(|proxy| proxy.rejected > 0).count();
        let expired = of.iter().filter(|proxy| proxy.certificate_expires_in_s == Some(0)).count();
        findings.push(if of.is_empty() {
            Finding::unknown("proxies", &place, "none is connected, so nothing proves that the controller is reached")
        } else if expired > 0 {
            Finding::failure("proxies", &place, format!("{expired} of {} have an expired certificate", of.len()))
                .advise("see their logs: a certificate is renewed at half of its life")
        } else if rejected > 0 {
            Finding::warning("proxies", &place, format!("{rejected} of {} rejected a push", of.len()))
                .advise("see which: isthmus status -o wide")
        } else {
            Finding::ok("proxies", &place, format!("{} connected", of.len()))
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Outcome;
    use super::*;

    fn row(link: &str, contact_age_ms: u64) -> ClusterRow {
        serde_json::from_value(json!({
            "name": "east", "role": "remote", "network": "net-east", "server": "https://east", "secret": "s", "link": link,
            "why": null, "link_age_ms": 1, "contact_age_ms": contact_age_ms, "heard_age_ms": 1, "synced": true,
            "unconfirmed": [], "services": 1, "exported": 1, "endpoints": 1, "pods": 1,
            "trust": {"root": "ab", "own_intermediate": true, "expires_in_s": 86400},
        }))
        .unwrap()
    }

    #[test]
    fn links_are_judged_by_state_and_silence() {
        for (link_state, age, outcome) in [
            ("connected", 100, Outcome::Ok),
            ("connected", 100_000, Outcome::Warning),
            ("refused", 100, Outcome::Failure),
            ("unreachable", 100, Outcome::Failure),
        ] {
            let finding = link("west", &row(link_state, age)).unwrap();
            assert_eq!((finding.outcome, &*finding.place), (outcome, "west -> east"), "{link_state} {age}");
        }
        let renew = link("west", &row("refused", 1)).unwrap().advice.unwrap();
        assert!(renew.contains("isthmus join --context west east"), "{renew}");
    }

    #[test]
    fn intermediates_are_judged_by_what_is_left() {
        let mut of = row("connected", 1);
        assert_eq!(trust("west", &of).outcome, Outcome::Warning, "a day is left");
        let mut with = |own, left| {
            let trust_of = of.trust.as_mut().unwrap();
            (trust_of.own_intermediate, trust_of.expires_in_s) = (own, left);
            trust("west", &of).outcome
        };
        assert_eq!(with(true, Some(90 * 86_400)), Outcome::Ok);
        assert_eq!(with(true, Some(0)), Outcome::Failure);
        assert_eq!(with(false, Some(90 * 86_400)), Outcome::Warning);
        assert_eq!(with(true, None), Outcome::Ok);
        of.trust = None;
        assert_eq!(trust("west", &of).outcome, Outcome::Unknown);
    }

    #[test]
    fn versions_are_compared_with_the_commands() {
        assert_eq!(version("west", env!("CARGO_PKG_VERSION")).outcome, Outcome::Ok);
        assert_eq!(version("west", "0.0.0").outcome, Outcome::Warning);
        assert_eq!(version("west", "").outcome, Outcome::Unknown);
    }
}
