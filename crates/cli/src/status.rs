//! `isthmus status`: shows the clusters of a mesh with their links, its proxies with what they have acknowledged, and what they
//! have refused.
//!
//! The data come from the controller of each primary, through its API server's service proxy.

use std::process::ExitCode;
use std::time::Duration;

use federation_controller::debug::{ClusterRow, ClustersPage, ProxyRow};
use install::components::CONTROLLER;
use install::debug_pages::DebugPages;
use lab::console::{NoAnswer, Patience, TIMED_OUT, print, print_stderr};
use lab::orchestration::state::{ClusterRecord, LabRecord};

use crate::access::{AccessOptions, ClusterAccess, UNREADABLE_PAGE, describe, explain, printable};
use crate::table::table;

mod document;
mod lease;
mod refusals;

/// Show clusters with their links, and proxies with what they have acknowledged.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus status\n  isthmus status --context prod-eu -o wide\n  isthmus status -o json | jq '.primaries[].clusters[].link'"
)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the primary; otherwise the current context, or every primary of the running lab
    #[arg(long)]
    context: Option<String>,
    /// Namespace of the components
    #[arg(short, long, default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    namespace: String,
    /// Time to wait for the controllers, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: StatusFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum StatusFormat {
    /// Tables
    #[default]
    Table,
    /// Tables with more columns
    Wide,
    /// JSON with every field (docs/status.md)
    Json,
    /// YAML with every field (docs/status.md)
    Yaml,
}

/// The mesh, as one primary reports it.
#[derive(Debug)]
struct MeshStatus {
    primary: String,
    /// Options of `isthmus` that select the primary.
    option: String,
    page: ClustersPage,
    proxies: Vec<ProxyRow>,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let (views, failures) = ask_all(primaries(&args.access, args.context.as_deref()).await?, &args).await?;
    let failed: Vec<_> = failures.iter().map(|failure| (failure.primary.clone(), describe(&failure.error))).collect();
    print(&match args.output {
        StatusFormat::Json => format!("{}\n", serde_json::to_string_pretty(&document::of(&views, &failed))?),
        StatusFormat::Yaml => api::yaml::to_string(&document::of(&views, &failed)).map_err(anyhow::Error::msg)?,
        form => printable(&tables(&views, form == StatusFormat::Wide)),
    })?;
    for failure in &failures {
        print_stderr(&format!("error: {}", failure.explain(&args.namespace)));
    }
    Ok(match failures.as_slice() {
        [] => ExitCode::SUCCESS,
        failures if failures.iter().all(Failure::is_timeout) => ExitCode::from(TIMED_OUT),
        _ => ExitCode::FAILURE,
    })
}

/// Returns the primaries to ask.
pub(crate) async fn primaries(access: &AccessOptions, context: Option<&str>) -> anyhow::Result<Vec<ClusterAccess>> {
    let Some(lab) = access.lab(context)? else {
        return Ok(vec![access.context(context).await?]);
    };
    let mut primaries = Vec::new();
    for cluster in chosen(&lab, context)? {
        primaries.push(access.of_lab(&lab, &cluster.name).await?);
    }
    Ok(primaries)
}

/// Returns the named primary of a lab, or all.
fn chosen<'a>(lab: &'a LabRecord, context: Option<&str>) -> anyhow::Result<Vec<&'a ClusterRecord>> {
    let Some(context) = context else {
        return Ok(lab.clusters.iter().filter(|cluster| cluster.role == "primary").collect());
    };
    let cluster = lab.cluster(context)?;
    if cluster.role != "primary" {
        anyhow::bail!(
            "{context} is a remote cluster, which runs no controller\n  ask its primary: isthmus status --lab {} --context {}",
            lab.name,
            cluster.primary
        );
    }
    Ok(vec![cluster])
}

