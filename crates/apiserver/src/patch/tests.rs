use proptest::prelude::*;
use serde_json::json;

use super::fields::FieldSet;
use super::managed::{FieldManager, note_update};
use super::merge_schema::MergeSchema;
use super::*;
use crate::kinds;
use crate::object;
use crate::registry::CustomResource;
use crate::storage::GroupResource;

fn builtin(group: &str, plural: &str) -> ServedResource {
    let kind = kinds::by_resource(group, "v1", plural).expect("built in").clone();
    ServedResource { stored: GroupResource::of(&kind), kind, custom: None }
}

/// A custom resource with lists of all three types, so that these tests do not lean on the tables of built-in kinds.
fn custom() -> ServedResource {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"], "items": {"type": "object", "properties": {
            "port": {"type": "integer"}, "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}}}},
        "hosts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "order": {"type": "array", "items": {"type": "string"}},
        "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "size": {"type": "integer"}
    }}}});
    let mut served = builtin("apps", "deployments");
    served.custom = Some(CustomResource { schema: Some(schema), ..CustomResource::default() });
    served
}

fn manager(name: &str) -> FieldManager {
    FieldManager { name: name.into(), subresource: String::new() }
}

fn applied(live: &Value, config: Value, by: &str, force: bool) -> Result<Value> {
    apply::apply(&custom(), live, &config, &manager(by), force)
}

fn spec(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn fields_that_are_no_longer_applied_are_removed() {
    let live = applied(
        &Value::Null,
        spec(json!({"size": 1, "ports": [{"port": 1, "name": "a"}, {"port": 2}], "hosts": ["x", "y"]})),
        "me",
        false,
    );
    let live =
        applied(&live.expect("new"), spec(json!({"ports": [{"port": 2, "name": "b"}], "hosts": ["y"]})), "me", false)
            .expect("mine");
    assert_eq!(live["spec"], json!({"ports": [{"port": 2, "name": "b"}], "hosts": ["y"]}));
}

#[test]
fn fields_of_other_managers_are_kept() {
    let live =
        applied(&Value::Null, spec(json!({"size": 1, "ports": [{"port": 1, "name": "a"}]})), "me", false).expect("new");
    let live = applied(&live, spec(json!({"size": 1, "ports": [{"port": 1}]})), "you", false).expect("the same value");
    let live = applied(&live, spec(json!({})), "me", false).expect("mine");
    assert_eq!(live["spec"], json!({"size": 1, "ports": [{"port": 1}]}));
}

#[test]
fn a_different_value_is_a_conflict_unless_forced() {
    let live = applied(&Value::Null, spec(json!({"size": 1, "selector": {"a": "b"}})), "me", false).expect("new");
    let refused = applied(&live, spec(json!({"size": 2})), "you", false).expect_err("mine");
    assert_eq!(refused.code, 409);
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"me\": .spec.size");
    let refused = applied(&live, spec(json!({"selector": {"a": "c"}})), "you", false).expect_err("one value");
    assert_eq!(refused.details.expect("details").causes[0].field, ".spec.selector");
    let live = applied(&live, spec(json!({"size": 2})), "you", true).expect("forced");
    assert_eq!(live["spec"]["size"], 2);
    // The loser owns it no longer, so that letting it go changes nothing.
    let live = applied(&live, spec(json!({})), "me", false).expect("mine");
    assert_eq!(live["spec"], json!({"size": 2}));
}

#[test]
fn updates_own_the_fields_that_they_change() {
    let live = applied(&Value::Null, spec(json!({"size": 1, "hosts": ["x"]})), "me", false).expect("new");
    let mut scaled = live.clone();
    scaled["spec"]["size"] = json!(5);
    note_update(&custom(), &live, &mut scaled, &manager("scaler"));
    let refused = applied(&scaled, spec(json!({"size": 1, "hosts": ["x"]})), "me", false).expect_err("the scaler's");
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.size");
    // The scaler remains the owner of a field that is no longer applied.
    let live = applied(&scaled, spec(json!({"hosts": ["x"]})), "me", false).expect("mine");
    assert_eq!(live["spec"]["size"], 5);
}

