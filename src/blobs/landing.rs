//! Where the bytes of one blob land: the file they are written to in one place or in several, how far it has come, and what
//! of it waits to be digested.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::fresh::{FRESH_BYTES_MAX, Fresh};
use super::front::Front;
use super::staging::{self, Staging};
use super::{Error, Growth};
use crate::fault;
use crate::storage::FrontRecord;

/// Bytes before the front but not digested beyond which sources wait, while the file is written in one place: what is
/// digested then is still in memory.
const LAG_BYTES_MAX: u64 = FRESH_BYTES_MAX;
/// The same while it is written in several places: the front passes a whole piece at once, and the file is in the page cache.
const LAG_AHEAD_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a file that one job digests.
const REREAD_BYTES: u64 = 4 << 20;
/// Bytes at the end of a blob that no reader gets before the digest is proven: without them nothing looks complete.
const LAST_PIECE_BYTES: u64 = 4096;
/// How far the front moves before it is recorded again: what a crash loses of it.
const RECORD_EVERY_BYTES: u64 = 1 << 20;

/// Something that must stay held while a write is under way, even when the writer itself was dropped.
pub type Lease = Arc<dyn Any + Send + Sync>;

/// Chunks that lie one behind the other.
#[derive(Default)]
pub(super) struct Batch {
    pub chunks: Vec<Bytes>,
    pub bytes: u64,
}

impl Batch {
    pub fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len() as u64;
        self.chunks.push(chunk);
    }

    pub fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.chunks.append(&mut other.chunks);
    }
}

/// Tells readers how far the file has come.
struct Announcer {
    growth: watch::Sender<Growth>,
    size_bytes: Option<u64>,
}

impl Announcer {
    fn written(&self, front_bytes: u64) {
        let end = self.size_bytes.unwrap_or(front_bytes);
        let servable_bytes = front_bytes.min(end.saturating_sub(LAST_PIECE_BYTES));
        self.growth.send_replace(Growth::Filling { servable_bytes });
    }
}

/// What is to be digested next.
pub(super) enum Undigested {
    /// Bytes that are still in memory.
    Fresh(Fresh),
    /// Bytes of the file.
    Written(Range<u64>),
}

struct State {
    front: Front,
    /// Everything before this offset was given to the digest.
    given_bytes: u64,
    /// The bytes that follow `given_bytes`, as far as they are kept.
    fresh: Fresh,
    /// Made when the file is first written ahead of its front, with the front it says.
    record: Option<(FrontRecord, u64)>,
}

/// The file of one blob and how far it has come. Shared by all who write to it and by the one who digests it.
pub(super) struct Landing {
    pub staging: Staging,
    pub lease: Lease,
    /// Whether bytes are digested as they come.
    in_step: bool,
    announcer: OnceLock<Announcer>,
    state: Mutex<State>,
    /// Told after every write.
    landed: Notify,
    /// How many bytes are digested.
    digested: watch::Sender<u64>,
}

impl Landing {
    pub fn new(staging: Staging, lease: Lease, in_step: bool) -> Self {
        let bytes = staging.length_bytes;
        let state = State { front: Front::new(bytes), given_bytes: bytes, fresh: Fresh::default(), record: None };
        let (announcer, landed) = (OnceLock::new(), Notify::new());
        let digested = watch::Sender::new(bytes);
        Self { staging, lease, in_step, announcer, state: Mutex::new(state), landed, digested }
    }

    pub fn front_bytes(&self) -> u64 {
        self.state().front.bytes()
    }

    pub fn announce(&self, growth: watch::Sender<Growth>, size_bytes: Option<u64>) {
        let announcer = self.announcer.get_or_init(|| Announcer { growth, size_bytes });
        announcer.written(self.front_bytes());
    }

    /// The digest is proven: readers may have everything.
    pub fn verified(&self, size_bytes: u64) {
        if let Some(announcer) = self.announcer.get() {
            announcer.growth.send_replace(Growth::Verified { size_bytes });
        }
    }

    /// From now on the file may be written ahead of its front, which is recorded beside it. Blocks.
    pub fn begin_ahead(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.record.is_none() {
            let front_bytes = state.front.bytes();
            let record = self.staging.store.record_front(&self.staging.path, front_bytes).map_err(Error::Storage)?;
            state.record = Some((record, front_bytes));
        }
        Ok(())
    }

    /// Writes chunks to their place, and lets readers and the digest know. Blocks.
    pub fn land(&self, start: u64, batch: Batch) -> Result<(), Error> {
        staging::write_at(&self.staging.file, &self.staging.path, start, &batch.chunks)?;
        if start > self.front_bytes() {
            fault::point("fill: written ahead");
        }
        let mut state = self.state();
        let moved = state.front.written(start, start + batch.bytes);
        let front_bytes = state.front.bytes();
        if self.in_step && start == state.given_bytes + state.fresh.bytes() {
            state.fresh.keep(batch);
        }
        // Before readers are told: of what a client has had, a crash loses no more than this.
        if let Some((record, recorded_bytes)) = &mut state.record
            && front_bytes - *recorded_bytes >= RECORD_EVERY_BYTES
        {
            record.set(front_bytes).map_err(Error::Storage)?;
            *recorded_bytes = front_bytes;
        }
        // Told with the state in hand, so that what readers hear only grows.
        if moved && let Some(announcer) = self.announcer.get() {
            announcer.written(front_bytes);
        }
        drop(state);
        self.landed.notify_one();
        Ok(())
    }

    /// Waits for bytes before the front that are not digested; for one caller at a time.
    pub async fn undigested(&self) -> Undigested {
        loop {
            if let Some(undigested) = self.take_undigested() {
                return undigested;
            }
            self.landed.notified().await;
        }
    }

    pub fn take_undigested(&self) -> Option<Undigested> {
        if !self.in_step {
            return None;
        }
        let mut state = self.state();
        if state.fresh.bytes() > 0 {
            let fresh = std::mem::take(&mut state.fresh);
            state.given_bytes += fresh.bytes();
            return Some(Undigested::Fresh(fresh));
        }
        let start = state.given_bytes;
        let end = state.front.bytes().min(start.saturating_add(REREAD_BYTES));
        state.given_bytes = start.max(end);
        (end > start).then_some(Undigested::Written(start..end))
    }

    /// So many bytes are digested.
    pub fn digested(&self, bytes: u64) {
        self.digested.send_replace(bytes);
    }

    /// Hears of every step of the digest.
    pub fn watch_digest(&self) -> watch::Receiver<u64> {
        self.digested.subscribe()
    }

    /// Does the digest keep up? If not, more bytes would come too early.
    pub fn keeps_up(&self) -> bool {
        let is_ahead = self.state().record.is_some();
        self.lag_bytes() < if is_ahead { LAG_AHEAD_BYTES_MAX } else { LAG_BYTES_MAX }
    }

    /// Bytes before the front that are not digested.
    pub fn lag_bytes(&self) -> u64 {
        if self.in_step { self.front_bytes().saturating_sub(*self.digested.borrow()) } else { 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Landing {
    /// Whoever ends early loses nothing that came.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((record, _)) = &state.record {
            // If it cannot be written, what it said before is true as well.
            let _ = record.set(state.front.bytes());
        }
    }
}
