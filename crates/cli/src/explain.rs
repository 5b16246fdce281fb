//! `isthmus explain`: where a pod's request goes, and why.
//!
//! The pod's own sidecar decides, with the code and the state by which it carries requests (its admin page `/explain`). What it
//! cannot know is asked elsewhere: the policies of the destination, of the destination's sidecar (`/authz`), and the age of what
//! is known of each cluster, of the controller.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use lab::console::{Patience, print};
use serde_json::{Value, json};

use crate::access::{AccessOptions, ClusterAccess, describe, printable};
use crate::authz::escaped;
use crate::config::source;

mod ages;
mod caller;
mod decision;
mod render;

use caller::{CallingPod, NamedPod};

/// Tell where a pod's request goes, by which route and policies, and who has to answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  isthmus explain west/default/frontend http://reviews:9080\n  \
                  isthmus explain deployment/frontend http://reviews:9080/items -H end-user:jason -n shop\n  \
                  isthmus explain --context prod-eu --context prod-us prod-eu/shop/web tcp://db:5432 -o json\n\n\
                  Exits with 0 if there is an explanation, also of a request that fails.")]
pub(crate) struct ExplainArgs {
    /// Pod or workload: CLUSTER/NAMESPACE/NAME, NAMESPACE/NAME, NAME, or deployment/NAME
    pod: String,
    /// URL as the application uses it: http://…, https://…, or tcp://HOST:PORT
    url: String,
    /// Method of the request
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// Header of the request, as NAME:VALUE; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Namespace of a pod that is named without one
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    namespace: String,
    #[command(flatten)]
    access: AccessOptions,
    /// Contexts of the mesh's clusters, each named as its cluster; otherwise the current context, or all clusters of the running
    /// lab. May be repeated
    #[arg(long = "context", value_name = "NAME")]
    contexts: Vec<String>,
    /// Namespace of the mesh's components
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    system_namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ExplainFormat,
    /// Time to wait for answers, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ExplainFormat {
    /// Text
    #[default]
    Text,
    /// JSON with every field (docs/visibility.md)
    Json,
    /// YAML with every field (docs/visibility.md)
    Yaml,
}

pub(crate) async fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let target = NamedPod::parse(&args.pod, &args.namespace)?;
    let contexts = contexts(&args, &target).await?;
    let clusters = source::clusters(&args.access, &contexts).await?;
    let advice = "check that the pod and its sidecar run: kubectl describe pod, or wait longer: --timeout 60s";
    let patience = Patience::new(args.timeout, advice);
    let caller = CallingPod::find(&clusters, &target, &patience).await?;
    let document = match caller.meshed {
        true => explain(&args, &clusters, &caller, &patience).await?,
        false => json!({"caller": caller.document(), "meshed": false, "url": args.url}),
    };
    print(&match args.output {
        ExplainFormat::Text => printable(&render::text(&document)),
        ExplainFormat::Json => format!("{}\n", serde_json::to_string_pretty(&document)?),
        ExplainFormat::Yaml => api::yaml::to_string(&document).map_err(anyhow::Error::msg)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the contexts of the command; none for all clusters of a lab. Without options, the cluster of the pod is one of the
/// running lab, else a context.
async fn contexts(args: &ExplainArgs, target: &NamedPod) -> anyhow::Result<Vec<String>> {
    let Some(cluster) = target.cluster.as_deref().filter(|_| args.contexts.is_empty()) else {
        return Ok(args.contexts.clone());
    };
    if args.access.lab(Some(cluster))?.is_some() {
        return Ok(Vec::new());
    }
    // A name that is neither is one that the lab does not have.
    let in_lab = args.access.lab(None)?.is_some() && args.access.context(Some(cluster)).await.is_err();
    Ok(if in_lab { Vec::new() } else { vec![cluster.to_owned()] })
}

async fn explain(
    args: &ExplainArgs,
    clusters: &[ClusterAccess],
    caller: &CallingPod<'_>,
    patience: &Patience,
) -> anyhow::Result<Value> {
    let mut path = format!("/explain?url={}&method={}", escaped(&args.url), escaped(&args.method));
    for header in &args.headers {
        _ = write!(path, "&header={}", escaped(header));
    }
    let mut document = caller.page(&path, patience).await?;
    document["meshed"] = json!(true);
    for (key, value) in caller.document().as_object().into_iter().flatten() {
        document["caller"][key] = value.clone();
    }
    let primary = args.access.lab(args.contexts.first().map(String::as_str))?;
    let primary = primary.and_then(|lab| lab.cluster(&caller.cluster.name).ok().map(|of| of.primary.clone()));
    let ages = ages::read(clusters, caller, primary.as_deref(), &args.system_namespace, patience).await;
    document["ages"] = match ages {
        Ok(ages) => ages,
        Err(error) => json!({"error": describe(&error)}),
    };
    let request = decision::DescribedRequest { authority: authority(&args.url), args };
    document["authorization"] = json!(decision::of_all(clusters, &document, &request, patience).await);
    document["outcome"] = outcome(&document);
    Ok(document)
}

/// Returns the authority of a URL as it was typed, which the request has as its host.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Returns the share of each cluster in the next requests, in percent; `""` for destinations outside of the mesh.
fn outcome(document: &Value) -> Value {
    let mut shares: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new();
    let destinations = document["destinations"].as_array().into_iter().flatten();
    for endpoint in destinations.flat_map(|of| of["endpoints"].as_array().into_iter().flatten()) {
        let share = endpoint["percent"].as_f64().unwrap_or_default();
        if share > 0.0 {
            *shares.entry(endpoint["cluster"].as_str().unwrap_or_default().to_owned()).or_default() += share;
        }
    }
    shares.into_iter().map(|(cluster, percent)| json!({"cluster": cluster, "percent": percent})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_the_request_is_the_authority_as_typed() {
        for (url, expected) in [
            ("http://reviews:9080", "reviews:9080"),
            ("http://reviews/x?y", "reviews"),
            ("tcp://[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(authority(url), expected, "{url}");
        }
    }

    #[test]
    fn the_outcome_adds_the_shares_of_each_cluster() {
        let endpoint = |cluster: &str, percent: f64| json!({"cluster": cluster, "percent": percent});
        let document = json!({"destinations": [
            {"endpoints": [endpoint("west", 40.0), endpoint("west", 40.0), endpoint("east", 0.0)]},
            {"endpoints": [endpoint("central", 20.0)]},
        ]});
        let expected = json!([{"cluster": "central", "percent": 20.0}, {"cluster": "west", "percent": 80.0}]);
        assert_eq!(outcome(&document), expected);
    }
}
