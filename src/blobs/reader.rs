//! What it takes to send a blob: an open file, its final size, and how far its bytes may be sent by now.
//!
//! Invariant that every reader relies on: a byte below the servable mark never changes again and the file is never
//! truncated below it. Staging files grow, are renamed (commit) or unlinked (failure, eviction); what a fill wrote ahead of its
//! front, which no reader was told of, goes when the fill ends early.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Keeps evictors away from a blob for as long as any clone of it lives.
pub type BlobPin = Arc<dyn Any + Send + Sync>;

/// Whether an open blob is still taken for what it was committed as. Everybody who has it open shares it.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<AtomicBool>);

impl Standing {
    /// Its bytes were found to be others: nobody may be given the rest of them as if all were well.
    pub fn condemn(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Were its bytes found to be others?
    pub fn is_condemned(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far a blob that is still being written has come. Published by the one writer of a staging file.
#[derive(Clone, Debug)]
pub enum Growth {
    /// The first `servable_bytes` bytes may be sent: they are in the file. The last piece is withheld until the
    /// digest is proven.
    Filling { servable_bytes: u64 },
    /// The whole blob is in the file and its digest is proven. `size_bytes` is final.
    Verified { size_bytes: u64 },
    /// The fill ended without a proven blob: every reader must end its connection without completing the body.
    Failed(Arc<str>),
}

/// Whether a blob is complete or still arrives.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A committed blob: everything may be sent.
    Whole,
    /// A fill in progress. A closed channel without a final state counts as [`Growth::Failed`].
    Growing(watch::Receiver<Growth>),
}

/// An open blob.
///
/// Cloning shares the file handle; reads are positional (`pread`, `sendfile` with an offset), so the file's own
/// cursor is never used. The handle stays valid after rename (commit) and unlink (eviction).
#[derive(Clone)]
pub struct BlobReader {
    pub file: Arc<File>,
    /// Final size in bytes; `None` only while an upstream of unknown length is being read.
    pub size_bytes: Option<u64>,
    pub progress: Progress,
    pub pin: Option<BlobPin>,
    /// Watched until the last byte: a body that is condemned on its way ends its connection.
    pub standing: Standing,
}

impl BlobReader {
    /// A committed blob of `size_bytes` bytes.
    pub fn whole(file: Arc<File>, size_bytes: u64) -> Self {
        Self { file, size_bytes: Some(size_bytes), progress: Progress::Whole, pin: None, standing: Standing::default() }
    }

    /// A blob that is still being filled; `size_bytes` is what the upstream or a descriptor announced.
    pub fn growing(file: Arc<File>, size_bytes: Option<u64>, growth: watch::Receiver<Growth>) -> Self {
        Self { file, size_bytes, progress: Progress::Growing(growth), pin: None, standing: Standing::default() }
    }

    /// The same blob, kept from eviction while this reader or any body made of it lives, and told of by `standing`.
    #[must_use]
    pub fn pinned(self, pin: BlobPin, standing: Standing) -> Self {
        Self { pin: Some(pin), standing, ..self }
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("file", &self.file)
            .field("size_bytes", &self.size_bytes)
            .field("progress", &self.progress)
            .field("pinned", &self.pin.is_some())
            .field("standing", &self.standing)
            .finish()
    }
}