/// Asks all primaries at once, so that they share the time.
async fn ask_all(primaries: Vec<ClusterAccess>, args: &StatusArgs) -> anyhow::Result<(Vec<MeshStatus>, Vec<Failure>)> {
    let mut asked = tokio::task::JoinSet::new();
    for (index, primary) in primaries.into_iter().enumerate() {
        let advice = format!("{}, or wait longer: --timeout 60s", check(&primary.kubectl, &args.namespace));
        let (patience, namespace) = (Patience::new(args.timeout, advice), args.namespace.clone());
        asked.spawn(async move {
            let view = view(&primary, &namespace, &patience).await;
            (index, view.map_err(|error| Failure { primary: primary.name, kubectl: primary.kubectl, error }))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.push(answer?);
    }
    answers.sort_by_key(|(index, _)| *index);
    let (mut views, mut failures) = (Vec::new(), Vec::new());
    for (_, answer) in answers {
        match answer {
            Ok(view) => views.push(view),
            Err(failure) => failures.push(failure),
        }
    }
    Ok((views, failures))
}

/// A primary whose controller gave no answer.
#[derive(Debug)]
struct Failure {
    primary: String,
    /// Command by which `kubectl` uses the primary.
    kubectl: String,
    error: anyhow::Error,
}

impl Failure {
    fn is_timeout(&self) -> bool {
        self.error.chain().any(|cause| cause.is::<NoAnswer>())
    }

    /// Describes the failure, and what to do about it.
    fn explain(&self, namespace: &str) -> String {
        let Self { primary, error, .. } = self;
        if self.is_timeout() {
            return explain(error);
        }
        let text = describe(error);
        match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) if status.code == 404 => format!(
                "{primary} has no controller in namespace {namespace}: {text}\n  name a primary: --context NAME, or its \
                 namespace: --namespace NAME"
            ),
            _ => format!("the controller in {primary} does not answer: {text}\n  {}", check(&self.kubectl, namespace)),
        }
    }
}

fn check(kubectl: &str, namespace: &str) -> String {
    format!("check that it runs: {kubectl} -n {namespace} get deployment {CONTROLLER}")
}

async fn view(primary: &ClusterAccess, namespace: &str, patience: &Patience) -> anyhow::Result<MeshStatus> {
    let pages = DebugPages::new(primary.client.clone(), namespace);
    let both = async { tokio::try_join!(pages.read("clusters"), pages.read("proxies")) };
    let (clusters, proxies) = patience.answer(&primary.controller(), both).await??;
    let mut page: ClustersPage = serde_json::from_str(&clusters).map_err(|_| anyhow::anyhow!(UNREADABLE_PAGE))?;
    page.clusters.sort_by_key(|cluster| (!is_own(cluster), cluster.name.clone()));
    Ok(MeshStatus {
        primary: primary.name.clone(),
        option: primary.option.clone(),
        page,
        proxies: serde_json::from_str(&proxies).map_err(|_| anyhow::anyhow!(UNREADABLE_PAGE))?,
    })
}

/// Formats the tables of all primaries.
fn tables(views: &[MeshStatus], wide: bool) -> String {
    let table = |view: &MeshStatus| match views.len() {
        1 => text(view, wide),
        _ => format!("as reported by {}:\n{}", view.primary, text(view, wide)),
    };
    views.iter().map(table).collect::<Vec<_>>().join("\n")
}

/// Formats the tables of a primary, with advice below.
fn text(view: &MeshStatus, wide: bool) -> String {
    let mut head = vec!["CLUSTER", "ROLE", "NETWORK", "LINK", "AGE", "SERVICES", "EXPORTED", "ENDPOINTS", "TRUST"];
    if wide {
        head.extend(["PODS", "UPDATED", "SERVER", "SECRET"]);
    }
    let rows = view.page.clusters.iter().map(|cluster| cluster_row(cluster, wide));
    let mut out = table(&head, rows.collect());
    for cluster in &view.page.clusters {
        out.push_str(&advice(cluster, &view.option));
    }
    if wide {
        out.push_str(&lease::paths(&view.page.clusters));
    }
    for problem in &view.page.problems {
        out.push_str(&format!("problem: {problem}\n"));
    }
    let mut head = vec!["PROXY", "CLUSTER", "ACKED", "LAG", "CERTIFICATE", "SINCE"];
    if wide {
        head.extend(["ROLE", "IDENTITY", "ADDRESS", "SUBSCRIBED", "PUSHES", "REJECTED"]);
    }
    out.push('\n');
    if view.proxies.is_empty() {
        out.push_str("no proxy is connected\n");
    } else {
        out.push_str(&table(&head, view.proxies.iter().map(|proxy| proxy_row(proxy, wide)).collect()));
    }
    out.push_str(&refusals::text(&view.proxies, wide));
    out
}

fn is_connected(cluster: &ClusterRow) -> bool {
    cluster.link == "connected"
}

fn is_own(cluster: &ClusterRow) -> bool {
    cluster.role == "primary" && cluster.secret.is_none()
}

