use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn pod(name: &str, n: u32) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "n": n})
}

#[test]
fn a_write_needs_the_current_object() {
    let store = ObjectStore::new(10, 16);
    let first = store.insert(&pods(), pod("a", 1)).expect("new");
    assert_eq!(object::text(&first, "/metadata/resourceVersion"), "11");
    assert_eq!(store.insert(&pods(), pod("a", 1)).expect_err("there"), WriteError::Exists);
    let second = store.replace(&pods(), &first, pod("a", 2)).expect("current");
    assert_eq!(store.replace(&pods(), &first, pod("a", 3)).expect_err("stale"), WriteError::Changed);
    let last = store.remove(&pods(), &second, (*second).clone()).expect("current");
    assert_eq!(object::text(&last, "/metadata/resourceVersion"), "13");
    assert_eq!(store.remove(&pods(), &second, pod("a", 2)).expect_err("gone"), WriteError::Missing);
}

#[test]
fn a_restored_store_continues_where_the_frozen_one_ended() {
    let store = ObjectStore::new(10, 16);
    let first = store.insert(&pods(), pod("a", 1)).expect("new");
    let second = store.insert(&pods(), pod("b", 1)).expect("new");
    store.remove(&pods(), &first, (*first).clone()).expect("current");
    let text = serde_json::to_string(&store.freeze()).expect("JSON");

    let store = ObjectStore::restored(serde_json::from_str(&text).expect("saved objects"), 16);
    assert_eq!(store.list(&pods(), None), (13, vec![second]));
    assert_eq!(store.changes_after(&pods(), 12, 10).expect_err("expired").oldest, 13);
    let kept = store.get(&pods(), "default", "b").expect("kept");
    store.replace(&pods(), &kept, pod("b", 2)).expect("current");
    let (complete, events) = store.changes_after(&pods(), 13, 10).expect("a watch from the last revision");
    assert_eq!((complete, events.len()), (14, 1));
}

#[test]
fn old_changes_are_dropped() {
    let store = ObjectStore::new(0, 2);
    for name in ["a", "b", "c"] {
        store.insert(&pods(), pod(name, 1)).expect("new");
    }
    assert_eq!(store.changes_after(&pods(), 0, 10).expect_err("forgotten").oldest, 1);
    let (complete, events) = store.changes_after(&pods(), 1, 10).expect("remembered");
    assert_eq!((complete, events.len()), (3, 2));
    let (complete, events) = store.changes_after(&pods(), 1, 1).expect("remembered");
    assert_eq!((complete, events.len()), (2, 1));
}

#[test]
fn lists_are_limited_to_a_namespace() {
    let store = ObjectStore::new(0, 16);
    for namespace in ["a", "ab", "b"] {
        store.insert(&pods(), json!({"metadata": {"namespace": namespace, "name": "x"}})).expect("new");
    }
    assert_eq!(store.list(&pods(), Some("a")).1.len(), 1);
    assert_eq!(store.list(&pods(), None).1.len(), 3);
}

proptest! {
    /// Lists of the past, rebuilt from the log, equal what was listed at the time.
    #[test]
    fn past_revisions_are_listed(steps in prop::collection::vec((0u8..3, 0usize..4, any::<u32>()), 1..60)) {
        let store = ObjectStore::new(100, 1000);
        let mut history = BTreeMap::new();
        history.insert(100, Vec::new());
        for (step, which, n) in steps {
            let name = ["a", "b", "c", "d"][which];
            match (step, store.get(&pods(), "default", name)) {
                (0, None) => drop(store.insert(&pods(), pod(name, n))),
                (1, Some(current)) => drop(store.replace(&pods(), &current, pod(name, n))),
                (2, Some(current)) => drop(store.remove(&pods(), &current, (*current).clone())),
                _ => {}
            }
            let (revision, objects) = store.list(&pods(), None);
            history.insert(revision, objects);
        }
        for (revision, objects) in history {
            prop_assert_eq!(store.list_at(&pods(), None, revision).expect("remembered"), objects);
        }
    }
}
