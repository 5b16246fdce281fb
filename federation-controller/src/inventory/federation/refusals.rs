//! Exports that federation policy refuses, kept by service until they are gone or permitted: for the status of policies, for
//! Events, metrics and `isthmus status`.
//!
//! There is at most one for each service and cluster, so the limits on the objects of a cluster bound them. What is shown of
//! them is bounded as well.

use std::collections::{BTreeMap, BTreeSet};

use super::ExportRefusal;
use crate::inventory::{ClusterInventory, Group, Inventory, RuleNotice};
use crate::objects::{Key, Kind, Record as _, Text};

/// The code of refused exports.
pub(crate) const REFUSED_EXPORT: &str = "ISM0201";
/// The code of fields without effect.
pub(in crate::inventory) const NO_EFFECT: &str = "ISM0202";
/// The code of clusters that have not joined.
const UNKNOWN_CLUSTER: &str = "ISM0203";

/// An export that has no effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RefusedExport {
    /// The exporting cluster.
    pub cluster: Text,
    /// The service.
    pub service: Key,
    /// Why.
    pub refusal: ExportRefusal,
    /// The policy that refuses it; `None`: a default limit.
    pub policy: Option<Key>,
}

impl RefusedExport {
    /// Returns what is refused, why, and by what.
    pub fn text(&self) -> String {
        let RefusedExport { cluster, service, refusal, policy } = self;
        let by = match policy {
            Some(policy) => format!("FederationPolicy {policy}"),
            None => {
                "the default limits of a peer; a FederationPolicy of the root namespace can state others".to_owned()
            }
        };
        format!("the export of {service} by {cluster} is refused: {refusal} ({by})")
    }
}

/// The number of refused exports that a policy, or a cluster, has notices about.
const SHOWN: usize = 20;

impl Inventory {
    /// Replaces the refused exports of a service.
    pub(crate) fn set_refused_exports(&mut self, group: &Group, refused: Vec<RefusedExport>) {
        let Group::Service(hostname) = group else { return };
        match refused.is_empty() {
            true => drop(self.refused_exports.remove(hostname)),
            false => drop(self.refused_exports.insert(hostname.clone(), refused.into())),
        }
    }

    /// Returns the refused exports, by service.
    pub fn refused_exports(&self) -> impl Iterator<Item = &RefusedExport> {
        self.refused_exports.values().flatten()
    }

    /// Returns the number of refused exports by cluster and reason.
    pub fn refused_export_counts(&self) -> BTreeMap<(Text, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for of in self.refused_exports() {
            *counts.entry((of.cluster.clone(), of.refusal.label())).or_default() += 1;
        }
        counts
    }

    /// Returns the notices about FederationPolicies: what they refuse, and what of them has no effect.
    pub(in crate::inventory) fn federation_notices(&self) -> BTreeSet<RuleNotice> {
        let mut notices: BTreeSet<RuleNotice> = BTreeSet::new();
        let mut counts: BTreeMap<&Key, usize> = BTreeMap::new();
        let notice = |policy: &Key, code: &str, text: String| RuleNotice {
            kind: Kind::FederationPolicy,
            object: policy.clone(),
            code: code.into(),
            text,
        };
        for of in self.refused_exports() {
            let Some(policy) = &of.policy else { continue };
            let count = counts.entry(policy).or_default();
            *count += 1;
            if *count <= SHOWN {
                notices.insert(notice(policy, REFUSED_EXPORT, of.text()));
            }
        }
        let own = || self.primary().into_iter().flat_map(|own| own.federation_policies().values());
        for policy in own() {
            let named = policy.spec.iter().flat_map(|spec| spec.named_clusters());
            for (field, cluster) in named.filter(|(_, cluster)| self.cluster(cluster).is_none()).take(SHOWN) {
                let text = format!("{field} names cluster {cluster}, which has not joined; check its name");
                notices.insert(notice(&policy.key(), UNKNOWN_CLUSTER, text));
            }
        }
        for policy in own().filter(|policy| policy.namespace != self.settings.root_namespace) {
            let fields = policy.spec.iter().flat_map(|spec| spec.fields_of_root());
            for field in fields {
                let root = &self.settings.root_namespace;
                let text = format!("{field} has no effect in this namespace; write it in a policy of {root}");
                notices.insert(notice(&policy.key(), NO_EFFECT, text));
            }
        }
        notices
    }

    /// Returns a line for each refused export of a cluster, at most a bounded number.
    pub(in crate::inventory) fn refusal_lines<'a>(
        &'a self,
        cluster: &'a ClusterInventory,
    ) -> impl Iterator<Item = (&'a Key, String)> + use<'a> {
        let of_cluster = self.refused_exports().filter(move |of| of.cluster == cluster.info.name);
        of_cluster.take(SHOWN).map(|of| (&of.service, of.text()))
    }
}
