//! The data path between clusters, measured by sidecars: a connection by mutual TLS to an endpoint of the other cluster, whose
//! identity and issuer are proven; and one to a gateway for a name that no service has, which the gateway must refuse.

use std::collections::BTreeMap;

use anyhow::Context as _;
use federation_controller::debug::{ProxyRow, ServiceRow};
use lab::console::Patience;
use serde_json::Value;

use super::mesh::Mesh;
use super::report::Finding;
use crate::access::{ClusterAccess, describe};
use crate::authz::escaped;
use crate::config::source;

/// Checks the path from each cluster to each other one of the same mesh.
pub(super) async fn check(
    clusters: &[ClusterAccess],
    meshes: &[(&ClusterAccess, Mesh)],
    patience: &Patience,
) -> Vec<Finding> {
    let mut findings: BTreeMap<(String, String), Vec<Finding>> = BTreeMap::new();
    for (_, mesh) in meshes {
        for from in &mesh.clusters {
            for to in mesh.clusters.iter().filter(|to| to.name != from.name) {
                let pair = (from.name.clone(), to.name.clone());
                let own = pair_of(clusters, mesh, &from.name, &to.name, patience).await;
                // Of several primaries' reports, the one that found something out counts.
                let known = findings.get(&pair).is_some_and(|found| found.iter().all(is_known));
                if !known {
                    findings.insert(pair, own);
                }
            }
        }
    }
    findings.into_values().flatten().collect()
}

fn is_known(finding: &Finding) -> bool {
    finding.outcome != super::report::Outcome::Unknown
}

async fn pair_of(clusters: &[ClusterAccess], mesh: &Mesh, from: &str, to: &str, patience: &Patience) -> Vec<Finding> {
    let place = format!("{from} -> {to}");
    let unknown = |text: String| vec![Finding::unknown("data path", &place, text)];
    let Some(service) = mesh.services.iter().find(|service| is_measurable(service, from, to)) else {
        return unknown(format!("{to} exports no service with ready endpoints and a TCP port that {from} imports"));
    };
    let Some(proxy) = mesh.proxies.iter().find(|proxy| proxy.cluster == from && proxy.role == "sidecar") else {
        return unknown(format!("{from} has no sidecar that could measure it"));
    };
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name == from) else {
        return unknown(format!("no context of {from} was given: --context {from}"));
    };
    match measured(cluster, proxy, service, to, patience).await {
        Ok(measured) => judged(&place, to, &service.hostname, &measured),
        Err(error) => unknown(describe(&error)),
    }
}

/// Returns whether a service of one cluster is used by another, so that its endpoints can be connected to.
fn is_measurable(service: &ServiceRow, from: &str, to: &str) -> bool {
    let exported = service.clusters.get(to).is_some_and(|of| of.exported.is_some() && of.ready_endpoints != Some(0));
    let imported = service.clusters.get(from).is_some_and(|of| of.imported);
    exported && imported && !service.system && !service.ports.is_empty()
}

/// Has a sidecar measure. Returns the connections to endpoints of the cluster.
async fn measured(
    cluster: &ClusterAccess,
    proxy: &ProxyRow,
    service: &ServiceRow,
    to: &str,
    patience: &Patience,
) -> anyhow::Result<Vec<Value>> {
    let port = service.ports[0].split('/').next().unwrap_or_default();
    let url = format!("tcp://{}:{port}", service.hostname);
    let path = format!("/explain?url={}&measure=true", escaped(&url));
    let from = format!("the sidecar of {} in {}, through {}", proxy.pod, cluster.name, cluster.api_server());
    let page = patience.answer(&from, source::read(cluster, &proxy.namespace, &proxy.pod, &path)).await??;
    let page: Value = serde_json::from_str(&page).context("the sidecar's answer is no JSON")?;
    let all = page["measured"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|of| of["cluster"] == to).collect())
}

/// Judges what a sidecar measured.
fn judged(place: &str, to: &str, hostname: &str, measured: &[Value]) -> Vec<Finding> {
    if measured.is_empty() {
        let text = format!("the sidecar knows no endpoint of {hostname} there that takes part in mutual TLS");
        return vec![Finding::unknown("data path", place, text)];
    }
    let mut findings = Vec::new();
    for of in measured {
        let address = of["address"].as_str().unwrap_or_default();
        let way = if of["throughGateway"] == true { format!("gateway {address}") } else { address.to_owned() };
        findings.push(match (of["milliseconds"].as_f64(), of["identity"].as_str()) {
            (Some(milliseconds), Some(identity)) => {
                let issuer = of["issuer"].as_str();
                let proof = match issuer {
                    Some(issuer) if issuer == to => format!("{identity}, issued by {to}'s intermediate"),
                    Some(issuer) => format!("{identity}, issued by {issuer}'s intermediate"),
                    None => format!("{identity}, issuer's cluster unknown"),
                };
                let text = format!("{way} in {milliseconds:.0} ms, identity proven: {proof}");
                match issuer {
                    Some(issuer) if issuer != to => Finding::failure("data path", place, text)
                        .advise(format!("find out why {issuer}'s intermediate signs for workloads of {to}")),
                    _ => Finding::ok("data path", place, text),
                }
            }
            _ => {
                let error = of["error"].as_str().unwrap_or("no certificate");
                Finding::failure("data path", place, format!("{way}: {error}")).advise(format!(
                    "check that {way} is reachable from the nodes of the other cluster, and what it logs"
                ))
            }
        });
        match of["unknownName"].as_str() {
            Some("refused") => {
                findings.push(Finding::ok("refusal", place, format!("{way} refuses a name that no service has")));
            }
            Some("answered") => findings.push(
                Finding::failure("refusal", place, format!("{way} answers for a name that no service has")).advise(
                    "check that the address is that of an isthmus gateway, and not of a proxy that forwards all",
                ),
            ),
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Outcome;
    use super::*;

    #[test]
    fn a_path_is_proven_by_identity_and_issuer() {
        let measured = |issuer: &str, unknown: &str| {
            json!({"address": "203.0.113.20:15443", "cluster": "east", "throughGateway": true, "milliseconds": 16.2,
                "identity": "spiffe://cluster.local/ns/default/sa/reviews", "issuer": issuer, "error": null,
                "unknownName": unknown})
        };
        let outcomes = |of: &[Value]| -> Vec<Outcome> {
            judged("west -> east", "east", "reviews", of).iter().map(|finding| finding.outcome).collect()
        };
        assert_eq!(outcomes(&[measured("east", "refused")]), [Outcome::Ok, Outcome::Ok]);
        assert_eq!(outcomes(&[measured("rogue", "answered")]), [Outcome::Failure, Outcome::Failure]);
        let lost = json!({"address": "203.0.113.20:15443", "throughGateway": true, "milliseconds": null,
            "error": "connection timeout", "unknownName": "unreachable"});
        assert_eq!(outcomes(&[lost]), [Outcome::Failure]);
        assert_eq!(outcomes(&[]), [Outcome::Unknown]);
        let text = &judged("west -> east", "east", "reviews", &[measured("east", "refused")])[0].text;
        assert!(text.starts_with("gateway 203.0.113.20:15443 in 16 ms, identity proven: spiffe://"), "{text}");
    }
}
