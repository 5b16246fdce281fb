//! Conversion of a parsed file to a topology in which every reference resolves.

mod edges;
mod issuers;
mod links;
mod names;
mod networks;
mod workloads;

use std::path::Path;

use serde_saphyr::Spanned;

use super::diagnostic::{Problem, with_nearest};
use super::file;
use super::model::{Cluster, MAX_CLUSTERS, Mesh, Network, Role, Topology};
use edges::{certificates, external, gateway, host_ports};
use issuers::issuers;
use links::links;
use names::{CheckResult, label, or_none};
use networks::{Networks, ip_families};
use workloads::{exports, manifests, name_controllers, workloads};

pub(super) fn check(path: &Path, raw: file::TopologyFile) -> CheckResult<Topology> {
    if raw.api_version.value != file::API_VERSION {
        return Err(Problem::new(
            raw.api_version.referenced,
            format!("unknown apiVersion \"{}\"", raw.api_version.value),
        )
        .hint(format!("this isthmus reads {}", file::API_VERSION)));
    }
    if raw.kind.value != file::KIND {
        return Err(Problem::new(raw.kind.referenced, format!("kind \"{}\" is not a topology", raw.kind.value))
            .hint("write: kind: Topology. Kubernetes objects go into files listed under spec.manifests"));
    }
    let name = match &raw.metadata.name {
        Some(name) => label(name, "lab")?,
        None => name_of_file(path),
    };
    let mesh = mesh(raw.spec.mesh)?;
    let networks = Networks::read(raw.spec.networks)?;
    let (clusters, networks) = clusters(&raw.spec.clusters, networks)?;
    let links = links(&raw.spec.links, &clusters)?;
    let mut workloads = workloads(&raw.spec.workloads, &clusters)?;
    name_controllers(&mut workloads);
    let manifests = manifests(path, &raw.spec.manifests, &clusters)?;
    let exports = exports(&raw.spec.exports, &clusters, &workloads, !manifests.is_empty())?;
    let issuers = issuers(&raw.spec.issuers)?;
    let external = external(&raw.spec.external, &issuers)?;
    let certificates = certificates(&raw.spec.certificates, &clusters)?;
    Ok(Topology {
        name,
        path: path.to_owned(),
        mesh,
        networks,
        links,
        clusters,
        workloads,
        exports,
        issuers,
        external,
        certificates,
        manifests,
    })
}

/// The names that the container of injected sidecars may have.
const PROXY_CONTAINERS: [&str; 2] = ["isthmus-proxy", "istio-proxy"];

fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name: String = name.trim_matches('-').chars().take(40).collect();
    match name.trim_end_matches('-') {
        "" => "lab".to_owned(),
        name => name.to_owned(),
    }
}

fn mesh(raw: file::MeshEntry) -> CheckResult<Mesh> {
    let trust_domain = match raw.trust_domain {
        None => "cluster.local".to_owned(),
        Some(domain) => {
            let valid = !domain.value.is_empty()
                && domain.value.len() <= 255
                && domain.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
            if !valid {
                return Err(Problem::new(domain.referenced, format!("\"{}\" is not a trust domain", domain.value))
                    .hint("lower-case letters, digits, dots, dashes and underscores, as in cluster.local"));
            }
            domain.value
        }
    };
    let proxy_container = match raw.proxy_container {
        Some(name) if !PROXY_CONTAINERS.contains(&name.value.as_str()) => {
            return Err(Problem::new(
                name.referenced,
                format!("\"{}\" is not a name of a sidecar's container", name.value),
            )
            .hint(format!("one of: {}", PROXY_CONTAINERS.join(", "))));
        }
        name => name.map(|name| name.value),
    };
    Ok(Mesh { trust_domain, export_all: raw.export_all, proxy_container, config: raw.config })
}

fn clusters(
    list: &Spanned<Vec<Spanned<file::ClusterEntry>>>,
    mut networks: Networks,
) -> CheckResult<(Vec<Cluster>, Vec<Network>)> {
    let raw = &list.value;
    if raw.is_empty() {
        return Err(Problem::new(list.referenced, "a topology needs at least one cluster")
            .hint("the smallest list: - {name: west, role: primary}"));
    }
    if let Some(extra) = raw.get(MAX_CLUSTERS) {
        return Err(Problem::new(
            extra.referenced,
            format!("{} clusters; a lab has at most {MAX_CLUSTERS}", raw.len()),
        )
        .hint("each cluster has ten LoadBalancer addresses of one /24"));
    }
    let names: Vec<&str> = raw.iter().map(|cluster| cluster.value.name.value.as_str()).collect();
    let primaries: Vec<&str> = raw
        .iter()
        .filter(|cluster| cluster.value.role.value == "primary")
        .map(|cluster| cluster.value.name.value.as_str())
        .collect();
    let mut clusters: Vec<Cluster> = Vec::new();
    for (index, cluster) in raw.iter().enumerate() {
        let name = label(&cluster.value.name, "cluster")?;
        if clusters.iter().any(|other| other.name == name) {
            return Err(Problem::new(cluster.referenced, format!("cluster \"{name}\" is listed twice"))
                .hint("give one of them another name"));
        }
        let role = role(cluster, &primaries)?;
        let network = match &cluster.value.network {
            Some(network) => network.value.clone(),
            None => format!("net-{name}"),
        };
        let ip_families = ip_families(cluster.value.ip_families.as_ref())?;
        let pod_cidrs = networks.join(cluster, &network, &ip_families)?;
        let region = match &cluster.value.region {
            Some(region) => label(region, "region")?,
            None => name.clone(),
        };
        let zones = zones(&region, cluster.value.zones.as_deref())?;
        let secrets_of = secrets_of(&cluster.value, &names)?;
        let index = u8::try_from(index).expect("bounded by the most clusters of a lab");
        let ingress_gateway = gateway(cluster.value.ingress_gateway.as_ref(), true)?;
        let egress_gateway = gateway(cluster.value.egress_gateway.as_ref(), false)?;
        clusters.push(Cluster {
            name,
            index,
            role,
            network,
            ip_families,
            pod_cidrs,
            region,
            zones,
            secrets_of,
            ingress_gateway,
            egress_gateway,
        });
    }
    joined(raw, &clusters)?;
    host_ports(raw, &clusters)?;
    for cluster in clusters.clone() {
        if let Role::Remote { primary } = &cluster.role {
            let primary = clusters.iter_mut().find(|other| other.name == *primary).expect("checked by role()");
            if !primary.secrets_of.contains(&cluster.name) {
                primary.secrets_of.push(cluster.name.clone());
            }
        }
    }
    let networks = networks.finish(&clusters, list)?;
    Ok((clusters, networks))
}

