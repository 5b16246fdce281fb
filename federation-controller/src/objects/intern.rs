//! One copy of each string and of each template that records share: cluster-wide there are few namespaces, accounts, nodes,
//! zones and labels, and ten thousands of records that name them.
//!
//! What is kept is always a copy made here, in the memory of the one thread that keeps it ([`net::allocator::keep_apart`]): what
//! comes was made while an object was parsed, among much that is gone now.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::objects::event::{Labels, Object, Spot, Template, Text};

/// Unused strings are dropped when the pool has grown by this many since the last time.
const PURGE_STEP: usize = 4096;

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    pool: HashSet<Text>,
    label_keys: HashSet<Arc<[Text]>>,
    spots: HashSet<Arc<Spot>>,
    templates: HashSet<Arc<Template>>,
    after_purge: usize,
}

impl Strings {
    /// The object, with strings of the pool.
    pub(crate) fn intern(&mut self, mut object: Object) -> Object {
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
                of.ports = of.ports.to_vec();
                of.cluster_ips = of.cluster_ips.to_vec();
                of.external_ips = of.external_ips.to_vec();
                of.external_names = of.external_names.iter().map(copy).collect();
            }
            Object::Slice(of) => {
                // Its own name is nobody else's.
                of.name = copy(&of.name);
                self.text(&mut of.namespace);
                self.text(&mut of.service);
                of.ports.iter_mut().for_each(|(name, _)| self.text(name));
                of.ports = of.ports.to_vec();
                for endpoint in &mut of.endpoints {
                    self.spot(&mut endpoint.spot);
                    // Names of pods are in one or two records each, which share them themselves.
                    endpoint.pod = endpoint.pod.as_ref().map(copy);
                }
                of.endpoints = of.endpoints.to_vec().into();
            }
            Object::Pod(of) => {
                of.name = copy(&of.name);
                self.text(&mut of.node);
                self.template(&mut of.template);
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
    pub(crate) fn purge(&mut self) {
        let size = |of: &Self| of.pool.len() + of.label_keys.len() + of.spots.len() + of.templates.len();
        if size(self) > self.after_purge + PURGE_STEP {
            // What holds others goes first.
            self.spots.retain(|spot| Arc::strong_count(spot) > 1);
            self.templates.retain(|template| Arc::strong_count(template) > 1);
            self.label_keys.retain(|keys| Arc::strong_count(keys) > 1);
            self.pool.retain(|text| Arc::strong_count(text) > 1);
            self.pool.shrink_to_fit();
            self.after_purge = size(self);
        }
    }

    /// The pool's copy.
    pub(crate) fn share(&mut self, mut text: Text) -> Text {
        self.text(&mut text);
        text
    }

    fn text(&mut self, text: &mut Text) {
        match self.pool.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                *text = copy(text);
                self.pool.insert(text.clone());
            }
        }
    }

    fn option(&mut self, text: &mut Option<Text>) {
        text.iter_mut().for_each(|text| self.text(text));
    }

    fn spot(&mut self, spot: &mut Arc<Spot>) {
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

    fn template(&mut self, template: &mut Arc<Template>) {
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

    fn labels(&mut self, labels: &mut Labels) {
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

fn copy(text: &Text) -> Text {
    Text::from(&**text)
}

/// The one copy of a value.
pub(crate) fn one_copy<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return known.clone();
    }
    let new = Arc::new(value);
    known.insert(new.clone());
    new
}
