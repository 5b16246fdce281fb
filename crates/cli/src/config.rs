//! `isthmus config`: shows what a proxy holds, as `istioctl proxy-config` does.
//!
//! The data are the admin pages of the proxy, `/config_dump` and `/clusters?format=json`, which have Envoy's shape. They are
//! read through a forwarded port, which needs the right to create `pods/portforward`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use lab::console::{Patience, print};
use serde_json::Value;

use crate::access::{AccessOptions, printable};
use crate::table::table;

mod rows;
pub(crate) mod source;

/// Show what a proxy holds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus config routes frontend-6d9c\n  isthmus config clusters deployment/frontend -n shop \
                  --fqdn reviews.shop.svc.cluster.local\n  isthmus config endpoints frontend-6d9c -o json"
)]
pub(crate) struct ConfigArgs {
    /// What to show
    #[arg(value_enum)]
    section: Section,
    /// Pod, as NAME or NAME.NAMESPACE; or deployment/NAME for one of its pods
    pod: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default", value_parser = api::names::namespace)]
    namespace: String,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the cluster; otherwise the current context, or the cluster of the running lab that has the pod
    #[arg(long)]
    context: Option<String>,
    /// Show only what concerns this host
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
    /// Show only what concerns this port
    #[arg(long)]
    port: Option<u16>,
    /// Show only what concerns this subset
    #[arg(long)]
    subset: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ConfigFormat,
    /// Time to wait for the proxy, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    /// Destinations of requests and connections
    #[value(alias = "cluster")]
    Clusters,
    /// Routes of requests
    #[value(alias = "route")]
    Routes,
    /// Endpoints of each cluster
    #[value(alias = "endpoint")]
    Endpoints,
    /// Addresses that connections are captured for
    #[value(alias = "listener")]
    Listeners,
    /// Certificates, without keys
    #[value(alias = "secret")]
    Secrets,
    /// The whole configuration, as JSON
    All,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ConfigFormat {
    /// A table
    #[default]
    Table,
    /// JSON in Envoy's shape
    Json,
    /// YAML in Envoy's shape
    Yaml,
}

/// Which rows are shown.
struct Filter<'a> {
    fqdn: Option<&'a str>,
    port: Option<u16>,
    subset: Option<&'a str>,
}

impl Filter<'_> {
    /// Returns whether a row with this host, port and subset matches the filter. An option that is not set matches every row.
    fn shows(&self, host: &str, port: Option<u16>, subset: &str) -> bool {
        self.fqdn.is_none_or(|fqdn| fqdn == host)
            && self.port.is_none_or(|wanted| port == Some(wanted))
            && self.subset.is_none_or(|wanted| wanted == subset)
    }
}

pub(crate) async fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let path = match args.section {
        Section::Endpoints => "/clusters?format=json",
        _ => "/config_dump?section=configs",
    };
    let contexts: Vec<String> = args.context.iter().cloned().collect();
    let clusters = source::clusters(&args.access, &contexts).await?;
    let (name, namespace) = source::pod_name(&args.pod, &args.namespace);
    let patience =
        Patience::new(args.timeout, "check that its sidecar runs: kubectl describe pod, or wait longer: --timeout 60s");
    let (cluster, pod) = source::find(&clusters, &name, &namespace, &patience).await?;
    let from = format!("the sidecar of {pod} in {}, through {}", cluster.name, cluster.api_server());
    let page = patience.answer(&from, source::read(cluster, &namespace, &pod, path)).await??;
    let page: Value = serde_json::from_str(&page).context("the sidecar's answer is no JSON: compare its version")?;
    let filter = Filter { fqdn: args.fqdn.as_deref(), port: args.port, subset: args.subset.as_deref() };
    print(&text(args.section, &page, &filter, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

fn text(section: Section, page: &Value, filter: &Filter<'_>, format: ConfigFormat) -> anyhow::Result<String> {
    let (head, rows): (&[&str], _) = match section {
        Section::Clusters => (rows::CLUSTERS, rows::clusters(page, filter)),
        Section::Routes => (rows::ROUTES, rows::routes(page, filter)),
        Section::Endpoints => (rows::ENDPOINTS, rows::endpoints(page, filter)),
        Section::Listeners => (rows::LISTENERS, rows::listeners(page, filter)),
        Section::Secrets => (rows::SECRETS, rows::secrets(page)),
        Section::All => (&[], vec![rows::Row { cells: Vec::new(), value: page.clone() }]),
    };
    let values = || match section {
        Section::All => page.clone(),
        _ => Value::Array(rows.iter().map(|row| row.value.clone()).collect()),
    };
    Ok(match (section, format) {
        (_, ConfigFormat::Yaml) => api::yaml::to_string(&values()).map_err(anyhow::Error::msg)?,
        (Section::All, _) | (_, ConfigFormat::Json) => format!("{}\n", serde_json::to_string_pretty(&values())?),
        (_, ConfigFormat::Table) => printable(&table(head, rows.into_iter().map(|row| row.cells).collect())),
    })
}
