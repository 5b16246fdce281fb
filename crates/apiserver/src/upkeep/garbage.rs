//! Garbage collection by owner references, as in Kubernetes: an object all of whose owners are gone goes too; an owner that is deleted
//! in the foreground waits for its dependents; one that is deleted with `orphan` sets them free first.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::api::Api;
use crate::object;
use crate::storage::{Everything, GroupResource, Object};
use crate::verbs::delete::{self, FOREGROUND, ORPHAN, Propagation};

/// One step towards order.
#[derive(Debug, PartialEq)]
enum Action<'a> {
    /// All owners are gone, or the owner waits for this object to go.
    Delete { resource: &'a GroupResource, object: &'a Object, propagation: Propagation },
    /// These owners are gone, others are there, or set the object free.
    Release { resource: &'a GroupResource, object: &'a Object, owners: Vec<&'a str> },
    /// The object has no dependents left that it must wait for.
    Finish { resource: &'a GroupResource, object: &'a Object, finalizer: &'static str },
}

/// Does what there is to do.
pub(super) fn collect(api: &Api, everything: &Everything) {
    for action in plan(everything) {
        match action {
            Action::Delete { resource, object, propagation } => {
                delete::on_own_behalf(api, resource, object, propagation)
            }
            Action::Release { resource, object, owners } => {
                api.modify(resource, object::namespace(object), object::name(object), |current| {
                    (object::uid(current) == object::uid(object)).then(|| released(current, &owners)).flatten()
                });
            }
            Action::Finish { resource, object, finalizer } => {
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

/// The object without references to those owners; None if it has none.
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

fn plan(everything: &Everything) -> Vec<Action<'_>> {
    let by_uid: HashMap<&str, &Object> = everything.iter().map(|(_, object)| (object::uid(object), object)).collect();
    let deleting = |finalizer: &'static str| -> HashSet<&str> {
        let waits =
            |object: &Value| object::is_deleting(object) && object::finalizers(object).any(|known| known == finalizer);
        everything.iter().filter(|(_, object)| waits(object)).map(|(_, object)| object::uid(object)).collect()
    };
    let (foreground, orphaning) = (deleting(FOREGROUND), deleting(ORPHAN));
    // Owners that wait for somebody.
    let (mut blocked, mut owning) = (HashSet::new(), HashSet::new());
    let mut actions = Vec::new();
    for (resource, object) in everything {
        let references = object::list(object, "/metadata/ownerReferences");
        if references.is_empty() {
            continue;
        }
        let is_there = |owner: &Value| {
            let found = by_uid.get(object::text(owner, "/uid"));
            // An owner is in the same namespace, or in none.
            found.is_some_and(|found| {
                matches!(object::namespace(found), "") || object::namespace(found) == object::namespace(object)
            })
        };
        let mut gone: Vec<&str> = Vec::new();
        let (mut solid, mut waiting) = (0, 0);
        for owner in references {
            let uid = object::text(owner, "/uid");
            if !is_there(owner) {
                gone.push(uid);
            } else if orphaning.contains(uid) {
                owning.insert(uid);
                gone.push(uid);
            } else if foreground.contains(uid) {
                waiting += 1;
                if owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true) {
                    blocked.insert(uid);
                }
            } else {
                solid += 1;
            }
        }
        let freed = references.iter().any(|owner| orphaning.contains(object::text(owner, "/uid")));
        if solid > 0 || freed {
            // Somebody still wants it: only the references of the others go.
            if !gone.is_empty() {
                actions.push(Action::Release { resource, object, owners: gone });
            }
        } else if !object::is_deleting(object) {
            let own = object::finalizers(object).find(|finalizer| [FOREGROUND, ORPHAN].contains(finalizer));
            let propagation = match (waiting > 0, own) {
                (_, Some(ORPHAN)) => Propagation::Orphan,
                (true, _) | (_, Some(_)) => Propagation::Foreground,
                (false, None) => Propagation::Background,
            };
            actions.push(Action::Delete { resource, object, propagation });
        }
    }
    for (resource, object) in everything {
        let uid = object::uid(object);
        if foreground.contains(uid) && !blocked.contains(uid) {
            actions.push(Action::Finish { resource, object, finalizer: FOREGROUND });
        }
        if orphaning.contains(uid) && !owning.contains(uid) {
            actions.push(Action::Finish { resource, object, finalizer: ORPHAN });
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(uid: &str, owners: &[(&str, bool)], finalizer: Option<&str>) -> (GroupResource, Object) {
        let owners: Vec<Value> =
            owners.iter().map(|(uid, block)| json!({"uid": uid, "blockOwnerDeletion": block})).collect();
        let mut object = json!({"metadata": {"namespace": "d", "name": uid, "uid": uid, "ownerReferences": owners}});
        if let Some(finalizer) = finalizer {
            object["metadata"]["finalizers"] = json!([finalizer]);
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        (GroupResource::new("", "things"), object.into())
    }

    fn planned(everything: &Everything) -> Vec<String> {
        let plan = plan(everything);
        plan.iter()
            .map(|action| match action {
                Action::Delete { object, propagation, .. } => format!("delete {} {propagation:?}", object::uid(object)),
                Action::Release { object, owners, .. } => {
                    format!("release {} from {}", object::uid(object), owners.join(","))
                }
                Action::Finish { object, finalizer, .. } => format!("finish {} {finalizer}", object::uid(object)),
            })
            .collect()
    }

    #[test]
    fn dependents_follow_their_last_owner() {
        let everything =
            [thing("b", &[("a", true)], None), thing("c", &[("a", true), ("b", false)], None), thing("x", &[], None)];
        assert_eq!(planned(&everything), ["delete b Background", "release c from a"]);
    }

    #[test]
    fn foreground_waits_for_those_that_block() {
        let everything = [thing("a", &[], Some(FOREGROUND)), thing("b", &[("a", true)], None)];
        assert_eq!(planned(&everything), ["delete b Foreground"]);
        let everything = [thing("a", &[], Some(FOREGROUND)), thing("b", &[("a", false)], Some("x/y"))];
        assert_eq!(planned(&everything), ["finish a foregroundDeletion"]);
    }

    #[test]
    fn orphans_are_set_free_first() {
        let everything = [thing("a", &[], Some(ORPHAN)), thing("b", &[("a", true)], None)];
        assert_eq!(planned(&everything), ["release b from a"]);
        let everything = [thing("a", &[], Some(ORPHAN)), thing("b", &[], None)];
        assert_eq!(planned(&everything), ["finish a orphan"]);
    }
}