fn cluster_row(cluster: &ClusterRow, wide: bool) -> Vec<String> {
    let known = |age: Option<u64>| age.map_or_else(|| "unknown".to_owned(), |ms| age_of(Duration::from_millis(ms)));
    let link = match (&cluster.why, cluster.link.as_str()) {
        (_, "connected") if is_own(cluster) => "local".to_owned(),
        (Some(why), word) => format!("{word}: {}", shortened(why)),
        (None, word) => word.to_owned(),
    };
    let age = match is_own(cluster) && is_connected(cluster) {
        true => "-".to_owned(),
        false => known(cluster.contact_age_ms),
    };
    // Objects of a lost link are as old as its last contact.
    let stale = !is_connected(cluster) && (cluster.synced || cluster.link == "remembered");
    let services = match (cluster.synced || cluster.services > 0, stale) {
        (false, _) => "unknown".to_owned(),
        (true, true) => format!("{} (as of {})", cluster.services, known(cluster.contact_age_ms)),
        (true, false) => cluster.services.to_string(),
    };
    let count = |count: usize| if cluster.synced || count > 0 { count.to_string() } else { "unknown".to_owned() };
    let trust = match &cluster.trust {
        None => "unknown".to_owned(),
        Some(trust) => {
            let signer = if trust.own_intermediate { "own intermediate" } else { "root signs" };
            let left = trust.expires_in_s.map(|seconds| format!(", {}", age_of(Duration::from_secs(seconds))));
            let root: String = trust.root.chars().take(4).collect();
            format!("root {root}…, {signer}{}", left.unwrap_or_default())
        }
    };
    let network = if cluster.network.is_empty() { "-".to_owned() } else { cluster.network.clone() };
    let mut row = vec![
        cluster.name.clone(),
        cluster.role.clone(),
        network,
        link,
        age,
        services,
        count(cluster.exported),
        count(cluster.endpoints),
        trust,
    ];
    if wide {
        let secret = cluster.secret.clone().unwrap_or_else(|| "-".to_owned());
        row.extend([count(cluster.pods), known(cluster.heard_age_ms), cluster.server.clone(), secret]);
    }
    row
}

/// Describes what a lost link means, and what to do.
fn advice(cluster: &ClusterRow, primary: &str) -> String {
    let server = &cluster.server;
    let name = &cluster.name;
    let mut out = String::new();
    let expired = cluster.lease.as_ref().is_some_and(|lease| lease.state == "expired");
    let kept = match cluster.contact_age_ms {
        Some(_) if expired => format!("  {name}'s endpoints stay as last known where they are the last source.\n"),
        Some(_) => format!("  {name}'s endpoints stay as last known.\n"),
        None => format!("  {name} has not answered since this controller started.\n"),
    };
    match cluster.link.as_str() {
        "unreachable" => {
            out.push_str(&kept);
            out.push_str(&format!("  check that its API server runs and that the primary reaches it at {server}\n"));
        }
        "remembered" => out.push_str(&kept),
        "refused" => {
            if cluster.synced {
                out.push_str(&kept);
            }
            if !is_own(cluster) {
                out.push_str(&format!("  renew: isthmus join {primary} {name}\n"));
            }
        }
        _ => {}
    }
    out.push_str(&lease::lines(cluster));
    if let Some(replacement) = &cluster.replacement {
        out.push_str(&format!("  {name}'s new credentials are not in use yet: {}\n", shortened(replacement)));
    }
    if !cluster.unconfirmed.is_empty() {
        let kinds = cluster.unconfirmed.join(", ");
        out.push_str(&format!(
            "  {name} lists no {kinds} any more; the last known objects stay until that is confirmed.\n"
        ));
    }
    out
}

fn proxy_row(proxy: &ProxyRow, wide: bool) -> Vec<String> {
    let certificate = proxy.certificate_expires_in_s.map_or_else(
        || "unknown".to_owned(),
        |seconds| {
            if seconds == 0 { "expired".to_owned() } else { age_of(Duration::from_secs(seconds)) }
        },
    );
    let mut row = vec![
        format!("{}.{}", proxy.pod, proxy.namespace),
        proxy.cluster.clone(),
        if proxy.acked { "all".to_owned() } else { "waiting".to_owned() },
        format!("{} ms", proxy.lag_ms),
        certificate,
        age_of(Duration::from_millis(proxy.connected_ms)),
    ];
    if wide {
        row.extend([
            proxy.role.clone(),
            proxy.identity.clone(),
            proxy.address.clone(),
            proxy.subscriptions.values().sum::<usize>().to_string(),
            proxy.pushes.values().sum::<u64>().to_string(),
            proxy.rejected.to_string(),
        ]);
    }
    row
}

