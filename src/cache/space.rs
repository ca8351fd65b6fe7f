//! The ledger of the disk: who has how many bytes, who may have more, and who has to go. No IO, no clock, no async.
//!
//! It counts allocated blocks. `cached + partial + filling + deleting ≤ cache_max` and the sum of everything ≤ `store_max`
//! hold after every reservation: bytes are promised here before the first of them is written, and given back only when the
//! file system has them again. What a store already holds when its limits are lowered counts, and keeps others out.

use std::collections::HashMap;

use crate::blobs::Standing;
use crate::metadata::BlobRow;
use crate::oci::Digest;

/// Smallest unit in which file systems hand out space.
const BLOCK_BYTES: u64 = 4096;

/// The two bounds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of everything that came from upstreams.
    pub cache_max_bytes: u64,
    /// Of everything in the store.
    pub store_max_bytes: u64,
}

/// What space is reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Content fetched from an upstream: may be evicted.
    Cached,
    /// Content pushed here: stays.
    Pushed,
}

/// The answer to a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are reserved.
    Granted,
    /// Nothing is reserved; with so many bytes of cached content less it could be.
    Evict {
        /// How many bytes have to go.
        bytes: u64,
    },
    /// Nothing is reserved; no eviction would make room.
    NoRoom,
}

/// Disk space of a blob as the index knows it, in bytes, and whether it counts as pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Disk space.
    pub stored_bytes: u64,
    /// Pushed content is never evicted.
    pub pushed: bool,
}

impl Holding {
    /// What a row of the index holds of the disk; nothing unless its bytes are there.
    pub fn of(row: &BlobRow) -> Option<Self> {
        row.is_present().then_some(Self { stored_bytes: row.stored_bytes, pushed: row.pushed })
    }
}

/// A cached blob that might be evicted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub digest: Digest,
    /// Disk space that its removal frees, in bytes.
    pub stored_bytes: u64,
    /// When it was last read as far as the index knows, Unix milliseconds.
    pub accessed_ms: i64,
}

/// Sums by what the space is for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Committed blobs from upstreams.
    pub cached: u64,
    /// Fills that wait to be continued.
    pub partial: u64,
    /// Promised to running fills.
    pub filling: u64,
    /// Invisible already, but not yet off the disk.
    pub deleting: u64,
    /// Committed blobs that were pushed.
    pub pushed: u64,
    /// Promised to uploads.
    pub uploading: u64,
    /// Bytes found damaged and set aside.
    pub quarantined: u64,
    /// The index.
    pub index: u64,
}

impl Sums {
    /// What counts against `cache_max`.
    pub const fn of_cache(&self) -> u64 {
        self.cached + self.partial + self.filling + self.deleting
    }

    /// What counts against `store_max`.
    pub const fn of_store(&self) -> u64 {
        self.of_cache() + self.pushed + self.uploading + self.quarantined + self.index
    }
}

/// A blob that is held open.
#[derive(Debug, Default)]
struct Pinned {
    holders: u32,
    /// What those who hold it open now are told by.
    standing: Standing,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    sums: Sums,
    partial: HashMap<Digest, u64>,
    pins: HashMap<Digest, Pinned>,
    touches: HashMap<Digest, i64>,
}

impl Ledger {
    /// A ledger over what the store holds at start.
    pub fn new(limits: Limits, cached: u64, pushed: u64, deleting: u64) -> Self {
        let sums = Sums { cached, deleting, pushed, ..Sums::default() };
        Self { limits, sums, partial: HashMap::new(), pins: HashMap::new(), touches: HashMap::new() }
    }

    /// The sums as they stand.
    pub const fn sums(&self) -> Sums {
        self.sums
    }

