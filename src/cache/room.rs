//! Room on the disk: acts on what the ledger decides, so that every byte is promised before it is written.
//!
//! Eviction is three durable steps: the row says `deleting` (invisible from then on), the bytes go, the row says `absent`.
//! A crash in between leaves a `deleting` row, which start-up finishes.

mod quarantine;

pub use quarantine::Verified;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::MutexGuard as AsyncGuard;
use tracing::{info, warn};

use super::Error;
use super::flights::to_the_end;
use super::space::{Candidate, Class, Holding, Ledger, Limits, Sums, Verdict};
use crate::blobs::{Blobs, Standing};
use crate::clock::Clock;
use crate::metadata::{BlobRow, Metadata};
use crate::metrics::Metrics;
use crate::oci::Digest;
use crate::report::Chain;

/// Cached blobs looked at per round of eviction.
const CANDIDATES_MAX: usize = 256;
/// Locks that keep the naming of a blob and its removal apart; more only makes waiting for a stranger rarer.
const NAMING_LOCKS: usize = 64;

/// The disk of one store. Shared by fills, uploads and readers.
#[derive(Debug)]
pub struct Room {
    ledger: Mutex<Ledger>,
    metadata: Metadata,
    blobs: Blobs,
    metrics: Metrics,
    clock: Clock,
    min_free_bytes: u64,
    quarantine_max_bytes: u64,
    /// Whoever counts what lies in quarantine counts it alone.
    quarantining: tokio::sync::Mutex<()>,
    /// One eviction at a time: two would choose the same victims.
    evicting: tokio::sync::Mutex<()>,
    /// Held from a rename to the row that makes it visible, and from a `deleting` row to the bytes' removal, so that a
    /// removal never takes the file that a commit has just put in the removed one's place.
    naming: Vec<tokio::sync::Mutex<()>>,
}

impl Room {
    /// The room of a store: finishes the removals that a crash left, and counts what is there.
    pub async fn open(
        metadata: Metadata,
        blobs: Blobs,
        limits: Limits,
        min_free_bytes: u64,
        quarantine_max_bytes: u64,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let totals = metadata.totals().await?;
        let mut ledger = Ledger::new(limits, totals.cached_bytes, totals.pushed_bytes, totals.deleting_bytes);
        for partial in blobs.store().list_partial_fills().map_err(crate::blobs::Error::Storage)? {
            ledger.add_partial(partial.digest, partial.stored_bytes);
        }
        ledger.set_index(blobs.store().index_bytes());
        let room = Self {
            ledger: Mutex::new(ledger),
            metadata,
            blobs,
            metrics,
            clock,
            min_free_bytes,
            quarantine_max_bytes,
            quarantining: tokio::sync::Mutex::default(),
            evicting: tokio::sync::Mutex::default(),
            naming: (0..NAMING_LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
        };
        room.finish_deletes().await?;
        room.settle_quarantine().await?;
        room.report();
        Ok(Arc::new(room))
    }

    /// Reserves space, evicting cached content if need be. The space is given back when the reservation is dropped.
    pub async fn reserve(self: &Arc<Self>, class: Class, bytes: u64) -> Result<Reservation, Error> {
        self.take(class, bytes).await
    }

    /// Counts space that is taken already, whatever the limits say: what an earlier process left.
    pub fn adopt(self: &Arc<Self>, class: Class, bytes: u64) -> Reservation {
        self.ledger().adopt(class, bytes);
        self.granted(class, bytes)
    }

    /// Keeps a blob from being evicted while the pin lives.
    pub fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        let standing = self.ledger().pin(digest);
        Pin { room: Arc::clone(self), digest, standing }
    }

    /// Notes that a blob was read.
    pub fn touch(&self, digest: Digest) {
        let now_ms = self.clock.now_ms();
        self.ledger().touch(digest, now_ms);
    }

    /// Moves the noted reads to the index. A crash before this forgets them: the order of eviction is a little older.
    pub async fn flush_touches(&self) -> Result<(), Error> {
        let touches = self.ledger().take_touches();
        if !touches.is_empty() {
            self.metadata.touch(&touches).await?;
        }
        Ok(())
    }

    /// How many noted reads wait for [`Room::flush_touches`].
    pub fn n_touches(&self) -> usize {
        self.ledger().n_touches()
    }