#[test]
fn managed_fields_have_kubernetes_format() {
    let live = applied(
        &Value::Null,
        spec(json!({"ports": [{"port": 1, "name": "a"}], "hosts": ["x"], "order": ["b"]})),
        "me",
        false,
    );
    let live = live.expect("new");
    let entry = &live["metadata"]["managedFields"][0];
    assert_eq!((entry["manager"].as_str(), entry["operation"].as_str()), (Some("me"), Some("Apply")));
    let expected = json!({"f:spec": {
        "f:ports": {"k:{\"port\":1}": {".": {}, "f:port": {}, "f:name": {}}},
        "f:hosts": {"v:\"x\"": {}},
        "f:order": {},
    }});
    assert_eq!(entry["fieldsV1"], expected);
}

#[test]
fn a_reapplied_configuration_changes_nothing() {
    let config = spec(json!({"size": 1, "ports": [{"port": 1, "name": "a"}], "hosts": ["x"]}));
    let once = applied(&Value::Null, config.clone(), "me", false).expect("new");
    assert_eq!(applied(&once, config, "me", false).expect("mine"), once);
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let served = builtin("apps", "deployments");
    let live = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}}}});
    let patched = |patch: Value| {
        ResourcePatch::Strategic(patch).to(&served, &live).expect("legal")["spec"]["template"]["spec"]["containers"]
            .clone()
    };
    let within = |containers: Value| json!({"spec": {"template": {"spec": containers}}});
    assert_eq!(patched(within(json!({"containers": [{"name": "b", "image": "2"}]})))[1]["image"], "2");
    assert_eq!(
        patched(within(json!({"containers": [{"name": "a", "$patch": "delete"}]}))),
        json!([{"name": "b", "image": "1"}])
    );
    assert_eq!(patched(within(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}))), json!([{"name": "c"}]));
    let ordered = patched(within(
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]}),
    ));
    let names: Vec<&str> = ordered.as_array().expect("a list").iter().map(|c| object::text(c, "/name")).collect();
    assert_eq!(names, ["c", "b", "a"]);
    let env = patched(within(json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]})));
    assert_eq!(env[0]["env"], json!([{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]));
}

#[test]
fn strategic_directives() {
    let served = builtin("", "pods");
    let live =
        json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}}, "spec": {"nodeSelector": {"a": "b"}}});
    let patched = |patch: Value| ResourcePatch::Strategic(patch).to(&served, &live).expect("legal");
    assert_eq!(
        patched(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}))["metadata"]["finalizers"],
        json!(["b"])
    );
    assert_eq!(patched(json!({"metadata": {"labels": null}}))["metadata"].get("labels"), None);
    assert_eq!(
        patched(json!({"metadata": {"labels": {"$patch": "replace", "y": "2"}}}))["metadata"]["labels"],
        json!({"y": "2"})
    );
    assert_eq!(
        patched(json!({"metadata": {"$retainKeys": ["labels"], "labels": {"y": "2"}}}))["metadata"],
        json!({"labels": {"x": "1", "y": "2"}})
    );
    assert!(ResourcePatch::Strategic(json!({"metadata": {"$patch": "explode"}})).to(&served, &live).is_err());
}

#[test]
fn failed_json_patches_have_a_status() {
    let served = builtin("", "pods");
    let decode = |text: &'static str| {
        ResourcePatch::decode("application/json-patch+json", &Bytes::from_static(text.as_bytes()), &served)
    };
    let patch = decode(r#"[{"op": "test", "path": "/a", "value": 2}]"#).expect("legal");
    assert_eq!(patch.to(&served, &json!({"a": 1})).expect_err("another value").code, 422);
    assert_eq!(decode("{}").expect_err("no list").code, 400);
    let custom = custom();
    let strategic =
        ResourcePatch::decode("application/strategic-merge-patch+json", &Bytes::from_static(b"{}"), &custom);
    assert_eq!(strategic.expect_err("custom resources have no strategies").code, 415);
}

