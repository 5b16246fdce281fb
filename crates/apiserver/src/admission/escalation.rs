//! Prevention of privilege escalation, as in Kubernetes: the author of a role or binding must hold the permissions that
//! it grants, whenever more changes than what garbage collection changes.
//!
//! Exceptions: `system:masters`, the verb `escalate` on the role, and the verb `bind` on the role of a binding. Only with
//! these exceptions may a binding refer to a role that does not exist: its permissions are unknown.

use serde_json::{Value, json};

use crate::call::ApiCall;
use crate::object;
use crate::rbac::{self, Attributes};
use crate::status::{Result, Status};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The metadata that garbage collection changes, and that the server sets.
const COLLECTION_FIELDS: [&str; 5] = ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"];

/// Returns an error if a role or binding grants permissions that its author does not hold. `old` is the object that it
/// replaces.
pub(super) fn check(call: &ApiCall, object: &Value, old: Option<&Value>) -> Result<()> {
    let kind = &call.served.kind;
    if *kind.group != *GROUP || rbac::is_master(&call.user) || old.is_some_and(|old| only_collected(object, old)) {
        return Ok(());
    }
    let namespace = object::namespace(object);
    let granted = match &*kind.kind {
        "Role" | "ClusterRole" => {
            // The name in the path, as in Kubernetes: there is none when the object is created in its collection.
            if may(call, "escalate", &kind.plural, &call.route.name) {
                return Ok(());
            }
            object::list(object, "/rules").to_vec()
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            let reference = object.get("roleRef").unwrap_or(&Value::Null);
            let plural = if object::text(reference, "/kind") == "Role" { "roles" } else { "clusterroles" };
            let role = object::text(reference, "/name");
            if may(call, "bind", plural, role) {
                return Ok(());
            }
            let rules = rbac::rules_of_role(&call.api.store, reference, namespace);
            // Kubernetes looks the role up in the context of the request, so that its error names the binding's kind.
            rules.ok_or_else(|| Status::not_found(kind, role))?
        }
        _ => return Ok(()),
    };
    let owned: Vec<Value> = rbac::rules_of(&call.api.store, &call.user, namespace).collect();
    let missing: Vec<String> = granted.iter().filter(|rule| !is_covered(&owned, rule)).map(written).collect();
    if !missing.is_empty() {
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            call.user.name,
            call.user.groups,
            missing.join("\n")
        );
        return Err(Status::forbidden(kind, object::name(object), &why));
    }
    // An aggregated role includes roles that are created later, whatever they allow.
    let aggregates = |object: &Value| object.get("aggregationRule").is_some_and(Value::is_object);
    if &*kind.kind == "ClusterRole" && (aggregates(object) || old.is_some_and(aggregates)) {
        let everything = [
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
        if !everything.iter().all(|rule| is_covered(&owned, rule)) {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(kind, object::name(object), why));
        }
    }
    Ok(())
}

/// Returns whether an object differs from the one that it replaces in nothing but [`COLLECTION_FIELDS`].
fn only_collected(object: &Value, old: &Value) -> bool {
    let compared = |object: &Value| {
        let mut object = object.clone();
        COLLECTION_FIELDS.iter().for_each(|field| object::set_metadata(&mut object, field, None));
        object
    };
    compared(object) == compared(old)
}

fn may(call: &ApiCall, verb: &str, resource: &str, name: &str) -> bool {
    let attributes = Attributes {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        resource: resource.to_owned(),
        namespace: call.route.namespace.clone(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    rbac::allowed(&call.api.store, &call.user, &attributes)
}

fn texts<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
    object::list(rule, key).iter().filter_map(Value::as_str).collect()
}

/// Returns whether each permission of `rule` is allowed by one of `owned`.
fn is_covered(owned: &[Value], rule: &Value) -> bool {
    let names = match texts(rule, "/resourceNames") {
        names if names.is_empty() => vec![None],
        names => names.into_iter().map(Some).collect(),
    };
    let (groups, resources) = (texts(rule, "/apiGroups"), texts(rule, "/resources"));
    let paths = texts(rule, "/nonResourceURLs");
    texts(rule, "/verbs").into_iter().all(|verb| {
        let owned: Vec<&Value> = owned.iter().filter(|rule| has(rule, "/verbs", verb)).collect();
        let resource = |group: &str, resource: &str, name: Option<&str>| {
            owned.iter().any(|rule| {
                let named = texts(rule, "/resourceNames");
                has(rule, "/apiGroups", group)
                    && has_resource(rule, resource)
                    && (named.is_empty() || name.is_some_and(|name| named.contains(&name)))
            })
        };
        let path = |path: &str| {
            owned.iter().any(|rule| {
                texts(rule, "/nonResourceURLs").into_iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => pattern == path,
                })
            })
        };
        paths.iter().all(|it| path(it))
            && groups.iter().all(|group| resources.iter().all(|it| names.iter().all(|name| resource(group, it, *name))))
    })
}

fn has(rule: &Value, key: &str, wanted: &str) -> bool {
    texts(rule, key).into_iter().any(|text| text == "*" || text == wanted)
}

fn has_resource(rule: &Value, wanted: &str) -> bool {
    let part_of_any = wanted.split_once('/').map(|(_, part)| format!("*/{part}"));
    has(rule, "/resources", wanted) || part_of_any.is_some_and(|part| texts(rule, "/resources").contains(&&*part))
}

/// A rule in the format of Kubernetes' error message.
fn written(rule: &Value) -> String {
    let keys = [
        ("APIGroups", "/apiGroups"),
        ("Resources", "/resources"),
        ("ResourceNames", "/resourceNames"),
        ("NonResourceURLs", "/nonResourceURLs"),
        ("Verbs", "/verbs"),
    ];
    let parts = keys.iter().map(|(name, key)| (name, texts(rule, key))).filter(|(_, texts)| !texts.is_empty());
    let parts: Vec<String> = parts.map(|(name, texts)| format!("{name}:{}", json!(texts))).collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_granted_permission_must_be_held() {
        let owned = [
            json!({"apiGroups": [""], "resources": ["pods", "*/log"], "verbs": ["get", "list"]}),
            json!({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}),
            json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get"]}),
            json!({"nonResourceURLs": ["/debug/*"], "verbs": ["get"]}),
        ];
        let rule = |groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs});
        for held in [
            rule(&[""], &["pods"], &[], &["get", "list"]),
            rule(&[""], &["pods/log"], &["x"], &["get"]),
            rule(&["apps"], &["*", "deployments/scale"], &[], &["*"]),
            rule(&[""], &["secrets"], &["b", "a"], &["get"]),
            json!({"nonResourceURLs": ["/debug/pprof", "/debug/*"], "verbs": ["get"]}),
            json!({}),
        ] {
            assert!(is_covered(&owned, &held), "{held}");
        }
        for more in [
            rule(&[""], &["pods"], &[], &["get", "delete"]),
            rule(&["", "apps"], &["services"], &[], &["get"]),
            rule(&["*"], &["deployments"], &[], &["get"]),
            rule(&[""], &["pods/exec"], &[], &["get"]),
            rule(&[""], &["secrets"], &[], &["get"]),
            rule(&[""], &["secrets"], &["a", "c"], &["get"]),
            rule(&[""], &["pods"], &[], &["*"]),
            json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]}),
        ] {
            assert!(!is_covered(&owned, &more), "{more}");
        }
        let refused = written(&rule(&[""], &["pods"], &[], &["get"]));
        assert_eq!(refused, r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#);
    }
}
