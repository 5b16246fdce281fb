//! How the lists of built-in kinds merge, in strategic merge patches and in server-side apply.
//!
//! Kubernetes writes this beside each field of its types (`patchStrategy`, `patchMergeKey`, `listType`, `listMapKey`,
//! `mapType`) and publishes it as `x-kubernetes-…` extensions of its OpenAPI documents. The two sets of keys differ in places:
//! a container's ports merge by `containerPort` in a patch, and by port and protocol in server-side apply.

#[cfg(test)]
mod tests;

use super::merge_rules::{self, ListKind, rule};
use super::shapes::{Type, shapes};

/// How strategic merge patch treats the list at `path` (field names; indexes left out) of that kind: `patchMergeKey` and
/// `patchStrategy` of Kubernetes' types. [`ListKind::Set`] is a list of plain values with strategy `merge`.
pub(crate) fn strategic(group: &str, version: &str, kind: &str, path: &[&str]) -> ListKind {
    find(group, version, kind, path).map_or(ListKind::Atomic, |rule| rule.strategic)
}

/// How server-side apply treats the list at `path`: `listType` and `listMapKeys` of Kubernetes' types.
pub(crate) fn apply(group: &str, version: &str, kind: &str, path: &[&str]) -> ListKind {
    find(group, version, kind, path).map_or(ListKind::Atomic, |rule| rule.apply)
}

/// Whether server-side apply owns the object at `path` as a whole (`mapType: atomic`), such as a selector.
pub(crate) fn is_atomic_map(group: &str, version: &str, kind: &str, path: &[&str]) -> bool {
    let shapes = shapes();
    let Some((type_, place)) = shapes.kind(group, version, kind).and_then(|root| shapes.at(root, path)) else {
        return false;
    };
    match type_ {
        Type::Any => true,
        Type::Struct(id) => merge_rules::is_atomic_struct(&shapes.get(*id).name),
        Type::Map(_) => place.is_some_and(|(structure, field)| merge_rules::is_atomic_field(&structure.name, field)),
        _ => false,
    }
}

fn find(group: &str, version: &str, kind: &str, path: &[&str]) -> Option<merge_rules::Rule> {
    let shapes = shapes();
    let (type_, place) = shapes.at(shapes.kind(group, version, kind)?, path)?;
    let (structure, field) = place?;
    if matches!(type_, Type::List(_)) { rule(&structure.name, field) } else { None }
}
