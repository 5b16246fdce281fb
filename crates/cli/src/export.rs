//! `isthmus export`: gives exported services to other meshes, as ServiceEntries with the gateways of their clusters.
//!
//! [`choose`] takes the services from the controller's page `/debug/exports`, `api::service_entry_export` makes the objects, and
//! [`target`] compares them with those of another cluster or applies them there. What is printed is the same as long as gateways,
//! ports, identities and localities are, so that it can be kept under version control.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use api::service_entry_export::{Drift, ExportSettings, ExportedService, object_name, objects};
use lab::console::{Patience, print, print_stderr};
use serde_json::Value;

use crate::access::{AccessOptions, ClusterAccess, printable};
use crate::sources::count;

mod choose;
mod target;

use choose::Chosen;

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
    /// With --apply of all services of a namespace, or of all: delete objects whose services are not exported any more
    #[arg(long, requires = "apply", conflicts_with_all = ["services", "selector", "into"])]
    prune: bool,
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
    let Chosen { clusters, services, unreachable } = choose::services(&args, &exporting, &patience).await?;
    let made = made(&args, &services)?;
    let Some(importing) = importing else {
        print(&printable(&yaml(&made)?))?;
        return Ok(ExitCode::SUCCESS);
    };
    // Of a part of the services nothing is known about the others.
    let whole = args.services.is_empty() && args.selector.is_none() && args.into.is_none();
    let from: Vec<&str> = clusters.iter().map(String::as_str).collect();
    let mut surplus = match whole && (args.check || args.prune) {
        true => target::surplus(&importing, &made, args.namespace.as_deref(), &from, &patience).await?,
        false => Vec::new(),
    };
    // They are still exported.
    surplus.retain(|of| !unreachable.iter().any(|(namespace, name)| of.is(namespace, &object_name(name))));
    let services = count(services.len(), "service");
    let name = &importing.name;
    if args.check {
        let mut drifts = target::compare(&importing, &made, &patience).await?;
        drifts.extend(surplus.iter().map(|of| Drift::surplus(of.to_string())));
        return report(&drifts, &services, name);
    }
    for object in &made {
        target::check_host(&importing, object, &patience).await?;
    }
    for object in &made {
        target::apply(&importing, object, &patience).await?;
    }
    for of in &surplus {
        target::delete(&importing, of, &patience).await?;
    }
    let same = "isthmus export --check, with the same options, tells when they differ";
    print_stderr(&format!("{services} applied to {name}\ntry: {same}"));
    Ok(ExitCode::SUCCESS)
}

/// Prints what differs.
fn report(drifts: &[Drift], services: &str, importing: &str) -> anyhow::Result<ExitCode> {
    if drifts.is_empty() {
        print_stderr(&format!("{services} compared: no difference in {importing}"));
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = drifts.iter().map(|drift| format!("{drift}\n")).collect();
    print(&printable(&lines))?;
    print_stderr(&format!(
        "{} in {importing}\n  write what is expected with the same options and --apply in place of --check; --prune deletes what is \
         not exported any more",
        count(drifts.len(), "difference")
    ));
    Ok(ExitCode::FAILURE)
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
