//! Checks of one cluster, by its API server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use install::components::CONTROLLER;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use lab::console::Patience;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::reader;
use super::report::Finding;
use crate::access::{ClusterAccess, describe};

/// The minor version of Kubernetes 1 from which restartable init containers, which injected sidecars are, need no setting.
const SIDECAR_CONTAINERS: u32 = 29;
/// A clock within this difference of another is as good as equal: the time that API servers state has whole seconds.
const CLOCK_WARNING: f64 = 5.0;

/// The time for an API server to answer at all.
const GREETING: Duration = Duration::from_secs(5);

/// What a check of a cluster found out, for comparison with others.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterFacts {
    pub(super) name: String,
    /// The minor version of its Kubernetes.
    pub(super) minor: Option<u32>,
    /// Seconds by which its API server's clock is ahead of this machine's.
    pub(super) ahead: Option<f64>,
    /// The label of its network.
    pub(super) network: Option<String>,
    /// The root certificates that it trusts, in PEM.
    pub(super) roots: Option<BTreeSet<String>>,
    pub(super) has_controller: bool,
}

/// The answer of an API server about itself.
struct Greeting {
    version: String,
    minor: Option<u32>,
    ahead: Option<f64>,
    time: Duration,
}

/// Checks a cluster.
pub(super) async fn check(
    cluster: &ClusterAccess,
    namespace: &str,
    root_namespace: &str,
    patience: &Patience,
) -> (ClusterFacts, Vec<Finding>) {
    let name = cluster.name.as_str();
    let mut facts = ClusterFacts { name: name.to_owned(), ..ClusterFacts::default() };
    let mut findings = Vec::new();
    // One that does not answer leaves time for the others.
    let soon = tokio::time::timeout(GREETING, greet(&cluster.client));
    let greeting = patience.answer(&cluster.api_server(), soon).await;
    let greeting = greeting.map(|greeting| greeting.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within 5 s"))));
    let greeting = match greeting.map_err(anyhow::Error::from).and_then(|greeting| greeting) {
        Ok(greeting) => greeting,
        Err(error) => {
            let text = format!("not reachable from here: {}", describe(&error));
            let server = cluster.config.cluster_url.to_string();
            findings.push(Finding::failure("API server", name, text).advise(format!(
                "check that it runs and that this machine reaches {server}; renew the credentials if it refuses them"
            )));
            return (facts, findings);
        }
    };
    let milliseconds = greeting.time.as_millis();
    findings.push(Finding::ok(
        "API server",
        name,
        format!("Kubernetes {}, answers in {milliseconds} ms", greeting.version),
    ));
    (facts.minor, facts.ahead) = (greeting.minor, greeting.ahead);
    if greeting.minor.is_some_and(|minor| minor < SIDECAR_CONTAINERS) {
        let text = format!("Kubernetes {} has no sidecar containers", greeting.version);
        findings.push(
            Finding::warning("version", name, text)
                .advise("annotate pods with sidecar.istio.io/nativeSidecar: \"false\", or upgrade to 1.29"),
        );
    }
    let found = findings_of(cluster, namespace, root_namespace, &mut facts);
    match patience.answer(&cluster.api_server(), found).await {
        Ok(found) => findings.extend(found),
        Err(silent) => findings.push(Finding::failure("API server", name, silent.to_string()).advise(silent.advice)),
    }
    (facts, findings)
}

async fn findings_of(
    cluster: &ClusterAccess,
    namespace: &str,
    root_namespace: &str,
    facts: &mut ClusterFacts,
) -> Vec<Finding> {
    let (client, name) = (&cluster.client, cluster.name.as_str());
    let mut findings = Vec::new();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    match deployments.get_opt(CONTROLLER).await {
        Ok(Some(controller)) => {
            facts.has_controller = true;
            let ready = controller.status.and_then(|status| status.ready_replicas).unwrap_or_default();
            findings.push(match ready {
                0 => Finding::failure("controller", name, "no replica is ready")
                    .advise(format!("{} -n {namespace} describe deployment {CONTROLLER}", cluster.kubectl)),
                ready => Finding::ok("controller", name, format!("{ready} ready")),
            });
        }
        Ok(None) => {}
        Err(error) => findings.push(unreadable("controller", name, &error)),
    }
    findings.push(definitions(client, name, facts.has_controller).await);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.get_opt(root_namespace).await {
        Ok(found) => facts.network = found.and_then(|found| found.labels().get(api::names::NETWORK_LABEL).cloned()),
        Err(error) => findings.push(unreadable("network", name, &error)),
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match maps.get_opt(api::names::ROOT_CONFIG_MAP).await {
        Ok(found) => {
            let pem = found.and_then(|map| map.data?.remove(api::names::ROOT_CONFIG_KEY));
            facts.roots = pem.map(|pem| certificates(&pem));
        }
        Err(error) => findings.push(unreadable("roots", name, &error)),
    }
    findings.push(webhook(client, name).await);
    findings.extend(reader::check(client, name, namespace).await);
    findings
}

/// Asks an API server for its version and its time.
async fn greet(client: &Client) -> anyhow::Result<Greeting> {
    let request = http_request("/version")?;
    let (began, local) = (Instant::now(), SystemTime::now());
    let response = client.send(request).await?;
    let time = began.elapsed();
    let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    let version: Value = serde_json::from_slice(&body).context("the API server's version is no JSON")?;
    let text = version["gitVersion"].as_str().unwrap_or("unknown").to_owned();
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let minor = version["minor"].as_str().and_then(digits);
    Ok(Greeting { version: text, minor, ahead: date.and_then(|date| ahead(&date, local, time)), time })
}

fn http_request(path: &str) -> anyhow::Result<hyper::Request<kube::client::Body>> {
    Ok(hyper::Request::get(path).body(kube::client::Body::empty())?)
}

/// Returns the seconds by which a clock is ahead that stated `date` (RFC 9110 §5.6.7, whole seconds) in an answer to a request
/// of `sent`, which took `time`.
fn ahead(date: &str, sent: SystemTime, time: Duration) -> Option<f64> {
    let stated = DateTimeParser::new().parse_timestamp(date).ok()?;
    let middle = (sent + time / 2).duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
    // The second that is stated has begun half a second ago, on average.
    Some(stated.as_second() as f64 + 0.5 - middle)
}

/// Returns whether a difference of clocks is worth a warning.
pub(super) fn is_worth_a_warning(seconds: f64) -> bool {
    seconds.abs() > CLOCK_WARNING
}

/// Checks the custom resource definitions: a primary needs all, another cluster those that are read of it.
async fn definitions(client: &Client, name: &str, primary: bool) -> Finding {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let listed = match api.list(&ListParams::default()).await {
        Ok(listed) => listed.items,
        Err(error) => return unreadable("definitions", name, &error),
    };
    let served = |definition: &CustomResourceDefinition| {
        let versions = definition.spec.versions.iter().filter(|version| version.served);
        versions.map(|version| version.name.clone()).collect::<BTreeSet<_>>()
    };
    let (mut missing, mut older) = (Vec::new(), Vec::new());
    for wanted in install::definitions::all() {
        let (plural, group) = (text(&wanted["spec"]["names"]["plural"]), text(&wanted["spec"]["group"]));
        let read = api::reader::WATCHED.iter().any(|rule| rule.group == group && rule.resources.contains(&&*plural));
        if !primary && !read {
            continue;
        }
        let full = format!("{plural}.{group}");
        match listed.iter().find(|definition| definition.name_any() == full) {
            None => missing.push(full),
            Some(found) => {
                let versions = wanted["spec"]["versions"].as_array().into_iter().flatten();
                let wanted: BTreeSet<String> = versions.map(|version| text(&version["name"])).collect();
                if !wanted.is_subset(&served(found)) {
                    older.push(full);
                }
            }
        }
    }
    match (missing.is_empty(), older.is_empty()) {
        (true, true) => Finding::ok("definitions", name, "as this version of isthmus has them"),
        (true, false) => Finding::warning("definitions", name, format!("without some versions: {}", older.join(", ")))
            .advise("apply the definitions of this version of isthmus"),
        (false, _) => Finding::warning("definitions", name, format!("missing: {}", missing.join(", ")))
            .advise("apply them; until then objects of these kinds cannot be created there"),
    }
}

/// Checks the webhook that injects sidecars.
async fn webhook(client: &Client, name: &str) -> Finding {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    match api.get_opt(api::names::INJECTION_WEBHOOK).await {
        Ok(Some(found)) => {
            let webhooks = found.webhooks.unwrap_or_default();
            match webhooks
                .iter()
                .all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|ca| !ca.0.is_empty()))
            {
                true => Finding::ok("webhook", name, "sidecars are injected"),
                false => Finding::failure(
                    "webhook",
                    name,
                    "the injection webhook has no CA bundle, so API servers refuse it",
                )
                .advise("check that the controller runs and reaches this cluster: isthmus status"),
            }
        }
        Ok(None) => Finding::warning("webhook", name, "there is no injection webhook: new pods get no sidecar")
            .advise("install the mesh's components in this cluster"),
        Err(error) => unreadable("webhook", name, &error),
    }
}

fn unreadable(check: &'static str, name: &str, error: &kube::Error) -> Finding {
    let text = format!("cannot be read: {}", install::client_error::describe(error));
    Finding::unknown(check, name, text).advise("use an account that may read it, such as an administrator's")
}

fn certificates(pem: &str) -> BTreeSet<String> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    blocks.map(|pem| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem.contents)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_clocks_is_read_from_the_date() {
        let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = ahead("Sun, 06 Nov 1994 08:49:47 GMT", sent, Duration::from_secs(1)).unwrap();
        assert!((seconds - 10.0).abs() < 0.01, "{seconds}");
        assert!(is_worth_a_warning(-10.0) && !is_worth_a_warning(1.0));
        assert_eq!(ahead("yesterday", sent, Duration::ZERO), None);
    }
}
