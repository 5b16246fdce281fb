//! Values by the tokens that they were computed from, in bounded memory.

use std::mem;

use hashbrown::HashMap;

/// The number of tokens in each half.
const HALF: usize = 1024;

/// The bytes of tokens in each half.
const HALF_BYTES: usize = 1024 * 1024;

/// Values by token. Of the tokens that were used last, 1024 to 2048 are kept, or fewer if they are long. Tokens are compared
/// in full: a hash only finds them.
///
/// There are two halves. A token that is used moves to the recent one. When that is full, it takes the place of the older
/// one, whose tokens were not used meanwhile.
#[derive(Debug)]
pub(super) struct ByToken<T> {
    recent: Half<T>,
    older: Half<T>,
}

#[derive(Debug)]
struct Half<T> {
    values: HashMap<Box<[u8]>, T, foldhash::fast::RandomState>,
    bytes: usize,
}

impl<T: Clone> ByToken<T> {
    pub(super) fn get(&mut self, token: &[u8]) -> Option<T> {
        if let Some(value) = self.recent.values.get(token) {
            return Some(value.clone());
        }
        let (token, value) = self.older.values.remove_entry(token)?;
        self.insert(token, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, token: Box<[u8]>, value: T) {
        if self.recent.values.len() >= HALF || self.recent.bytes + token.len() > HALF_BYTES {
            self.older = mem::take(&mut self.recent);
        }
        let bytes = token.len();
        if self.recent.values.insert(token, value).is_none() {
            self.recent.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, token: &[u8]) {
        if self.recent.values.remove(token).is_some() {
            self.recent.bytes -= token.len();
        }
        self.older.values.remove(token);
    }
}

impl<T> Default for ByToken<T> {
    fn default() -> Self {
        Self { recent: Half::default(), older: Half::default() }
    }
}

impl<T> Default for Half<T> {
    fn default() -> Self {
        Self { values: HashMap::default(), bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize, bytes: usize) -> Box<[u8]> {
        let mut token = vec![b'.'; bytes];
        token[..8].copy_from_slice(&number.to_be_bytes());
        token.into()
    }

    #[test]
    fn a_bounded_number_of_tokens_is_kept_and_those_in_use_stay() {
        for bytes in [8, 8 * 1024] {
            let mut cache = ByToken::default();
            let in_use = token(usize::MAX, bytes);
            cache.insert(in_use.clone(), 0);
            for number in 0..10 * HALF {
                cache.insert(token(number, bytes), number);
                assert!(cache.get(&in_use).is_some(), "{number}");
                let kept = cache.recent.values.len() + cache.older.values.len();
                assert!(kept <= 2 * HALF.min(HALF_BYTES / bytes), "{kept}");
            }
            assert_eq!(cache.get(&token(10 * HALF - 1, bytes)), Some(10 * HALF - 1));
            assert_eq!(cache.get(&token(0, bytes)), None);
            cache.remove(&in_use);
            assert_eq!(cache.get(&in_use), None);
        }
    }

    #[test]
    fn a_token_that_is_put_again_counts_once() {
        let mut cache = ByToken::default();
        for number in 0..10 {
            cache.insert(token(1, 100), number);
        }
        assert_eq!((cache.recent.bytes, cache.get(&token(1, 100))), (100, Some(9)));
    }
}
