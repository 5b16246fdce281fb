use super::*;
use crate::kinds::BUILTIN;

const POD: [&str; 3] = ["spec", "template", "spec"];

fn template(rest: &[&'static str]) -> Vec<&'static str> {
    POD.into_iter().chain(rest.iter().copied()).collect()
}

#[test]
fn patch_and_apply_merge_ports_by_different_keys() {
    let path = template(&["containers", "ports"]);
    assert_eq!(strategic("apps", "v1", "Deployment", &path), ListType::Map(&["containerPort"]));
    assert_eq!(apply("apps", "v1", "Deployment", &path), ListType::Map(&["containerPort", "protocol"]));
    assert_eq!(strategic("", "v1", "Service", &["spec", "ports"]), ListType::Map(&["port"]));
    assert_eq!(apply("", "v1", "Service", &["spec", "ports"]), ListType::Map(&["port", "protocol"]));
}

#[test]
fn lists_have_merge_keys_at_any_depth() {
    for (path, expected) in [
        (template(&["containers"]), ListType::Map(&["name"])),
        (template(&["initContainers", "env"]), ListType::Map(&["name"])),
        (template(&["containers", "volumeMounts"]), ListType::Map(&["mountPath"])),
        (template(&["volumes"]), ListType::Map(&["name"])),
        (template(&["containers", "args"]), ListType::Atomic),
        (template(&["tolerations"]), ListType::Atomic),
        (vec!["status", "conditions"], ListType::Map(&["type"])),
        (vec!["metadata", "finalizers"], ListType::Set),
        (vec!["metadata", "ownerReferences"], ListType::Map(&["uid"])),
        (vec!["metadata", "labels"], ListType::Atomic),
        (vec!["spec", "nonsense"], ListType::Atomic),
        (vec![], ListType::Atomic),
    ] {
        assert_eq!(strategic("apps", "v1", "Deployment", &path), expected, "{path:?}");
        assert_eq!(apply("apps", "v1", "Deployment", &path), expected, "{path:?}");
    }
}

#[test]
fn selectors_and_references_are_atomic() {
    for (group, kind, path) in [
        ("apps", "Deployment", vec!["spec", "selector"]),
        ("", "Service", vec!["spec", "selector"]),
        ("", "Pod", vec!["spec", "nodeSelector"]),
        ("", "Pod", vec!["spec", "containers", "env", "valueFrom", "secretKeyRef"]),
        ("rbac.authorization.k8s.io", "RoleBinding", vec!["roleRef"]),
    ] {
        assert!(is_atomic_map(group, "v1", kind, &path), "{kind} {path:?}");
    }
    for (group, kind, path) in [
        ("", "Pod", vec!["metadata", "labels"]),
        ("", "Pod", vec!["spec"]),
        ("", "ConfigMap", vec!["data"]),
        ("", "Pod", vec!["spec", "containers", "resources", "limits"]),
    ] {
        assert!(!is_atomic_map(group, "v1", kind, &path), "{kind} {path:?}");
    }
}

#[test]
fn every_rule_names_a_list_that_exists() {
    let definitions = crate::schema::definitions::generate();
    for (structure, field) in merge_rules::names() {
        let schema = &definitions.get(&structure).unwrap_or_else(|| panic!("no {structure}"))["properties"][&field];
        assert_eq!(schema["type"], "array", "{structure}.{field}");
    }
}

#[test]
fn every_kind_has_a_type() {
    for kind in BUILTIN.iter() {
        assert!(type_table().kind(&kind.group, &kind.version, &kind.kind).is_some(), "{}", kind.group_resource());
    }
}
