//! Room on the disk: acts on what the ledger decides, so that every byte is promised before it is written.

mod evict;
mod leftovers;
mod naming;
mod quarantine;
mod quota;
mod report;
mod reservation;
mod sweep;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::MutexGuard as AsyncGuard;

use self::naming::Naming;
use super::Error;
use super::flights::to_the_end;
use super::quotas::Quotas;
use super::space::{Class, Holding, Ledger, Limits, Sums, Verdict};
use crate::blobs::{self, Blobs};
use crate::clock::Clock;
use crate::fault;
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::near::Near;
use crate::oci::{Digest, RepositoryName};

pub use quarantine::Verified;
pub use quota::QuotaPromise;
pub use reservation::{Pin, Reservation};
pub(in crate::cache) use sweep::Batch;

/// Reads that all threads together remember to have noted.
const TOUCHED_MAX: usize = 16 * 1024;
/// The seconds since 1970, until the year 36812.
const SECONDS_BITS: u32 = 40;

/// The disk of one store. Shared by fills, uploads and readers.
#[derive(Debug)]
pub struct Room {
    ledger: Mutex<Ledger>,
    metadata: Metadata,
    blobs: Blobs,
    metrics: Metrics,
    clock: Clock,
    quarantine_max_bytes: u64,
    /// Whoever counts what lies in quarantine counts it alone.
    quarantining: tokio::sync::Mutex<()>,
    /// One eviction at a time: two would choose the same victims.
    evicting: tokio::sync::Mutex<()>,
    /// What pinned blobs of the cache take, when that was last measured.
    pinned_bytes: AtomicU64,
    naming: Naming,
    quotas: Quotas,
    /// What each thread noted lately, and in which second.
    touched: Near<Digest, ()>,
    /// How often what was noted was taken to the index.
    flushes: AtomicU64,
}

impl Room {
    /// The room of a store: finishes the removals that a crash left, and counts what is there. Limits that cannot hold are
    /// refused, and nothing is touched then.
    pub async fn open(
        metadata: Metadata,
        blobs: Blobs,
        limits: Limits,
        quotas: Quotas,
        quarantine_max_bytes: u64,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let totals = metadata.totals().await?;
        let store = blobs.store();
        let total_bytes = store.file_system().map_err(blobs::Error::Storage)?.total_bytes;
        limits.check(total_bytes, totals.pushed_bytes.saturating_add(store.index_bytes()))?;
        let mut ledger = Ledger::new(limits, totals.cached_bytes, totals.pushed_bytes, totals.deleting_bytes);
        for partial in store.list_partial_fills().map_err(blobs::Error::Storage)? {
            ledger.add_partial(partial.digest, partial.stored_bytes);
        }
        ledger.set_index(store.index_bytes());
        let room = Self {
            ledger: Mutex::new(ledger),
            metadata,
            blobs,
            metrics,
            clock,
            quarantine_max_bytes,
            quarantining: tokio::sync::Mutex::default(),
            evicting: tokio::sync::Mutex::default(),
            pinned_bytes: AtomicU64::new(0),
            naming: Naming::new(),
            quotas,
            touched: Near::new(TOUCHED_MAX),
            flushes: AtomicU64::new(0),
        };
        room.finish_leftovers().await?;
        room.settle_quarantine().await?;
        fault::point("start: removals finished");
        room.assign_quotas().await?;
        room.measure_pinned().await?;
        room.report();
        Ok(Arc::new(room))
    }

    /// Reserves space, evicting cached content if need be. The space is given back when the reservation is dropped.
    /// It also counts under the repository's quota, until the index counts what became of it.
    pub async fn reserve_for(
        self: &Arc<Self>,
        repo: &RepositoryName,
        class: Class,
        bytes: u64,
    ) -> Result<Reservation, Error> {
        let promise = self.promise_quota(repo, bytes).await?;
        Ok(self.take(class, bytes).await?.with(promise))
    }

    /// Counts space that is taken already, whatever the limits say: what an earlier process left.
    pub fn adopt(self: &Arc<Self>, class: Class, bytes: u64) -> Reservation {
        self.ledger().adopt(class, bytes);
        Reservation::written(self, class, bytes)
    }

