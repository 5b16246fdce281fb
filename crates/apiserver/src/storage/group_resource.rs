//! Storage keys.

use std::fmt;
use std::sync::Arc;

use crate::kinds::{self, ResourceKind};

/// The storage key of a resource. All versions of a resource share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupResource {
    pub(crate) group: Arc<str>,
    pub(crate) resource: Arc<str>,
}

impl GroupResource {
    pub(crate) fn new(group: &str, resource: &str) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }

    /// The storage key of a kind.
    pub(crate) fn of(kind: &ResourceKind) -> Self {
        let kind = kinds::stored_as(kind);
        Self::new(&kind.group, &kind.plural)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}
