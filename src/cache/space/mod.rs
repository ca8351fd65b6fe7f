//! The ledger of the disk: who has how many bytes, who may have more, and who has to go. No IO, no clock, no async.
//!
//! It counts allocated blocks. `cached + partial + filling + deleting ≤ cache_max` and the sum of everything ≤ `store_max`
//! hold after every reservation: bytes are promised here before the first of them is written, and given back only when the
//! file system has them again. What is promised and not yet written is also kept free on the file system, beside `min_free`.
//! What a store already holds when its limits are lowered counts, and keeps others out.

mod ledger;
mod limits;
#[cfg(test)]
mod tests;

use crate::metadata::{BlobRow, BlobState};
use crate::oci::Digest;

pub use ledger::Ledger;
pub use limits::{Contradiction, Limits};

/// Smallest unit in which file systems hand out space.
const BLOCK_BYTES: u64 = 4096;

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
    /// Its removal was begun and not ended.
    pub deleting: bool,
}

impl Holding {
    /// What a committed blob holds.
    pub const fn of_present(stored_bytes: u64, pushed: bool) -> Self {
        Self { stored_bytes, pushed, deleting: false }
    }

    /// What a row of the index holds of the disk; nothing if its bytes are not there.
    pub fn of(row: &BlobRow) -> Option<Self> {
        let deleting = match row.state {
            BlobState::Absent => return None,
            BlobState::Present => false,
            BlobState::Deleting => true,
        };
        Some(Self { stored_bytes: row.stored_bytes, pushed: row.pushed, deleting })
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

/// Disk space that a file of this length takes, in bytes, rounded to blocks, with one for what the file system adds.
pub const fn blocks_for(length_bytes: u64) -> u64 {
    length_bytes.div_ceil(BLOCK_BYTES).saturating_add(1).saturating_mul(BLOCK_BYTES)
}
