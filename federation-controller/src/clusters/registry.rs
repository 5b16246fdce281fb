//! Which remote secret speaks for which cluster: a pure function of what was seen, without clients or clocks.
//!
//! The rules: a key that is this controller's own cluster is refused; of several secrets with the same key the one that
//! already holds the cluster keeps it, at the start the oldest; when it goes, the next one takes over at once. An entry
//! that breaks leaves in force what it said before. Every entry that is not in force is a [`Problem`] that can be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::kubeconfig::{self, Sanitized};

use crate::objects::event::Text;

/// An entry of a remote secret that is not in force, or that is and has something to say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// `<namespace>/<name>` of the secret.
    pub secret: String,
    /// The cluster that the entry is for; empty where the secret has no entry at all.
    pub cluster: String,
    /// What is wrong and what to do.
    pub why: String,
    /// The entry is in force all the same, and this is a warning.
    pub in_force: bool,
}

/// What is to be done after a change.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Begin to watch a cluster.
    Start(Entry),
    /// Its credentials changed: go on with these, without a gap.
    Replace(Entry),
    /// Its last secret is gone.
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

/// An entry in force.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) cluster: Text,
    pub(super) secret: Text,
    pub(super) access: Arc<Sanitized>,
    /// The network that the secret says the cluster is on; empty: it does not say.
    pub(super) network: Text,
    /// As written, for renewing the token in it.
    pub(super) bytes: Arc<[u8]>,
}

/// A secret as seen: its age decides between equals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) created: i64,
    /// Its annotation `topology.istio.io/network`: the primary's own word on where its clusters are.
    pub(super) network: Text,
    pub(super) entries: BTreeMap<String, Vec<u8>>,
}

struct Held {
    secret: Text,
    network: Text,
    bytes: Vec<u8>,
}

/// All remote secrets, and who holds which cluster.
pub(super) struct Registry {
    own: Text,
    secrets: BTreeMap<Text, Seen>,
    held: BTreeMap<Text, Held>,
    problems: Vec<Problem>,
}

impl Registry {
    pub(super) fn new(own: Text) -> Self {
        Registry { own, secrets: BTreeMap::new(), held: BTreeMap::new(), problems: Vec::new() }
    }

    /// A secret was added or changed.
    pub(super) fn upsert(&mut self, secret: Text, seen: Seen) -> Vec<Action> {
        if self.secrets.get(&secret) == Some(&seen) {
            return Vec::new();
        }
        self.secrets.insert(secret, seen);
        self.settle()
    }

    /// A secret is gone.
    pub(super) fn delete(&mut self, secret: &str) -> Vec<Action> {
        match self.secrets.remove(secret) {
            Some(_) => self.settle(),
            None => Vec::new(),
        }
    }

    /// The complete list of secrets, as after a restarted watch.
    pub(super) fn replace_all(&mut self, secrets: BTreeMap<Text, Seen>) -> Vec<Action> {
        self.secrets = secrets;
        self.settle()
    }

