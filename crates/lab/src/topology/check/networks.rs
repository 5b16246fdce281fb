//! Networks of a topology file, and the IP families and pod ranges of the clusters on them.

use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};

use super::super::addresses::{IpFamily, following, overlap};
use super::super::diagnostic::{Problem, with_nearest};
use super::super::file;
use super::super::model::{Cluster, Network};
use super::links::{delay, loss};
use super::names::{CheckResult, label};

/// The networks of the file.
#[derive(Default)]
pub(super) struct Networks {
    /// Whether the file lists networks. Then clusters can name no other.
    is_listed: bool,
    entries: Vec<NetworkDraft>,
}

struct NetworkDraft {
    network: Network,
    /// The ranges of the file, with their place.
    ranges: Vec<(IpNet, Location)>,
    /// Number of clusters on the network so far.
    clusters: usize,
}

impl Networks {
    pub(super) fn read(raw: Option<Vec<Spanned<file::NetworkEntry>>>) -> CheckResult<Self> {
        let mut networks = Self { is_listed: raw.is_some(), entries: Vec::new() };
        for entry in raw.into_iter().flatten() {
            let name = label(&entry.value.name, "network")?;
            if networks.entries.iter().any(|other| other.network.name == name) {
                return Err(Problem::new(entry.referenced, format!("network \"{name}\" is listed twice"))
                    .hint("remove one of them, or give it another name"));
            }
            let ranges = entry.value.pod_cidr.as_ref().map(pod_ranges).transpose()?.unwrap_or_default();
            let delay = entry.value.delay.as_ref().map(delay).transpose()?;
            let loss_per_mille = entry.value.loss.as_ref().map(loss).transpose()?;
            let network = Network { name, delay, loss_per_mille };
            networks.entries.push(NetworkDraft { network, ranges, clusters: 0 });
        }
        Ok(networks)
    }

