//! Conversion of a parsed file to a topology in which every reference resolves.

mod names;
mod workloads;

use std::path::Path;
use std::time::Duration;

use serde_saphyr::Spanned;

use super::diagnostic::{Problem, with_nearest};
use super::file;
use super::model::{Cluster, MAX_CLUSTERS, Mesh, Network, Role, Topology};
use names::{CheckResult, label, or_none};
use workloads::{exports, manifests, name_deployments, workloads};

/// Longest delay between networks; a longer one is a broken link rather than a slow one.
const MAX_DELAY: Duration = Duration::from_secs(5);
const POD_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";

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
        Some(name) => label(name, "name")?,
        None => name_of_file(path),
    };
    let mesh = mesh(raw.spec.mesh)?;
    let networks = networks(raw.spec.networks)?;
    let (clusters, networks) = clusters(&raw.spec.clusters, networks)?;
    let mut workloads = workloads(&raw.spec.workloads, &clusters)?;
    name_deployments(&mut workloads);
    let manifests = manifests(path, &raw.spec.manifests, &clusters)?;
    let exports = exports(&raw.spec.exports, &clusters, &workloads, !manifests.is_empty())?;
    Ok(Topology { name, path: path.to_owned(), mesh, networks, clusters, workloads, exports, manifests })
}

fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "lab".to_owned() } else { name.chars().take(40).collect() }
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
    Ok(Mesh { trust_domain, export_all: raw.export_all, config: raw.config })
}

fn networks(raw: Option<Vec<Spanned<file::NetworkEntry>>>) -> CheckResult<Option<Vec<Network>>> {
    let Some(raw) = raw else { return Ok(None) };
    let mut seen: Vec<Network> = Vec::new();
    for network in raw {
        let name = label(&network.value.name, "network")?;
        if seen.iter().any(|other| other.name == name) {
            return Err(Problem::new(network.referenced, format!("network \"{name}\" is listed twice"))
                .hint("remove one of them, or give it another name"));
        }
        let pod_cidr = pod_cidr(network.value.pod_cidr.as_ref())?;
        let delay = network.value.delay.as_ref().map(delay).transpose()?;
        seen.push(Network { name, pod_cidr, delay });
    }
    Ok(Some(seen))
}

fn pod_cidr(raw: Option<&Spanned<String>>) -> CheckResult<ipnet::Ipv4Net> {
    let default: ipnet::Ipv4Net = POD_CIDR.parse().expect("the default pod range is a network");
    let services: ipnet::Ipv4Net = SERVICE_CIDR.parse().expect("the service range is a network");
    let Some(raw) = raw else { return Ok(default) };
    let finding = |why: &str| {
        Err(Problem::new(raw.referenced, format!("podCIDR \"{}\" {why}", raw.value))
            .hint(format!("an IPv4 range of /16, such as {POD_CIDR}; networks may use the same range")))
    };
    let Ok(cidr) = raw.value.parse::<ipnet::Ipv4Net>() else { return finding("is not an IPv4 range") };
    if cidr.prefix_len() != 16 {
        return finding("is not a /16");
    }
    if cidr.trunc() == services {
        return finding("is the service range 10.96.0.0/16");
    }
    Ok(cidr.trunc())
}

/// Parses `20ms`, `1.5s` or `500us`.
fn delay(raw: &Spanned<String>) -> CheckResult<Duration> {
    let text = raw.value.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[split..] {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        _ => None,
    };
    let seconds = unit.and_then(|unit| Some(text[..split].trim().parse::<f64>().ok()? * unit));
    match seconds {
        Some(seconds) if seconds >= 0.0 && seconds <= MAX_DELAY.as_secs_f64() => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(Problem::new(raw.referenced, format!("delay \"{}\" is out of range", raw.value))
            .hint(format!("between 0 and {} s", MAX_DELAY.as_secs()))),
        None => Err(Problem::new(raw.referenced, format!("\"{}\" is not a delay", raw.value))
            .hint("a number with us, ms or s, such as 20ms")),
    }
}

fn clusters(
    list: &Spanned<Vec<Spanned<file::ClusterEntry>>>,
    networks: Option<Vec<Network>>,
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
    let listed = networks.is_some();
    let mut networks = networks.unwrap_or_default();
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
        if let Some(other) = clusters.iter().find(|other| other.network == network) {
            let at = cluster.value.network.as_ref().map_or(cluster.referenced, |network| network.referenced);
            let message =
                format!("cluster \"{name}\" is on network \"{network}\", which is that of cluster \"{}\"", other.name);
            return Err(Problem::new(at, message)
                .hint("in a lab each cluster has a network of its own, so that pod addresses may be the same"));
        }
        let pod_cidr = match networks.iter().find(|known| known.name == network) {
            Some(known) => known.pod_cidr,
            None if listed => {
                let known: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
                return Err(Problem::new(
                    cluster.referenced,
                    format!("cluster \"{name}\" names network \"{network}\", which spec.networks does not list"),
                )
                .hint(with_nearest(
                    &format!("known networks: {}", known.join(", ")),
                    &network,
                    known.iter().copied(),
                )));
            }
            None => {
                networks.push(Network { name: network.clone(), pod_cidr: pod_cidr(None)?, delay: None });
                pod_cidr(None)?
            }
        };
        let region = match &cluster.value.region {
            Some(region) => label(region, "region")?,
            None => name.clone(),
        };
        let zones = zones(&region, cluster.value.zones.as_deref())?;
        let secrets_of = secrets_of(&cluster.value, &names)?;
        let index = u8::try_from(index).expect("bounded by the most clusters of a lab");
        clusters.push(Cluster { name, index, role, network, pod_cidr, region, zones, secrets_of });
    }
    joined(raw, &clusters)?;
    for cluster in clusters.clone() {
        if let Role::Remote { primary } = &cluster.role {
            let primary = clusters.iter_mut().find(|other| other.name == *primary).expect("checked by role()");
            if !primary.secrets_of.contains(&cluster.name) {
                primary.secrets_of.push(cluster.name.clone());
            }
        }
    }
    if let Some(unused) = networks.iter().find(|network| !clusters.iter().any(|c| c.network == network.name)) {
        return Err(Problem::new(
            list.referenced,
            format!("network \"{}\" is listed, but no cluster is on it", unused.name),
        )
        .hint("name it in a cluster, or remove it from spec.networks"));
    }
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
