//! Which part of a large blob is asked for next. Pure: it knows lengths and offsets, and nothing of streams.
//!
//! ```text
//! 0 ────────── front ─────────────────────────────────────────── total
//!   in the file │ lead ▸      │ piece ▸ │ done │ piece ▸ │ nobody's
//! ```
//! The lead is the stream that the front moves with: clients wait for it. While it is alone it runs on to the end of what is
//! missing; when there may be another, it is told to stop at the next boundary, and the other takes what lies beyond.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pieces beyond the front that may be asked for, for each stream: what one slow stream does not hold up.
const WINDOW_PIECES: u64 = 2;

/// What nobody has asked for yet, or has given back.
#[derive(Debug)]
pub(super) struct Plan {
    piece_bytes: u64,
    window_bytes: u64,
    /// Missing parts that are nobody's, start → end: disjoint, none touches another.
    missing: BTreeMap<u64, u64>,
}

impl Plan {
    /// Everything from `from` on is missing.
    pub fn new(from: u64, total_bytes: u64, piece_bytes: u64, parallel: usize) -> Self {
        let piece_bytes = piece_bytes.max(1);
        let window_bytes = piece_bytes.saturating_mul(WINDOW_PIECES).saturating_mul(parallel as u64);
        let mut plan = Self { piece_bytes, window_bytes, missing: BTreeMap::new() };
        plan.give_back(from..total_bytes);
        plan
    }

    /// The first part that is nobody's, as far as it goes: for a stream that is alone.
    pub fn take_rest(&mut self) -> Option<Range<u64>> {
        let (start, end) = self.missing.pop_first()?;
        Some(start..end)
    }

    /// The next piece for a further stream: the nearest to the front, which is not too far ahead of it.
    pub fn take_piece(&mut self, front: u64) -> Option<Range<u64>> {
        let part = self.next_piece(front)?;
        let end = self.missing.remove(&part.start)?;
        self.give_back(part.end..end);
        Some(part)
    }

    /// Is there such a piece?
    pub fn has_piece(&self, front: u64) -> bool {
        self.next_piece(front).is_some()
    }

    /// Where a stream at `position`, which goes on to `end`, should stop so that another can have the rest. `None` if there is
    /// too little left for two.
    pub fn boundary(&self, position: u64, end: u64) -> Option<u64> {
        let next = (position / self.piece_bytes + 1).saturating_mul(self.piece_bytes);
        // Not right in front of it: the other would hardly have begun.
        let boundary =
            if next - position < self.piece_bytes / 2 { next.saturating_add(self.piece_bytes) } else { next };
        (boundary.saturating_add(self.piece_bytes / 2) < end).then_some(boundary)
    }

    /// The piece that begins at a boundary.
    pub fn piece_at(&self, start: u64, end: u64) -> Range<u64> {
        start..end.min(self.boundary_after(start))
    }

    /// A part that was asked for did not come, or is not to come from who had it.
    pub fn give_back(&mut self, part: Range<u64>) {
        let Range { mut start, mut end } = part;
        if start >= end {
            return;
        }
        if let Some((before, _)) = self.missing.range(..start).next_back().filter(|(_, other_end)| **other_end == start)
        {
            start = *before;
        }
        if let Some(after) = self.missing.remove(&end) {
            end = after;
        }
        self.missing.insert(start, end);
    }

    fn next_piece(&self, front: u64) -> Option<Range<u64>> {
        let (start, end) = self.missing.first_key_value().map(|(start, end)| (*start, *end))?;
        (start < front.saturating_add(self.window_bytes)).then(|| self.piece_at(start, end))
    }

    fn boundary_after(&self, position: u64) -> u64 {
        (position / self.piece_bytes + 1).saturating_mul(self.piece_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_end_at_boundaries_and_come_in_order() {
        let mut plan = Plan::new(3, 100, 10, 4);
        assert_eq!(plan.take_piece(3), Some(3..10));
        assert_eq!(plan.take_piece(3), Some(10..20));
        plan.give_back(5..10);
        assert_eq!(plan.take_piece(5), Some(5..10), "what is nearest to the front goes first");
        plan.give_back(12..20);
        assert_eq!(plan.take_rest(), Some(12..100), "who is alone takes all that is left in one");
        assert_eq!(plan.take_rest(), None);
    }

    #[test]
    fn nobody_runs_too_far_ahead_of_the_front() {
        let mut plan = Plan::new(0, 1000, 10, 2);
        let taken: Vec<u64> = std::iter::from_fn(|| plan.take_piece(0)).map(|part| part.start).collect();
        assert_eq!(taken, [0, 10, 20, 30]);
        assert!(!plan.has_piece(0));
        assert!(plan.has_piece(1));
    }

    #[test]
    fn a_stream_is_cut_at_a_boundary_that_leaves_enough_for_both() {
        let plan = Plan::new(0, 100, 10, 4);
        assert_eq!(plan.boundary(0, 100), Some(10));
        assert_eq!(plan.boundary(5, 100), Some(10));
        assert_eq!(plan.boundary(6, 100), Some(20), "the other would hardly have begun");
        assert_eq!(plan.boundary(0, 20), Some(10));
        assert_eq!(plan.boundary(0, 15), None);
        assert_eq!(plan.boundary(95, 100), None);
        assert_eq!(plan.piece_at(10, 100), 10..20);
        assert_eq!(plan.piece_at(90, 95), 90..95);
    }

    proptest! {
        /// Whatever is taken and given back, nothing is taken twice at a time and everything is taken in the end.
        #[test]
        fn every_byte_is_asked_for_and_none_by_two(
            total in 1u64..300, piece in 1u64..50, steps in prop::collection::vec((0u8..3, 0u64..100), 0..100)
        ) {
            let mut plan = Plan::new(0, total, piece, 2);
            let mut held: Vec<Range<u64>> = vec![];
            let mut done = vec![false; usize::try_from(total).unwrap()];
            let front = |done: &[bool]| done.iter().position(|done| !done).unwrap_or(done.len()) as u64;
            for (step, share) in steps {
                match step {
                    0 => held.extend(plan.take_piece(front(&done))),
                    1 => if held.is_empty() { held.extend(plan.take_rest()); },
                    _ => if let Some(part) = held.pop() {
                        let came = part.start + (part.end - part.start) * share / 100;
                        (part.start..came).for_each(|at| done[usize::try_from(at).unwrap()] = true);
                        plan.give_back(came..part.end);
                    },
                }
                let mut flags = done.clone();
                for at in held.iter().cloned().flatten() {
                    prop_assert!(!std::mem::replace(&mut flags[usize::try_from(at).unwrap()], true), "{} twice", at);
                }
            }
            for part in held.drain(..) {
                plan.give_back(part);
            }
            while let Some(part) = plan.take_rest() {
                part.for_each(|at| done[usize::try_from(at).unwrap()] = true);
            }
            prop_assert!(done.iter().all(|done| *done));
        }
    }
}