    /// What is not in force, and why.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Brings who holds what in line with the secrets there are.
    fn settle(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.problems.clear();
        // Candidates for each cluster, the holder first, then by age and name.
        let mut candidates: BTreeMap<Text, Vec<(bool, i64, Text)>> = BTreeMap::new();
        for (secret, seen) in &self.secrets {
            if seen.entries.is_empty() {
                self.problems.push(problem(secret, "", "it holds no kubeconfig: add an entry named after the cluster"));
            }
            for cluster in seen.entries.keys() {
                if **cluster == *self.own {
                    let why = "names the cluster that this controller runs in, which needs no secret; it is ignored";
                    self.problems.push(problem(secret, cluster, why));
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
            self.settle_cluster(&cluster, &of_cluster, &mut actions);
        }
        actions
    }

    fn settle_cluster(&mut self, cluster: &Text, candidates: &[(bool, i64, Text)], actions: &mut Vec<Action>) {
        let mut winner: Option<Text> = None;
        for (other, _, secret) in candidates {
            if let Some(winner) = &winner {
                let why = format!("the name is already used by secret {winner}, which came first; it is ignored");
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
                    };
                    let held = Held { secret: secret.clone(), network: network.clone(), bytes: bytes.clone() };
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
                    // It spoke for the cluster before it broke: nobody else takes over because of a typing mistake.
                    winner = Some(secret.clone());
                    let why = format!("{error}; what it said before stays in force");
                    self.problems.push(problem(secret, cluster, &why));
                }
                Err(error) => self.problems.push(problem(secret, cluster, &error.to_string())),
            }
        }
        // The holder is gone and all that is left is broken.
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

    fn seen(created: i64, entries: &[(&str, &[u8])]) -> Seen {
        Seen {
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
    fn added_changed_and_removed() {
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
    fn a_name_used_twice_goes_to_the_first_and_then_to_the_next() {
        let mut registry = Registry::new("west".into());
        let (a, b) = (kubeconfig("https://a"), kubeconfig("https://b"));
        let start = BTreeMap::from([
            ("s1".into(), seen(20, &[("east", a.as_slice())])),
            ("s2".into(), seen(10, &[("east", b.as_slice())])),
        ]);
        assert_eq!(text(registry.replace_all(start)), ["start east s2 https://b"], "the older one");
        assert!(whys(&registry)[0].1.contains("already used by secret s2"));
        // An older one that comes later does not take it away from who holds it.
        assert_eq!(text(registry.upsert("s0".into(), seen(1, &[("east", &a)]))), [""; 0]);
        assert_eq!(registry.problems().len(), 2);
        assert_eq!(text(registry.delete("s2")), ["replace east s0 https://a"], "the loser is adopted");
        assert_eq!(text(registry.delete("s0")), [""; 0], "the next has the same bytes");
        assert_eq!(registry.problems(), []);
        assert_eq!(text(registry.delete("s1")), ["stop east"]);
    }

    #[test]
    fn what_a_secret_says_of_the_network_is_followed() {
        let mut registry = Registry::new("west".into());
        let a = kubeconfig("https://a");
        let on = |network: &str| Seen { network: network.into(), ..seen(1, &[("east", &a)]) };
        let networks = |actions: Vec<Action>| -> Vec<String> {
            let of = |action| match action {
                Action::Start(entry) | Action::Replace(entry) => entry.network.to_string(),
                Action::Stop(_) => panic!("stopped"),
            };
            actions.into_iter().map(of).collect()
        };
        assert_eq!(networks(registry.upsert("s1".into(), on("net-east"))), ["net-east"]);
        assert_eq!(networks(registry.upsert("s1".into(), on("net-east"))), [""; 0]);
        assert_eq!(networks(registry.upsert("s1".into(), on("net-b"))), ["net-b"]);
        assert_eq!(networks(registry.upsert("s1".into(), on(""))), [""]);
    }

    #[test]
    fn bad_entries_are_recorded_and_disturb_nobody() {
        let mut registry = Registry::new("west".into());
        let a = kubeconfig("https://a");
        let mixed = seen(1, &[("west", &a), ("east", &a), ("broken", b"{{{"), ("empty", b"")]);
        assert_eq!(text(registry.upsert("s1".into(), mixed)), ["start east s1 https://a"]);
        let problems: BTreeMap<_, _> = registry.problems().iter().map(|p| (p.cluster.clone(), p.why.clone())).collect();
        assert_eq!(problems.len(), 3);
        assert!(problems["west"].contains("runs in"));
        assert!(problems["broken"].contains("cannot be parsed"));
        assert!(problems["empty"].contains("is empty"));
        assert_eq!(text(registry.upsert("s2".into(), seen(1, &[]))), [""; 0]);
        assert!(whys(&registry).iter().any(|(secret, why)| secret == "s2" && why.contains("no kubeconfig")));
    }

    #[test]
    fn an_entry_that_breaks_leaves_what_it_said_in_force() {
        let mut registry = Registry::new("west".into());
        let (a, b) = (kubeconfig("https://a"), kubeconfig("https://b"));
        registry.upsert("s1".into(), seen(1, &[("east", &a)]));
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", b"nonsense")]))), [""; 0]);
        assert!(whys(&registry)[0].1.contains("stays in force"));
        assert_eq!(text(registry.upsert("s1".into(), seen(1, &[("east", &b)]))), ["replace east s1 https://b"]);
        // Broken from the start, then mended; a broken first does not keep a good second out.
        registry.upsert("t1".into(), seen(1, &[("north", b"nonsense")]));
        assert_eq!(text(registry.upsert("t2".into(), seen(2, &[("north", &a)]))), ["start north t2 https://a"]);
        assert_eq!(text(registry.delete("t2")), ["stop north"], "only a broken one is left");
        assert_eq!(text(registry.upsert("t1".into(), seen(1, &[("north", &b)]))), ["start north t1 https://b"]);
    }
}
