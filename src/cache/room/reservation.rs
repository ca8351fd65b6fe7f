//! What is held of the room: promised space, and blobs that must stay.

use std::sync::Arc;

use super::{QuotaPromise, Room};
use crate::blobs::Standing;
use crate::cache::Error;
use crate::cache::space::{Class, Holding, Ledger};
use crate::oci::{Digest, RepositoryName};

/// Space that is promised. Dropping it gives the space back.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    class: Class,
    bytes: u64,
    /// How much of it the file system has not given out yet, as far as anybody has told.
    unwritten_bytes: u64,
    /// What it counts under the quota of its repository, if that is under one.
    under: Option<QuotaPromise>,
}

impl Reservation {
    /// A promise of nothing, to be grown.
    pub fn none(room: &Arc<Room>, class: Class) -> Self {
        Self::written(room, class, 0)
    }

    /// What the ledger has just promised.
    pub(super) fn promised(room: &Arc<Room>, class: Class, bytes: u64) -> Self {
        Self { room: Arc::clone(room), class, bytes, unwritten_bytes: bytes, under: None }
    }

    /// What is on the disk already.
    pub(super) fn written(room: &Arc<Room>, class: Class, bytes: u64) -> Self {
        Self { room: Arc::clone(room), class, bytes, unwritten_bytes: 0, under: None }
    }

    /// It counts under the repository's quota from now on, as does what it grows by.
    #[must_use]
    pub fn charged_to(mut self, repo: &RepositoryName) -> Self {
        self.under = self.room.adopt_quota(repo, self.bytes);
        self
    }

    pub(super) fn with(mut self, under: Option<QuotaPromise>) -> Self {
        self.under = under;
        self
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
        if let Some(under) = &mut self.under {
            under.grow(bytes).await?;
        }
        let more = self.room.take(self.class, bytes).await?;
        self.absorb(more);
        Ok(())
    }

    /// The file system has given out so much of the promise by now: that is not to be kept free besides.
    pub fn on_disk(&mut self, written_bytes: u64) {
        let unwritten_bytes = self.bytes.saturating_sub(written_bytes).min(self.unwritten_bytes);
        self.room.ledger().written(self.unwritten_bytes - unwritten_bytes);
        self.unwritten_bytes = unwritten_bytes;
    }

    /// Takes another promise over.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(self.class == other.class, "promises of one class are added");
        self.bytes += std::mem::take(&mut other.bytes);
        self.unwritten_bytes += std::mem::take(&mut other.unwritten_bytes);
        match (&mut self.under, other.under.take()) {
            (Some(under), Some(more)) => under.absorb(more),
            (under @ None, more) => *under = more,
            (Some(_), None) => {}
        }
    }

    /// Hands the promise on and keeps none.
    #[must_use]
    pub fn split_off(&mut self) -> Self {
        Self {
            room: Arc::clone(&self.room),
            class: self.class,
            bytes: std::mem::take(&mut self.bytes),
            unwritten_bytes: std::mem::take(&mut self.unwritten_bytes),
            under: self.under.take(),
        }
    }

    /// The bytes were committed: the promise ends and the blob counts instead.
    pub fn admit(mut self, before: Option<Holding>, after: Holding) {
        let room = Arc::clone(&self.room);
        let mut ledger = room.ledger();
        self.end(&mut ledger);
        ledger.change(before, after);
    }

    /// The file stays without having become a blob: the promise ends and the partial fill counts instead.
    pub fn leave_partial(mut self, digest: Digest, stored_bytes: u64) {
        let room = Arc::clone(&self.room);
        let mut ledger = room.ledger();
        self.end(&mut ledger);
        ledger.add_partial(digest, stored_bytes);
    }

    fn end(&mut self, ledger: &mut Ledger) {
        ledger.release(self.class, std::mem::take(&mut self.bytes), std::mem::take(&mut self.unwritten_bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let room = Arc::clone(&self.room);
            self.end(&mut room.ledger());
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
    pub(super) fn of(room: &Arc<Room>, digest: Digest, standing: Standing) -> Self {
        Self { room: Arc::clone(room), digest, standing }
    }

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