fn role(cluster: &Spanned<file::ClusterEntry>, primaries: &[&str]) -> CheckResult<Role> {
    let name = &cluster.value.name.value;
    match (cluster.value.role.value.as_str(), &cluster.value.primary) {
        ("primary", None) => Ok(Role::Primary),
        ("primary", Some(primary)) => Err(Problem::new(
            primary.referenced,
            format!("cluster \"{name}\" is a primary, but names primary \"{}\"", primary.value),
        )
        .hint("remove primary:, or make it role: remote. For two primaries list each other under secretsOf")),
        ("remote", Some(primary)) if primaries.contains(&primary.value.as_str()) => {
            Ok(Role::Remote { primary: primary.value.clone() })
        }
        ("remote", Some(primary)) => Err(Problem::new(
            primary.referenced,
            format!("cluster \"{name}\" names primary \"{}\", which is not a primary cluster", primary.value),
        )
        .hint(with_nearest(
            &format!("primaries: {}", or_none(primaries)),
            &primary.value,
            primaries.iter().copied(),
        ))),
        ("remote", None) => match primaries {
            [one] => Ok(Role::Remote { primary: (*one).to_owned() }),
            [] => {
                Err(Problem::new(cluster.referenced, format!("cluster \"{name}\" is remote, but there is no primary"))
                    .hint("at least one cluster needs role: primary, to run the control plane"))
            }
            several => Err(Problem::new(
                cluster.referenced,
                format!("cluster \"{name}\" is remote, but its primary is not specified"),
            )
            .hint(format!("add primary: with one of {}", several.join(", ")))),
        },
        (other, _) => Err(Problem::new(cluster.value.role.referenced, format!("unknown role \"{other}\""))
            .hint(with_nearest("roles: primary, remote", other, ["primary", "remote"].into_iter()))),
    }
}

fn zones(region: &str, raw: Option<&[Spanned<String>]>) -> CheckResult<Vec<String>> {
    let Some(raw) = raw else { return Ok(vec![format!("{region}-a")]) };
    let mut zones = Vec::new();
    for zone in raw {
        let name = label(zone, "zone")?;
        if zones.contains(&name) {
            return Err(Problem::new(zone.referenced, format!("zone \"{name}\" is listed twice"))
                .hint("a zone has one node; remove one of them"));
        }
        zones.push(name);
    }
    if zones.is_empty() {
        zones.push(format!("{region}-a"));
    }
    Ok(zones)
}

fn secrets_of(cluster: &file::ClusterEntry, names: &[&str]) -> CheckResult<Vec<String>> {
    let own = cluster.name.value.as_str();
    let mut held = Vec::new();
    for other in &cluster.secrets_of {
        let finding = |message: String| Problem::new(other.referenced, message);
        if cluster.role.value != "primary" {
            return Err(finding(format!("cluster \"{own}\" is remote and can hold no secrets"))
                .hint("remote secrets belong to a cluster with a controller: list it under a primary"));
        }
        if other.value == own {
            return Err(finding(format!("cluster \"{own}\" lists itself under secretsOf"))
                .hint("a controller reads its own cluster without a secret"));
        }
        if !names.contains(&other.value.as_str()) {
            return Err(finding(format!("secretsOf names cluster \"{}\", which does not exist", other.value))
                .hint(with_nearest(&format!("clusters: {}", names.join(", ")), &other.value, names.iter().copied())));
        }
        if !held.contains(&other.value) {
            held.push(other.value.clone());
        }
    }
    Ok(held)
}

/// Checks that every primary holds the secrets of the others. Otherwise the topology would be two meshes.
fn joined(raw: &[Spanned<file::ClusterEntry>], clusters: &[Cluster]) -> CheckResult<()> {
    let primaries: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.is_primary()).collect();
    for one in &primaries {
        for other in &primaries {
            if one.name != other.name && !one.secrets_of.contains(&other.name) {
                let at = raw[usize::from(one.index)].referenced;
                return Err(Problem::new(
                    at,
                    format!(
                        "clusters \"{}\" and \"{}\" are primaries, and \"{0}\" holds no secret of \"{1}\"",
                        one.name, other.name
                    ),
                )
                .hint(format!(
                    "add to cluster \"{}\": secretsOf: [{}]\nor make one of them role: remote",
                    one.name, other.name
                )));
            }
        }
    }
    Ok(())
}