    /// The bounds.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Reserves space, or says what would have to go first.
    pub fn reserve(&mut self, class: Class, bytes: u64) -> Verdict {
        let over = |held: u64, limit: u64| held.saturating_add(bytes).saturating_sub(limit);
        let over_store = over(self.sums.of_store(), self.limits.store_max_bytes);
        let over_cache = match class {
            Class::Cached => over(self.sums.of_cache(), self.limits.cache_max_bytes),
            Class::Pushed => 0,
        };
        let excess = over_store.max(over_cache);
        if excess == 0 {
            *self.reserved(class) += bytes;
            Verdict::Granted
        } else if excess <= self.sums.cached + self.sums.partial + self.sums.deleting {
            Verdict::Evict { bytes: excess }
        } else {
            Verdict::NoRoom
        }
    }

    /// Counts space as reserved that is taken already, whatever the limits say.
    pub fn adopt(&mut self, class: Class, bytes: u64) {
        *self.reserved(class) += bytes;
    }

    /// Gives reserved space back.
    pub fn release(&mut self, class: Class, bytes: u64) {
        take(self.reserved(class), bytes);
    }

    /// The index says that a blob changed: it was committed, or what was cached is now pushed.
    pub fn change(&mut self, before: Option<Holding>, after: Holding) {
        if let Some(before) = before {
            take(self.held(before.pushed), before.stored_bytes);
        }
        *self.held(after.pushed) += after.stored_bytes;
    }

    /// A cached blob became invisible; its bytes are still on the disk.
    pub fn begin_delete(&mut self, stored_bytes: u64) {
        take(&mut self.sums.cached, stored_bytes);
        self.sums.deleting += stored_bytes;
    }

    /// It became visible again, because somebody opened it just before.
    pub fn cancel_delete(&mut self, stored_bytes: u64) {
        take(&mut self.sums.deleting, stored_bytes);
        self.sums.cached += stored_bytes;
    }

    /// Its bytes are off the disk.
    pub fn finish_delete(&mut self, stored_bytes: u64) {
        take(&mut self.sums.deleting, stored_bytes);
    }

    /// A fill ended early and its file stays to be continued.
    pub fn add_partial(&mut self, digest: Digest, stored_bytes: u64) {
        self.sums.partial += stored_bytes;
        if let Some(before) = self.partial.insert(digest, stored_bytes) {
            take(&mut self.sums.partial, before);
        }
    }

    /// A partial fill's file is removed. Returns the disk space it took, in bytes.
    pub fn take_partial(&mut self, digest: &Digest) -> u64 {
        let stored_bytes = self.partial.remove(digest).unwrap_or(0);
        take(&mut self.sums.partial, stored_bytes);
        stored_bytes
    }

    /// A partial fill is continued: the space it takes counts as promised from now on. Returns how much that is, in bytes.
    pub fn adopt_partial(&mut self, digest: &Digest) -> u64 {
        let stored_bytes = self.take_partial(digest);
        self.sums.filling += stored_bytes;
        stored_bytes
    }

    /// Is there a partial fill of this blob?
    pub fn has_partial(&self, digest: &Digest) -> bool {
        self.partial.contains_key(digest)
    }

    /// Any partial fill that nobody continues: the first to go when room is needed.
    pub fn any_partial(&self) -> Option<Digest> {
        self.partial.keys().next().copied()
    }

    /// Space of the index, measured.
    pub fn set_index(&mut self, bytes: u64) {
        self.sums.index = bytes;
    }

    /// Bytes set aside or removed from there, as they are now.
    pub fn set_quarantined(&mut self, bytes: u64) {
        self.sums.quarantined = bytes;
    }

    /// A blob's bytes were set aside: they are no blob any more, but take as much space as before.
    pub fn quarantine(&mut self, held: Holding, quarantined_bytes: u64) {
        take(self.held(held.pushed), held.stored_bytes);
        self.sums.quarantined += quarantined_bytes;
    }

    /// Keeps a blob from being evicted until it is unpinned as often. Returns what its holder is told by should its bytes
    /// turn out to be wrong.
    pub fn pin(&mut self, digest: Digest) -> Standing {
        let pinned = self.pins.entry(digest).or_default();
        pinned.holders += 1;
        pinned.standing.clone()
    }

