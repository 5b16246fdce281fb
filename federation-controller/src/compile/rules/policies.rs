//! The DestinationRules that have effect on a host, and its DestinationPolicy.
//!
//! As in Istio, clients have the rules of their own namespace, else those that the service's namespace exports, else those
//! that the root namespace exports; of each namespace the ones with the most specific host. [`merge`] says which of these
//! are merged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use wire::Kind as ResourceKind;
use wire::discovery::{DestinationPolicy, DestinationSubset, DestinationVariant, TrafficPolicy};

use super::merge::{Candidate, Merged, merge};
use super::traffic_policy::Blocks;
use super::visibility::Visibility;
use super::{ByNamespace, Host, MAX_NAMESPACES, matches, service_rules, subsets, traffic_policy};
use crate::compile::resource::Resource;
use crate::objects::{Key, Kind, Record as _, Text};

/// The DestinationRules for a host, by namespace.
struct Candidates<'a> {
    namespaces: BTreeMap<&'a Text, Vec<Candidate<'a>>>,
    service: Text,
    root: Text,
}

/// Compiles the policies of a host.
pub(super) fn compile(host: &mut Host<'_>) -> Vec<Resource> {
    let own = host.own;
    let default = &host.inventory.mesh().destination_rule_export_to;
    let found = own.policies_for(host.hostname).filter_map(|(specificity, rule)| {
        let spec = &**rule.spec.as_ref()?;
        // Rules for some workloads are for those of their own namespace.
        let visibility = match spec.workload_selector {
            Some(_) => Visibility::Namespaces([rule.namespace.clone()].into()),
            None => Visibility::of(&spec.export_to, default, &rule.namespace),
        };
        Some((specificity, rule, spec, visibility))
    });
    let found: Vec<_> = found.collect();
    let service = host.inventory.namespace_of(host.hostname).unwrap_or_default();
    let root = host.inventory.settings().root_namespace.clone();
    let mut candidates = Candidates { namespaces: BTreeMap::new(), service, root };
    for (specificity, rule, spec, visibility) in &found {
        let candidate = Candidate { specificity: *specificity, rule, spec, visibility };
        candidates.namespaces.entry(&rule.namespace).or_default().push(candidate);
    }
    candidates.namespaces.values_mut().for_each(|of| of.sort_by_key(|of| (of.selector().is_none(), of.rule.age())));
    let mut compiled: BTreeMap<Vec<Vec<Key>>, Bytes> = BTreeMap::new();
    let mut policy = |host: &mut Host<'_>, rules: Vec<Merged<'_>>| {
        let keys: Vec<Vec<Key>> = rules.iter().map(Merged::keys).collect();
        let default = host.inventory.mesh().default_policy.is_some() || service_rules::failure_accrual(host).is_some();
        if keys.is_empty() && !default {
            return None;
        }
        let body = compiled.entry(keys).or_insert_with(|| compile_rules(host, &rules).encode_to_vec().into());
        Some(body.clone())
    };
    let most = policy(host, candidates.of(None));
    let mut others = BTreeMap::new();
    for namespace in candidates.special(host) {
        let body = policy(host, candidates.of(Some(&namespace)));
        others.insert(namespace, body);
    }
    ByNamespace { most, others }.resources(ResourceKind::DestinationPolicy, host.hostname, &[])
}

impl<'a> Candidates<'a> {
    /// Returns the namespaces whose clients may have other rules than most.
    fn special(&self, host: &mut Host<'_>) -> BTreeSet<Text> {
        let mut special: BTreeSet<Text> = self.namespaces.keys().map(|namespace| (*namespace).clone()).collect();
        for of in
            [&self.service, &self.root].into_iter().filter_map(|namespace| self.namespaces.get(namespace)).flatten()
        {
            if let Visibility::Namespaces(namespaces) = of.visibility {
                special.extend(namespaces.iter().cloned());
            }
        }
        for namespace in special.iter().skip(MAX_NAMESPACES) {
            for of in self.namespaces.get(namespace).into_iter().flatten() {
                let text = format!(
                    "more than {MAX_NAMESPACES} namespaces have policies of their own for {}: it has no effect",
                    host.hostname
                );
                host.note(Kind::DestinationRule, &of.rule.key(), "IST0133", text);
            }
        }
        special.into_iter().take(MAX_NAMESPACES).collect()
    }

    /// Returns the rules of clients of a namespace; `None`: of one without rules of its own, and that none is exported to
    /// by name.
    fn of(&self, client: Option<&Text>) -> Vec<Merged<'a>> {
        let local = client.and_then(|client| self.namespaces.get(client)).into_iter().flatten().filter(|of| {
            // Rules that the root namespace exports are for everyone, and come last for its own clients as well.
            client.is_some_and(|client| of.visibility.includes(client))
                && (client != Some(&self.root) || of.is_private())
        });
        let local = merge(&most_specific(local.copied().collect()));
        if !local.is_empty() {
            return local;
        }
        let exported = [&self.service, &self.root].into_iter().map(|namespace| self.exported(namespace, client));
        exported.into_iter().find(|rules| !rules.is_empty()).unwrap_or_default()
    }

    /// Returns the rules that a namespace exports to clients. Of the most specific ones, those that are visible: if none
    /// is, the less specific ones have no effect either.
    fn exported(&self, namespace: &Text, client: Option<&Text>) -> Vec<Merged<'a>> {
        let rules = self.namespaces.get(namespace).into_iter().flatten().filter(|of| !of.is_private());
        let mut rules = merge(&most_specific(rules.copied().collect()));
        rules.retain(|of| match client {
            Some(client) => of.visibility().includes(client),
            None => *of.visibility() == Visibility::Public,
        });
        rules
    }
}

