//! The registry of remote secrets: it decides which secret is used for each cluster. It is a pure state machine without
//! clients and clocks.
//!
//! The name of the controller's own cluster is refused. If several secrets contain the same cluster name, the secret in
//! use keeps it, at the start the oldest; when that secret is deleted, the next one is used at once. An entry that
//! becomes invalid leaves the previous one in force. Every entry that is not in force is reported as a [`Problem`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::kubeconfig::{self, Sanitized};
use api::remote_secret::{RemoteSecretError, is_cluster_name};

use crate::objects::Text;

/// A problem of a remote secret: an entry that is not in force, or a warning about one that is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The secret, as `<namespace>/<name>`.
    pub secret: String,
    /// The cluster of the entry; empty if the secret has no entry.
    pub cluster: String,
    /// What is wrong and what to do.
    pub why: String,
    /// Whether the entry is in force, so that this is a warning.
    pub in_force: bool,
}

/// An action that follows from a change of the secrets.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Start the link of a cluster.
    Start(Entry),
    /// Replace the link of a cluster by one with new credentials, without a gap.
    Replace(Entry),
    /// Stop the link of a cluster: its last secret is deleted.
    Stop(Text),
}

impl Action {
    pub(super) fn cluster(&self) -> &Text {
        match self {
            Action::Start(entry) | Action::Replace(entry) => &entry.cluster,
            Action::Stop(cluster) => cluster,
        }
    }
}

/// An entry of a remote secret that is in force.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) cluster: Text,
    pub(super) secret: Text,
    pub(super) access: Arc<Sanitized>,
    /// The network in the secret's annotation; empty without one.
    pub(super) network: Text,
    /// The kubeconfig as stored, for token renewal.
    pub(super) bytes: Arc<[u8]>,
    /// When the secret was created, in seconds.
    pub(super) created: i64,
}

/// The content of a remote secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteSecret {
    /// The creation time in seconds; of several secrets with the same cluster name the oldest is used.
    pub(super) created: i64,
    /// The annotation `topology.istio.io/network`, by which the primary sets the network of the clusters.
    pub(super) network: Text,
    pub(super) entries: BTreeMap<String, Vec<u8>>,
}

/// The entry that is in force for a cluster.
struct ActiveEntry {
    secret: Text,
    network: Text,
    bytes: Vec<u8>,
}

/// All remote secrets, and the entry in force for each cluster.
pub(super) struct Registry {
    own: Text,
    secrets: BTreeMap<Text, RemoteSecret>,
    held: BTreeMap<Text, ActiveEntry>,
    problems: Vec<Problem>,
}

impl Registry {
    pub(super) fn new(own: Text) -> Self {
        Registry { own, secrets: BTreeMap::new(), held: BTreeMap::new(), problems: Vec::new() }
    }

    /// Adds or updates a secret.
    pub(super) fn upsert(&mut self, secret: Text, seen: RemoteSecret) -> Vec<Action> {
        if self.secrets.get(&secret) == Some(&seen) {
            return Vec::new();
        }
        self.secrets.insert(secret, seen);
        self.update()
    }

    /// Removes a secret.
    pub(super) fn delete(&mut self, secret: &str) -> Vec<Action> {
        match self.secrets.remove(secret) {
            Some(_) => self.update(),
            None => Vec::new(),
        }
    }

    /// Replaces all secrets by a complete list, as after a restarted watch.
    pub(super) fn replace_all(&mut self, secrets: BTreeMap<Text, RemoteSecret>) -> Vec<Action> {
        self.secrets = secrets;
        self.update()
    }

    /// Returns the clusters that a secret names.
    pub(super) fn named(&self) -> BTreeSet<Text> {
        self.secrets.values().flat_map(|seen| seen.entries.keys()).map(|cluster| cluster.as_str().into()).collect()
    }

    /// Returns the problems of all secrets.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Updates the entries in force to match the secrets.
    fn update(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.problems.clear();
        // The candidates for each cluster: the secret in use, then the others by age and name.
        let mut candidates: BTreeMap<Text, Vec<(bool, i64, Text)>> = BTreeMap::new();
        for (secret, seen) in &self.secrets {
            if seen.entries.is_empty() {
                self.problems.push(problem(
                    secret,
                    "",
                    "the secret has no entry: add a kubeconfig with the cluster's name as key",
                ));
            }
            for cluster in seen.entries.keys() {
                if **cluster == *self.own {
                    let why = "the controller's own cluster needs no remote secret; the entry is ignored";
                    self.problems.push(problem(secret, cluster, why));
                    continue;
                }
                if !is_cluster_name(cluster) {
                    let error = RemoteSecretError::Name(cluster.clone());
                    self.problems.push(problem(secret, cluster, &format!("{error}: rename the entry")));
                    continue;
                }
                let cluster: Text = cluster.as_str().into();
                let other = self.held.get(&cluster).is_none_or(|held| held.secret != *secret);
                candidates.entry(cluster).or_default().push((other, seen.created, secret.clone()));
            }
        }
        let gone: Vec<_> = self.held.keys().filter(|cluster| !candidates.contains_key(*cluster)).cloned().collect();
        for cluster in gone {
            self.held.remove(&cluster);
            actions.push(Action::Stop(cluster));
        }
        for (cluster, mut of_cluster) in candidates {
            of_cluster.sort();
            self.update_cluster(&cluster, &of_cluster, &mut actions);
        }
        actions
    }