    /// To be held from before a blob gets its name until the index says that it is there.
    pub async fn naming(&self, digest: &Digest) -> AsyncGuard<'_, ()> {
        self.naming[naming_slot(digest)].lock().await
    }

    /// The index says that a blob changed: it was committed, or what was cached is now pushed.
    pub fn change(&self, before: Option<Holding>, after: Holding) {
        self.ledger().change(before, after);
    }

    /// A fill takes over the partial file that an earlier one left, if there is one, with the space it takes.
    pub fn adopt_partial(self: &Arc<Self>, digest: Digest) -> Reservation {
        let bytes = self.ledger().adopt_partial(&digest);
        Reservation { room: Arc::clone(self), class: Class::Cached, bytes }
    }

    /// How many blobs are kept from being evicted.
    pub fn n_pins(&self) -> usize {
        self.ledger().n_pins()
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.ledger().limits()
    }

    /// The sums as they stand.
    pub fn sums(&self) -> Sums {
        self.ledger().sums()
    }

    /// Measures what is not counted by event, and exports everything.
    pub fn report(&self) {
        let index_bytes = self.blobs.store().index_bytes();
        let (sums, limits) = {
            let mut ledger = self.ledger();
            ledger.set_index(index_bytes);
            (ledger.sums(), ledger.limits())
        };
        let kinds = [
            ("cached", sums.cached),
            ("partial", sums.partial),
            ("filling", sums.filling),
            ("deleting", sums.deleting),
            ("pushed", sums.pushed),
            ("uploading", sums.uploading),
            ("quarantined", sums.quarantined),
            ("index", sums.index),
        ];
        for (kind, bytes) in kinds {
            self.metrics.space(kind, bytes);
        }
        self.metrics.limit("cache_max_bytes", limits.cache_max_bytes);
        self.metrics.limit("store_max_bytes", limits.store_max_bytes);
        self.metrics.limit("min_free_bytes", self.min_free_bytes);
        self.metrics.limit("quarantine_max_bytes", self.quarantine_max_bytes);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, class: Class, bytes: u64) -> Result<Reservation, Error> {
        match self.verdict(class, bytes)? {
            Verdict::Granted => Ok(self.granted(class, bytes)),
            Verdict::NoRoom => Err(Error::NoRoom { bytes }),
            Verdict::Evict { .. } => {
                let room = Arc::clone(self);
                // If the client leaves meanwhile, the reservation is dropped with the answer nobody waits for.
                to_the_end(async move { room.evict_and_take(class, bytes).await }).await.unwrap_or(Err(Error::Stopped))
            }
        }
    }

    async fn evict_and_take(self: &Arc<Self>, class: Class, bytes: u64) -> Result<Reservation, Error> {
        loop {
            let _alone = self.evicting.lock().await;
            // Whoever evicted while we waited may have made room for us too.
            match self.verdict(class, bytes)? {
                Verdict::Granted => return Ok(self.granted(class, bytes)),
                Verdict::Evict { bytes: excess }
                    if self.is_evictable(excess).await? && self.evict(excess).await? > 0 => {}
                _ => return Err(Error::NoRoom { bytes }),
            }
        }
    }

    fn granted(self: &Arc<Self>, class: Class, bytes: u64) -> Reservation {
        Reservation { room: Arc::clone(self), class, bytes }
    }

    /// The ledger's verdict, and the file system's: `min_free` bytes of it stay free for others.
    fn verdict(&self, class: Class, bytes: u64) -> Result<Verdict, Error> {
        let short_bytes = if self.min_free_bytes == 0 || bytes == 0 {
            0
        } else {
            let free_bytes = self.blobs.store().file_system().map_err(crate::blobs::Error::Storage)?.free_bytes;
            bytes.saturating_add(self.min_free_bytes).saturating_sub(free_bytes)
        };
        let mut ledger = self.ledger();
        if short_bytes == 0 {
            return Ok(ledger.reserve(class, bytes));
        }
        let sums = ledger.sums();
        Ok(if sums.cached + sums.partial == 0 { Verdict::NoRoom } else { Verdict::Evict { bytes: short_bytes } })
    }

    /// Can so much be freed? What is held open counts as cached but does not go, and nothing is to go in vain.
    async fn is_evictable(&self, bytes: u64) -> Result<bool, Error> {
        let mut evictable_bytes = self.ledger().sums().partial;
        let mut after = None;
        while evictable_bytes < bytes {
            let rows = self.metadata.oldest_cached(CANDIDATES_MAX, after).await?;
            let Some(last) = rows.last() else { return Ok(false) };
            after = Some((last.accessed_ms, last.digest));
            let ledger = self.ledger();
            let free = rows.iter().filter(|row| !ledger.is_pinned(&row.digest));
            evictable_bytes += free.map(|row| row.stored_bytes).sum::<u64>();
        }
        Ok(true)
    }

    /// Frees at least `bytes` if it can; returns how many it freed.
    async fn evict(&self, bytes: u64) -> Result<u64, Error> {
        let mut freed_bytes = self.evict_partial(bytes).await?;
        let mut after = None;
        while freed_bytes < bytes {
            let rows = self.metadata.oldest_cached(CANDIDATES_MAX, after).await?;
            let Some(last) = rows.last() else { break };
            after = Some((last.accessed_ms, last.digest));
            freed_bytes += self.evict_among(&rows, bytes - freed_bytes).await?;
        }
        Ok(freed_bytes)
    }

    /// Fills that nobody continues go first: nobody can read them.
    async fn evict_partial(&self, bytes: u64) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        while freed_bytes < bytes {
            let Some(digest) = self.ledger().any_partial() else { break };
            let _named = self.naming(&digest).await;
            // A fill may have adopted it while we waited for its name.
            if !self.ledger().has_partial(&digest) {
                continue;
            }
            self.blobs.remove_fill(digest).await?;
            freed_bytes += self.ledger().take_partial(&digest);
        }
        Ok(freed_bytes)
    }

    async fn evict_among(&self, rows: &[BlobRow], bytes: u64) -> Result<u64, Error> {
        let candidates: Vec<Candidate> = rows
            .iter()
            .map(|row| Candidate { digest: row.digest, stored_bytes: row.stored_bytes, accessed_ms: row.accessed_ms })
            .collect();
        let mut victims = self.ledger().victims(&candidates, bytes);
        // Never waits for a lock while holding others; a blob that is being named right now is no victim anyway.
        let mut held = BTreeMap::new();
        victims.retain(|digest| {
            let slot = naming_slot(digest);
            if let Entry::Vacant(vacant) = held.entry(slot)
                && let Ok(guard) = self.naming[slot].try_lock()
            {
                vacant.insert(guard);
            }
            held.contains_key(&slot)
        });
        let marked = self.metadata.mark_deleting(&victims).await?;
        let mut freed_bytes = 0;
        for row in marked {
            match self.remove(&row).await {
                Ok(freed) => freed_bytes += freed,
                // Its row says `deleting` and its bytes still count; the next start tries again.
                Err(error) => warn!(digest = %row.digest, error = %Chain(&error), "removing an evicted blob failed"),
            }
        }
        Ok(freed_bytes)
    }

    /// The second and third step for one victim whose row says `deleting`.
    async fn remove(&self, row: &BlobRow) -> Result<u64, Error> {
        let reopened = {
            let mut ledger = self.ledger();
            ledger.begin_delete(row.stored_bytes);
            ledger.is_pinned(&row.digest)
        };
        if reopened {
            // Somebody found the row before it was marked and may be about to open the file.
            self.metadata.unmark_deleting(&row.digest).await?;
            self.ledger().cancel_delete(row.stored_bytes);
            return Ok(0);
        }
        self.blobs.remove(row.digest).await?;
        self.metadata.mark_absent(&[row.digest]).await?;
        self.ledger().finish_delete(row.stored_bytes);
        self.metrics.evicted_blobs.increment(1);
        self.metrics.evicted_bytes.increment(row.stored_bytes);
        info!(digest = %row.digest, stored_bytes = row.stored_bytes, "evicted");
        Ok(row.stored_bytes)
    }

    /// What a crash left between the steps of a removal.
    async fn finish_deletes(&self) -> Result<(), Error> {
        for row in self.metadata.list_deleting().await? {
            self.blobs.remove(row.digest).await?;
            self.metadata.mark_absent(&[row.digest]).await?;
            self.ledger().finish_delete(row.stored_bytes);
        }
        Ok(())
    }
}

