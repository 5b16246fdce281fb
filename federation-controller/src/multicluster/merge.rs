//! One service of several exports: the rules of KEP-1645, "constraints and conflict resolution".
//!
//! The oldest ServiceExport decides every property but the ports, which are the union of all exports' ports. Ports are merged
//! by name, then by protocol and number; of ports that clash, the oldest export's is used. A property in which exports differ
//! is a conflict, which all of them show: its message names the winner, and counts the clusters that disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::objects::{DeclaredPort, Exported, IpFamily, Text};

/// One cluster's export of the service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Constituent {
    pub(super) cluster: Text,
    /// The creation of the ServiceExport, seconds since 1970.
    pub(super) created: i64,
    pub(super) headless: bool,
    pub(super) ports: Vec<DeclaredPort>,
    /// The timeout of `sessionAffinity: ClientIP`; `None`: no affinity.
    pub(super) affinity: Option<Affinity>,
    /// `internalTrafficPolicy: Local`.
    pub(super) local: bool,
    pub(super) distribution: Option<Text>,
    pub(super) families: Vec<IpFamily>,
    pub(super) exported: Exported,
}

/// `sessionAffinity: ClientIP`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Affinity {
    pub(super) timeout_seconds: Option<u32>,
}

/// The service of all exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Merged {
    /// The exporting clusters, the oldest export first.
    pub(super) clusters: Vec<Text>,
    pub(super) headless: bool,
    pub(super) ports: Vec<DeclaredPort>,
    pub(super) affinity: Option<Affinity>,
    pub(super) local: bool,
    pub(super) distribution: Option<Text>,
    pub(super) families: Vec<IpFamily>,
    pub(super) labels: BTreeMap<Text, Text>,
    pub(super) annotations: BTreeMap<Text, Text>,
    pub(super) conflicts: Vec<Conflict>,
}

/// A property in which exports differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conflict {
    /// The reason of the condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Merges exports. Returns `None` if there are none.
pub(super) fn merge(mut all: Vec<Constituent>) -> Option<Merged> {
    // Of exports of the same second, every controller chooses the same.
    all.sort_by(|a, b| (a.created, &a.cluster).cmp(&(b.created, &b.cluster)));
    let (first, others) = all.split_first()?;
    let mut conflicts = Vec::new();
    let (ports, clashes) = merge_ports(&all);
    let comparison = Comparison { first, others };
    let kind = |of: &Constituent| if of.headless { "Headless" } else { "ClusterSetIP" };
    conflicts.extend(comparison.of("TypeConflict", "type", kind, |of| quoted(kind(of))));
    conflicts.extend(ports_conflict(&comparison, &clashes));
    conflicts.extend(comparison.of(
        "SessionAffinityConflict",
        "session affinity",
        |of| of.affinity.is_some(),
        |of| quoted(affinity_name(of.affinity)),
    ));
    let timeout = |of: &Constituent| of.affinity.and_then(|affinity| affinity.timeout_seconds);
    // Exports without affinity have no configuration of it.
    let with: Vec<Constituent> = all.iter().filter(|of| of.affinity.is_some()).cloned().collect();
    if let Some((first, others)) = with.split_first() {
        let shown = |of: &Constituent| timeout(of).map_or("no timeout".to_owned(), |seconds| format!("{seconds} s"));
        let comparison = Comparison { first, others };
        conflicts.extend(comparison.of(
            "SessionAffinityConfigConflict",
            "session affinity configuration",
            timeout,
            shown,
        ));
    }
    let policy = |of: &Constituent| policy_name(of.local);
    conflicts.extend(
        comparison.of("InternalTrafficPolicyConflict", "internal traffic policy", policy, |of| quoted(policy(of))),
    );
    conflicts.extend(comparison.of(
        "TrafficDistributionConflict",
        "traffic distribution",
        |of| of.distribution.clone(),
        |of| of.distribution.as_ref().map_or("none".to_owned(), |of| quoted(of)),
    ));
    conflicts.extend(comparison.of(
        "IPFamilyConflict",
        "IP families",
        |of| of.families.iter().copied().collect::<BTreeSet<_>>(),
        |of| of.families.iter().map(|family| family.as_str()).collect::<Vec<_>>().join(" and "),
    ));
    let those = |_: &Constituent| "those".to_owned();
    conflicts.extend(comparison.of("LabelsConflict", "exported labels", |of| of.exported.labels.clone(), those));
    conflicts.extend(comparison.of(
        "AnnotationsConflict",
        "exported annotations",
        |of| of.exported.annotations.clone(),
        those,
    ));
    Some(Merged {
        clusters: all.iter().map(|of| of.cluster.clone()).collect(),
        headless: first.headless,
        ports,
        affinity: first.affinity,
        local: first.local,
        distribution: first.distribution.clone(),
        families: first.families.clone(),
        labels: first.exported.labels.clone(),
        annotations: first.exported.annotations.clone(),
        conflicts,
    })
}