    fn update_cluster(&mut self, cluster: &Text, candidates: &[(bool, i64, Text)], actions: &mut Vec<Action>) {
        let mut winner: Option<Text> = None;
        for (other, _, secret) in candidates {
            if let Some(winner) = &winner {
                let why = format!("secret {winner} already contains this cluster and is used; this entry is ignored");
                self.problems.push(problem(secret, cluster, &why));
                continue;
            }
            let seen = &self.secrets[secret];
            let (bytes, network) = (&seen.entries[&**cluster], &seen.network);
            match kubeconfig::sanitize(bytes) {
                Ok(access) => {
                    winner = Some(secret.clone());
                    for warning in &access.warnings {
                        let warning = problem(secret, cluster, &warning.to_string());
                        self.problems.push(Problem { in_force: true, ..warning });
                    }
                    let entry = Entry {
                        cluster: cluster.clone(),
                        secret: secret.clone(),
                        access: Arc::new(access),
                        network: network.clone(),
                        bytes: bytes.as_slice().into(),
                        created: seen.created,
                    };
                    let held = ActiveEntry { secret: secret.clone(), network: network.clone(), bytes: bytes.clone() };
                    let network = network.clone();
                    match self.held.insert(cluster.clone(), held) {
                        None => actions.push(Action::Start(entry)),
                        Some(before) if before.bytes != *bytes || before.network != network => {
                            actions.push(Action::Replace(entry))
                        }
                        Some(_) => {}
                    }
                }
                Err(error) if !other => {
                    // This secret is in use: another one must not replace it because of a typing error.
                    winner = Some(secret.clone());
                    let why = format!("{error}; the previous entry stays in force");
                    self.problems.push(problem(secret, cluster, &why));
                }
                Err(error) => self.problems.push(problem(secret, cluster, &error.to_string())),
            }
        }
        // The secret in use is deleted, and all other entries are invalid.
        if winner.is_none() && self.held.remove(cluster).is_some() {
            actions.push(Action::Stop(cluster.clone()));
        }
    }
}

