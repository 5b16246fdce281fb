//! RBAC: Roles and ClusterRoles, bound to users, groups and service accounts.
//!
//! Semantics of Kubernetes' RBAC authorizer: rules only allow; a request is allowed if any rule of any binding matches
//! it.

use serde_json::Value;

use crate::authn::UserInfo;
use crate::object;
use crate::selectors::label_selector_matches;
use crate::status::Status;
use crate::storage::{GroupResource, ObjectStore};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Group whose members are allowed everything.
const MASTERS: &str = "system:masters";

/// The attributes of a request that is authorized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set for non-resource requests.
    pub(crate) path: Option<String>,
}

/// Returns whether `user` is allowed the request.
pub(crate) fn allowed(store: &ObjectStore, user: &UserInfo, attributes: &Attributes) -> bool {
    if is_master(user) {
        return true;
    }
    rules_of(store, user, &attributes.namespace).any(|rule| rule_matches(&rule, attributes))
}

/// Returns whether `user` is allowed everything, regardless of roles.
pub(crate) fn is_master(user: &UserInfo) -> bool {
    user.in_group(MASTERS)
}

/// The error of a forbidden request, in Kubernetes' wording.
pub(crate) fn refusal(user: &UserInfo, attributes: &Attributes) -> Status {
    let Attributes { verb, group, resource, subresource, namespace, name, path } = attributes;
    if let Some(path) = path {
        return Status::forbidden_path(&format!("User {:?} cannot {verb} path {path:?}", user.name));
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let why = format!("User {:?} cannot {verb} resource {full:?} in API group {group:?} {scope}", user.name);
    let kind = crate::kinds::ResourceKind {
        group: group.clone().into(),
        version: "".into(),
        kind: "".into(),
        list_kind: "".into(),
        plural: resource.clone().into(),
        singular: "".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: !namespace.is_empty(),
        subresources: Vec::new(),
        verbs: crate::kinds::Verbs::All,
    };
    Status::forbidden(&kind, name, &why)
}

/// All rules that apply to `user` in a namespace, or cluster-wide if the namespace is empty.
pub(crate) fn rules_of<'a>(
    store: &'a ObjectStore,
    user: &'a UserInfo,
    namespace: &'a str,
) -> impl Iterator<Item = Value> + use<'a> {
    let cluster = store.list(&GroupResource::new(GROUP, "clusterrolebindings"), None).1;
    let local = if namespace.is_empty() {
        Vec::new()
    } else {
        store.list(&GroupResource::new(GROUP, "rolebindings"), Some(namespace)).1
    };
    let bindings = cluster.into_iter().chain(local);
    let bindings = bindings.filter(|binding| {
        object::list(binding, "/subjects").iter().any(|subject| is_subject(subject, user, object::namespace(binding)))
    });
    bindings
        .flat_map(|binding| rules_of_role(store, &binding["roleRef"], object::namespace(&binding)).unwrap_or_default())
}

fn is_subject(subject: &Value, user: &UserInfo, binding_namespace: &str) -> bool {
    let name = object::text(subject, "/name");
    match object::text(subject, "/kind") {
        "User" => user.name == name,
        "Group" => user.in_group(name),
        "ServiceAccount" => {
            let namespace = match object::text(subject, "/namespace") {
                "" => binding_namespace,
                namespace => namespace,
            };
            user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
                == Some((namespace, name))
        }
        _ => false,
    }
}

/// The rules of the role that a binding in `namespace` refers to; `None` if there is no such role.
pub(crate) fn rules_of_role(store: &ObjectStore, reference: &Value, namespace: &str) -> Option<Vec<Value>> {
    let name = object::text(reference, "/name");
    let cluster_roles = GroupResource::new(GROUP, "clusterroles");
    let role = match object::text(reference, "/kind") {
        "ClusterRole" => store.get(&cluster_roles, "", name),
        "Role" => store.get(&GroupResource::new(GROUP, "roles"), namespace, name),
        _ => None,
    }?;
    let mut rules = object::list(&role, "/rules").to_vec();
    let selectors = object::list(&role, "/aggregationRule/clusterRoleSelectors");
    if !selectors.is_empty() {
        for other in store.list(&cluster_roles, None).1 {
            let labels = other.pointer("/metadata/labels");
            if object::name(&other) != name && selectors.iter().any(|selector| label_selector_matches(selector, labels))
            {
                rules.extend_from_slice(object::list(&other, "/rules"));
            }
        }
    }
    Some(rules)
}

