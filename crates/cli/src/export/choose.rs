//! The exporting clusters, and which of their services are meant.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use api::service_entry_export::ExportedService;
use federation_controller::debug::{ExportRow, ExportsPage};
use install::components::CONTROLLER;
use install::debug_pages::DebugPages;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use lab::console::{Patience, print_stderr};

use super::ExportArgs;
use crate::access::{ClusterAccess, UNREADABLE_PAGE, describe};

/// The number of services of one command.
const MAX_SERVICES: usize = 5_000;

/// A namespace and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceName {
    namespace: String,
    name: String,
}

/// Parses `NAMESPACE/NAME`.
pub(super) fn service_name(text: &str) -> Result<ServiceName, String> {
    let Some((namespace, name)) = text.split_once('/') else {
        return Err(format!("\"{text}\" has no namespace; write NAMESPACE/NAME, such as default/{text}"));
    };
    let (namespace, name) = (api::names::namespace(namespace)?, api::names::dns_label(name, "service")?);
    Ok(ServiceName { namespace, name })
}

/// The clusters that export, and the primary whose controller reads them.
pub(super) struct Exporting {
    primary: ClusterAccess,
    clusters: Vec<ClusterAccess>,
}

impl Exporting {
    /// Returns the name of a cluster in the mesh. A joined cluster has that of its context, unless `isthmus join --name` was given.
    fn name<'a>(&'a self, cluster: &'a ClusterAccess, page: &'a ExportsPage) -> &'a str {
        if cluster.name == self.primary.name { &page.cluster } else { &cluster.name }
    }
}

/// Returns the exporting clusters of a command.
pub(super) async fn exporting(args: &ExportArgs) -> anyhow::Result<Exporting> {
    let first = args.from.first().map(String::as_str);
    let Some(lab) = args.access.lab(first)? else {
        let mut clusters = Vec::new();
        for context in &args.from {
            clusters.push(args.access.context(Some(context)).await?);
        }
        if clusters.is_empty() {
            clusters.push(args.access.context(None).await?);
        }
        let primary = match &args.primary {
            Some(context) => args.access.context(Some(context)).await?,
            None => clusters[0].clone(),
        };
        return Ok(Exporting { primary, clusters });
    };
    let named = || lab.clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(first) = first else {
        bail!("the exporting cluster is missing\n  name it: --from CLUSTER; clusters of lab {}: {}", lab.name, named());
    };
    let primary =
        args.primary.as_deref().map_or_else(|| lab.cluster(first).map(|of| of.primary.clone()), |of| Ok(of.into()))?;
    let mut clusters = Vec::new();
    for name in &args.from {
        clusters.push(args.access.of_lab(&lab, name).await?);
    }
    Ok(Exporting { primary: args.access.of_lab(&lab, &primary).await?, clusters })
}

/// The chosen services, and the names in the mesh of the clusters that export them.
pub(super) struct Chosen {
    pub(super) clusters: Vec<String>,
    pub(super) services: Vec<ExportedService>,
    /// The namespaces and names of those that no other network can reach now.
    pub(super) unreachable: Vec<(String, String)>,
}

/// Returns the chosen services, by namespace and name.
pub(super) async fn services(args: &ExportArgs, exporting: &Exporting, patience: &Patience) -> anyhow::Result<Chosen> {
    let page = page(args, exporting, patience).await?;
    let clusters: Vec<&str> = exporting.clusters.iter().map(|cluster| exporting.name(cluster, &page)).collect();
    if let Some(unknown) = clusters.iter().find(|cluster| !page.clusters.iter().any(|known| known == *cluster)) {
        bail!(
            "the controller in {} has not joined a cluster {unknown}\n  joined clusters: {}; name the primary that reads it: --primary CONTEXT",
            exporting.primary.name,
            page.clusters.join(", ")
        );
    }
    let rows: Vec<&ExportRow> = page.exports.iter().filter(|row| clusters.contains(&&*row.cluster)).collect();
    let names = match (&args.services[..], &args.selector) {
        ([], None) => rows.iter().map(|row| name_of(row)).filter(|name| is_in(args, name)).collect(),
        ([], Some(selector)) => {
            let selected = selected(args, exporting, selector, patience).await?;
            rows.iter().map(|row| name_of(row)).filter(|name| selected.contains(name)).collect()
        }
        (named, _) => named.iter().cloned().collect::<BTreeSet<_>>(),
    };
    let (mut services, mut unreachable) = (Vec::new(), Vec::new());
    for name in &names {
        match service(exporting, &clusters, &rows, name, patience).await {
            Ok(service) => services.push(service),
            // Of many, the others are given.
            Err(error) if args.services.is_empty() => {
                print_stderr(&format!("warning: {}", describe(&error)));
                unreachable.push((name.namespace.clone(), name.name.clone()));
            }
            Err(error) => return Err(error),
        }
    }
    let may_be_none = args.services.is_empty() && args.selector.is_none() && (args.check || args.prune);
    if services.is_empty() && !may_be_none {
        bail!(
            "{} exports no such service\n  export one by a ServiceExport of its namespace and name, or list them: {} get serviceexports -A",
            clusters.join(" and "),
            exporting.clusters[0].kubectl
        );
    }
    if services.len() > MAX_SERVICES {
        bail!(
            "{} services are chosen, and {MAX_SERVICES} are possible\n  choose fewer: -n NAMESPACE or -l LABELS",
            services.len()
        );
    }
    Ok(Chosen { clusters: clusters.into_iter().map(str::to_owned).collect(), services, unreachable })
}