fn problem(secret: &str, cluster: &str, why: &str) -> Problem {
    Problem { secret: secret.to_owned(), cluster: cluster.to_owned(), why: why.to_owned(), in_force: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str) -> Vec<u8> {
        let access =
            api::remote_secret::Access { cluster: "x", server, tls_server_name: None, ca_pem: b"ca", token: "t" };
        api::remote_secret::kubeconfig(&access).unwrap().into_bytes()
    }

    fn seen(created: i64, entries: &[(&str, &[u8])]) -> RemoteSecret {
        RemoteSecret {
            created,
            network: "".into(),
            entries: entries.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect(),
        }
    }

    fn text(actions: Vec<Action>) -> Vec<String> {
        actions
            .into_iter()
            .map(|action| match action {
                Action::Start(e) => format!("start {} {} {}", e.cluster, e.secret, e.access.server),
                Action::Replace(e) => format!("replace {} {} {}", e.cluster, e.secret, e.access.server),
                Action::Stop(cluster) => format!("stop {cluster}"),
            })
            .collect()
    }

    fn whys(registry: &Registry) -> Vec<(String, String)> {
        registry.problems().iter().map(|p| (p.secret.clone(), p.why.clone())).collect()
    }

    #[test]
    fn entries_start_replace_and_stop_links() {
        let mut registry = Registry::new("west".into());
        let a = kubeconfig("https://a");
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", &a)]))), ["start east s1 https://a"]);
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", &a)]))), [""; 0], "same bytes");
        assert_eq!(text(registry.upsert("s1".into(), seen(2, &[("east", &a)]))), [""; 0], "same bytes, new secret");
        let b = kubeconfig("https://b");
        let both = seen(1, &[("east", &b), ("north", &a)]);
        assert_eq!(text(registry.upsert("s1".into(), both)), ["replace east s1 https://b", "start north s1 https://a"]);
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("north", &a)]))), ["stop east"]);
        assert_eq!(text(registry.delete("s1")), ["stop north"]);
        assert_eq!(text(registry.delete("s1")), [""; 0]);
        assert_eq!(registry.problems(), []);
    }

    #[test]
    fn of_several_secrets_the_first_is_used_and_then_the_next() {
        let mut registry = Registry::new("west".into());
        let (a, b) = (kubeconfig("https://a"), kubeconfig("https://b"));
        let start = BTreeMap::from([
            ("s1".into(), seen(20, &[("east", a.as_slice())])),
            ("s2".into(), seen(10, &[("east", b.as_slice())])),
        ]);
        assert_eq!(text(registry.replace_all(start)), ["start east s2 https://b"], "the older secret is used");
        assert!(whys(&registry)[0].1.contains("secret s2 already contains"));
        // An older secret that is added later does not replace the secret in use.
        assert_eq!(text(registry.upsert("s0".into(), seen(1, &[("east", &a)]))), [""; 0]);
        assert_eq!(registry.problems().len(), 2);
        assert_eq!(text(registry.delete("s2")), ["replace east s0 https://a"], "the next secret is used");
        assert_eq!(text(registry.delete("s0")), [""; 0], "the next secret has the same bytes");
        assert_eq!(registry.problems(), []);
        assert_eq!(text(registry.delete("s1")), ["stop east"]);
    }

    #[test]
    fn the_network_annotation_is_followed() {
        let mut registry = Registry::new("west".into());
        let a = kubeconfig("https://a");
        let on = |network: &str| RemoteSecret { network: network.into(), ..seen(1, &[("east", &a)]) };
        let networks = |actions: Vec<Action>| -> Vec<String> {
            let of = |action| match action {
                Action::Start(entry) | Action::Replace(entry) => entry.network.to_string(),
                Action::Stop(_) => panic!("the link stopped"),
            };
            actions.into_iter().map(of).collect()
        };
        assert_eq!(networks(registry.upsert("s1".into(), on("net-east"))), ["net-east"]);
        assert_eq!(networks(registry.upsert("s1".into(), on("net-east"))), [""; 0]);
        assert_eq!(networks(registry.upsert("s1".into(), on("net-b"))), ["net-b"]);
        assert_eq!(networks(registry.upsert("s1".into(), on(""))), [""]);
    }

    #[test]
    fn invalid_entries_are_reported_and_do_not_affect_others() {
        let mut registry = Registry::new("west".into());
        let a = kubeconfig("https://a");
        let mixed =
            seen(1, &[("west", &a), ("east", &a), ("broken", b"{{{"), ("empty", b""), ("East_1", &a), ("", &a)]);
        assert_eq!(text(registry.upsert("s1".into(), mixed)), ["start east s1 https://a"]);
        let problems: BTreeMap<_, _> = registry.problems().iter().map(|p| (p.cluster.clone(), p.why.clone())).collect();
        assert_eq!(problems.len(), 5);
        assert!(problems["East_1"].contains("\"East_1\" is not a valid cluster name"), "{problems:?}");
        assert!(problems["East_1"].contains("rename"));
        assert!(problems["west"].contains("own cluster"));
        assert!(problems["broken"].contains("cannot be parsed"));
        assert!(problems["empty"].contains("is empty"));
        assert_eq!(text(registry.upsert("s2".into(), seen(1, &[]))), [""; 0]);
        assert!(whys(&registry).iter().any(|(secret, why)| secret == "s2" && why.contains("no entry")));
    }

    #[test]
    fn an_entry_that_becomes_invalid_leaves_the_previous_one_in_force() {
        let mut registry = Registry::new("west".into());
        let (a, b) = (kubeconfig("https://a"), kubeconfig("https://b"));
        registry.upsert("s1".into(), seen(1, &[("east", &a)]));
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", b"nonsense")]))), [""; 0]);
        assert!(whys(&registry)[0].1.contains("stays in force"));
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", &b)]))), ["replace east s1 https://b"]);
        // An entry that is invalid from the start does not block a valid one of another secret, and is used once valid.
        registry.upsert("t1".into(), seen(1, &[("north", b"nonsense")]));
        assert_eq!(text(registry.upsert("t2".into(), seen(2, &[("north", &a)]))), ["start north t2 https://a"]);
        assert_eq!(text(registry.delete("t2")), ["stop north"], "only an invalid entry is left");
        assert_eq!(text(registry.upsert("t1".into(), seen(1, &[("north", &b)]))), ["start north t1 https://b"]);
    }
}
