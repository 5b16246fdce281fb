//! `isthmus authz`: which policies apply to a workload, what they decide about a request, and which ones its traffic suggests.
//!
//! The workload's own sidecar decides, with the code and the policies by which it decides about real requests (its admin page
//! `/authz`), and remembers what it has accepted (`/authz/observed`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use lab::console::Patience;
use serde_json::Value;

use crate::access::{AccessOptions, ClusterAccess};
use crate::config::source;

mod check;
mod decide;
mod suggest;

pub(crate) use decide::escaped;

/// Show the policies of a workload, what they decide, and what its traffic suggests.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthzArgs {
    #[command(subcommand)]
    command: AuthzCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuthzCommand {
    /// List the policies that apply to a pod
    Check(check::CheckArgs),
    /// Tell whether a request is allowed, by which policy, and what would change it
    #[command(after_help = "Examples:\n  isthmus authz test deployment/frontend deployment/reviews GET /reviews/7\n  \
                      isthmus authz test deployment/web -n shop api-0.bank POST /transfer --header x-tenant:blue\n  \
                      isthmus authz test none deployment/reviews GET /   a caller without mutual TLS\n\n\
                      Exits with 0 if the request is allowed, 1 if it is refused.")]
    Test(Box<decide::TestArgs>),
    /// Propose policies that allow what the workloads of a namespace have accepted
    #[command(after_help = "Examples:\n  isthmus authz suggest shop\n  \
                      isthmus authz suggest shop --workload cart --dry-run | kubectl apply -f -\n\n\
                      Exits with 1 if no traffic was seen.")]
    Suggest(suggest::SuggestArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Namespace of pods that are named without one
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    namespace: String,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the cluster; otherwise the current context, or the cluster of the running lab that has the pod
    #[arg(long)]
    context: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Time to wait for the proxy, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: AuthzArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        AuthzCommand::Check(args) => check::run(args).await,
        AuthzCommand::Test(args) => decide::run(*args).await,
        AuthzCommand::Suggest(args) => suggest::run(args).await,
    }
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// The sidecar of a pod.
struct Sidecar {
    cluster: ClusterAccess,
    namespace: String,
    pod: String,
    patience: Patience,
}

impl Sidecar {
    async fn find(common: &Common, context: Option<&str>, pod: &str) -> anyhow::Result<Sidecar> {
        let contexts: Vec<String> = context.into_iter().map(str::to_owned).collect();
        let clusters = source::clusters(&common.access, &contexts).await?;
        let (name, namespace) = source::pod_name(pod, &common.namespace);
        let patience = Patience::new(
            common.timeout,
            "check that its sidecar runs: kubectl describe pod, or wait longer: --timeout 60s",
        );
        let (cluster, pod) = source::find(&clusters, &name, &namespace, &patience).await?;
        let cluster = cluster.clone();
        Ok(Sidecar { cluster, namespace, pod, patience })
    }

    async fn page(&self, path: &str) -> anyhow::Result<Value> {
        let Sidecar { cluster, namespace, pod, patience } = self;
        let from = format!("the sidecar of {pod} in {}, through {}", cluster.name, cluster.api_server());
        let page = patience.answer(&from, source::read(cluster, namespace, pod, path)).await??;
        serde_json::from_str(&page).context("the sidecar's answer is no JSON: compare its version")
    }
}