fn most_specific(mut rules: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let most = rules.iter().map(|of| of.specificity).max();
    rules.retain(|of| Some(of.specificity) == most);
    rules
}

/// Compiles the rules of some clients. A client has the first one that selects its workload, else the last one for all.
fn compile_rules(host: &mut Host<'_>, rules: &[Merged<'_>]) -> DestinationPolicy {
    let mut variants: Vec<DestinationVariant> = Vec::new();
    for (labels, of) in rules.iter().filter_map(|of| Some((of.selector()?, of))) {
        variants.push(DestinationVariant { client: matches::client(labels, ""), ..variant(host, &of.rules) });
        for private in of.rules.iter().filter(|rule| rule.selector().is_none() && rule.is_private()) {
            let text = format!(
                "is merged into DestinationRule {}, and has no effect on workloads that its workloadSelector does not select: export it to \"*\", or to another namespace as well",
                of.rules[0].rule.key()
            );
            host.note(Kind::DestinationRule, &private.rule.key(), "IST0133", text);
        }
    }
    let general = rules.iter().filter(|of| of.selector().is_none());
    let last = general.clone().next_back().map(|of| &*of.rules).unwrap_or_default();
    if let Some(of) = last.first() {
        let is_last = |rule: &Candidate<'_>| last.iter().any(|of| of.rule.key() == rule.rule.key());
        for hidden in general.flat_map(|of| &of.rules).filter(|rule| !is_last(rule)) {
            let text = format!(
                "has no effect for {} where DestinationRule {} is visible too: their exportTo differ, so that they are not merged, and it is younger",
                host.hostname,
                of.rule.key()
            );
            host.note(Kind::DestinationRule, &hidden.rule.key(), "IST0133", text);
        }
    }
    note_ineffective(host, last);
    variants.push(variant(host, last));
    DestinationPolicy { variants }
}

/// Merges rules: the first policy has effect, and the first subset of each name.
fn variant(host: &mut Host<'_>, rules: &[Candidate<'_>]) -> DestinationVariant {
    let mesh = host.inventory.mesh().default_policy.as_ref();
    let mesh = Blocks::of(mesh.and_then(|mesh| mesh.traffic_policy.as_ref()));
    let policy = rules.iter().find_map(|of| of.spec.traffic_policy.as_ref());
    let whole = Blocks::of(policy);
    let at = |port| whole.at_port(policy, port);
    let accrual = service_rules::failure_accrual(host);
    let compile = |blocks: Blocks<'_>| blocks.compile_with(accrual, mesh);
    let mut ports: BTreeMap<u32, TrafficPolicy> = BTreeMap::new();
    for port in traffic_policy::ports(policy, &host.ports) {
        ports.insert(port, compile(at(port)));
    }
    let mut compiled: Vec<DestinationSubset> = Vec::new();
    let mut names = BTreeSet::new();
    for subset in rules.iter().flat_map(|of| &of.spec.subsets) {
        if names.len() >= subsets::MAX || !names.insert(&subset.name) {
            continue;
        }
        let own = subset.traffic_policy.as_ref();
        let both = traffic_policy::ports(policy, &host.ports).chain(traffic_policy::ports(own, &host.ports));
        let of_port = |port: u32| (port, compile(at(port).of_subset_at_port(own, port)));
        compiled.push(DestinationSubset {
            name: subset.name.clone(),
            labels: subset.labels.clone(),
            policy: Some(compile(whole.of_subset(own))),
            ports: both.collect::<BTreeSet<u32>>().into_iter().map(of_port).collect(),
        });
    }
    for rule in rules {
        traffic_policy::note(host, &rule.rule.key(), rule.spec);
    }
    DestinationVariant {
        client: None,
        sources: rules.iter().map(|of| of.rule.key().to_string()).collect(),
        policy: Some(compile(whole)),
        ports,
        subsets: compiled,
    }
}

/// Notes what has no effect because an older rule of the same host has it.
fn note_ineffective(host: &mut Host<'_>, rules: &[Candidate<'_>]) {
    let mut policy: Option<Key> = None;
    let mut names: BTreeMap<&str, Key> = BTreeMap::new();
    for of in rules {
        let key = of.rule.key();
        if of.spec.traffic_policy.is_some() {
            match &policy {
                Some(older) => {
                    let text = format!(
                        "its trafficPolicy has no effect: DestinationRule {older} is older and has one for the same host"
                    );
                    host.note(Kind::DestinationRule, &key, "IST0133", text);
                }
                None => policy = Some(key.clone()),
            }
        }
        for subset in &of.spec.subsets {
            match names.get(subset.name.as_str()) {
                Some(older) => {
                    let text = format!(
                        "its subset {} has no effect: DestinationRule {older} has one of this name",
                        subset.name
                    );
                    host.note(Kind::DestinationRule, &key, "IST0133", text);
                }
                None => drop(names.insert(&subset.name, key.clone())),
            }
        }
    }
}
