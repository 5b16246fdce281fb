//! Values by small numbers, in pieces of one size: growing moves nothing and leaves no more than a piece unused.

/// Values of a piece. A vector that doubles has up to half of its room unused, and all that it was before goes back to the
/// allocator in parts that nothing else fits into: 31 bytes for each of 10,000 pods (November 2026).
const PIECE: usize = 64;

/// The values. Numbers are used again after a removal.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { pieces: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// A value's number from now on.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(at) = self.free.pop() {
            self.pieces[at as usize / PIECE][at as usize % PIECE] = Some(value);
            return at;
        }
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let piece = self.pieces.len() - 1;
        self.pieces[piece].push(Some(value));
        // Objects of one kind are bounded far below 2³².
        (piece * PIECE + self.pieces[piece].len() - 1) as u32
    }

    /// The value of a number.
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.pieces.get(at as usize / PIECE)?.get(at as usize % PIECE)?.as_ref()
    }

    /// Puts a value in place of that of a number. Nothing happens where there is none.
    pub(crate) fn replace(&mut self, at: u32, value: T) {
        let place = self.pieces.get_mut(at as usize / PIECE).and_then(|piece| piece.get_mut(at as usize % PIECE));
        if let Some(known) = place.and_then(Option::as_mut) {
            *known = value;
        }
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.pieces.get_mut(at as usize / PIECE)?.get_mut(at as usize % PIECE)?.take();
        if value.is_some() {
            self.free.push(at);
        }
        value
    }

    /// All values, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_values_over_many_pieces() {
        let mut slots = Slots::default();
        let ids: Vec<u32> = (0..1000).map(|value| slots.insert(value)).collect();
        assert!(ids.iter().zip(0..).all(|(id, value)| slots.get(*id) == Some(&value)));
        assert_eq!((slots.remove(ids[700]), slots.remove(ids[700]), slots.get(ids[700])), (Some(700), None, None));
        slots.replace(ids[700], 1);
        assert_eq!((slots.iter().count(), slots.get(5000)), (999, None));
        slots.replace(ids[5], 6);
        assert_eq!((slots.insert(7), slots.get(ids[700]), slots.get(ids[5])), (ids[700], Some(&7), Some(&6)));
    }
}
