use serde_json::json;

use super::*;

#[test]
fn kinds_are_found_by_resource_and_by_kind() {
    let deployment = by_resource("apps", "v1", "deployments").expect("listed");
    assert_eq!(deployment.kind, "Deployment");
    assert_eq!(deployment.api_version(), "apps/v1");
    assert_eq!(deployment.group_resource(), "deployments.apps");
    assert!(deployment.has(Subresource::Scale));
    assert_eq!(by_kind("", "v1", "Pod").expect("listed").api_version(), "v1");
    assert!(by_resource("apps", "v1beta1", "deployments").is_none());
}

#[test]
fn names_are_unique_within_a_group() {
    for (index, kind) in BUILTIN.iter().enumerate() {
        for other in &BUILTIN[index + 1..] {
            let same = kind.group == other.group && kind.version == other.version;
            assert!(!same || (kind.kind != other.kind && kind.plural != other.plural), "{kind:?} is listed twice");
        }
    }
}

#[test]
fn reviews_are_not_stored() {
    for kind in BUILTIN.iter().filter(|kind| kind.kind.ends_with("Review")) {
        assert!(!kind.is_stored(), "{} would be stored", kind.kind);
    }
}

#[test]
fn events_are_converted_both_ways() {
    let newer = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"},
        "regarding": {"kind": "Pod", "name": "web"}, "note": "started", "reportingController": "node-agent",
    });
    let mut event = newer.clone();
    events::to_stored(&mut event);
    assert_eq!(event["apiVersion"], "v1");
    assert_eq!(event["involvedObject"]["name"], "web");
    assert_eq!(event["message"], "started");
    assert_eq!(event["reportingComponent"], "node-agent");
    events::from_stored(&mut event);
    assert_eq!(event, newer);
    assert_eq!(stored_as(by_kind("events.k8s.io", "v1", "Event").expect("listed")).group, "");
}

#[test]
fn subresources_are_found_by_name() {
    for kind in BUILTIN.iter() {
        for subresource in &kind.subresources {
            assert_eq!(Subresource::from_name(subresource.name()), Some(*subresource));
        }
    }
    assert_eq!(Subresource::from_name("nonsense"), None);
}