    /// Tells everybody who holds a blob open that its bytes are wrong. Who pins it from now on is not concerned.
    pub fn condemn(&mut self, digest: &Digest) {
        if let Some(pinned) = self.pins.get_mut(digest) {
            std::mem::take(&mut pinned.standing).condemn();
        }
    }

    /// Takes one pin off.
    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(pinned) = self.pins.get_mut(digest) {
            pinned.holders -= 1;
            if pinned.holders == 0 {
                self.pins.remove(digest);
            }
        }
    }

    /// Is it held open by anybody?
    pub fn is_pinned(&self, digest: &Digest) -> bool {
        self.pins.contains_key(digest)
    }

    /// How many blobs are held open.
    pub fn n_pins(&self) -> usize {
        self.pins.len()
    }

    /// A blob was read. Kept here until [`Ledger::take_touches`] moves it to the index.
    pub fn touch(&mut self, digest: Digest, now_ms: i64) {
        self.touches.insert(digest, now_ms);
    }

    /// The reads since the last call, for the index.
    pub fn take_touches(&mut self) -> Vec<(Digest, i64)> {
        self.touches.drain().collect()
    }

    /// How many reads wait to be taken.
    pub fn n_touches(&self) -> usize {
        self.touches.len()
    }

    /// Chooses from candidates, given oldest first, who has to go so that `bytes` become free: never the pinned, the
    /// longest unread first, as few as suffice.
    pub fn victims(&self, candidates: &[Candidate], bytes: u64) -> Vec<Digest> {
        let last_read = |candidate: &Candidate| {
            self.touches.get(&candidate.digest).copied().unwrap_or(i64::MIN).max(candidate.accessed_ms)
        };
        let mut free: Vec<&Candidate> = candidates.iter().filter(|c| !self.is_pinned(&c.digest)).collect();
        free.sort_by_key(|candidate| last_read(candidate));
        let mut freed = 0u64;
        let needed = free.into_iter().take_while(|candidate| {
            let wanted = freed < bytes;
            freed = freed.saturating_add(candidate.stored_bytes);
            wanted
        });
        needed.map(|candidate| candidate.digest).collect()
    }

    fn reserved(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Cached => &mut self.sums.filling,
            Class::Pushed => &mut self.sums.uploading,
        }
    }

    fn held(&mut self, pushed: bool) -> &mut u64 {
        if pushed { &mut self.sums.pushed } else { &mut self.sums.cached }
    }
}

/// Disk space that a file of this length takes, in bytes, rounded to blocks, with one for what the file system adds.
pub const fn blocks_for(length_bytes: u64) -> u64 {
    length_bytes.div_ceil(BLOCK_BYTES).saturating_add(1).saturating_mul(BLOCK_BYTES)
}

