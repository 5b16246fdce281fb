//! The bounded memory of one resource's changes.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

/// A revision that is no longer remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest revision from which changes are known.
    pub(crate) oldest: u64,
}

/// A kept object.
pub(crate) type Object = Arc<Value>;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    /// The object after the change; for a deletion its last state with the revision of the deletion.
    pub(crate) object: Object,
    /// The object before the change.
    pub(crate) previous: Option<Object>,
}

pub(super) struct Log {
    events: VecDeque<Arc<Event>>,
    /// Revision of the last change that was forgotten.
    forgotten: u64,
    most: usize,
}

impl Log {
    pub(super) fn new(forgotten: u64, most: usize) -> Self {
        Self { events: VecDeque::new(), forgotten, most: most.max(1) }
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() == self.most
            && let Some(oldest) = self.events.pop_front()
        {
            self.forgotten = oldest.revision;
        }
        self.events.push_back(Arc::new(event));
    }

    /// The changes after a revision, oldest first.
    pub(super) fn after(
        &self,
        revision: u64,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Event>> + use<'_>, Compacted> {
        if revision < self.forgotten {
            return Err(Compacted { oldest: self.forgotten });
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.range(start..))
    }
}
