//! The policy of a workload, from what its sidecars have accepted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

/// The number of names below one path with which the path stands for all of them, as in each sidecar.
const MAX_CHILDREN: usize = 16;
/// The operator of a path template for all that follows.
const REST: &str = "{**}";

/// The page `/authz/observed` of a sidecar.
#[derive(Debug, Deserialize)]
pub(super) struct ObservedPage {
    /// The sidecar's cluster.
    cluster: String,
    /// The time since the sidecar started.
    seconds: u64,
    /// What was accepted and is not in the list.
    unrecorded: u64,
    accepted: Vec<AcceptedRow>,
}

#[derive(Debug, Deserialize)]
struct AcceptedRow {
    /// `<trust domain>/ns/<namespace>/sa/<service account>`; `None` without mutual TLS.
    principal: Option<String>,
    /// The cluster that the caller's certificate proves.
    cluster: Option<String>,
    port: u16,
    /// `None` for opaque connections.
    method: Option<String>,
    path: String,
    count: u64,
}

/// A workload, and what its sidecars have accepted.
#[derive(Debug, Default)]
pub(super) struct Workload {
    pub(super) name: String,
    /// The labels by which a policy selects it.
    pub(super) selector: BTreeMap<String, String>,
    /// How long each sidecar has observed.
    observed: Vec<u64>,
    requests: u64,
    /// The number without an identity, by port.
    plaintext: BTreeMap<u16, u64>,
    unrecorded: u64,
    /// By principal and the cluster that its certificate proves.
    callers: BTreeMap<String, BTreeMap<Option<String>, Caller>>,
}

/// What a principal of a cluster did.
#[derive(Debug, Default, Clone)]
struct Caller {
    /// Whether it called a pod of another cluster.
    foreign: bool,
    /// The ports with opaque connections.
    opaque: BTreeSet<u16>,
    /// Paths by port and method.
    paths: BTreeMap<(u16, String), BTreeSet<String>>,
}

/// The clusters in which callers did the same, and what they did, as JSON.
type Did<'a> = (BTreeSet<&'a str>, String);

/// Principals, and the operations that they are admitted to.
type Admitted<'a> = (Vec<&'a str>, Vec<Value>);

impl Workload {
    pub(super) fn new(name: &str, selector: BTreeMap<String, String>) -> Self {
        Workload { name: name.to_owned(), selector, ..Workload::default() }
    }

    /// Adds what a sidecar has accepted. Rows that no sidecar has, and that could widen a policy, are left out.
    pub(super) fn add(&mut self, page: ObservedPage) {
        self.observed.push(page.seconds);
        self.unrecorded = self.unrecorded.saturating_add(page.unrecorded);
        for row in page.accepted {
            self.requests = self.requests.saturating_add(row.count);
            let Some(principal) = row.principal.clone() else {
                let count = self.plaintext.entry(row.port).or_default();
                *count = count.saturating_add(row.count);
                continue;
            };
            if !row.is_valid() {
                self.unrecorded = self.unrecorded.saturating_add(row.count);
                continue;
            }
            let foreign = row.cluster.as_ref().is_some_and(|cluster| *cluster != page.cluster);
            let caller = self.callers.entry(principal).or_default().entry(row.cluster).or_default();
            caller.foreign |= foreign;
            match row.method {
                None => _ = caller.opaque.insert(row.port),
                Some(method) => _ = caller.paths.entry((row.port, method)).or_default().insert(row.path),
            }
        }
    }

    /// Returns the name of the policy.
    pub(super) fn policy_name(&self) -> String {
        let name: String = self.name.to_ascii_lowercase();
        let valid = |char: char| if char.is_ascii_alphanumeric() || char == '.' { char } else { '-' };
        format!("{}-observed", name.chars().map(valid).take(200).collect::<String>().trim_start_matches(['-', '.']))
    }

    /// Returns the rules: callers that did the same have one.
    pub(super) fn rules(&self) -> Vec<Value> {
        let mut rules: BTreeMap<Did<'_>, Admitted<'_>> = BTreeMap::new();
        for (principal, of_clusters) in &self.callers {
            // By what it did, the clusters in which it did that; none: a rule for any cluster.
            let mut did: BTreeMap<String, (BTreeSet<&str>, Vec<Value>)> = BTreeMap::new();
            let callers: Vec<(Option<&str>, Caller)> = match names_clusters(of_clusters) {
                true => of_clusters.iter().map(|(cluster, caller)| (cluster.as_deref(), caller.clone())).collect(),
                false => vec![(None, together(of_clusters.values()))],
            };
            for (cluster, caller) in callers {
                let operations = caller.operations();
                let text = json!(operations).to_string();
                did.entry(text).or_insert_with(|| (BTreeSet::new(), operations)).0.extend(cluster);
            }
            for (text, (clusters, operations)) in did {
                rules.entry((clusters, text)).or_insert_with(|| (Vec::new(), operations)).0.push(principal);
            }
        }
        let rule = |((clusters, _), (principals, operations)): (Did<'_>, Admitted<'_>)| {
            let mut rule = json!({"from": [{"source": {"principals": principals}}], "to": operations});
            if !clusters.is_empty() {
                rule["when"] = json!([{"key": "source.cluster", "values": clusters}]);
            }
            rule
        };
        let mut rules: Vec<_> = rules.into_iter().collect();
        rules.sort_by(|(_, (one, _)), (_, (other, _))| one.cmp(other));
        rules.into_iter().map(rule).collect()
    }

