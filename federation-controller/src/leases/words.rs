//! The words of proxies about their paths to other clusters, and the quorum that they need.
//!
//! A proxy may be compromised or cut off, so its word alone drains nothing. The proxies of one cluster decide for themselves:
//! theirs is the only path that they see. A cluster's path is dead for them if more than half of those with a word of late say
//! so, and these are at least [`QUORUM`] pods, on at least as many nodes unless all words come from one node. If only one proxy
//! uses the path, its own outlier detection has moved its requests already, and the end of the lease decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::objects::{Key, Text};

/// The number of pods, and of their nodes, whose words can drain a cluster.
pub const QUORUM: usize = 2;
/// The number of clusters that a proxy may speak of.
pub const MAX_WORDS: usize = 64;

/// A proxy that speaks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Speaker {
    /// Its cluster.
    pub cluster: Text,
    /// Its pod.
    pub pod: Key,
    /// Its node.
    pub node: Text,
}

/// The word of a proxy about its path to a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The cluster.
    pub cluster: Text,
    /// The number of outcomes that the proxy has reported. Only a change shows that the word is new.
    pub checks: u64,
    /// The path fails.
    pub failing: bool,
}

/// What the proxies of one cluster say of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A quorum does not reach it.
    Dead,
    /// More than half reach it.
    Alive,
    /// Neither.
    Unclear,
}

/// The words of the proxies of one cluster about another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opinion {
    /// The cluster of the proxies.
    pub viewer: Text,
    /// The number of proxies that reach the other cluster.
    pub alive: usize,
    /// The number of those that do not.
    pub dead: usize,
    /// Whether those that do not are on enough nodes.
    spread: bool,
    /// When one of them last reached it.
    pub last_alive: Option<SystemTime>,
}

impl Opinion {
    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        if self.dead > self.alive && self.dead >= QUORUM && self.spread {
            Verdict::Dead
        } else if self.alive > self.dead {
            Verdict::Alive
        } else {
            Verdict::Unclear
        }
    }
}

impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reached by {} of {} proxies of {}", self.alive, self.alive + self.dead, self.viewer)
    }
}

/// The words of all proxies.
#[derive(Debug, Default)]
pub struct Words {
    /// By the speaker's cluster and pod.
    heard: BTreeMap<(Text, Key), Heard>,
}

#[derive(Debug)]
struct Heard {
    node: Text,
    at: SystemTime,
    about: BTreeMap<Text, About>,
}

#[derive(Debug)]
struct About {
    checks: u64,
    /// The last new word: whether the path fails, and when it came.
    said: Option<(bool, SystemTime)>,
}

impl Words {
    /// Takes the words of a proxy, in place of those that it said before.
    pub fn hear(&mut self, speaker: Speaker, words: Vec<Word>, now: SystemTime) {
        let Speaker { cluster, pod, node } = speaker;
        let own = cluster.clone();
        let heard = self.heard.entry((cluster, pod)).or_insert(Heard { node, at: now, about: BTreeMap::new() });
        heard.at = now;
        for word in words.into_iter().filter(|word| word.cluster != own).take(MAX_WORDS) {
            let (said, full) = ((word.failing, now), heard.about.len() >= MAX_WORDS);
            match heard.about.get_mut(&word.cluster) {
                Some(about) if about.checks == word.checks => {}
                Some(about) => *about = About { checks: word.checks, said: Some(said) },
                None if full => {}
                // After a stream was opened again, the report is one of before: only what follows it is new.
                None => {
                    let said = (word.checks == 1).then_some(said);
                    heard.about.insert(word.cluster, About { checks: word.checks, said });
                }
            }
        }
    }

    /// Forgets proxies that have not spoken for twice as long as words are valid.
    pub fn forget(&mut self, now: SystemTime, valid: Duration) {
        self.heard.retain(|_, heard| is_within(heard.at, now, valid * 2));
    }

    /// Returns what the proxies of each cluster say of another, of words that are valid for this long.
    pub fn opinions(&self, of: &str, now: SystemTime, valid: Duration) -> Vec<Opinion> {
        let mut opinions: Vec<Opinion> = Vec::new();
        // The nodes of the last opinion's words, and of those that the path is dead for.
        let mut nodes: [BTreeSet<&Text>; 2] = Default::default();
        for ((viewer, _), heard) in &self.heard {
            let said = heard.about.get(of).and_then(|about| about.said).filter(|(_, at)| is_within(*at, now, valid));
            let Some((failing, at)) = said else { continue };
            if opinions.last().is_none_or(|opinion| opinion.viewer != *viewer) {
                nodes = Default::default();
                let viewer = viewer.clone();
                opinions.push(Opinion { viewer, alive: 0, dead: 0, spread: false, last_alive: None });
            }
            let Some(opinion) = opinions.last_mut() else { continue };
            nodes[0].insert(&heard.node);
            if failing {
                opinion.dead += 1;
                nodes[1].insert(&heard.node);
            } else {
                opinion.alive += 1;
                opinion.last_alive = opinion.last_alive.max(Some(at));
            }
            opinion.spread = nodes[1].len() >= QUORUM.min(nodes[0].len());
        }
        opinions
    }
}

/// Returns whether a time is at most this long ago, or ahead of a clock that was set back.
fn is_within(at: SystemTime, now: SystemTime, time: Duration) -> bool {
    now.duration_since(at).unwrap_or_default() < time
}
