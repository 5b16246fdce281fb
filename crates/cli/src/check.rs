//! `isthmus check`: what a mesh needs, before clusters join and after.
//!
//! Each check has an outcome, a place and, unless it passed, what to do. Checks of single clusters ask their API servers
//! (`check/cluster.rs`); those of the mesh ask the controllers of primaries (`check/mesh.rs`); the data path is measured by
//! sidecars (`check/data_path.rs`), so it is proven where there are some. What cannot be found out is shown as unknown, and does
//! not fail.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::console::{Patience, TIMED_OUT, print, print_stderr};

use crate::access::{AccessOptions, ClusterAccess, printable};
use crate::config::source;

mod cluster;
mod compare;
mod data_path;
mod mesh;
mod reader;
mod report;

use report::{Finding, Outcome};

/// How often the checks are repeated with `--wait`.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for one round of checks.
const ROUND: Duration = Duration::from_secs(15);

/// Check what a mesh needs, before and after clusters join.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus check                                  every cluster of the running lab\n  \
                  isthmus check --context prod-eu --context prod-us\n  isthmus check --wait --timeout 2m && isthmus status\n\n\
                  Exits with 0 if no check failed, 1 if one did, 3 if one still fails at the end of --wait."
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    access: AccessOptions,
    /// Contexts of the clusters, each named as its cluster; otherwise the current context, or all clusters of the running lab.
    /// May be repeated
    #[arg(long = "context", value_name = "NAME")]
    contexts: Vec<String>,
    /// Namespace of the mesh's components
    #[arg(short, long, default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    namespace: String,
    /// Root namespace, which has the label of each cluster's network
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::ROOT_NAMESPACE, value_parser = api::names::namespace)]
    root_namespace: String,
    /// Repeat the checks until none fails
    #[arg(long)]
    wait: bool,
    /// Time for all checks, such as 30s; with --wait, the time until none may fail
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: CheckFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum CheckFormat {
    /// A table, with advice below
    #[default]
    Table,
    /// JSON with every field (docs/visibility.md)
    Json,
    /// YAML with every field (docs/visibility.md)
    Yaml,
}

pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let clusters = source::clusters(&args.access, &args.contexts).await?;
    let patience = Patience::new(args.timeout, "check that it runs and can be reached, or wait longer: --timeout 2m");
    let mut said = String::new();
    let findings = loop {
        // One that does not answer leaves time for the others.
        let limit = ROUND.min(patience.left().max(INTERVAL));
        let findings = round(&clusters, &args.namespace, &args.root_namespace, limit).await;
        let failed: Vec<String> =
            failures(&findings).map(|finding| format!("{}: {}", finding.check, finding.text)).collect();
        if !args.wait || failed.is_empty() {
            break findings;
        }
        let waiting = printable(&failed.join("; "));
        if waiting != said {
            print_stderr(&format!("waiting ({:.0}s): {waiting}", patience.elapsed().as_secs_f32()));
            said = waiting;
        }
        if patience.is_over() {
            break findings;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    print(&match args.output {
        CheckFormat::Table => printable(&report::text(&findings)),
        CheckFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report::document(&findings))?),
        CheckFormat::Yaml => api::yaml::to_string(&report::document(&findings)).map_err(anyhow::Error::msg)?,
    })?;
    Ok(match (failures(&findings).next(), args.wait) {
        (None, _) => ExitCode::SUCCESS,
        (Some(_), true) => ExitCode::from(TIMED_OUT),
        (Some(_), false) => ExitCode::FAILURE,
    })
}

fn failures(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.outcome == Outcome::Failure)
}

/// Runs all checks once, each within a time.
async fn round(clusters: &[ClusterAccess], namespace: &str, root_namespace: &str, limit: Duration) -> Vec<Finding> {
    let each = Patience::new(limit, "check that it runs and can be reached, or wait longer: --timeout 2m");
    let mut findings = Vec::new();
    let mut facts = Vec::new();
    for cluster in clusters {
        let (of, found) = cluster::check(cluster, namespace, root_namespace, &each).await;
        findings.extend(found);
        facts.push(of);
    }
    findings.extend(compare::clocks(&facts));
    findings.extend(compare::versions(&facts));
    findings.extend(compare::roots(&facts));
    let mut meshes = Vec::new();
    for (cluster, of) in clusters.iter().zip(&facts) {
        if of.has_controller {
            let (mesh, found) = mesh::check(cluster, namespace, &each).await;
            findings.extend(found);
            meshes.extend(mesh.map(|mesh| (cluster, mesh)));
        }
    }
    if !facts.iter().any(|of| of.has_controller) {
        let text = "no cluster has a controller, so no mesh is checked yet".to_owned();
        findings.push(Finding::unknown("controller", "all", text).advise("name the primary as well: --context NAME"));
    }
    findings.extend(compare::networks(&facts, &meshes));
    findings.extend(data_path::check(clusters, &meshes, &each).await);
    findings
}

/// What is checked between two clusters that have just joined.
const OF_JOINED: [&str; 5] = ["clocks", "roots", "network", "data path", "refusal"];
/// How long a data path may take to work after a cluster has joined: proxies learn endpoints and connect.
const SETTLED: Duration = Duration::from_secs(5);

/// Checks what two clusters that have just joined need of each other, and returns a line for each check, with what to do if it did
/// not pass. The clusters have the names that they have in the mesh.
pub(crate) async fn of_joined(
    primary: ClusterAccess,
    joined: ClusterAccess,
    namespace: &str,
    root_namespace: &str,
    patience: &Patience,
) -> String {
    let pair = [primary, joined];
    let [a, b] = [&pair[0].name, &pair[1].name];
    let places = [a.clone(), b.clone(), format!("{a} -> {b}"), format!("{b} -> {a}")];
    let began = Instant::now();
    loop {
        let limit = SETTLED.saturating_sub(began.elapsed()).min(patience.left()).max(INTERVAL);
        let mut findings = round(&pair, namespace, root_namespace, limit).await;
        findings.retain(|of| {
            let clocks_agree = of.check == "clocks" && of.outcome == Outcome::Ok;
            OF_JOINED.contains(&of.check) && places.contains(&of.place) && !clocks_agree
        });
        let waits = |of: &Finding| match of.outcome {
            Outcome::Failure => began.elapsed() < SETTLED,
            Outcome::Unknown => began.elapsed() < INTERVAL,
            Outcome::Ok | Outcome::Warning => false,
        };
        if patience.is_over() || !findings.iter().any(waits) {
            return report::lines(&findings);
        }
        tokio::time::sleep(INTERVAL / 4).await;
    }
}