    /// Keeps a blob from being evicted while the pin lives.
    pub fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        let standing = self.ledger().pin(digest);
        Pin::of(self, digest, standing)
    }

    /// Notes that a blob was read.
    pub fn touch(&self, digest: Digest) {
        let flushes = self.flushes.load(Ordering::Acquire);
        let now_ms = self.clock.now_ms();
        // The order of eviction within a second matters to nobody, so each thread notes what it reads over and over once in one.
        // After a flush it does so anew: whoever sweeps looks at what was read since.
        let moment = (now_ms.cast_unsigned() / 1000).wrapping_add(flushes << SECONDS_BITS);
        if self.touched.get(&digest, moment).is_none() {
            self.touched.put(digest, (), moment);
            self.ledger().touch(digest, now_ms);
        }
    }

    /// Moves the noted reads to the index. A crash before this forgets them: the order of eviction is a little older.
    pub async fn flush_touches(&self) -> Result<(), Error> {
        let touches = {
            let mut ledger = self.ledger();
            self.flushes.fetch_add(1, Ordering::Release);
            ledger.take_touches()
        };
        if !touches.is_empty() {
            let written = self.metadata.touch(&touches).await;
            if written.is_err() {
                // The next attempt has them too.
                self.ledger().return_touches(touches);
            }
            written?;
        }
        Ok(())
    }

    /// How many noted reads wait for [`Room::flush_touches`].
    pub fn n_touches(&self) -> usize {
        self.ledger().n_touches()
    }

    /// To be held from before a blob gets its name until the index says that it is there.
    pub async fn naming(&self, digest: &Digest) -> AsyncGuard<'_, ()> {
        self.naming.lock(digest).await
    }

    /// The index says that a blob changed: it was committed, or what was cached is now pushed.
    pub fn change(&self, before: Option<Holding>, after: Holding) {
        self.ledger().change(before, after);
    }

    /// A fill takes over the partial file that an earlier one left, if there is one, with the space it takes.
    pub fn adopt_partial(self: &Arc<Self>, digest: Digest) -> Reservation {
        let bytes = self.ledger().adopt_partial(&digest);
        Reservation::written(self, Class::Cached, bytes)
    }

    /// How many blobs are kept from being evicted.
    pub fn n_pins(&self) -> usize {
        self.ledger().n_pins()
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.ledger().limits()
    }

    /// What is promised and not given out by the file system yet, in bytes.
    pub fn unwritten_bytes(&self) -> u64 {
        self.ledger().unwritten_bytes()
    }

    /// The sums as they stand.
    pub fn sums(&self) -> Sums {
        self.ledger().sums()
    }

    /// Meets the bounds again where they were passed without anybody asking for space: the index has grown, or the bounds
    /// are lower than those of the last start.
    pub async fn keep_bounds(self: &Arc<Self>) -> Result<(), Error> {
        self.measure_index();
        if self.ledger().excess() == 0 {
            return Ok(());
        }
        let room = Arc::clone(self);
        let kept = to_the_end(async move {
            let _alone = room.evicting.lock().await;
            let excess = room.ledger().excess();
            room.evict(excess).await.map(|_| ())
        });
        kept.await.unwrap_or(Err(Error::Stopped))
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
        Reservation::promised(self, class, bytes)
    }

    /// The ledger's verdict on what the disk looks like at this moment.
    fn verdict(&self, class: Class, bytes: u64) -> Result<Verdict, Error> {
        self.measure_index();
        let mut ledger = self.ledger();
        let free_bytes = if ledger.limits().min_free_bytes == 0 {
            u64::MAX
        } else {
            // Asked under the lock: what is written meanwhile must not be missing on both sides.
            self.blobs.store().file_system().map_err(blobs::Error::Storage)?.free_bytes
        };
        Ok(ledger.reserve(class, bytes, free_bytes))
    }

    /// The index counts as it is: its log grows with every commit.
    fn measure_index(&self) {
        let index_bytes = self.blobs.store().index_bytes();
        self.ledger().set_index(index_bytes);
    }
}