/// Which of the naming locks is a blob's.
fn naming_slot(digest: &Digest) -> usize {
    let mut hasher = DefaultHasher::new();
    digest.hash(&mut hasher);
    usize::try_from(hasher.finish() % NAMING_LOCKS as u64).unwrap_or(0)
}

/// Space that is promised. Dropping it gives the space back.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    class: Class,
    bytes: u64,
}

impl Reservation {
    /// A promise of nothing, to be grown.
    pub fn none(room: &Arc<Room>, class: Class) -> Self {
        Self { room: Arc::clone(room), class, bytes: 0 }
    }

    /// What it is promised for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// How much is promised, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Promises more.
    pub async fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let more = self.room.take(self.class, bytes).await?;
        self.absorb(more);
        Ok(())
    }

    /// Takes another promise over.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(self.class == other.class, "promises of one class are added");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Hands the promise on and keeps none.
    #[must_use]
    pub fn split_off(&mut self) -> Self {
        Self { room: Arc::clone(&self.room), class: self.class, bytes: std::mem::take(&mut self.bytes) }
    }

    /// The bytes were committed: the promise ends and the blob counts instead.
    pub fn admit(mut self, before: Option<Holding>, after: Holding) {
        let mut ledger = self.room.ledger();
        ledger.release(self.class, self.bytes);
        ledger.change(before, after);
        drop(ledger);
        self.bytes = 0;
    }

    /// The file stays without having become a blob: the promise ends and the partial fill counts instead.
    pub fn leave_partial(mut self, digest: Digest, stored_bytes: u64) {
        let mut ledger = self.room.ledger();
        ledger.release(self.class, self.bytes);
        ledger.add_partial(digest, stored_bytes);
        drop(ledger);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.ledger().release(self.class, self.bytes);
        }
    }
}

/// Keeps a blob from being evicted.
#[derive(Debug)]
pub struct Pin {
    room: Arc<Room>,
    digest: Digest,
    standing: Standing,
}

impl Pin {
    /// What tells its holder that the blob's bytes turned out to be wrong.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.room.ledger().unpin(&self.digest);
    }
}