fn any_spec() -> impl Strategy<Value = Value> {
    let port = (1u8..4, prop::option::of("[ab]")).prop_map(|(port, name)| match name {
        Some(name) => json!({"port": port, "name": name}),
        None => json!({"port": port}),
    });
    let ports = prop::collection::vec(port, 0..3).prop_map(|mut ports| {
        ports.sort_by_key(|port| port["port"].as_u64());
        ports.dedup_by_key(|port| port["port"].as_u64());
        ports
    });
    let hosts = prop::collection::btree_set("[xyz]", 0..3);
    (prop::option::of(0..3i64), ports, hosts).prop_map(|(size, ports, hosts)| {
        let mut of = json!({});
        if let Some(size) = size {
            of["size"] = json!(size);
        }
        if !ports.is_empty() {
            of["ports"] = json!(ports);
        }
        if !hosts.is_empty() {
            of["hosts"] = json!(hosts);
        }
        spec(of)
    })
}

/// JSON that looks like objects of Kubernetes, directives and all, but obeys no schema.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        "[ab]".prop_map(Value::from)
    ];
    let key = prop_oneof![
        Just("spec".to_owned()),
        Just("metadata".to_owned()),
        Just("ports".to_owned()),
        Just("port".to_owned()),
        Just("hosts".to_owned()),
        Just("containers".to_owned()),
        Just("name".to_owned()),
        Just("$patch".to_owned()),
        Just("$retainKeys".to_owned()),
        Just("$setElementOrder/ports".to_owned()),
        Just("$deleteFromPrimitiveList/hosts".to_owned()),
        Just("managedFields".to_owned()),
        Just("fieldsV1".to_owned()),
        Just("f:spec".to_owned()),
        Just("finalizers".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever is sent, merging it ends, in an object or an error.
    #[test]
    fn any_json_is_merged_or_rejected(live in any_json(), sent in any_json()) {
        let served = custom();
        drop(apply::apply(&served, &live, &sent, &manager("me"), true));
        drop(ResourcePatch::Strategic(sent.clone()).to(&builtin("", "pods"), &live));
        let mut after = json!({"metadata": {}, "spec": sent});
        note_update(&served, &live, &mut after, &manager("me"));
        prop_assert!(after.is_object());
    }

    /// A single manager always gets exactly what it applies, whatever it applied before.
    #[test]
    fn a_single_manager_gets_what_it_applies(first in any_spec(), second in any_spec()) {
        let live = applied(&Value::Null, first, "me", false).expect("new");
        let live = applied(&live, second.clone(), "me", false).expect("mine");
        let shape = custom();
        let fields = |object: &Value| FieldSet::of(MergeSchema::of(&shape), object);
        prop_assert_eq!(fields(&json!({"spec": live["spec"]})), fields(&json!({"spec": second["spec"]})));
    }

    /// After a forced apply, a third manager can apply the same configuration without conflict.
    #[test]
    fn a_forced_apply_is_effective(first in any_spec(), second in any_spec()) {
        let live = applied(&Value::Null, first, "me", false).expect("new");
        let live = applied(&live, second.clone(), "you", true).expect("forced");
        let third = applied(&live, second, "third", false).expect("the same");
        prop_assert_eq!(&live["spec"], &third["spec"]);
    }

    /// Reading what was written gives the same set.
    #[test]
    fn field_sets_round_trip(object in any_spec()) {
        let shape = custom();
        let fields = FieldSet::of(MergeSchema::of(&shape), &object);
        prop_assert_eq!(FieldSet::from_value(&fields.to_value()), fields);
    }
}
