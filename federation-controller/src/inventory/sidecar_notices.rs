//! Sidecars without effect because another one is for the same pods.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{ClusterInventory, Inventory, RuleNotice};
use crate::objects::{Key, Kind, Pod, Record as _, Sidecar, Text};

impl Inventory {
    /// Returns the notices about Sidecars of which an older one takes precedence, in no order.
    pub(super) fn sidecar_notices(&self) -> BTreeSet<RuleNotice> {
        let Some(own) = self.primary() else { return BTreeSet::new() };
        let mut by_namespace: BTreeMap<&Text, [Vec<&Sidecar>; 2]> = BTreeMap::new();
        for sidecar in own.sidecars().values().filter(|sidecar| sidecar.spec.is_some()) {
            let [of_pods, of_namespace] = by_namespace.entry(&sidecar.namespace).or_default();
            if sidecar.selects_by_labels() { of_pods } else { of_namespace }.push(sidecar);
        }
        let (mut notices, mut several) = (BTreeSet::new(), HashSet::new());
        for (namespace, [of_pods, mut of_namespace]) in by_namespace {
            of_namespace.sort_unstable_by_key(|sidecar| sidecar.age());
            if let [first, others @ ..] = &*of_namespace {
                notices.extend(others.iter().map(|other| older(other, first)));
            }
            if of_pods.len() > 1 {
                several.insert(namespace);
            }
        }
        // Only pods that several may select.
        if !several.is_empty() {
            let pods = self.clusters().flat_map(|cluster| cluster.pods().values());
            same_pods(own, pods.filter(|pod| several.contains(&pod.namespace)), &mut notices);
        }
        notices
    }
}

/// Returns the notice about a Sidecar of a namespace, of which another one is older.
fn older(sidecar: &Sidecar, first: &Sidecar) -> RuleNotice {
    let text = format!(
        "has no effect: Sidecar {} of the same namespace has no workloadSelector either and is older; remove one, or write a \
         workloadSelector",
        first.key()
    );
    notice(sidecar.key(), "IST0111", text)
}

/// Adds the notices about Sidecars that select a pod which an older one selects.
fn same_pods<'a>(own: &ClusterInventory, pods: impl Iterator<Item = &'a Pod>, to: &mut BTreeSet<RuleNotice>) {
    let mut found: BTreeSet<Key> = BTreeSet::new();
    for pod in pods {
        let selecting = own.sidecars().selecting(&[&pod.namespace], &pod.labels);
        let mut selecting: Vec<&Sidecar> = selecting.filter(|sidecar| sidecar.selects_by_labels()).collect();
        selecting.sort_unstable_by_key(|sidecar| sidecar.age());
        let [first, others @ ..] = &*selecting else { continue };
        for other in others {
            // One pod is enough to say what is wrong.
            if found.insert(other.key()) {
                let text = format!(
                    "has no effect on pod {}/{}: Sidecar {} selects it as well and is older; select other pods, or remove one",
                    pod.namespace,
                    pod.name,
                    first.key()
                );
                to.insert(notice(other.key(), "IST0110", text));
            }
        }
    }
}

fn notice(object: Key, code: &'static str, text: String) -> RuleNotice {
    RuleNotice { kind: Kind::Sidecar, object, code: code.into(), text }
}