/// Formats an age: 0.4s, 12s, 3m12s, 23h41m, 364d.
pub(crate) fn age_of(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", age.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, 'm', seconds % 60, 's'),
        3600..172_800 => two(seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn two(large: u64, large_unit: char, small: u64, small_unit: char) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}

fn shortened(text: &str) -> String {
    // The error number repeats the words before it.
    let text = text.split_once(" (os error").map_or(text, |(words, _)| words);
    let line: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(changes: serde_json::Value) -> ClusterRow {
        let mut row = json!({
            "name": "east", "role": "remote", "network": "net-east", "server": "https://203.0.113.2:6443",
            "secret": "istio-system/istio-remote-secret-east", "link": "connected", "why": null, "link_age_ms": 60_000,
            "contact_age_ms": 400, "heard_age_ms": 9_000, "synced": true, "unconfirmed": [], "services": 2,
            "exported": 2, "endpoints": 2, "pods": 4,
            "trust": {"root": "5f2a11bb", "own_intermediate": true, "expires_in_s": 364 * 86_400}
        });
        for (key, value) in changes.as_object().unwrap() {
            row[key] = value.clone();
        }
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn ages() {
        for (ms, expected) in [
            (400, "0.4s"),
            (12_900, "12s"),
            (192_000, "3m12s"),
            (180_000, "3m"),
            (85_260_000, "23h41m"),
            (31_449_600_000, "364d"),
        ] {
            assert_eq!(age_of(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn a_healthy_mesh() {
        let west = cluster(json!({"name": "west", "role": "primary", "secret": null, "network": "net-west"}));
        let view = MeshStatus {
            primary: "west".into(),
            option: "--context west".into(),
            page: ClustersPage { version: String::new(), clusters: vec![west, cluster(json!({}))], problems: vec![] },
            proxies: vec![
                serde_json::from_value(json!({
                    "id": "sidecar~10.244.0.5~frontend-6d9c.default~west", "role": "sidecar", "pod": "frontend-6d9c",
                    "namespace": "default", "cluster": "west", "identity": "spiffe://cluster.local/ns/default/sa/frontend",
                    "address": "10.244.0.5:4711", "connected_ms": 1_140_000, "acked": true, "lag_ms": 0,
                    "certificate_expires_in_s": 85_260, "subscriptions": {"Service": 2}, "pushes": {"Service": 3},
                    "resources": 9, "bytes": 1000, "rejected": 0
                }))
                .unwrap(),
            ],
        };
        let expected = "\
CLUSTER   ROLE      NETWORK    LINK        AGE    SERVICES   EXPORTED   ENDPOINTS   TRUST
west      primary   net-west   local       -      2          2          2           root 5f2a…, own intermediate, 364d
east      remote    net-east   connected   0.4s   2          2          2           root 5f2a…, own intermediate, 364d

PROXY                   CLUSTER   ACKED   LAG    CERTIFICATE   SINCE
frontend-6d9c.default   west      all     0 ms   23h41m        19m
";
        assert_eq!(text(&view, false), expected);
        assert!(text(&view, true).contains("spiffe://cluster.local/ns/default/sa/frontend"));
    }

    #[test]
    fn a_lost_link_is_shown_with_its_age_and_advice() {
        let refused =
            cluster(json!({"link": "refused", "why": "401 Unauthorized: token expired", "contact_age_ms": 192_000}));
        let row = cluster_row(&refused, false);
        assert_eq!(
            (&*row[3], &*row[4], &*row[5]),
            ("refused: 401 Unauthorized: token expired", "3m12s", "2 (as of 3m12s)")
        );
        assert_eq!(
            advice(&refused, "--context west"),
            "  east's endpoints stay as last known.\n  renew: isthmus join --context west east\n"
        );
        let never = cluster(json!({"link": "unreachable", "why": "refused", "contact_age_ms": null, "synced": false,
                                   "services": 0, "exported": 0, "endpoints": 0, "trust": null}));
        let row = cluster_row(&never, true);
        assert_eq!(row[4..9], ["unknown", "unknown", "unknown", "unknown", "unknown"]);
        let changing = cluster(json!({"replacement": "refused: 401 Unauthorized"}));
        assert_eq!(
            advice(&changing, "west"),
            "  east's new credentials are not in use yet: refused: 401 Unauthorized\n"
        );
        let empty = cluster(json!({"unconfirmed": ["Service"]}));
        assert!(advice(&empty, "west").contains("until that is confirmed"));
    }
}