/// Returns `sessionAffinity`.
pub(super) fn affinity_name(affinity: Option<Affinity>) -> &'static str {
    if affinity.is_some() { "ClientIP" } else { "None" }
}

/// Returns `internalTrafficPolicy`.
pub(super) fn policy_name(local: bool) -> &'static str {
    if local { "Local" } else { "Cluster" }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The oldest export beside all others.
struct Comparison<'a> {
    first: &'a Constituent,
    others: &'a [Constituent],
}

impl Comparison<'_> {
    /// Returns the conflict of a property in which exports differ from the oldest one.
    fn of<T: PartialEq>(
        &self,
        reason: &'static str,
        what: &str,
        property: impl Fn(&Constituent) -> T,
        shown: impl Fn(&Constituent) -> String,
    ) -> Option<Conflict> {
        let wanted = property(self.first);
        let disagree = self.others.iter().filter(|of| property(of) != wanted).count();
        (disagree > 0).then(|| self.conflict(reason, what, &shown(self.first), disagree))
    }

    fn conflict(&self, reason: &'static str, what: &str, used: &str, disagree: usize) -> Conflict {
        let (winner, all) = (&self.first.cluster, self.others.len() + 1);
        let message = format!(
            "Conflicting {what}. Using {used} from oldest service export in \"{winner}\". {disagree}/{all} clusters disagree."
        );
        Conflict { reason, message }
    }
}

/// A port that is not used, because one of an older export has its name, or its protocol and number.
struct Clash<'a> {
    used: &'a DeclaredPort,
    winner: &'a Text,
}

/// Returns the union of the ports, and the ports that clash with one of it.
fn merge_ports(all: &[Constituent]) -> (Vec<DeclaredPort>, Vec<Clash<'_>>) {
    let mut merged: Vec<(&DeclaredPort, &Text)> = Vec::new();
    let mut names: BTreeMap<&Text, usize> = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut clashes = Vec::new();
    for of in all {
        for port in &of.ports {
            let number = (port.transport, port.number);
            match names.get(&port.name).or_else(|| numbers.get(&number)) {
                None => {
                    names.insert(&port.name, merged.len());
                    numbers.insert(number, merged.len());
                    merged.push((port, &of.cluster));
                }
                Some(at) => {
                    let (used, winner) = merged[*at];
                    if used != port {
                        clashes.push(Clash { used, winner });
                    }
                }
            }
        }
    }
    (merged.into_iter().map(|(port, _)| port.clone()).collect(), clashes)
}

/// Returns the conflict of ports: the first clash, or that the exports have different ones.
fn ports_conflict(comparison: &Comparison<'_>, clashes: &[Clash<'_>]) -> Option<Conflict> {
    let set =
        |of: &Constituent| -> BTreeSet<String> { of.ports.iter().map(|port| ShownPort(port).to_string()).collect() };
    let wanted = set(comparison.first);
    let disagree = comparison.others.iter().filter(|of| set(of) != wanted).count();
    let all = comparison.others.len() + 1;
    if let Some(Clash { used, winner }) = clashes.first() {
        let used = ShownPort(used);
        let message = format!(
            "Conflicting ports. Using {used} from oldest service export in \"{winner}\". {disagree}/{all} clusters disagree."
        );
        return Some(Conflict { reason: "PortConflict", message });
    }
    (disagree > 0).then(|| Conflict {
        reason: "PortConflict",
        message: format!(
            "Conflicting ports. Using the union of the ports of all clusters. {disagree}/{all} clusters disagree."
        ),
    })
}

/// A port in a message.
struct ShownPort<'a>(&'a DeclaredPort);

impl fmt::Display for ShownPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0;
        write!(f, "{:?} {}/{}", &*port.name, port.number, port.transport.as_str())?;
        port.app_protocol.iter().try_for_each(|of| write!(f, " ({of})"))
    }
}

#[cfg(test)]
mod tests;
