//! The key by which the objects of a resource are stored.

use std::fmt;
use std::sync::Arc;

use crate::kinds::{self, Kind};

/// A resource as stored: all versions of it share the objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupResource {
    pub(crate) group: Arc<str>,
    pub(crate) resource: Arc<str>,
}

impl GroupResource {
    pub(crate) fn new(group: &str, resource: &str) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }

    /// Where objects of that kind are kept.
    pub(crate) fn of(kind: &Kind) -> Self {
        let kind = kinds::stored_as(kind);
        Self::new(&kind.group, &kind.plural)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}
