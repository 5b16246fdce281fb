//! The bounded log of one resource's changes.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

/// The revision is no longer remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest revision from which changes are remembered.
    pub(crate) oldest: u64,
}

/// A stored object.
pub(crate) type StoredObject = Arc<Value>;

/// The type of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

/// A change of an object.
#[derive(Debug)]
pub(crate) struct StoreEvent {
    pub(crate) revision: u64,
    pub(crate) change: EventType,
    /// The object after the change. For a deletion: its last state with the revision of the deletion.
    pub(crate) object: StoredObject,
    /// The object before the change.
    pub(crate) previous: Option<StoredObject>,
}

pub(super) struct ChangeLog {
    events: VecDeque<Arc<StoreEvent>>,
    /// Revision of the last change that was dropped.
    forgotten: u64,
    most: usize,
}

impl ChangeLog {
    pub(super) fn new(forgotten: u64, most: usize) -> Self {
        Self { events: VecDeque::new(), forgotten, most: most.max(1) }
    }

    pub(super) fn push(&mut self, event: StoreEvent) {
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
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<StoreEvent>> + use<'_>, Compacted> {
        if revision < self.forgotten {
            return Err(Compacted { oldest: self.forgotten });
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.range(start..))
    }
}