fn name_of(row: &ExportRow) -> ServiceName {
    ServiceName { namespace: row.namespace.clone(), name: row.name.clone() }
}

fn is_in(args: &ExportArgs, name: &ServiceName) -> bool {
    args.namespace.as_ref().is_none_or(|namespace| *namespace == name.namespace)
}

async fn page(args: &ExportArgs, exporting: &Exporting, patience: &Patience) -> anyhow::Result<ExportsPage> {
    let primary = &exporting.primary;
    let pages = DebugPages::new(primary.client.clone(), &args.system_namespace);
    let text = match patience.answer(&primary.controller(), pages.read("exports")).await? {
        Ok(text) => text,
        Err(kube::Error::Api(status)) if status.code == 404 => bail!(
            "{} has no controller in namespace {} that knows exports\n  name the primary that reads {}: --primary CONTEXT, or the \
             namespace: --system-namespace NAME",
            primary.name,
            args.system_namespace,
            exporting.clusters[0].name
        ),
        Err(error) => bail!(
            "the controller in {} does not answer: {}\n  check that it runs: {} -n {} get deployment {CONTROLLER}",
            primary.name,
            describe(&error.into()),
            primary.kubectl,
            args.system_namespace
        ),
    };
    serde_json::from_str(&text).context(UNREADABLE_PAGE)
}

/// Returns the Services of the exporting clusters with these labels.
async fn selected(
    args: &ExportArgs,
    exporting: &Exporting,
    selector: &str,
    patience: &Patience,
) -> anyhow::Result<BTreeSet<ServiceName>> {
    let mut selected = BTreeSet::new();
    for cluster in &exporting.clusters {
        let services: Api<Service> = match &args.namespace {
            Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
            None => Api::all(cluster.client.clone()),
        };
        let params = ListParams::default().labels(selector);
        let listed = patience.answer(&cluster.api_server(), services.list_metadata(&params)).await?;
        let listed = listed.with_context(|| format!("selecting services of {} by {selector}", cluster.name))?;
        let name = |service: kube::core::PartialObjectMeta<Service>| ServiceName {
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
        };
        selected.extend(listed.items.into_iter().map(name));
    }
    Ok(selected)
}

/// Returns what the clusters that export a service have in common. Says why a service has none.
async fn service(
    exporting: &Exporting,
    clusters: &[&str],
    rows: &[&ExportRow],
    name: &ServiceName,
    patience: &Patience,
) -> anyhow::Result<ExportedService> {
    let ServiceName { namespace, name: service } = name;
    let of = || rows.iter().filter(|row| row.namespace == *namespace && row.name == *service);
    if of().next().is_none() {
        return Err(not_exported(exporting, clusters, name, patience).await);
    }
    if let Some(problem) = of().find_map(|row| row.problem.as_deref()) {
        bail!("{namespace}/{service} is exported, but no other network can reach it: {problem}");
    }
    let merged = ExportedService::merged(of().filter_map(|row| row.service.clone()));
    let merged = merged.filter(|merged| !merged.ports.is_empty());
    merged.with_context(|| {
        format!(
            "{namespace}/{service} has no port in common in {}\n  give it the same ports, or export it from one cluster: --from CONTEXT",
            clusters.join(" and ")
        )
    })
}

/// Returns the error for a service that no chosen cluster exports.
async fn not_exported(
    exporting: &Exporting,
    clusters: &[&str],
    name: &ServiceName,
    patience: &Patience,
) -> anyhow::Error {
    let ServiceName { namespace, name } = name;
    let mut defined = false;
    for cluster in &exporting.clusters {
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
        // If the API server does not say, the service may exist.
        defined |= !matches!(patience.answer(&cluster.api_server(), services.get_opt(name)).await, Ok(Ok(None)));
    }
    let (clusters, kubectl) = (clusters.join(" and "), &exporting.clusters[0].kubectl);
    match defined {
        true => anyhow::anyhow!(
            "{clusters} does not export {namespace}/{name}\n  export it by a ServiceExport (multicluster.x-k8s.io/v1alpha1) of that namespace and name; if there is one: {kubectl} -n {namespace} describe serviceexport {name}"
        ),
        false => anyhow::anyhow!(
            "{clusters} has no service {namespace}/{name}\n  list the services: {kubectl} -n {namespace} get services"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_namespace() {
        let named = |text: &str| service_name(text).map(|of| format!("{}|{}", of.namespace, of.name));
        assert_eq!(named("shop/cart"), Ok("shop|cart".into()));
        assert!(named("cart").unwrap_err().contains("write NAMESPACE/NAME, such as default/cart"));
        for bad in ["/cart", "shop/", "shop/Cart", "a/b/c", "../x"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