    /// Adds a cluster to the network of a name. Returns the cluster's pod ranges, one of each family.
    pub(super) fn join(
        &mut self,
        cluster: &Spanned<file::ClusterEntry>,
        network: &str,
        families: &[IpFamily],
    ) -> CheckResult<Vec<IpNet>> {
        let name = &cluster.value.name.value;
        let at = match self.entries.iter().position(|entry| entry.network.name == network) {
            Some(at) => at,
            None if self.is_listed => {
                let known: Vec<&str> = self.entries.iter().map(|entry| entry.network.name.as_str()).collect();
                return Err(Problem::new(
                    cluster.referenced,
                    format!("cluster \"{name}\" names network \"{network}\", which spec.networks does not list"),
                )
                .hint(with_nearest(
                    &format!("known networks: {}", known.join(", ")),
                    network,
                    known.iter().copied(),
                )));
            }
            None => {
                let network = Network { name: network.to_owned(), delay: None, loss_per_mille: None };
                self.entries.push(NetworkDraft { network, ranges: Vec::new(), clusters: 0 });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[at];
        let steps = entry.clusters;
        entry.clusters += 1;
        let own = cluster.value.pod_cidr.as_ref().map(pod_ranges).transpose()?.unwrap_or_default();
        if let Some((range, at)) = own.iter().find(|(range, _)| !families.contains(&IpFamily::of(*range))) {
            return Err(Problem::new(*at, format!("podCIDR {range} is not of an IP family of cluster \"{name}\""))
                .hint(format!("its ipFamilies are [{}]", list(families))));
        }
        let of = |ranges: &[(IpNet, Location)], family| {
            ranges.iter().find(|(range, _)| IpFamily::of(*range) == family).copied()
        };
        let mut ranges = Vec::new();
        for family in families {
            if let Some((range, _)) = of(&own, *family) {
                ranges.push(range);
                continue;
            }
            let (first, at) = of(&entry.ranges, *family).unwrap_or((family.default_pods(), cluster.referenced));
            let range = following(first, steps).ok_or_else(|| {
                Problem::new(at, format!("no range follows podCIDR {first} for cluster \"{name}\""))
                    .hint(format!("add podCIDR to cluster \"{name}\""))
            })?;
            ranges.push(usable(range, at, &range.to_string())?);
        }
        Ok(ranges)
    }

    /// Checks the ranges of all clusters, and returns the networks.
    pub(super) fn finish(
        self,
        clusters: &[Cluster],
        raw: &Spanned<Vec<Spanned<file::ClusterEntry>>>,
    ) -> CheckResult<Vec<Network>> {
        if let Some(unused) = self.entries.iter().find(|entry| entry.clusters == 0) {
            return Err(Problem::new(
                raw.referenced,
                format!("network \"{}\" is listed, but no cluster is on it", unused.network.name),
            )
            .hint("name it in a cluster, or remove it from spec.networks"));
        }
        for entry in &self.entries {
            let has =
                |family| clusters.iter().any(|it| it.network == entry.network.name && it.ip_families.contains(&family));
            if let Some((range, at)) = entry.ranges.iter().find(|(range, _)| !has(IpFamily::of(*range))) {
                let (family, name) = (IpFamily::of(*range), &entry.network.name);
                return Err(Problem::new(
                    *at,
                    format!("podCIDR {range}, but no cluster of network \"{name}\" has {family}"),
                )
                .hint(format!("add to its clusters: ipFamilies: [{}]", list(&IpFamily::ALL))));
            }
        }
        for (index, cluster) in clusters.iter().enumerate() {
            let at = |field: Option<Location>| field.unwrap_or(raw.value[index].referenced);
            disjoint(cluster, &clusters[..index], || {
                at(raw.value[index].value.pod_cidr.as_ref().map(|it| it.referenced))
            })?;
            reachable(cluster, clusters, || at(raw.value[index].value.ip_families.as_ref().map(|it| it.referenced)))?;
        }
        Ok(self.entries.into_iter().map(|entry| entry.network).collect())
    }
}

/// Checks that the pods of clusters on one network have different addresses.
fn disjoint(cluster: &Cluster, others: &[Cluster], at: impl Fn() -> Location) -> CheckResult<()> {
    for other in others.iter().filter(|other| other.network == cluster.network) {
        for range in &cluster.pod_cidrs {
            if let Some(theirs) = other.pod_cidrs.iter().find(|theirs| overlap(**theirs, *range)) {
                let (name, network) = (&cluster.name, &cluster.network);
                let message = format!(
                    "pods of cluster \"{name}\" have addresses of {range}, as have pods of \"{}\" ({theirs}) on the same network \"{network}\"",
                    other.name
                );
                let free = following(range.to_owned(), others.len());
                let hint = free.map_or_else(String::new, |free| format!(", such as podCIDR: {free}"));
                return Err(Problem::new(at(), message)
                    .hint(format!("pods of one network reach each other, so give one cluster another range{hint}")));
            }
        }
    }
    Ok(())
}

/// Checks that other clusters can reach the cluster's gateway and API server.
fn reachable(cluster: &Cluster, others: &[Cluster], at: impl Fn() -> Location) -> CheckResult<()> {
    let family = cluster.first_family();
    match others.iter().find(|other| !other.ip_families.contains(&family)) {
        None => Ok(()),
        Some(other) => Err(Problem::new(
            at(),
            format!(
                "cluster \"{}\" has gateway and API server at {family}, which \"{}\" does not have",
                cluster.name, other.name
            ),
        )
        .hint("clusters reach each other by the first of ipFamilies: put a family first that every cluster has")),
    }
}

/// Returns the IP families of a cluster.
pub(super) fn ip_families(raw: Option<&Spanned<Vec<Spanned<String>>>>) -> CheckResult<Vec<IpFamily>> {
    let Some(raw) = raw else { return Ok(vec![IpFamily::V4]) };
    let names = IpFamily::ALL.map(|family| family.to_string());
    let mut families = Vec::new();
    for name in &raw.value {
        let family = IpFamily::named(&name.value).ok_or_else(|| {
            Problem::new(name.referenced, format!("unknown IP family \"{}\"", name.value)).hint(with_nearest(
                &format!("families: {}", names.join(", ")),
                &name.value,
                names.iter().map(String::as_str),
            ))
        })?;
        if families.contains(&family) {
            return Err(
                Problem::new(name.referenced, format!("IP family {family} is listed twice")).hint("remove one of them")
            );
        }
        families.push(family);
    }
    if families.is_empty() {
        return Err(Problem::new(raw.referenced, "ipFamilies is empty")
            .hint("[IPv4], [IPv6], or both; the first is that of Services that request none"));
    }
    Ok(families)
}

fn list(families: &[IpFamily]) -> String {
    families.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Parses a range of each family, separated by a comma.
fn pod_ranges(raw: &Spanned<String>) -> CheckResult<Vec<(IpNet, Location)>> {
    let mut ranges: Vec<(IpNet, Location)> = Vec::new();
    for text in raw.value.split(',').map(str::trim) {
        let range: IpNet = text.parse().map_err(|_| bad_range(raw.referenced, text, "is not an IP range"))?;
        let range = usable(range, raw.referenced, text)?;
        if ranges.iter().any(|(other, _)| IpFamily::of(*other) == IpFamily::of(range)) {
            let why = format!("is a second range of {}", IpFamily::of(range));
            return Err(bad_range(raw.referenced, text, &why));
        }
        ranges.push((range, raw.referenced));
    }
    Ok(ranges)
}

/// Checks that pods can have addresses of a range.
fn usable(range: IpNet, at: Location, text: &str) -> CheckResult<IpNet> {
    let family = IpFamily::of(range);
    if range.prefix_len() != family.pods_prefix() {
        return Err(bad_range(at, text, &format!("is not a /{}", family.pods_prefix())));
    }
    let reserved = [
        ("service", family.services()),
        ("gateways'", family.on_bridge(0).trunc()),
        ("shared networks'", family.on_shared_network(0).trunc()),
    ];
    match reserved.into_iter().find(|(_, taken)| overlap(*taken, range)) {
        Some((what, taken)) if taken == range.trunc() => {
            Err(bad_range(at, text, &format!("is the {what} range {taken}")))
        }
        Some((what, taken)) => Err(bad_range(at, text, &format!("overlaps the {what} range {taken}"))),
        None => Ok(range.trunc()),
    }
}

fn bad_range(at: Location, text: &str, why: &str) -> Problem {
    let [four, six] = IpFamily::ALL.map(|family| (family.pods_prefix(), family.default_pods()));
    Problem::new(at, format!("podCIDR \"{text}\" {why}")).hint(format!(
        "an IPv4 range of /{}, such as {}, or an IPv6 range of /{}, such as {}; networks may use the same range",
        four.0, four.1, six.0, six.1
    ))
}
