//! Policies: resources of their own, to which workloads refer by name.
//!
//! A policy that selects a thousand pods is compiled once and sent once to each of their proxies. The tables are the place
//! to add a kind of policy; see `docs/adding-a-kind.md`.

use prost::Message;
use wire::discovery::{PeerAuthentication, PeerMode, Workload};
use wire::{Kind as ResourceKind, name};

use super::resource::Resource;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Kind, Pod, Text};

/// Compiles the resource of a policy object.
type Compile = fn(&Inventory, &ClusterInventory, &Key) -> Option<Resource>;

/// Adds the references to the policies that apply to a pod.
type Refer = fn(&Inventory, &ClusterInventory, &Pod, &mut Workload);

/// The kinds of objects with a resource of their own.
const COMPILE: &[(Kind, Compile)] = &[];

/// The references of workloads.
const REFER: &[Refer] = &[peer_authentication];

/// Compiles the resource of a policy object. Returns `None` if the object does not exist or has no effect.
pub(super) fn compile(inventory: &Inventory, kind: Kind, cluster: &Text, key: &Key) -> Option<Resource> {
    let (_, compile) = COMPILE.iter().find(|(of, _)| *of == kind)?;
    compile(inventory, inventory.cluster(cluster)?, key)
}

/// Adds the references to all policies that apply to a pod.
pub(super) fn refer(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    REFER.iter().for_each(|refer| refer(inventory, cluster, pod, workload));
}

/// Returns the policies that apply while no object of their kind exists.
pub(super) fn defaults() -> Vec<Resource> {
    // Istio's default permits plaintext.
    let permissive = PeerAuthentication { mode: PeerMode::Permissive.into(), ports: Default::default() };
    vec![Resource::for_all(ResourceKind::PeerAuthentication, name::MESH, permissive.encode_to_vec())]
}

fn peer_authentication(_: &Inventory, _: &ClusterInventory, _: &Pod, workload: &mut Workload) {
    workload.peer_authentication = name::MESH.to_owned();
}
