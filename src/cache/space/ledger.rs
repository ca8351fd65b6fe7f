//! The ledger itself: who has how many bytes, who may have more, and who has to go.

use std::collections::HashMap;

use super::{Candidate, Class, Holding, Limits, Sums, Verdict};
use crate::blobs::Standing;
use crate::oci::Digest;

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
    /// Of what is promised: bytes that the file system has not given out yet, as far as anybody has told.
    unwritten_bytes: u64,
    partial: HashMap<Digest, u64>,
    pins: HashMap<Digest, Pinned>,
    touches: HashMap<Digest, i64>,
}

impl Ledger {
    /// A ledger over what the store holds at start.
    pub fn new(limits: Limits, cached: u64, pushed: u64, deleting: u64) -> Self {
        let sums = Sums { cached, deleting, pushed, ..Sums::default() };
        Self {
            limits,
            sums,
            unwritten_bytes: 0,
            partial: HashMap::new(),
            pins: HashMap::new(),
            touches: HashMap::new(),
        }
    }

    /// The sums as they stand.
    pub const fn sums(&self) -> Sums {
        self.sums
    }

    /// The bounds.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Reserves space, or says what would have to go first. `free_bytes` is what the file system has free at this moment.
    pub fn reserve(&mut self, class: Class, bytes: u64, free_bytes: u64) -> Verdict {
        let over = |held: u64, limit: u64| held.saturating_add(bytes).saturating_sub(limit);
        let held = self.sums.of_store().saturating_add(self.limits.index_headroom_bytes());
        let over_store = over(held, self.limits.store_max_bytes);
        let over_cache = match class {
            Class::Cached => over(self.sums.of_cache(), self.limits.cache_max_bytes),
            Class::Pushed => 0,
        };
        let over_disk = if self.limits.min_free_bytes == 0 || bytes == 0 {
            0
        } else {
            over(self.unwritten_bytes.saturating_add(self.limits.min_free_bytes), free_bytes)
        };
        let excess = over_store.max(over_cache).max(over_disk);
        if excess == 0 {
            *self.reserved(class) += bytes;
            self.unwritten_bytes += bytes;
            Verdict::Granted
        } else if excess <= self.sums.cached + self.sums.partial + self.sums.deleting {
            Verdict::Evict { bytes: excess }
        } else {
            Verdict::NoRoom
        }
    }

    /// How many bytes are too many by the two bounds: the index grew, or the bounds are lower than those of the last start.
    pub fn excess(&self) -> u64 {
        let held = self.sums.of_store().saturating_add(self.limits.index_headroom_bytes());
        let over_store = held.saturating_sub(self.limits.store_max_bytes);
        over_store.max(self.sums.of_cache().saturating_sub(self.limits.cache_max_bytes))
    }

    /// So many bytes that were promised are given out by the file system now.
    pub fn written(&mut self, bytes: u64) {
        take(&mut self.unwritten_bytes, bytes);
    }

    /// What is promised and not given out by the file system yet, in bytes.
    pub const fn unwritten_bytes(&self) -> u64 {
        self.unwritten_bytes
    }

    /// Counts space as reserved that is taken already, whatever the limits say.
    pub fn adopt(&mut self, class: Class, bytes: u64) {
        *self.reserved(class) += bytes;
    }

    /// Gives reserved space back, of which so much was not written.
    pub fn release(&mut self, class: Class, bytes: u64, unwritten_bytes: u64) {
        take(self.reserved(class), bytes);
        self.written(unwritten_bytes);
    }

    /// The index says that a blob changed: it was committed, or what was cached is now pushed.
    pub fn change(&mut self, before: Option<Holding>, after: Holding) {
        if let Some(before) = before {
            take(self.held(before), before.stored_bytes);
        }
        *self.held(after) += after.stored_bytes;
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
        take(self.held(held), held.stored_bytes);
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

    fn held(&mut self, holding: Holding) -> &mut u64 {
        match holding {
            Holding { deleting: true, .. } => &mut self.sums.deleting,
            Holding { pushed: true, .. } => &mut self.sums.pushed,
            Holding { .. } => &mut self.sums.cached,
        }
    }
}

/// A sum never goes below zero in a correct program; where it would, an incorrect one keeps serving and says so in debug.
fn take(sum: &mut u64, bytes: u64) {
    debug_assert!(*sum >= bytes, "the ledger gives back {bytes} bytes of {sum}");
    *sum = sum.saturating_sub(bytes);
}
