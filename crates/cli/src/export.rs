//! `isthmus export`: gives exported services to other meshes, as ServiceEntries with the gateways of their clusters.
//!
//! [`choose`] takes the services from the controller's page `/debug/exports`, `api::service_entry_export` makes the objects, and
//! [`target`] compares them with those of another cluster or applies them there. What is printed is the same as long as gateways,
//! ports, identities and localities are, so that it can be kept under version control.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use api::service_entry_export::{ExportSettings, ExportedService, objects};
use lab::console::{Patience, print, print_stderr};
use serde_json::Value;

use crate::access::{AccessOptions, ClusterAccess, printable};
use crate::sources::count;

mod choose;
mod target;

/// Give exported services to other meshes, as ServiceEntries.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  isthmus export default/reviews --from prod-us > reviews.yaml\n  \
                  isthmus export -n shop -l team=web --from prod-us --apply --context partner\n  \
                  isthmus export default/reviews --from prod-us --check --context partner\n  \
                  isthmus export default/reviews --lab --from east --from central\n\n\
                  Exits with 1 if --check finds a difference, or a service is not exported.")]
pub(crate) struct ExportArgs {
    /// Service, as NAMESPACE/NAME; may be repeated
    #[arg(value_name = "NAMESPACE/NAME", value_parser = choose::service_name, required_unless_present_any = ["namespace", "all_namespaces"])]
    services: Vec<choose::ServiceName>,
    /// All exported services of a namespace
    #[arg(short, long, value_parser = api::names::namespace, conflicts_with = "services")]
    namespace: Option<String>,
    /// All exported services of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["services", "namespace"])]
    all_namespaces: bool,
    /// Only services with these labels, such as team=web
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "services")]
    selector: Option<String>,
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the cluster that exports the services; may be repeated for a service of several clusters. Otherwise the
    /// current context
    #[arg(long, value_name = "CONTEXT")]
    from: Vec<String>,
    /// Context of the primary whose controller reads the exporting clusters; otherwise the first of them, or in a lab its primary
    #[arg(long, value_name = "CONTEXT")]
    primary: Option<String>,
    /// Context of the importing cluster, for --apply and --check
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Apply the objects to the importing cluster
    #[arg(long, requires = "context")]
    apply: bool,
    /// Compare the objects with those of the importing cluster; exit with 1 and name each difference
    #[arg(long, requires = "context", conflicts_with = "apply")]
    check: bool,
    /// Host by which the importing mesh calls the service; otherwise its own: NAME.NAMESPACE.svc.DOMAIN
    #[arg(long)]
    host: Option<String>,
    /// Namespace of the objects; otherwise that of the service
    #[arg(long, value_name = "NAMESPACE", value_parser = api::names::namespace)]
    into: Option<String>,
    /// Weight localities by their ready pods. The objects then change with every pod
    #[arg(long)]
    weights: bool,
    /// Namespace of the components
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    system_namespace: String,
    /// Time to wait for the controller and the API servers, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let patience = Patience::new(args.timeout, "check that it runs and can be reached, or wait longer: --timeout 60s");
    let exporting = choose::exporting(&args).await?;
    let importing = importing(&args).await?;
    let services = choose::services(&args, &exporting, &patience).await?;
    let made = made(&args, &services)?;
    let places = |what: &str| format!("{} {what}", count(services.len(), "service"));
    match importing {
        Some(cluster) if args.apply => {
            for object in &made {
                target::check_host(&cluster, object, &patience).await?;
            }
            for object in &made {
                target::apply(&cluster, object, &patience).await?;
            }
            let try_it = format!("isthmus export --check, with the same options, tells when {} differs", cluster.name);
            print_stderr(&format!("{}\ntry: {try_it}", places(&format!("applied to {}", cluster.name))));
            Ok(ExitCode::SUCCESS)
        }
        Some(cluster) => {
            let drifts = target::compare(&cluster, &made, &patience).await?;
            if drifts.is_empty() {
                print_stderr(&format!("{}: no difference in {}", places("compared"), cluster.name));
                return Ok(ExitCode::SUCCESS);
            }
            let lines: String = drifts.iter().map(|drift| format!("{drift}\n")).collect();
            print(&printable(&lines))?;
            print_stderr(&format!(
                "{} in {}\n  write the expected values with the same options and --apply in place of --check",
                count(drifts.len(), "difference"),
                cluster.name
            ));
            Ok(ExitCode::FAILURE)
        }
        None => {
            print(&printable(&yaml(&made)?))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the importing cluster, if the command uses one.
async fn importing(args: &ExportArgs) -> anyhow::Result<Option<ClusterAccess>> {
    let Some(context) = &args.context else { return Ok(None) };
    if !args.apply && !args.check {
        bail!(
            "--context is the cluster that imports the services\n  add --apply or --check; the exporting cluster is --from {context}"
        );
    }
    // The importing cluster may be none of the lab's.
    let lab = args.access.lab(Some(context))?;
    Ok(Some(match lab.filter(|lab| lab.cluster(context).is_ok()) {
        Some(lab) => args.access.of_lab(&lab, context).await?,
        None => args.access.context(Some(context)).await?,
    }))
}

/// Returns the objects of services, in the order of the services.
fn made(args: &ExportArgs, services: &[ExportedService]) -> anyhow::Result<Vec<Value>> {
    if args.host.is_some() && services.len() > 1 {
        bail!("--host is the name of one service, and {} are chosen\n  name one as NAMESPACE/NAME", services.len());
    }
    let mut made = Vec::new();
    for service in services {
        let mut settings = ExportSettings { weights: args.weights, ..ExportSettings::of_command(service) };
        if let Some(host) = &args.host {
            settings.host.clone_from(host);
        }
        if let Some(namespace) = &args.into {
            settings.namespace.clone_from(namespace);
        }
        for object in objects(service, &settings) {
            let kind = object["kind"].as_str().unwrap_or_default();
            let problems = api::networking::validate(api::networking::GROUP, kind, &object);
            if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
                bail!("the {kind} of {}/{} would be refused: {problem}", service.namespace, service.name);
            }
            made.push(object);
        }
    }
    Ok(made)
}

/// Formats objects as documents of YAML.
fn yaml(objects: &[Value]) -> anyhow::Result<String> {
    let mut text = String::from("# Made by isthmus export.\n");
    for object in objects {
        text.push_str("---\n");
        text.push_str(&api::yaml::to_string(object).map_err(anyhow::Error::msg)?);
    }
    Ok(text)
}
