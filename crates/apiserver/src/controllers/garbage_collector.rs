//! Garbage collection by owner references, as in Kubernetes: an object without remaining owners is deleted; an owner
//! that is deleted in the foreground waits for its dependents; the dependents of an owner that is deleted with `orphan`
//! are released first.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::api::Api;
use crate::object;
use crate::storage::{AllObjects, GroupResource, StoredObject};
use crate::verbs::delete::{self, FOREGROUND, ORPHAN, PropagationPolicy};

/// One action of the garbage collector.
#[derive(Debug, PartialEq)]
enum GarbageAction<'a> {
    /// Delete an object without remaining owners, or whose owner waits for its dependents.
    Delete { resource: &'a GroupResource, object: &'a StoredObject, propagation: PropagationPolicy },
    /// Remove the references to owners that do not exist or that orphan their dependents.
    Release { resource: &'a GroupResource, object: &'a StoredObject, owners: Vec<&'a str> },
    /// Remove the finalizer of an owner without blocking dependents.
    Finish { resource: &'a GroupResource, object: &'a StoredObject, finalizer: &'static str },
}

/// Computes the actions and executes them.
pub(super) fn collect(api: &Api, objects: &AllObjects) {
    for action in plan(objects) {
        match action {
            GarbageAction::Delete { resource, object, propagation } => {
                delete::by_server(api, resource, object, propagation)
            }
            GarbageAction::Release { resource, object, owners } => {
                api.modify(resource, object::namespace(object), object::name(object), |current| {
                    (object::uid(current) == object::uid(object)).then(|| released(current, &owners)).flatten()
                });
            }
            GarbageAction::Finish { resource, object, finalizer } => {
                api.modify(resource, object::namespace(object), object::name(object), |current| {
                    let mut changed = current.clone();
                    object::remove_finalizer(&mut changed, finalizer);
                    let same = object::uid(current) == object::uid(object);
                    (same && object::finalizers(current).any(|known| known == finalizer)).then_some(changed)
                });
            }
        }
    }
}

/// The object without references to those owners, or None if it has none.
fn released(object: &Value, owners: &[&str]) -> Option<Value> {
    let references = object::list(object, "/metadata/ownerReferences");
    let kept: Vec<Value> =
        references.iter().filter(|owner| !owners.contains(&object::text(owner, "/uid"))).cloned().collect();
    if kept.len() == references.len() {
        return None;
    }
    let mut changed = object.clone();
    object::set_metadata(&mut changed, "ownerReferences", (!kept.is_empty()).then(|| json!(kept)));
    Some(changed)
}

fn plan(objects: &AllObjects) -> Vec<GarbageAction<'_>> {
    let by_uid: HashMap<&str, &StoredObject> =
        objects.iter().map(|(_, object)| (object::uid(object), object)).collect();
    let deleting = |finalizer: &'static str| -> HashSet<&str> {
        let waits =
            |object: &Value| object::is_deleting(object) && object::finalizers(object).any(|known| known == finalizer);
        objects.iter().filter(|(_, object)| waits(object)).map(|(_, object)| object::uid(object)).collect()
    };
    let (foreground, orphaning) = (deleting(FOREGROUND), deleting(ORPHAN));
    // Owners that wait for a dependent.
    let (mut with_blockers, mut with_dependents) = (HashSet::new(), HashSet::new());
    let mut actions = Vec::new();
    for (resource, object) in objects {
        let references = object::list(object, "/metadata/ownerReferences");
        if references.is_empty() {
            continue;
        }
        let exists = |owner: &Value| {
            let found = by_uid.get(object::text(owner, "/uid"));
            // An owner is in the same namespace, or cluster-scoped.
            found.is_some_and(|found| {
                matches!(object::namespace(found), "") || object::namespace(found) == object::namespace(object)
            })
        };
        let mut absent: Vec<&str> = Vec::new();
        let (mut present, mut waiting) = (0, 0);
        for owner in references {
            let uid = object::text(owner, "/uid");
            if !exists(owner) {
                absent.push(uid);
            } else if orphaning.contains(uid) {
                with_dependents.insert(uid);
                absent.push(uid);
            } else if foreground.contains(uid) {
                waiting += 1;
                if owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true) {
                    with_blockers.insert(uid);
                }
            } else {
                present += 1;
            }
        }
        let orphaned = references.iter().any(|owner| orphaning.contains(object::text(owner, "/uid")));
        if present > 0 || orphaned {
            // An owner remains: only the references to the others are removed.
            if !absent.is_empty() {
                actions.push(GarbageAction::Release { resource, object, owners: absent });
            }
        } else if !object::is_deleting(object) {
            let own = object::finalizers(object).find(|finalizer| [FOREGROUND, ORPHAN].contains(finalizer));
            let propagation = match (waiting > 0, own) {
                (_, Some(ORPHAN)) => PropagationPolicy::Orphan,
                (true, _) | (_, Some(_)) => PropagationPolicy::Foreground,
                (false, None) => PropagationPolicy::Background,
            };
            actions.push(GarbageAction::Delete { resource, object, propagation });
        }
    }
    for (resource, object) in objects {
        let uid = object::uid(object);
        if foreground.contains(uid) && !with_blockers.contains(uid) {
            actions.push(GarbageAction::Finish { resource, object, finalizer: FOREGROUND });
        }
        if orphaning.contains(uid) && !with_dependents.contains(uid) {
            actions.push(GarbageAction::Finish { resource, object, finalizer: ORPHAN });
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(uid: &str, owners: &[(&str, bool)], finalizer: Option<&str>) -> (GroupResource, StoredObject) {
        let owners: Vec<Value> =
            owners.iter().map(|(uid, block)| json!({"uid": uid, "blockOwnerDeletion": block})).collect();
        let mut object = json!({"metadata": {"namespace": "d", "name": uid, "uid": uid, "ownerReferences": owners}});
        if let Some(finalizer) = finalizer {
            object["metadata"]["finalizers"] = json!([finalizer]);
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        (GroupResource::new("", "things"), object.into())
    }

    fn planned(objects: &AllObjects) -> Vec<String> {
        let plan = plan(objects);
        plan.iter()
            .map(|action| match action {
                GarbageAction::Delete { object, propagation, .. } => {
                    format!("delete {} {propagation:?}", object::uid(object))
                }
                GarbageAction::Release { object, owners, .. } => {
                    format!("release {} from {}", object::uid(object), owners.join(","))
                }
                GarbageAction::Finish { object, finalizer, .. } => {
                    format!("finish {} {finalizer}", object::uid(object))
                }
            })
            .collect()
    }

    #[test]
    fn dependents_without_owners_are_deleted() {
        let objects =
            [thing("b", &[("a", true)], None), thing("c", &[("a", true), ("b", false)], None), thing("x", &[], None)];
        assert_eq!(planned(&objects), ["delete b Background", "release c from a"]);
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let objects = [thing("a", &[], Some(FOREGROUND)), thing("b", &[("a", true)], None)];
        assert_eq!(planned(&objects), ["delete b Foreground"]);
        let objects = [thing("a", &[], Some(FOREGROUND)), thing("b", &[("a", false)], Some("x/y"))];
        assert_eq!(planned(&objects), ["finish a foregroundDeletion"]);
    }

    #[test]
    fn orphaned_dependents_are_released_first() {
        let objects = [thing("a", &[], Some(ORPHAN)), thing("b", &[("a", true)], None)];
        assert_eq!(planned(&objects), ["release b from a"]);
        let objects = [thing("a", &[], Some(ORPHAN)), thing("b", &[], None)];
        assert_eq!(planned(&objects), ["finish a orphan"]);
    }
}