    /// Returns what there is to say about the policy.
    pub(super) fn comments(&self) -> Vec<String> {
        let (pods, name) = (self.observed.len(), &self.name);
        let (least, most) = (self.observed.iter().min(), self.observed.iter().max());
        let time = match (least.map(|of| time(*of)), most.map(|of| time(*of))) {
            (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
            (_, Some(most)) => most,
            _ => "no time".to_owned(),
        };
        let pods = if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") };
        let mut lines =
            vec![format!("{name}: {pods} observed for {time}, {} requests and connections accepted", self.requests)];
        if self.callers.is_empty() {
            lines.push(format!("{name}: no caller with an identity was seen, so no policy is proposed"));
        }
        for (port, count) in &self.plaintext {
            lines.push(format!(
                "{name}: not admitted: {count} without mutual TLS at port {port}, whose callers have no identity that a policy could name"
            ));
        }
        if self.unrecorded > 0 {
            lines.push(format!(
                "{name}: {} more were accepted and not recorded, so callers or paths may be missing",
                self.unrecorded
            ));
        }
        for (principal, of_clusters) in &self.callers {
            if of_clusters.values().any(|caller| caller.foreign) && !names_clusters(of_clusters) {
                lines.push(format!(
                    "{name}: {principal} is admitted from any cluster: not all of its certificates prove one"
                ));
            }
            let caller = together(of_clusters.values());
            let mut both = caller.opaque.iter().filter(|port| caller.paths.keys().any(|(of, _)| of == *port));
            if let Some(port) = both.next() {
                lines.push(format!(
                    "{name}: {principal} may send any request to port {port}, where it opened opaque connections as well"
                ));
            }
        }
        lines
    }
}

/// Returns whether rules name the clusters of a principal: if it called pods of other clusters than its own, and all of its
/// certificates prove one.
fn names_clusters(of_clusters: &BTreeMap<Option<String>, Caller>) -> bool {
    of_clusters.values().any(|caller| caller.foreign) && !of_clusters.contains_key(&None)
}

/// Returns what several callers did together.
fn together<'a>(callers: impl Iterator<Item = &'a Caller>) -> Caller {
    let mut all = Caller::default();
    for caller in callers {
        all.opaque.extend(&caller.opaque);
        for (key, paths) in &caller.paths {
            all.paths.entry(key.clone()).or_default().extend(paths.iter().cloned());
        }
    }
    all
}

impl AcceptedRow {
    /// Returns whether no part of the row could be taken for a pattern that matches more.
    fn is_valid(&self) -> bool {
        let literal =
            |text: &str| text.len() <= 512 && !text.contains(['*', '{', '}']) && !text.contains(char::is_control);
        self.principal.as_deref().is_some_and(|id| literal(id) && id.contains("/ns/") && id.contains("/sa/"))
            && self.cluster.as_deref().is_none_or(|cluster| literal(cluster) && !cluster.is_empty())
            && match &self.method {
                None => self.path.is_empty(),
                Some(method) => {
                    method.len() <= 16
                        && method.bytes().all(|byte| byte.is_ascii_uppercase())
                        && is_template(&self.path)
                }
            }
    }
}

/// Returns whether a path has the form that sidecars record: `{**}` and an empty segment can only be at its end.
fn is_template(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let (directory, last) = rest.rsplit_once('/').map_or((None, rest), |(directory, last)| (Some(directory), last));
    let literal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte);
    let segment = |of: &str| of == "{*}" || (!of.is_empty() && of.bytes().all(literal));
    path.len() <= 1024
        && directory.is_none_or(|directory| directory.split('/').all(segment))
        && (last.is_empty() || last == REST || segment(last))
}

impl Caller {
    /// Returns the operations: by port, the paths that have the same methods.
    fn operations(&self) -> Vec<Value> {
        let mut methods: BTreeMap<(u16, String), BTreeSet<&str>> = BTreeMap::new();
        for ((port, method), paths) in &self.paths {
            if self.opaque.contains(port) {
                // A rule for the port is for its requests as well.
                continue;
            }
            for path in generalised(paths) {
                methods.entry((*port, path)).or_default().insert(method);
            }
        }
        let mut operations: BTreeMap<(u16, BTreeSet<&str>), Vec<String>> = BTreeMap::new();
        for ((port, path), methods) in methods {
            operations.entry((port, methods)).or_default().push(pattern(&path));
        }
        let opaque = self.opaque.iter().map(|port| json!({"operation": {"ports": [port.to_string()]}}));
        let requests = operations.into_iter().map(|((port, methods), paths)| {
            json!({"operation": {"ports": [port.to_string()], "methods": methods, "paths": paths}})
        });
        opaque.chain(requests).collect()
    }
}

/// Returns the paths with directories of many names as one, and without those that another one covers.
fn generalised(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let mut children: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        for (at, _) in path.match_indices('/') {
            let (directory, rest) = path.split_at(at + 1);
            children.entry(directory).or_default().insert(rest.split('/').next().unwrap_or_default());
        }
    }
    let crowded = children.iter().filter(|(_, names)| names.len() > MAX_CHILDREN).map(|(directory, _)| *directory);
    let whole = paths.iter().filter_map(|path| path.strip_suffix(REST));
    let directories: BTreeSet<&str> = crowded.chain(whole).collect();
    let mut out = BTreeSet::new();
    for path in paths {
        let covering = directories.iter().filter(|directory| path.starts_with(**directory)).min_by_key(|of| of.len());
        out.insert(covering.map_or_else(|| path.clone(), |directory| format!("{directory}{REST}")));
    }
    out
}

/// Returns a template as policies usually have it: `/a/*` rather than `/a/{**}`.
fn pattern(path: &str) -> String {
    match path.strip_suffix(REST) {
        Some(directory) if !directory.contains('{') => format!("{directory}*"),
        _ => path.to_owned(),
    }
}

/// Formats a time: 12s, 3m, 5h, 4d.
fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
