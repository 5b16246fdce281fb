//! One copy of each string and pod template that records share: a cluster has few namespaces, accounts, nodes, zones and
//! labels, and ten thousands of records that name them.
//!
//! A shared copy is always allocated here, by the pipeline's thread in its own arena ([`net::allocator::keep_apart`]). The
//! original was allocated while an object was parsed, between memory that has been freed since.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::{Labels, Spot, Template, Text};

/// The pool drops unused copies when it has grown by this many since the last time.
const PURGE_STEP: usize = 4096;

/// The shared copies.
#[derive(Debug, Default)]
pub struct Strings {
    pool: HashSet<Text>,
    label_keys: HashSet<Arc<[Text]>>,
    spots: HashSet<Arc<Spot>>,
    templates: HashSet<Arc<Template>>,
    after_purge: usize,
}

impl Strings {
    /// Drops copies that only the pool holds, if the pool has grown enough.
    pub(crate) fn purge(&mut self) {
        let size = |of: &Self| of.pool.len() + of.label_keys.len() + of.spots.len() + of.templates.len();
        if size(self) > self.after_purge + PURGE_STEP {
            // Values that hold others are dropped first.
            self.spots.retain(|spot| Arc::strong_count(spot) > 1);
            self.templates.retain(|template| Arc::strong_count(template) > 1);
            self.label_keys.retain(|keys| Arc::strong_count(keys) > 1);
            self.pool.retain(|text| Arc::strong_count(text) > 1);
            self.spots.shrink_to_fit();
            self.templates.shrink_to_fit();
            self.label_keys.shrink_to_fit();
            self.pool.shrink_to_fit();
            self.after_purge = size(self);
        }
    }

    /// Makes the next purge drop the copies of records that were removed together, such as those of a cluster.
    pub(crate) fn expect_unused(&mut self) {
        self.after_purge = 0;
    }

    /// Returns the shared copy.
    pub(crate) fn share(&mut self, mut text: Text) -> Text {
        self.text(&mut text);
        text
    }

    /// Replaces a string by the shared copy.
    pub(crate) fn text(&mut self, text: &mut Text) {
        match self.pool.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                *text = copy(text);
                self.pool.insert(text.clone());
            }
        }
    }

    /// Replaces a string, if there is one, by the shared copy.
    pub(crate) fn option(&mut self, text: &mut Option<Text>) {
        text.iter_mut().for_each(|text| self.text(text));
    }

    /// Replaces the location of an endpoint by the shared copy.
    pub(crate) fn spot(&mut self, spot: &mut Arc<Spot>) {
        if let Some(known) = self.spots.get(spot) {
            *spot = known.clone();
            return;
        }
        let mut new = (**spot).clone();
        self.option(&mut new.node);
        self.option(&mut new.zone);
        *spot = Arc::new(new);
        self.spots.insert(spot.clone());
    }

    /// Replaces a pod template by the shared copy.
    pub(crate) fn template(&mut self, template: &mut Arc<Template>) {
        if let Some(known) = self.templates.get(template) {
            *template = known.clone();
            return;
        }
        let mut new = (**template).clone();
        for text in [&mut new.namespace, &mut new.service_account, &mut new.workload] {
            self.text(text);
        }
        self.labels(&mut new.labels);
        *template = Arc::new(new);
        self.templates.insert(template.clone());
    }

    /// Replaces labels by the shared copies.
    pub(crate) fn labels(&mut self, labels: &mut Labels) {
        let pairs = labels.iter();
        let mut shared: Labels =
            pairs.map(|(key, value)| (self.share(key.clone()), self.share(value.clone()))).collect();
        let keys = shared.keys_mut();
        match self.label_keys.get(keys) {
            Some(known) => *keys = known.clone(),
            None => drop(self.label_keys.insert(keys.clone())),
        }
        *labels = shared;
    }
}

/// Copies a string that few records share.
pub(crate) fn copy(text: &Text) -> Text {
    Text::from(&**text)
}

/// Returns the shared copy of a value.
pub(crate) fn one_copy<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return known.clone();
    }
    let new = Arc::new(value);
    known.insert(new.clone());
    new
}
