//! `isthmus services`: who exports each service, who imports it, and what differs between the clusters' definitions.
//!
//! The data come from the controller of each primary (`/debug/service-table`), through its API server's service proxy.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use federation_controller::debug::{ServiceInCluster, ServiceRow, ServicesPage};
use install::debug_pages::DebugPages;
use lab::console::{Patience, print};
use serde_json::{Value, json};

use crate::access::{AccessOptions, UNREADABLE_PAGE, printable};
use crate::status;
use crate::table::table;

/// Show who exports each service, and who imports it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus services\n  isthmus services -n shop -o wide\n  isthmus services -o json | jq '.primaries[].services[] | select(.conflicts != [])'"
)]
pub(crate) struct ServicesArgs {
    #[command(flatten)]
    access: AccessOptions,
    /// Context of the primary; otherwise the current context, or every primary of the running lab
    #[arg(long)]
    context: Option<String>,
    /// Show only services of this namespace
    #[arg(short, long, value_parser = api::names::namespace)]
    namespace: Option<String>,
    /// Show the services of Kubernetes and of the mesh itself as well
    #[arg(short = 'A', long)]
    all: bool,
    /// Namespace of the mesh's components
    #[arg(long, value_name = "NAMESPACE", default_value = api::names::SYSTEM_NAMESPACE, value_parser = api::names::namespace)]
    system_namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ServicesFormat,
    /// Time to wait for the controllers, such as 15s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::ca::duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ServicesFormat {
    /// A table
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// JSON with every field (docs/visibility.md)
    Json,
    /// YAML with every field (docs/visibility.md)
    Yaml,
}

