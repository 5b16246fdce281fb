//! Which workloads that are no pods may be registered: have a WorkloadEntry made for them.

use std::net::IpAddr;

use api::networking::WorkloadGroupSpec;
use wire::discovery::ApplicationHealth;
use wire::name;

use super::Inventory;
use crate::objects::{Key, Text, WorkloadEntry, fields};

/// The number of entries that are registered for one group. A stolen token of its account must not fill the API server.
pub(crate) const MAX_OF_GROUP: usize = 1000;

/// A connected proxy that is to be registered, by what its stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The proxy's cluster.
    pub(crate) cluster: Text,
    /// The namespace of the proxy, which its certificate proves, and the name of the entry.
    pub(crate) entry: Key,
    /// The name of the WorkloadGroup.
    pub(crate) group: Text,
    /// The proxy's address.
    pub(crate) ip: IpAddr,
    /// The proxy's network; empty: that of the group.
    pub(crate) network: Text,
    /// The service account that the certificate proves.
    pub(crate) account: Text,
    /// Whether the application passes the group's probe.
    pub(crate) health: ApplicationHealth,
}

/// Returns the service account of the workloads of a group.
pub(crate) fn account_of(spec: &WorkloadGroupSpec) -> &str {
    match &*spec.template.service_account {
        "" => "default",
        account => account,
    }
}

/// Checks that a proxy may be registered.
///
/// # Errors
/// Returns the reason if it may not: its group does not exist or has another service account, or its address or name is not one that
/// a workload of the group can have.
pub(crate) fn admit(inventory: &Inventory, member: &Member) -> Result<(), String> {
    let group = Key { namespace: member.entry.namespace.clone(), name: member.group.clone() };
    let Some(own) = inventory.primary().filter(|own| own.info.name == member.cluster) else {
        return Err(format!(
            "cluster {} is not the controller's own, in which WorkloadGroups are read: set ISTIO_META_CLUSTER_ID",
            member.cluster
        ));
    };
    let Some(spec) = own.workload_groups().get(&group).and_then(|group| group.spec.as_deref()) else {
        return Err(format!("WorkloadGroup {group} does not exist, or is not valid"));
    };
    let account = account_of(spec);
    if account != &*member.account {
        return Err(format!(
            "the proxy has service account {}, and WorkloadGroup {group} has {account}",
            member.account
        ));
    }
    if !fields::is_reachable(&member.ip) {
        return Err(format!(
            "{} is not an address at which other workloads reach this one: set INSTANCE_IP",
            member.ip
        ));
    }
    if !fields::is_label_value(&member.network) || !inventory.networks().may_name(&own.info.name, &member.network) {
        return Err(format!("network {:?} is that of another cluster, or no name", &*member.network));
    }
    let name = name::registered(&member.group, member.ip, &member.network);
    if *name != *member.entry.name || !fields::is_subdomain(&name) {
        return Err(format!("the proxy of {} and {} is not named {name}", member.group, member.ip));
    }
    match own.workload_entries().get(&member.entry) {
        Some(entry) if group_of(entry) != Some(&*member.group) => {
            Err(format!("WorkloadEntry {} exists, and was not registered for WorkloadGroup {group}", member.entry))
        }
        None if own.entries_of_group(&group).take(MAX_OF_GROUP).count() == MAX_OF_GROUP => {
            Err(format!("WorkloadGroup {group} has {MAX_OF_GROUP} registered workloads, and may not have more"))
        }
        _ => Ok(()),
    }
}

/// Returns the name of the group for which an entry was registered.
pub(crate) fn group_of(entry: &WorkloadEntry) -> Option<&str> {
    entry.spec.as_ref().map(|spec| &*spec.group).filter(|group| !group.is_empty())
}
