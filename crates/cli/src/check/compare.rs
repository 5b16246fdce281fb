//! Checks between clusters: clocks, versions, roots, networks.

use std::collections::BTreeMap;

use super::cluster::{ClusterFacts, is_worth_a_warning};
use super::mesh::Mesh;
use super::report::Finding;
use crate::access::ClusterAccess;

/// The number of minor versions of Kubernetes by which clusters of one mesh may differ: API servers serve each version of an
/// API for at least three.
const MINORS: u32 = 3;

/// Compares the clocks with that of the first cluster.
pub(super) fn clocks(facts: &[ClusterFacts]) -> Vec<Finding> {
    let mut known = facts.iter().filter_map(|of| Some((of.name.as_str(), of.ahead?)));
    let Some((first, reference)) = known.next() else { return Vec::new() };
    let limit = identity::CLOCK_SKEW.as_secs_f64();
    let one = |(name, ahead): (&str, f64)| {
        let difference = ahead - reference;
        let side = if difference < 0.0 { "behind" } else { "ahead of" };
        let text = format!("{:.1}s {side} {first}", difference.abs());
        if difference.abs() > limit {
            let text = format!("{text}: certificates that one issues are not valid for the other");
            Finding::failure("clocks", name, text).advise("set the clocks of its nodes by NTP")
        } else if is_worth_a_warning(difference) {
            Finding::warning("clocks", name, text).advise("set the clocks of its nodes by NTP")
        } else {
            Finding::ok("clocks", name, text)
        }
    };
    known.map(one).collect()
}

/// Compares the versions of Kubernetes.
pub(super) fn versions(facts: &[ClusterFacts]) -> Vec<Finding> {
    let known: Vec<(&str, u32)> = facts.iter().filter_map(|of| Some((of.name.as_str(), of.minor?))).collect();
    let newest = known.iter().map(|(_, minor)| *minor).max().unwrap_or_default();
    let old = known.into_iter().filter(|(_, minor)| newest - minor > MINORS);
    let finding = |(name, minor): (&str, u32)| {
        Finding::warning("version", name, format!("Kubernetes 1.{minor}, while another cluster has 1.{newest}"))
            .advise("upgrade it: versions of APIs that all clusters serve become rare")
    };
    old.map(finding).collect()
}

