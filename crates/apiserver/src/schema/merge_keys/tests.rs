use super::*;
use crate::kinds::BUILTIN;

const POD: [&str; 3] = ["spec", "template", "spec"];

fn template(rest: &[&'static str]) -> Vec<&'static str> {
    POD.into_iter().chain(rest.iter().copied()).collect()
}

#[test]
fn patches_and_apply_tell_ports_apart_differently() {
    let path = template(&["containers", "ports"]);
    assert_eq!(strategic("apps", "v1", "Deployment", &path), ListKind::Map(&["containerPort"]));
    assert_eq!(apply("apps", "v1", "Deployment", &path), ListKind::Map(&["containerPort", "protocol"]));
    assert_eq!(strategic("", "v1", "Service", &["spec", "ports"]), ListKind::Map(&["port"]));
    assert_eq!(apply("", "v1", "Service", &["spec", "ports"]), ListKind::Map(&["port", "protocol"]));
}

#[test]
fn lists_are_found_at_any_depth() {
    for (path, expected) in [
        (template(&["containers"]), ListKind::Map(&["name"])),
        (template(&["initContainers", "env"]), ListKind::Map(&["name"])),
        (template(&["containers", "volumeMounts"]), ListKind::Map(&["mountPath"])),
        (template(&["volumes"]), ListKind::Map(&["name"])),
        (template(&["containers", "args"]), ListKind::Atomic),
        (template(&["tolerations"]), ListKind::Atomic),
        (vec!["status", "conditions"], ListKind::Map(&["type"])),
        (vec!["metadata", "finalizers"], ListKind::Set),
        (vec!["metadata", "ownerReferences"], ListKind::Map(&["uid"])),
        (vec!["metadata", "labels"], ListKind::Atomic),
        (vec!["spec", "nonsense"], ListKind::Atomic),
        (vec![], ListKind::Atomic),
    ] {
        assert_eq!(strategic("apps", "v1", "Deployment", &path), expected, "{path:?}");
        assert_eq!(apply("apps", "v1", "Deployment", &path), expected, "{path:?}");
    }
}

#[test]
fn selectors_and_references_are_owned_whole() {
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
fn every_stored_kind_has_a_shape() {
    for kind in BUILTIN.iter() {
        assert!(shapes().kind(&kind.group, &kind.version, &kind.kind).is_some(), "{}", kind.group_resource());
    }
}
