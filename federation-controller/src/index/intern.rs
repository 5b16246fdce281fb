//! One copy of each string and of each set of labels that records share: cluster-wide there are few namespaces, accounts, nodes, zones and labels,
//! and ten thousands of records that name them.

use std::collections::HashSet;
use std::sync::Arc;

use super::event::{Labels, Object, Text};

/// Unused strings are dropped when the pool has grown by this many since the last time.
const PURGE_STEP: usize = 4096;

/// The pool.
#[derive(Debug, Default)]
pub(super) struct Strings {
    pool: HashSet<Text>,
    label_sets: HashSet<Labels>,
    after_purge: usize,
}

impl Strings {
    /// The object, with strings of the pool.
    pub(super) fn intern(&mut self, mut object: Object) -> Object {
        match &mut object {
            Object::Namespace(of) => {
                self.text(&mut of.name);
                self.option(&mut of.network);
            }
            Object::Node(of) => {
                for text in [&mut of.name, &mut of.region, &mut of.zone, &mut of.subzone] {
                    self.text(text);
                }
            }
            Object::Service(of) => {
                self.text(&mut of.namespace);
                self.text(&mut of.name);
                self.option(&mut of.network);
                of.ports.iter_mut().for_each(|port| self.text(&mut port.name));
                of.ports.shrink_to_fit();
            }
            Object::Slice(of) => {
                for text in [&mut of.namespace, &mut of.name, &mut of.service] {
                    self.text(text);
                }
                of.ports.iter_mut().for_each(|(name, _)| self.text(name));
                for endpoint in &mut of.endpoints {
                    for text in [&mut endpoint.pod, &mut endpoint.node, &mut endpoint.zone] {
                        self.option(text);
                    }
                }
                of.endpoints.shrink_to_fit();
            }
            Object::Pod(of) => {
                for text in [&mut of.namespace, &mut of.name, &mut of.service_account, &mut of.node, &mut of.workload] {
                    self.text(text);
                }
                self.labels(&mut of.labels);
                of.ips.shrink_to_fit();
            }
            Object::Export(of) => {
                self.text(&mut of.namespace);
                self.text(&mut of.name);
            }
            Object::Gateway(of) => {
                self.text(&mut of.namespace);
                self.text(&mut of.name);
                self.labels(&mut of.selector);
                of.hosts.iter_mut().for_each(|host| self.text(host));
            }
        }
        object
    }

    /// Drops strings that only the pool holds, now and then.
    pub(super) fn purge(&mut self) {
        if self.pool.len() + self.label_sets.len() > self.after_purge + PURGE_STEP {
            self.label_sets.retain(|labels| labels.handles() > 1);
            self.pool.retain(|text| Arc::strong_count(text) > 1);
            self.pool.shrink_to_fit();
            self.after_purge = self.pool.len() + self.label_sets.len();
        }
    }

    fn text(&mut self, text: &mut Text) {
        match self.pool.get(text) {
            Some(known) => *text = known.clone(),
            None => drop(self.pool.insert(text.clone())),
        }
    }

    fn option(&mut self, text: &mut Option<Text>) {
        text.iter_mut().for_each(|text| self.text(text));
    }

    fn labels(&mut self, labels: &mut Labels) {
        if let Some(known) = self.label_sets.get(labels) {
            *labels = known.clone();
            return;
        }
        let pairs = labels.iter().cloned();
        *labels = pairs
            .map(|(mut key, mut value)| {
                self.text(&mut key);
                self.text(&mut value);
                (key, value)
            })
            .collect();
        self.label_sets.insert(labels.clone());
    }
}