/// Compares the root certificates that the clusters trust.
pub(super) fn roots(facts: &[ClusterFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known = facts.iter().filter_map(|of| Some((of.name.as_str(), of.roots.as_ref()?)));
    for of in facts.iter().filter(|of| of.roots.is_none() && of.minor.is_some()) {
        let text = "no root certificate is published there yet: it has not joined";
        findings.push(Finding::unknown("roots", &of.name, text));
    }
    let Some((first, reference)) = known.next() else { return findings };
    for (name, roots) in known {
        findings.push(if roots == reference {
            Finding::ok("roots", name, format!("the same as {first}'s"))
        } else if roots.is_disjoint(reference) {
            Finding::failure(
                "roots",
                name,
                format!("none in common with {first}: neither trusts the other's workloads"),
            )
            .advise("create intermediates of one root: isthmus ca")
        } else {
            Finding::warning("roots", name, format!("some in common with {first}, some not")).advise(
                "complete the rotation: every cluster trusts both roots until no certificate of the old one is left",
            )
        });
    }
    findings
}

/// Compares the networks: which clusters share one, and whether the others have gateways.
pub(super) fn networks(facts: &[ClusterFacts], meshes: &[(&ClusterAccess, Mesh)]) -> Vec<Finding> {
    let mut networks: BTreeMap<String, String> = BTreeMap::new();
    for of in facts {
        networks.insert(of.name.clone(), of.network.clone().unwrap_or_default());
    }
    // What a controller uses is what counts.
    for row in meshes.iter().flat_map(|(_, mesh)| &mesh.clusters) {
        if !row.network.is_empty() {
            networks.insert(row.name.clone(), row.network.clone());
        }
    }
    let mut findings = Vec::new();
    let several = networks.len() > 1;
    for (name, network) in &networks {
        if network.is_empty() {
            if several {
                let text = "no network is stated, so it counts as one of its own without gateways";
                findings.push(Finding::warning("network", name, text).advise(format!(
                    "label its root namespace: kubectl label namespace {} {}=NAME",
                    api::names::ROOT_NAMESPACE,
                    api::names::NETWORK_LABEL
                )));
            }
            continue;
        }
        let shared: Vec<&str> = networks
            .iter()
            .filter(|(other, of)| *other != name && *of == network)
            .map(|(other, _)| other.as_str())
            .collect();
        if !shared.is_empty() {
            let text = format!("{network}, shared with {}: pods reach each other directly", shared.join(", "));
            findings.push(Finding::ok("network", name, text));
        } else {
            findings.push(gateways(name, network, several, meshes));
        }
    }
    findings
}

fn gateways(name: &str, network: &str, several: bool, meshes: &[(&ClusterAccess, Mesh)]) -> Finding {
    if meshes.is_empty() {
        return Finding::unknown(
            "network",
            name,
            format!("{network}; its gateways are known once a controller reads it"),
        );
    }
    let all = meshes.iter().flat_map(|(_, mesh)| &mesh.gateways).filter(|row| row.network == network);
    let suffix = format!("({name})");
    let mut addresses: Vec<&str> = all.flat_map(|row| &row.addresses).map(String::as_str).collect();
    addresses.retain(|address| address.ends_with(&suffix));
    addresses.sort_unstable();
    addresses.dedup();
    match addresses.is_empty() {
        false => Finding::ok("network", name, format!("{network}, gateway {}", addresses.join(", "))),
        true if !several => Finding::ok("network", name, format!("{network}, no gateway")),
        true => Finding::warning(
            "network",
            name,
            format!("{network} has no gateway: other networks cannot reach its pods"),
        )
        .advise(format!(
            "install the east-west gateway, and see that its Service has an address: kubectl -n {} get service {}",
            api::names::SYSTEM_NAMESPACE,
            install::components::GATEWAY
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::*;

    fn facts(name: &str) -> ClusterFacts {
        ClusterFacts { name: name.to_owned(), minor: Some(33), ahead: Some(0.2), ..ClusterFacts::default() }
    }

    fn outcomes(findings: Vec<Finding>) -> Vec<(String, Outcome)> {
        findings.into_iter().map(|of| (of.place, of.outcome)).collect()
    }

    #[test]
    fn clocks_that_certificates_do_not_survive_fail() {
        let at = |name: &str, ahead: Option<f64>| ClusterFacts { ahead, ..facts(name) };
        let findings = clocks(&[
            at("west", Some(1.0)),
            at("east", Some(1.4)),
            at("north", Some(-20.0)),
            at("south", Some(500.0)),
            at("silent", None),
        ]);
        let of = |name: &str, outcome| (name.to_owned(), outcome);
        assert_eq!(
            outcomes(findings),
            [of("east", Outcome::Ok), of("north", Outcome::Warning), of("south", Outcome::Failure)]
        );
    }

    #[test]
    fn roots_are_compared_and_unknown_before_joining() {
        let with = |name: &str, roots: &[&str]| ClusterFacts {
            roots: Some(roots.iter().map(|root| (*root).to_owned()).collect()),
            ..facts(name)
        };
        let all = [with("a", &["x"]), with("b", &["x"]), with("c", &["x", "y"]), with("d", &["z"]), facts("e")];
        let mut found = outcomes(roots(&all));
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [("b", Outcome::Ok), ("c", Outcome::Warning), ("d", Outcome::Failure), ("e", Outcome::Unknown)];
        assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
    }

    #[test]
    fn old_versions_beside_new_ones_are_a_warning() {
        let at = |name: &str, minor| ClusterFacts { minor: Some(minor), ..facts(name) };
        assert_eq!(outcomes(versions(&[at("a", 33), at("b", 30)])), []);
        assert_eq!(outcomes(versions(&[at("a", 34), at("b", 30)])), [("b".to_owned(), Outcome::Warning)]);
    }

    #[test]
    fn a_cluster_without_a_network_is_named_beside_others() {
        let on = |name: &str, network: &str| ClusterFacts { network: Some(network.to_owned()), ..facts(name) };
        let found = outcomes(networks(&[on("a", "n1"), on("b", "n1"), facts("c"), on("d", "n2")], &[]));
        let expected = [("a", Outcome::Ok), ("b", Outcome::Ok), ("c", Outcome::Warning), ("d", Outcome::Unknown)];
        assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
        assert_eq!(networks(&[facts("alone")], &[]), []);
    }
}
