//! `isthmus authz suggest`: proposes AuthorizationPolicies from what the sidecars of a namespace have accepted.
//!
//! [`sidecars`] reads what they have seen, and [`proposal`] turns that into the policy of a workload, without IO.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use lab::console::{print, print_stderr};
use serde_json::{Value, json};

use crate::access::{AccessOptions, printable};
use crate::config::source;

mod proposal;
mod sidecars;

use proposal::Workload;

/// The number of pods that a comment names.
const NAMED: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct SuggestArgs {
    /// Namespace of the workloads
    #[arg(value_parser = api::names::namespace)]
    namespace: String,
    /// Workload: its label app, or the name of its Service; may be repeated. Otherwise all of the namespace
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of a cluster, or cluster of the lab; may be repeated. Otherwise the current context, or every cluster of the
    /// running lab
    #[arg(long = "context", value_name = "CONTEXT")]
    contexts: Vec<String>,
    /// Let the policies only report what they would decide (annotation istio.io/dry-run)
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: SuggestFormat,
    /// Time to wait for the sidecars, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum SuggestFormat {
    /// YAML with comments
    #[default]
    Yaml,
    /// A JSON list; comments are written to standard error
    Json,
}

/// A policy with what there is to say about it.
struct Suggestion {
    comments: Vec<String>,
    policy: Option<Value>,
}

pub(super) async fn run(args: SuggestArgs) -> anyhow::Result<ExitCode> {
    let clusters = source::clusters(&args.access, &args.contexts).await?;
    let seen = sidecars::read(&clusters, &args.namespace, args.timeout).await?;
    let workloads: Vec<&Workload> = seen.workloads.values().filter(|of| is_chosen(of, &args.workloads)).collect();
    if let Some(unknown) = args.workloads.iter().find(|name| !seen.workloads.contains_key(*name)) {
        let known: Vec<&str> = seen.workloads.keys().map(String::as_str).take(10).collect();
        anyhow::bail!(
            "no workload {unknown} with a sidecar in namespace {}\n  workloads: {}",
            args.namespace,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
    }
    let suggestions = workloads.iter().map(|of| suggestion(of, &args)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut head = vec![
        "Proposed by isthmus authz suggest from what sidecars have accepted since they started.".to_owned(),
        "Review them: what is not listed is refused once they are applied. Apply them in the primary cluster."
            .to_owned(),
    ];
    head.extend(about_pods("have no sidecar, and no policy protects them", &seen.without_sidecar));
    head.extend(about_pods(
        "have neither a label app nor a Service, so that no policy can select them",
        &seen.unselected,
    ));
    head.extend(about_pods("did not answer, so that their callers are missing", &seen.silent));
    if suggestions.iter().all(|of| of.policy.is_none()) {
        let comments = suggestions.iter().flat_map(|of| &of.comments).chain(head.iter().skip(2));
        let comments: String = comments.map(|line| format!("\n  {line}")).collect();
        anyhow::bail!(
            "no traffic of a caller with an identity was seen in namespace {}{}\n  send requests through the mesh, and try \
             again: sidecars remember what they accept for as long as they run",
            args.namespace,
            printable(&comments)
        );
    }
    print(&printable(&match args.output {
        SuggestFormat::Yaml => yaml(&head, &suggestions)?,
        SuggestFormat::Json => {
            let comments = head.iter().chain(suggestions.iter().flat_map(|of| &of.comments));
            comments.for_each(|line| print_stderr(&printable(&one_line(line))));
            let items: Vec<&Value> = suggestions.iter().filter_map(|of| of.policy.as_ref()).collect();
            super::pretty(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?
        }
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn is_chosen(workload: &Workload, names: &[String]) -> bool {
    names.is_empty() || names.contains(&workload.name)
}

/// Returns the comment about pods that something is wrong with.
fn about_pods(what: &str, pods: &[String]) -> Option<String> {
    let named: Vec<&str> = pods.iter().take(NAMED).map(String::as_str).collect();
    let more = if pods.len() > NAMED { format!(", and {} more", pods.len() - NAMED) } else { String::new() };
    (!pods.is_empty()).then(|| format!("Pods that {what}: {}{more}", named.join(", ")))
}

/// Returns the policy of a workload, checked as the controller's webhook does.
fn suggestion(workload: &Workload, args: &SuggestArgs) -> anyhow::Result<Suggestion> {
    let comments = workload.comments();
    let rules = workload.rules();
    if rules.is_empty() {
        return Ok(Suggestion { comments, policy: None });
    }
    let mut metadata = json!({"name": workload.policy_name(), "namespace": args.namespace});
    if args.dry_run {
        metadata["annotations"] = BTreeMap::from([(api::security::DRY_RUN, "true")]).into_iter().collect();
    }
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": workload.selector}, "action": "ALLOW", "rules": rules},
    });
    let problems = api::security::validate(api::security::GROUP, "AuthorizationPolicy", &policy);
    if let Some(error) = problems.iter().find(|problem| problem.is_error()) {
        anyhow::bail!("what the sidecars of {} report makes no valid policy: {error}", workload.name);
    }
    Ok(Suggestion { comments, policy: Some(policy) })
}

/// Formats the policies as YAML documents with comments.
fn yaml(head: &[String], suggestions: &[Suggestion]) -> anyhow::Result<String> {
    let commented = |lines: &[String]| lines.iter().map(|line| format!("# {}\n", one_line(line))).collect::<String>();
    let mut out = commented(head);
    // A workload without a policy is a comment before the first document.
    let (with, without): (Vec<_>, Vec<_>) = suggestions.iter().partition(|of| of.policy.is_some());
    without.iter().for_each(|of| out.push_str(&commented(&of.comments)));
    for Suggestion { comments, policy } in with {
        out.push_str("---\n");
        out.push_str(&commented(comments));
        out.push_str(&api::yaml::to_string(policy).map_err(anyhow::Error::msg)?);
    }
    Ok(out)
}

/// Returns a text on one line, as YAML has lines: parts of it are from other machines.
fn one_line(text: &str) -> String {
    let ends_line = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
    text.chars().map(|char| if ends_line(char) { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_never_become_content() {
        let policy = Some(json!({"kind": "AuthorizationPolicy"}));
        let hostile = Suggestion { comments: vec!["a\nkind: ClusterRole\r\u{2028}x".into()], policy };
        let empty = Suggestion { comments: vec!["default/idle: nothing".into()], policy: None };
        let text = yaml(&["head".into()], &[hostile, empty]).expect("YAML");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["# head", "# default/idle: nothing", "---"]);
        assert_eq!(lines[3], "# a\u{fffd}kind: ClusterRole\u{fffd}\u{fffd}x");
        assert_eq!(lines[4..], ["kind: AuthorizationPolicy"]);
    }
}