pub(crate) async fn run(args: ServicesArgs) -> anyhow::Result<ExitCode> {
    let patience = Patience::new(args.timeout, "check that it runs: isthmus status, or wait longer: --timeout 60s");
    let mut pages = Vec::new();
    for primary in status::primaries(&args.access, args.context.as_deref()).await? {
        let debug = DebugPages::new(primary.client.clone(), &args.system_namespace);
        let page = patience.answer(&primary.controller(), debug.read("service-table")).await?;
        let page = page.with_context(|| format!("asking {}", primary.controller()))?;
        let mut page: ServicesPage = serde_json::from_str(&page).map_err(|_| anyhow::anyhow!(UNREADABLE_PAGE))?;
        let wanted = |row: &ServiceRow| args.namespace.as_ref().is_none_or(|namespace| row.namespace == *namespace);
        page.services.retain(|row| wanted(row) && (args.all || !row.system));
        pages.push((primary.name, page));
    }
    print(&match args.output {
        ServicesFormat::Json => format!("{}\n", serde_json::to_string_pretty(&document(&pages))?),
        ServicesFormat::Yaml => api::yaml::to_string(&document(&pages)).map_err(anyhow::Error::msg)?,
        form => printable(&tables(&pages, form == ServicesFormat::Wide)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the document of `-o json|yaml`.
fn document(pages: &[(String, ServicesPage)]) -> Value {
    let of_cluster = |(name, of): (&String, &ServiceInCluster)| {
        json!({"name": name, "defines": of.defined, "exports": of.exported, "imports": of.imported,
            "readyEndpoints": of.ready_endpoints})
    };
    let service = |row: &ServiceRow| {
        json!({"hostname": row.hostname, "namespace": row.namespace, "name": row.name, "system": row.system,
            "ports": row.ports, "clusters": row.clusters.iter().map(of_cluster).collect::<Vec<_>>(),
            "conflicts": row.conflicts})
    };
    let primaries = pages.iter().map(|(name, page)| {
        let services: Vec<Value> = page.services.iter().map(service).collect();
        json!({"name": name, "services": services, "omitted": page.omitted})
    });
    json!({"primaries": primaries.collect::<Vec<_>>()})
}

fn tables(pages: &[(String, ServicesPage)], wide: bool) -> String {
    let one = |(name, page): &(String, ServicesPage)| match pages.len() {
        1 => text(page, wide),
        _ => format!("as reported by {name}:\n{}", text(page, wide)),
    };
    pages.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn text(page: &ServicesPage, wide: bool) -> String {
    if page.services.is_empty() {
        return "no services; those of Kubernetes and of the mesh itself: isthmus services -A\n".to_owned();
    }
    let mut head = vec!["NAMESPACE", "SERVICE", "PORTS", "EXPORTED BY", "IMPORTED BY", "ENDPOINTS", "CONFLICTS"];
    if wide {
        head.extend(["EXPORTED BECAUSE OF", "HOSTNAME"]);
    }
    let mut out = table(&head, page.services.iter().map(|row| cells(row, wide)).collect());
    for row in &page.services {
        for conflict in &row.conflicts {
            out.push_str(&format!("conflict: {}/{}: {conflict}\n", row.namespace, row.name));
        }
    }
    if page.omitted > 0 {
        out.push_str(&format!("and {} more services, which the controller does not list\n", page.omitted));
    }
    out
}

fn cells(row: &ServiceRow, wide: bool) -> Vec<String> {
    let named = |shown: &dyn Fn(&String, &ServiceInCluster) -> Option<String>| {
        let names: Vec<String> = row.clusters.iter().filter_map(|(name, of)| shown(name, of)).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    };
    let ready = |of: &ServiceInCluster| of.ready_endpoints.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let mut cells = vec![
        row.namespace.clone(),
        row.name.clone(),
        ports(&row.ports),
        named(&|name, of| of.exported.as_ref().map(|_| name.clone())),
        named(&|name, of| of.imported.then(|| name.clone())),
        named(&|name, of| of.defined.then(|| format!("{name} {}", ready(of)))),
        if row.conflicts.is_empty() { "-".to_owned() } else { row.conflicts.len().to_string() },
    ];
    if wide {
        cells.push(named(&|name, of| of.exported.as_ref().map(|reason| format!("{name}: {reason}"))));
        cells.push(row.hostname.clone());
    }
    cells
}

/// Formats ports as `<number>/<protocol>`.
fn ports(ports: &[String]) -> String {
    let short = |port: &String| {
        let number = port.split('/').next().unwrap_or_default();
        let protocol = port.rsplit_once(' ').map_or("", |(_, protocol)| protocol);
        let protocol = protocol.rsplit('_').next().unwrap_or_default().to_ascii_lowercase();
        if protocol.is_empty() || protocol == "unspecified" {
            number.to_owned()
        } else {
            format!("{number}/{protocol}")
        }
    };
    if ports.is_empty() { "-".to_owned() } else { ports.iter().map(short).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> ServicesPage {
        let cluster = |defined, exported: Option<&str>, imported, ready_endpoints| ServiceInCluster {
            defined,
            exported: exported.map(str::to_owned),
            imported,
            ready_endpoints,
        };
        let row = ServiceRow {
            hostname: "reviews.default.svc.cluster.local".into(),
            namespace: "default".into(),
            name: "reviews".into(),
            system: false,
            ports: vec!["9080/http PROTOCOL_HTTP".into(), "9090/ PROTOCOL_UNSPECIFIED".into()],
            clusters: [
                ("central".to_owned(), cluster(false, None, true, None)),
                ("east".to_owned(), cluster(true, Some("ServiceExport"), true, None)),
                ("west".to_owned(), cluster(true, Some("ServiceExport"), true, Some(2))),
            ]
            .into(),
            conflicts: vec!["port 9080 is grpc in east: west wins".into()],
        };
        ServicesPage { services: vec![row], omitted: 3 }
    }

    #[test]
    fn the_table_shows_exporters_importers_and_conflicts() {
        let text = text(&page(), true);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("   ").map(str::trim).collect()).collect();
        let cells: Vec<&str> = lines[1].iter().copied().filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "default",
                "reviews",
                "9080/http, 9090",
                "east, west",
                "central, east, west",
                "east unknown, west 2",
                "1",
                "east: ServiceExport, west: ServiceExport",
                "reviews.default.svc.cluster.local",
            ]
        );
        assert!(text.contains("conflict: default/reviews: port 9080 is grpc in east: west wins\n"), "{text}");
        assert!(text.contains("and 3 more services"), "{text}");
    }

    #[test]
    fn unknown_numbers_are_null() {
        let document = document(&[("west".to_owned(), page())]);
        let clusters = &document["primaries"][0]["services"][0]["clusters"];
        assert_eq!(clusters[1]["readyEndpoints"], Value::Null);
        assert_eq!(
            clusters[2],
            json!({"name": "west", "defines": true, "exports": "ServiceExport", "imports": true,
            "readyEndpoints": 2})
        );
    }
}
