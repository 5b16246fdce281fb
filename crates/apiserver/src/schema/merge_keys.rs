//! Merge keys of the lists of built-in kinds, for strategic merge patch and server-side apply.
//!
//! Kubernetes declares them in tags of its types (`patchStrategy`, `patchMergeKey`, `listType`, `listMapKey`,
//! `mapType`) and publishes them as `x-kubernetes-…` extensions of its OpenAPI documents. The two sets differ in
//! places: a container's ports merge by `containerPort` in a patch, and by port and protocol in server-side apply.

#[cfg(test)]
mod tests;

use super::merge_rules::{self, ListType, rule};
use super::types::{FieldType, type_table};

/// How strategic merge patch merges the list at `path` (field names without list indexes): `patchMergeKey` and
/// `patchStrategy` of Kubernetes' types. [`ListType::Set`] is a list of scalars with strategy `merge`.
pub(crate) fn strategic(group: &str, version: &str, kind: &str, path: &[&str]) -> ListType {
    find(group, version, kind, path).map_or(ListType::Atomic, |rule| rule.strategic)
}

/// How server-side apply merges the list at `path`: `listType` and `listMapKeys` of Kubernetes' types.
pub(crate) fn apply(group: &str, version: &str, kind: &str, path: &[&str]) -> ListType {
    find(group, version, kind, path).map_or(ListType::Atomic, |rule| rule.apply)
}

/// Returns whether server-side apply treats the object at `path` as atomic (`mapType: atomic`), such as a selector.
pub(crate) fn is_atomic_map(group: &str, version: &str, kind: &str, path: &[&str]) -> bool {
    let types = type_table();
    let Some((type_, place)) = types.kind(group, version, kind).and_then(|root| types.at(root, path)) else {
        return false;
    };
    match type_ {
        FieldType::Any => true,
        FieldType::Struct(id) => merge_rules::is_atomic_struct(&types.get(*id).name),
        FieldType::Map(_) => {
            place.is_some_and(|(structure, field)| merge_rules::is_atomic_field(&structure.name, field))
        }
        _ => false,
    }
}

fn find(group: &str, version: &str, kind: &str, path: &[&str]) -> Option<merge_rules::MergeRule> {
    let types = type_table();
    let (type_, place) = types.at(types.kind(group, version, kind)?, path)?;
    let (structure, field) = place?;
    if matches!(type_, FieldType::List(_)) { rule(&structure.name, field) } else { None }
}
