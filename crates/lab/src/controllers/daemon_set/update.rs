//! Rolling updates of a DaemonSet: which pods are replaced next.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::{DaemonSetDecision, DaemonSetState};
use crate::controllers::pod_state::available_in;
use crate::controllers::revision::REVISION_HASH;
use crate::controllers::rollout::share;

/// The pods of a DaemonSet on one node, the oldest first.
#[derive(Debug)]
pub(super) struct NodePods<'a> {
    node: &'a str,
    new: Vec<&'a Pod>,
    old: Vec<&'a Pod>,
}

impl<'a> NodePods<'a> {
    pub(super) fn new(node: &'a str, pods: &[&'a Pod], hash: &str) -> Self {
        let is_new = |pod: &&&Pod| pod.labels().get(REVISION_HASH).is_some_and(|own| own == hash);
        let (new, old) = pods.iter().partition::<Vec<&&Pod>, _>(is_new);
        Self { node, new: new.into_iter().copied().collect(), old: old.into_iter().copied().collect() }
    }
}

/// Adds the pods to replace to the decision, and removes pods that a node has beyond one. `nodes` is the number of nodes
/// that are to have a pod.
pub(super) fn replace(
    decision: &mut DaemonSetDecision,
    state: &DaemonSetState<'_>,
    spec: &DaemonSetSpec,
    pods: &[NodePods<'_>],
    nodes: usize,
) {
    let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
    let strategy = spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let bound = |value: Option<&IntOrString>, usual: i32| {
        let share = share(value.unwrap_or(&IntOrString::Int(usual)), nodes, true);
        usize::try_from(share).unwrap_or(0)
    };
    let surge = bound(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = bound(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
    let available = |pod: &Pod| available_in(pod, spec.min_ready_seconds, state.now) == Some(Duration::ZERO);
    remove_surplus(decision, pods, surge > 0);
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    if surge > 0 {
        replace_after(decision, pods, surge, available);
    } else {
        // With neither, an update could not start.
        replace_before(decision, pods, unavailable.max(1), available);
    }
}

/// A node keeps its oldest pod; while pods surge, its oldest of each revision.
fn remove_surplus(decision: &mut DaemonSetDecision, pods: &[NodePods<'_>], surges: bool) {
    for here in pods {
        let surplus = here.new.iter().skip(1).chain(here.old.iter().skip(1));
        let replaced = here.old.first().filter(|_| !surges && !here.new.is_empty());
        decision.delete.extend(surplus.chain(replaced).map(|pod| pod.name_any()));
    }
}

/// Deletes old pods so that at most `bound` nodes are without an available pod. Old pods that are not available go at
/// once.
fn replace_before(
    decision: &mut DaemonSetDecision,
    pods: &[NodePods<'_>],
    bound: usize,
    available: impl Fn(&Pod) -> bool,
) {
    let without = |here: &&NodePods<'_>| !here.new.iter().chain(&here.old).any(|pod| available(pod));
    let mut left = bound.saturating_sub(pods.iter().filter(without).count());
    for here in pods.iter().filter(|here| here.new.is_empty()) {
        let Some(old) = here.old.first() else { continue };
        if !available(old) {
            decision.delete.push(old.name_any());
        } else if left > 0 {
            left -= 1;
            decision.delete.push(old.name_any());
        }
    }
}

/// Creates new pods beside at most `bound` old ones, and deletes each old pod when the new one is available.
fn replace_after(
    decision: &mut DaemonSetDecision,
    pods: &[NodePods<'_>],
    bound: usize,
    available: impl Fn(&Pod) -> bool,
) {
    let surging = |here: &&NodePods<'_>| !here.old.is_empty() && here.new.first().is_some_and(|pod| !available(pod));
    let mut left = bound.saturating_sub(pods.iter().filter(surging).count());
    for here in pods {
        let Some(old) = here.old.first() else { continue };
        match here.new.first() {
            Some(new) if available(new) => decision.delete.push(old.name_any()),
            Some(_) => {}
            None if !available(old) => decision.create.push(here.node.to_owned()),
            None if left > 0 => {
                left -= 1;
                decision.create.push(here.node.to_owned());
            }
            None => {}
        }
    }
}