/// A sum never goes below zero in a correct program; where it would, an incorrect one keeps serving and says so in debug.
fn take(sum: &mut u64, bytes: u64) {
    debug_assert!(*sum >= bytes, "the ledger gives back {bytes} bytes of {sum}");
    *sum = sum.saturating_sub(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn ledger(cache_max_bytes: u64, store_max_bytes: u64) -> Ledger {
        Ledger::new(Limits { cache_max_bytes, store_max_bytes }, 0, 0, 0)
    }

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    #[test]
    fn a_reservation_over_the_bound_names_what_has_to_go() {
        let mut ledger = ledger(100, 1000);
        assert_eq!(ledger.reserve(Class::Cached, 80), Verdict::Granted);
        ledger.release(Class::Cached, 80);
        ledger.change(None, Holding { stored_bytes: 80, pushed: false });
        assert_eq!(ledger.reserve(Class::Cached, 50), Verdict::Evict { bytes: 30 });
        assert_eq!(ledger.reserve(Class::Cached, 101), Verdict::NoRoom);
        ledger.begin_delete(80);
        assert_eq!(ledger.reserve(Class::Cached, 50), Verdict::Evict { bytes: 30 }, "bytes count until they are gone");
        ledger.finish_delete(80);
        assert_eq!(ledger.reserve(Class::Cached, 50), Verdict::Granted);
    }

    #[test]
    fn pushes_take_room_from_the_cache_but_the_cache_never_from_pushes() {
        let mut ledger = ledger(100, 100);
        ledger.change(None, Holding { stored_bytes: 60, pushed: true });
        ledger.change(None, Holding { stored_bytes: 40, pushed: false });
        assert_eq!(ledger.reserve(Class::Pushed, 40), Verdict::Evict { bytes: 40 });
        assert_eq!(ledger.reserve(Class::Pushed, 41), Verdict::NoRoom);
        assert_eq!(ledger.reserve(Class::Cached, 41), Verdict::NoRoom);
    }

    #[test]
    fn a_cached_blob_that_is_pushed_changes_sides_once() {
        let mut ledger = ledger(100, 100);
        let cached = Holding { stored_bytes: 40, pushed: false };
        ledger.change(None, cached);
        ledger.change(Some(cached), Holding { pushed: true, ..cached });
        assert_eq!(ledger.sums(), Sums { pushed: 40, ..Sums::default() });
    }

    #[test]
    fn the_longest_unread_go_first_and_the_pinned_never() {
        let mut ledger = ledger(100, 100);
        let candidates: Vec<Candidate> =
            (1..=4).map(|n| Candidate { digest: digest(n), stored_bytes: 10, accessed_ms: i64::from(n) }).collect();
        ledger.pin(digest(1));
        ledger.touch(digest(2), 100);
        assert_eq!(ledger.victims(&candidates, 15), [digest(3), digest(4)]);
        assert_eq!(ledger.victims(&candidates, 1000), [digest(3), digest(4), digest(2)]);
        ledger.unpin(&digest(1));
        assert_eq!(ledger.victims(&candidates, 1), [digest(1)]);
        assert!(ledger.victims(&candidates, 0).is_empty());
    }

    #[test]
    fn a_partial_fill_counts_until_it_is_taken() {
        let mut ledger = ledger(100, 100);
        ledger.add_partial(digest(1), 70);
        ledger.add_partial(digest(1), 60);
        assert_eq!(ledger.sums().partial, 60);
        assert_eq!(ledger.reserve(Class::Cached, 50), Verdict::Evict { bytes: 10 });
        assert_eq!(ledger.take_partial(&digest(1)), 60);
        assert_eq!(ledger.take_partial(&digest(1)), 0);
        assert_eq!(ledger.sums(), Sums::default());
    }

    proptest! {
        /// A naive model: a list of what was granted and committed. The bounds hold after every step.
        #[test]
        fn the_bounds_hold_whatever_is_asked(steps in prop::collection::vec((0u8..4, 0u64..60), 0..200)) {
            let mut ledger = ledger(100, 150);
            let mut granted: Vec<(Class, u64)> = Vec::new();
            let mut cached: Vec<u64> = Vec::new();
            for (step, bytes) in steps {
                match step {
                    0 | 1 => {
                        let class = if step == 0 { Class::Cached } else { Class::Pushed };
                        if ledger.reserve(class, bytes) == Verdict::Granted {
                            granted.push((class, bytes));
                        }
                    }
                    2 => if let Some((class, bytes)) = granted.pop() {
                        ledger.release(class, bytes);
                        ledger.change(None, Holding { stored_bytes: bytes, pushed: class == Class::Pushed });
                        if class == Class::Cached { cached.push(bytes); }
                    },
                    _ => if let Some(bytes) = cached.pop() {
                        ledger.begin_delete(bytes);
                        ledger.finish_delete(bytes);
                    },
                }
                let filling: u64 = granted.iter().filter(|g| g.0 == Class::Cached).map(|g| g.1).sum();
                prop_assert_eq!(ledger.sums().of_cache(), filling + cached.iter().sum::<u64>());
                prop_assert!(ledger.sums().of_cache() <= 100);
                prop_assert!(ledger.sums().of_store() <= 150);
            }
        }
    }
}
