//! What is wrong with Gateways of ingress and egress, and with the VirtualServices that are bound to them.

use std::collections::BTreeSet;

use super::rule_notices::refused;
use super::{ClusterInventory, Inventory, RuleNotice, gateways_of};
use crate::objects::{Gateway, Key, Kind, Record as _, VirtualService};

/// The number of hosts that a notice names.
const HOSTS: usize = 3;

impl Inventory {
    /// Returns the notices about the Gateways of a cluster that are refused, those that no gateway listens by, and those with
    /// certificates that are not usable.
    pub(super) fn gateway_notices<'a>(
        &'a self,
        cluster: &'a ClusterInventory,
    ) -> impl Iterator<Item = RuleNotice> + use<'a> {
        let certificates = if cluster.info.own { self.credential_notices() } else { BTreeSet::new() };
        cluster.gateways().values().filter_map(refused).chain(self.unheard_gateways(cluster)).chain(certificates)
    }

    /// Returns the notices about the Gateways of a cluster that no gateway listens by.
    pub(super) fn unheard_gateways<'a>(
        &'a self,
        cluster: &'a ClusterInventory,
    ) -> impl Iterator<Item = RuleNotice> + use<'a> {
        let selected: BTreeSet<Key> = if cluster.info.own { self.selected_gateways() } else { BTreeSet::new() };
        let listening = cluster.gateways().values().filter(|gateway| gateway.has_listeners());
        listening.filter_map(move |gateway| {
            let object = gateway.key();
            let text = if !cluster.info.own {
                if gateway.exports() {
                    return None;
                }
                "has no effect: Gateways of ingress and egress gateways are read from the primary cluster; create it there"
            } else if selected.contains(&object) {
                return None;
            } else {
                "has no effect: its selector matches no connected gateway; correct it, or run a gateway with these labels"
            };
            Some(RuleNotice { kind: Kind::Gateway, object, code: "IST0101".into(), text: text.into() })
        })
    }

    /// Returns the Gateways that select a connected router.
    fn selected_gateways(&self) -> BTreeSet<Key> {
        let routers = self.connected.iter().filter(|(_, proxy)| proxy.router).map(|(of, _)| of);
        let pods = routers.filter_map(|(cluster, pod)| self.clusters.get(cluster)?.pods().get(pod));
        pods.flat_map(|pod| self.gateways_of_router(pod)).map(Gateway::key).collect()
    }

    /// Returns the notices about the gateways of VirtualServices, in no order.
    pub(super) fn binding_notices(&self) -> impl Iterator<Item = RuleNotice> + use<'_> {
        let own = self.primary();
        own.into_iter().flat_map(move |own| {
            own.virtual_services().values().flat_map(move |rule| {
                gateways_of(rule).filter_map(move |gateway| {
                    let (code, text) = unbound(own, rule, &gateway)?;
                    Some(RuleNotice { kind: Kind::VirtualService, object: rule.key(), code: code.into(), text })
                })
            })
        })
    }
}

/// Returns why a VirtualService has no effect, or not the whole, on one of its gateways.
fn unbound(own: &ClusterInventory, rule: &VirtualService, gateway: &Key) -> Option<(&'static str, String)> {
    let Some(known) = own.gateways().get(gateway) else {
        let text = format!(
            "has no effect on Gateway {gateway}, which does not exist; correct the name, or write mesh for sidecars"
        );
        return Some(("IST0101", text));
    };
    if !known.has_listeners() {
        let text = format!("has no effect on Gateway {gateway}, which has no server of an ingress or egress gateway");
        return Some(("IST0101", text));
    }
    let unserved = own.unserved(gateway, rule);
    let named: Vec<&str> = unserved.iter().take(HOSTS).map(|host| &**host).collect();
    let (first, more) = (named.join(", "), unserved.len().saturating_sub(HOSTS));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| {
        let namespace = &rule.namespace;
        let text = format!(
            "has no effect on Gateway {gateway} for {first}{more}: none of its servers has such a host for namespace {namespace}; add the host to a server"
        );
        ("IST0132", text)
    })
}
