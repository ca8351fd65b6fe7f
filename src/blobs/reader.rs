//! What it takes to send a blob: an open file, its size, and how far its bytes may be sent by now.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

/// How far a blob that is still being written has come. Published by the one writer of a staging file.
#[derive(Clone, Debug)]
pub enum Growth {
    /// The first `servable_bytes` bytes are in the file and may be sent. The last piece is withheld until the digest is proven.
    Filling {
        /// How many bytes from the start may be sent.
        servable_bytes: u64,
    },
    /// The whole blob is in the file and its digest is proven.
    Verified {
        /// Its final size.
        size_bytes: u64,
    },
    /// The fill ended without a proven blob: every reader has to end its connection without completing the body.
    Failed(Arc<str>),
}

/// Whether a blob is all there.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A committed blob: everything may be sent.
    Whole,
    /// A fill in progress. A channel that closes without a final state counts as `Failed`.
    Growing(watch::Receiver<Growth>),
}

/// An open blob. Reads are positional, so clones share the file handle; it stays good after a rename (commit) and after an
/// unlink (eviction).
#[derive(Clone)]
pub struct BlobReader {
    /// The file, committed or staging.
    pub file: Arc<File>,
    /// Final size in bytes; `None` only while an upstream of unknown length is being read.
    pub size_bytes: Option<u64>,
    /// How far the bytes may be sent.
    pub progress: Progress,
    /// Keeps evictors away while it lives.
    pub pin: Option<Arc<dyn Any + Send + Sync>>,
}

impl BlobReader {
    /// A reader of a blob that is all there.
    pub fn whole(file: Arc<File>, size_bytes: u64) -> Self {
        Self { file, size_bytes: Some(size_bytes), progress: Progress::Whole, pin: None }
    }

    /// A reader that follows a fill.
    pub fn growing(file: Arc<File>, size_bytes: Option<u64>, growth: watch::Receiver<Growth>) -> Self {
        Self { file, size_bytes, progress: Progress::Growing(growth), pin: None }
    }

    /// Holds `pin` for as long as this reader or a body made of it lives.
    #[must_use]
    pub fn pinned(mut self, pin: Arc<dyn Any + Send + Sync>) -> Self {
        self.pin = Some(pin);
        self
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("size_bytes", &self.size_bytes)
            .field("progress", &self.progress)
            .field("pinned", &self.pin.is_some())
            .finish_non_exhaustive()
    }
}
