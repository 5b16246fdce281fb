//! Doubly linked lists of the elements of a vector, in constant time for each operation.

/// An index that refers to nothing.
pub(super) const NONE: u32 = u32::MAX;

/// An element's neighbours in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { prev: NONE, next: NONE }
    }
}

/// A list. Its elements are in a vector that the caller passes, together with the accessor of the links of this list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    /// Returns the first element; the oldest, if elements are pushed as they arrive.
    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn push_back<T>(&mut self, all: &mut [T], index: u32, links: impl Fn(&mut T) -> &mut Links) {
        *links(&mut all[index as usize]) = Links { prev: self.tail, next: NONE };
        match self.tail {
            NONE => self.head = index,
            tail => links(&mut all[tail as usize]).next = index,
        }
        self.tail = index;
    }

    pub(super) fn remove<T>(&mut self, all: &mut [T], index: u32, links: impl Fn(&mut T) -> &mut Links) {
        let Links { prev, next } = std::mem::take(links(&mut all[index as usize]));
        match prev {
            NONE => self.head = next,
            prev => links(&mut all[prev as usize]).next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => links(&mut all[next as usize]).prev = prev,
        }
    }
}

impl Links {
    pub(super) fn next(&self) -> Option<u32> {
        (self.next != NONE).then_some(self.next)
    }
}
