//! The subsets of a service for all clients: other networks have a summary of each, and gateways a route.

use std::collections::BTreeMap;

use wire::discovery::Subset;

use crate::inventory::Inventory;
use crate::inventory::rules::Specificity;
use crate::objects::DestinationRule;

/// The number of subsets of one service. Each costs a summary in every locality.
pub(crate) const MAX: usize = 256;

/// Returns the subsets that any DestinationRule gives a service, by name. Of several with one name, that of the service's
/// namespace takes precedence, then that of the root namespace, then that of the most specific and oldest rule.
pub(in crate::compile) fn of(inventory: &Inventory, hostname: &str) -> Vec<Subset> {
    let Some(own) = inventory.primary() else { return Vec::new() };
    let service = inventory.namespace_of(hostname);
    let root = &inventory.settings().root_namespace;
    let mut rules: Vec<(Specificity, &DestinationRule)> = own.policies_for(hostname).collect();
    rules.sort_by_key(|(specificity, rule)| {
        let rank = (service.as_ref() != Some(&rule.namespace), rule.namespace != *root);
        (rank, std::cmp::Reverse(*specificity), rule.age())
    });
    let mut subsets: BTreeMap<&str, &BTreeMap<String, String>> = BTreeMap::new();
    for subset in rules.iter().filter_map(|(_, rule)| rule.spec.as_ref()).flat_map(|spec| &spec.subsets) {
        if subsets.len() < MAX {
            subsets.entry(&subset.name).or_insert(&subset.labels);
        }
    }
    subsets.into_iter().map(|(name, labels)| Subset { name: name.to_owned(), labels: labels.clone() }).collect()
}
