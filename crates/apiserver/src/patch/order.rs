//! The order of a merged list: the patch's order. Items that only the object has follow their former predecessors.

/// Position of an item: that of its key in the wanted order, or after its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    anchor: Option<usize>,
    follows: bool,
    at: usize,
}

/// Orders `items`, which have keys, by `wanted`. Items that are not in `wanted` follow their predecessor in `items`, or
/// are first if they have none.
pub(super) fn by_wanted<K: PartialEq, T>(items: Vec<(K, T)>, wanted: &[K]) -> Vec<T> {
    let place = |key: &K| wanted.iter().position(|known| known == key);
    let mut anchor = None;
    let mut ranked: Vec<(Rank, T)> = Vec::with_capacity(items.len());
    for (at, (key, item)) in items.into_iter().enumerate() {
        let own = place(&key);
        if own.is_some() {
            anchor = own;
        }
        ranked.push((Rank { anchor, follows: own.is_none(), at }, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::by_wanted;

    fn ordered(items: &str, wanted: &str) -> String {
        let items = items.chars().map(|c| (c, c)).collect();
        by_wanted(items, &wanted.chars().collect::<Vec<_>>()).into_iter().collect()
    }

    #[test]
    fn other_items_follow_their_predecessors() {
        assert_eq!(ordered("abc", "cab"), "cab");
        assert_eq!(ordered("axb", "ba"), "bax");
        assert_eq!(ordered("xab", "ba"), "xba");
        assert_eq!(ordered("abx", ""), "abx");
    }
}