fn rule_matches(rule: &Value, attributes: &Attributes) -> bool {
    let texts = |key: &str| object::list(rule, key).iter().filter_map(Value::as_str);
    let has = |key: &str, wanted: &str| texts(key).any(|text| text == "*" || text == wanted);
    if !has("/verbs", &attributes.verb) {
        return false;
    }
    if let Some(path) = &attributes.path {
        return texts("/nonResourceURLs").any(|pattern| path_matches(pattern, path));
    }
    let resource =
        texts("/resources").any(|pattern| resource_matches(pattern, &attributes.resource, &attributes.subresource));
    let mut names = texts("/resourceNames").peekable();
    let named = names.peek().is_none() || names.any(|name| name == attributes.name);
    has("/apiGroups", &attributes.group) && resource && named
}

/// `*` matches everything, `pods/log` a subresource of pods, `*/log` that subresource of any resource.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((of, part)) => part == subresource && !subresource.is_empty() && (of == "*" || of == resource),
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store() -> ObjectStore {
        let store = ObjectStore::new(0, 64);
        let put = |plural: &str, object: Value| store.insert(&GroupResource::new(GROUP, plural), object).expect("new");
        put(
            "clusterroles",
            json!({"metadata": {"name": "reader"}, "rules": [
                {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
                {"nonResourceURLs": ["/metrics", "/debug/*"], "verbs": ["get"]},
            ]}),
        );
        put(
            "clusterroles",
            json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}}),
        );
        put(
            "clusterroles",
            json!({"metadata": {"name": "part", "labels": {"part": "yes"}}, "rules": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
        );
        put(
            "roles",
            json!({"metadata": {"namespace": "a", "name": "one"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}]}),
        );
        let bind = |plural: &str, namespace: &str, name: &str, kind: &str, role: &str, subject: Value| {
            let metadata = if namespace.is_empty() {
                json!({"name": name})
            } else {
                json!({"name": name, "namespace": namespace})
            };
            put(plural, json!({"metadata": metadata, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]}));
        };
        bind(
            "clusterrolebindings",
            "",
            "r",
            "ClusterRole",
            "reader",
            json!({"kind": "Group", "name": "system:serviceaccounts"}),
        );
        bind("rolebindings", "a", "one", "Role", "one", json!({"kind": "ServiceAccount", "name": "web"}));
        bind("rolebindings", "b", "all", "ClusterRole", "all", json!({"kind": "User", "name": "jane"}));
        store
    }

    fn can(user: &UserInfo, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        allowed(&store(), user, &attributes)
    }

    #[test]
    fn rules_allow_only_their_resources() {
        let web = UserInfo::service_account("a", "web", "");
        let other = UserInfo::service_account("a", "other", "");
        assert!(can(&web, "list", "pods", "x", ""));
        assert!(can(&web, "get", "pods/log", "x", "p"));
        assert!(!can(&web, "get", "pods/exec", "x", "p"));
        assert!(!can(&web, "delete", "pods", "x", "p"));
        assert!(can(&web, "get", "secrets", "a", "s"));
        assert!(!can(&web, "get", "secrets", "a", "t"));
        assert!(!can(&web, "get", "secrets", "b", "s"));
        assert!(!can(&other, "get", "secrets", "a", "s"));
    }

    #[test]
    fn aggregated_roles_and_masters() {
        let mut jane = UserInfo { name: "jane".into(), uid: String::new(), groups: Vec::new(), extra: Vec::new() };
        assert!(can(&jane, "delete", "secrets", "b", "s"));
        assert!(!can(&jane, "delete", "secrets", "", "s"));
        jane.groups.push(MASTERS.into());
        assert!(can(&jane, "delete", "nodes", "", "n"));
    }

    #[test]
    fn paths() {
        let user = UserInfo::service_account("a", "web", "");
        let path = |path: &str| Attributes { verb: "get".into(), path: Some(path.into()), ..Attributes::default() };
        assert!(allowed(&store(), &user, &path("/metrics")));
        assert!(allowed(&store(), &user, &path("/debug/x/y")));
        assert!(!allowed(&store(), &user, &path("/metrics/x")));
    }

    #[test]
    fn errors_have_kubernetes_wording() {
        let attributes = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Attributes::default()
        };
        assert_eq!(
            refusal(&UserInfo::anonymous(), &attributes).message,
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }
}
