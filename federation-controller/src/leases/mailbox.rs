//! Where streams leave the words of their proxies, and the pipeline takes them.
//!
//! A proxy that reports again before the pipeline has taken its words replaces them, so the box is never larger than the
//! number of proxies, whatever they send.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wire::discovery::PathReport;

use super::words::{MAX_WORDS, Word};
use crate::objects::{Key, Text};

/// The longest name of a cluster: the data key of a Secret.
const MAX_NAME: usize = 253;

/// The words of proxies, by cluster, pod and service account.
pub type Letters = BTreeMap<(Text, Key, Text), Vec<Word>>;

/// The words that wait.
#[derive(Debug, Default)]
pub struct Mailbox {
    words: Mutex<Letters>,
}

impl Mailbox {
    /// Leaves the words of a proxy.
    pub fn leave(&self, cluster: &Text, pod: Key, account: &Text, reports: &[PathReport]) {
        let known = |of: &&PathReport| !of.cluster.is_empty() && of.cluster.len() <= MAX_NAME && of.checks > 0;
        let word =
            |of: &PathReport| Word { cluster: of.cluster.as_str().into(), checks: of.checks, failing: of.failing };
        let words: Vec<Word> = reports.iter().filter(known).take(MAX_WORDS).map(word).collect();
        if !words.is_empty() {
            self.lock().insert((cluster.clone(), pod, account.clone()), words);
        }
    }

    /// Takes the words that wait.
    pub fn take(&self) -> Letters {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        // Every change under this lock is a single step.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_proxy_are_bounded_and_replace_each_other() {
        let (mailbox, west, account) = (Mailbox::default(), Text::from("west"), Text::from("default"));
        let report = |cluster: &str, checks| PathReport { cluster: cluster.into(), checks, failing: true };
        let hostile: Vec<PathReport> = [report("", 1), report(&"a".repeat(1_000), 1), report("east", 0)].into();
        mailbox.leave(&west, Key::new("default", "a"), &account, &hostile);
        assert!(mailbox.take().is_empty());
        let many: Vec<PathReport> = (0..1_000).map(|number| report(&format!("c{number}"), 1)).collect();
        for _ in 0..10 {
            mailbox.leave(&west, Key::new("default", "a"), &account, &many);
        }
        mailbox.leave(&west, Key::new("default", "b"), &account, &[report("east", 3)]);
        let taken = mailbox.take();
        assert_eq!(taken.values().map(Vec::len).collect::<Vec<_>>(), [MAX_WORDS, 1]);
        assert!(mailbox.take().is_empty());
    }
}
