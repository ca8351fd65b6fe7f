//! Which bytes of a file are written: everything before the front, and some parts beyond it. Pure.

use std::collections::BTreeMap;

/// How far a file has come that is written in several places at once.
#[derive(Debug, Default)]
pub(super) struct Front {
    bytes: u64,
    /// Parts beyond the front, start → end: disjoint, none touches another or the front.
    ahead: BTreeMap<u64, u64>,
}

impl Front {
    pub fn new(bytes: u64) -> Self {
        Self { bytes, ahead: BTreeMap::new() }
    }

    /// Every byte before this offset is written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes from `start` to before `end` are written too. Returns whether the front moved.
    pub fn written(&mut self, mut start: u64, mut end: u64) -> bool {
        let overlapping = |ahead: &BTreeMap<u64, u64>, start: u64, end: u64| {
            ahead.range(..=end).next_back().filter(|(_, other_end)| **other_end >= start).map(|(key, end)| (*key, *end))
        };
        while let Some((other_start, other_end)) = overlapping(&self.ahead, start, end) {
            self.ahead.remove(&other_start);
            (start, end) = (start.min(other_start), end.max(other_end));
        }
        if start > self.bytes {
            self.ahead.insert(start, end);
            return false;
        }
        let moved = end > self.bytes;
        self.bytes = self.bytes.max(end);
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_front_passes_what_was_written_ahead_of_it() {
        let mut front = Front::new(10);
        assert!(!front.written(20, 30));
        assert!(!front.written(30, 35));
        assert!(!front.written(50, 60));
        assert!(front.written(10, 15));
        assert_eq!(front.bytes(), 15);
        assert!(front.written(15, 20));
        assert_eq!(front.bytes(), 35);
        assert!(front.written(35, 50));
        assert_eq!(front.bytes(), 60);
        assert!(!front.written(0, 60));
    }

    proptest! {
        /// The model: a flag for every byte.
        #[test]
        fn the_front_is_the_first_byte_that_is_not_written(parts in prop::collection::vec((0u64..100, 1u64..30), 0..40)) {
            let mut front = Front::new(0);
            let mut flags = [false; 130];
            for (start, length) in parts {
                let before = front.bytes();
                let moved = front.written(start, start + length);
                (start..start + length).for_each(|at| flags[usize::try_from(at).unwrap()] = true);
                let first = flags.iter().position(|written| !written).unwrap_or(flags.len()) as u64;
                prop_assert_eq!(front.bytes(), first);
                prop_assert_eq!(moved, front.bytes() > before);
            }
        }
    }
}
