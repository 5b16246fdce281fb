//! How the lists of built-in kinds merge, in strategic merge patches and in server-side apply.

/// How the items of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// The list is one value: replaced as a whole, owned as a whole.
    Atomic,
    /// Items are plain values, each of which occurs once.
    Set,
    /// Items are objects, told apart by these fields.
    Map(&'static [&'static str]),
}

/// How strategic merge patch treats the list at `path` (field names; indexes left out) of that kind: `patchMergeKey` and
/// `patchStrategy` of Kubernetes' types. [`ListKind::Set`] is a list of plain values with strategy `merge`.
pub fn strategic(group: &str, version: &str, kind: &str, path: &[&str]) -> ListKind {
    let _ = (group, version, kind, path);
    ListKind::Atomic
}

/// How server-side apply treats the list at `path`: `listType` and `listMapKeys` of Kubernetes' types.
pub fn apply(group: &str, version: &str, kind: &str, path: &[&str]) -> ListKind {
    let _ = (group, version, kind, path);
    ListKind::Atomic
}

/// Whether server-side apply owns the object at `path` as a whole (`mapType: atomic`), such as a selector.
pub fn is_atomic_map(group: &str, version: &str, kind: &str, path: &[&str]) -> bool {
    let _ = (group, version, kind, path);
    false
}
