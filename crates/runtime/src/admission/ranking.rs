//! The order of sources by a count that changes by one at a time, in constant time for each operation.

use super::list::{Links, List};

/// Elements of a vector by their counts. An element with a count of zero is not listed.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// The elements of each count, the longest at that count first.
    by_count: Vec<List>,
    top: usize,
}

impl Ranking {
    /// Moves an element from one count to the next or previous.
    pub(super) fn change<T>(
        &mut self,
        all: &mut [T],
        index: u32,
        (from, to): (u32, u32),
        links: impl Fn(&mut T) -> &mut Links,
    ) {
        let (from, to) = (from as usize, to as usize);
        if self.by_count.len() <= to {
            self.by_count.resize_with(to + 1, List::default);
        }
        if from > 0 {
            self.by_count[from].remove(all, index, &links);
        }
        if to > 0 {
            self.by_count[to].push_back(all, index, &links);
        }
        if to > self.top {
            self.top = to;
        } else if from == self.top && self.by_count[from].front().is_none() {
            // The element itself is now one below.
            self.top = to;
        }
    }

    /// Returns up to `count` elements, those with the greatest counts first. Looks at `count` counts at most, so elements with
    /// far smaller counts are not found.
    pub(super) fn greatest<'a, T>(
        &'a self,
        all: &'a [T],
        count: usize,
        links: impl Fn(&T) -> &Links + 'a,
    ) -> impl Iterator<Item = u32> + 'a {
        let lists = self.by_count[..(self.top + 1).min(self.by_count.len())].iter().rev();
        lists
            .filter_map(List::front)
            .flat_map(move |first| {
                let links = &links;
                std::iter::successors(Some(first), move |index| links(&all[*index as usize]).next())
                    .take(count)
                    .collect::<Vec<_>>()
            })
            .take(count)
    }
}
