//! The document of `isthmus status -o json|yaml`. Its form is documented (`docs/status.md`) and does not change with
//! the controller's debug pages.
//!
//! Names are written as in Kubernetes objects, times are seconds, and unknown values are `null`.

use federation_controller::debug::{ClusterRow, ProxyRow, TrustRow};
use serde::Serialize;
use serde_json::{Value, json};

use super::lease::LeaseDocument;
use super::{MeshStatus, refusals};

/// Returns the document: the reports of all primaries, and the primaries that did not answer.
pub(super) fn of(views: &[MeshStatus], failed: &[(String, String)]) -> Value {
    let answered = views.iter().map(|view| {
        json!({
            "name": view.primary,
            "error": null,
            "clusters": view.page.clusters.iter().map(ClusterDocument::of).collect::<Vec<_>>(),
            "proxies": view.proxies.iter().map(ProxyDocument::of).collect::<Vec<_>>(),
            "refusals": refusals::totals(&view.proxies),
            "problems": view.page.problems,
        })
    });
    let silent = failed.iter().map(|(name, error)| {
        json!({"name": name, "error": error, "clusters": null, "proxies": null, "refusals": null,
            "problems": null})
    });
    json!({"primaries": answered.chain(silent).collect::<Vec<_>>()})
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterDocument<'a> {
    name: &'a str,
    role: &'a str,
    network: Option<&'a str>,
    server: &'a str,
    secret: Option<&'a str>,
    link: LinkDocument<'a>,
    synced: bool,
    unconfirmed: &'a [String],
    services: Option<usize>,
    exported: Option<usize>,
    endpoints: Option<usize>,
    pods: Option<usize>,
    trust: Option<TrustDocument<'a>>,
    lease: Option<LeaseDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkDocument<'a> {
    state: &'a str,
    reason: Option<&'a str>,
    since_seconds: f64,
    contact_seconds: Option<f64>,
    heard_seconds: Option<f64>,
    replacement: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrustDocument<'a> {
    root: &'a str,
    own_intermediate: bool,
    expires_in_seconds: Option<u64>,
}

impl<'a> ClusterDocument<'a> {
    fn of(row: &'a ClusterRow) -> Self {
        // Before the first full list, zero means unknown.
        let known = |count: usize| (row.synced || count > 0).then_some(count);
        ClusterDocument {
            name: &row.name,
            role: &row.role,
            network: Some(row.network.as_str()).filter(|network| !network.is_empty()),
            server: &row.server,
            secret: row.secret.as_deref(),
            link: LinkDocument {
                state: &row.link,
                reason: row.why.as_deref(),
                since_seconds: seconds(row.link_age_ms),
                contact_seconds: row.contact_age_ms.map(seconds),
                heard_seconds: row.heard_age_ms.map(seconds),
                replacement: row.replacement.as_deref(),
            },
            synced: row.synced,
            unconfirmed: &row.unconfirmed,
            services: known(row.services),
            exported: known(row.exported),
            endpoints: known(row.endpoints),
            pods: known(row.pods),
            trust: row.trust.as_ref().map(|TrustRow { root, own_intermediate, expires_in_s }| TrustDocument {
                root,
                own_intermediate: *own_intermediate,
                expires_in_seconds: *expires_in_s,
            }),
            lease: row.lease.as_ref().map(LeaseDocument::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyDocument<'a> {
    id: &'a str,
    role: &'a str,
    pod: &'a str,
    namespace: &'a str,
    cluster: &'a str,
    identity: &'a str,
    address: &'a str,
    connected_seconds: f64,
    acknowledged: bool,
    lag_seconds: f64,
    certificate_expires_in_seconds: Option<u64>,
    subscriptions: &'a std::collections::BTreeMap<String, usize>,
    pushes: &'a std::collections::BTreeMap<String, u64>,
    resources: u64,
    bytes: u64,
    rejected: u64,
}

impl<'a> ProxyDocument<'a> {
    fn of(row: &'a ProxyRow) -> Self {
        ProxyDocument {
            id: &row.id,
            role: &row.role,
            pod: &row.pod,
            namespace: &row.namespace,
            cluster: &row.cluster,
            identity: &row.identity,
            address: &row.address,
            connected_seconds: seconds(row.connected_ms),
            acknowledged: row.acked,
            lag_seconds: seconds(row.lag_ms),
            certificate_expires_in_seconds: row.certificate_expires_in_s,
            subscriptions: &row.subscriptions,
            pushes: &row.pushes,
            resources: row.resources,
            bytes: row.bytes,
            rejected: row.rejected,
        }
    }
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use federation_controller::debug::ClustersPage;

    #[test]
    fn unknown_values_are_null_and_never_zero() {
        let never = serde_json::from_value(json!({
            "name": "east", "role": "remote", "network": "", "server": "s", "secret": "a/b", "link": "unreachable",
            "why": "refused", "link_age_ms": 1500, "contact_age_ms": null, "heard_age_ms": null, "synced": false,
            "unconfirmed": [], "services": 0, "exported": 0, "endpoints": 0, "pods": 0, "trust": null
        }));
        let page = ClustersPage { version: String::new(), clusters: vec![never.unwrap()], problems: vec!["p".into()] };
        let view = MeshStatus { primary: "west".into(), option: String::new(), page, proxies: Vec::new() };
        let document = of(&[view], &[("north".into(), "no answer".into())]);
        let [west, north] = document["primaries"].as_array().unwrap().as_slice() else { panic!("{document}") };
        let east = &west["clusters"][0];
        for unknown in ["network", "services", "exported", "endpoints", "pods", "trust"] {
            assert!(east[unknown].is_null(), "{unknown} in {east}");
        }
        assert_eq!((&east["link"]["sinceSeconds"], &east["link"]["contactSeconds"]), (&json!(1.5), &Value::Null));
        assert_eq!(west["problems"], json!(["p"]));
        assert_eq!((&north["error"], &north["clusters"]), (&json!("no answer"), &Value::Null));
    }
}
