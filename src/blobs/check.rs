//! Is a stored blob still what its name says? Read through at a bounded rate, off the async threads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Blobs, Error, blocking};
use crate::oci::{Algorithm, Digest, Digester};
use crate::storage::{self, BlobFiles, FileSize, Inspection, Quarantined};

/// Bytes read by one blocking job.
const PIECE_BYTES: usize = 1 << 20;
/// What opening a file is reckoned to cost, so that many small ones are not read faster than a disk can seek.
const OPEN_COST_BYTES: u64 = 64 << 10;

/// Waits shorter than this are left until there are more of them: a timer is no finer.
const TIMER: Duration = Duration::from_millis(5);

/// How a stored blob differs from what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its file is not there.
    Missing,
    /// Its file has another length.
    Length {
        /// This one.
        actual_bytes: u64,
    },
    /// Its bytes are others.
    Digest {
        /// They have this digest.
        actual: Digest,
    },
    /// The disk does not give its bytes.
    Unreadable,
}

impl Damage {
    /// One word for logs, metrics and the index.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Length { .. } => "length",
            Self::Digest { .. } => "digest",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// Nothing, or what is wrong.
    pub damage: Option<Damage>,
    /// The very file that was read, so that one that has taken its place meanwhile is not blamed for it.
    file: Option<Inspection>,
}

impl Checked {
    /// Is what was looked at still what the blob's name means? Blocks.
    pub(super) fn is_current(&self, blobs: &Blobs, digest: &Digest) -> Result<bool, Error> {
        match &self.file {
            Some(file) => file.is_in_place().map_err(Error::Storage),
            None => Ok(blobs.store.inspect(digest).map_err(Error::Storage)?.is_none()),
        }
    }
}

/// Lets so many bytes a second be read. What was not used is not saved up for later.
#[derive(Debug)]
pub struct ReadRate {
    bytes_per_second_max: u64,
    free_at: Instant,
}

impl ReadRate {
    /// At most so many bytes a second, and at least one.
    pub fn new(bytes_per_second_max: u64) -> Self {
        Self { bytes_per_second_max: bytes_per_second_max.max(1), free_at: Instant::now() }
    }

    /// Waits until so many bytes more have had their time.
    async fn spend(&mut self, bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a wait need not be exact")]
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_max as f64);
        let now = Instant::now();
        self.free_at = self.free_at.max(now) + time;
        if self.free_at > now + TIMER {
            tokio::time::sleep_until(self.free_at).await;
        }
    }
}

/// A blob being read through.
struct Reading {
    file: Inspection,
    digester: Digester,
    piece: Vec<u8>,
    position: u64,
}

impl Blobs {
    /// Looks whether a committed blob is there and how long it is.
    pub async fn check_length(&self, digest: Digest, size_bytes: u64) -> Result<Checked, Error> {
        let store = Arc::clone(&self.store);
        let file = blocking("opening a blob", move || store.inspect(&digest).map_err(Error::Storage)).await?;
        let damage = match file.as_ref().map(Inspection::length_bytes) {
            None => Some(Damage::Missing),
            Some(actual_bytes) => (actual_bytes != size_bytes).then_some(Damage::Length { actual_bytes }),
        };
        Ok(Checked { damage, file })
    }

    /// Compares a committed blob's length and digest with what they should be.
    pub async fn check(&self, digest: Digest, size_bytes: u64, rate: &mut ReadRate) -> Result<Checked, Error> {
        let file = match self.check_length(digest, size_bytes).await? {
            Checked { damage: None, file: Some(file) } => file,
            wrong => return Ok(wrong),
        };
        rate.spend(OPEN_COST_BYTES).await;
        let piece = vec![0; PIECE_BYTES.min(usize::try_from(size_bytes).unwrap_or(PIECE_BYTES)).max(1)];
        let mut reading = Reading { file, digester: Digester::new(digest.algorithm()), piece, position: 0 };
        loop {
            let (back, read) = blocking("reading a blob", move || Ok(reading.read())).await?;
            reading = back;
            match read {
                Ok(0) => break,
                Ok(read) => rate.spend(read).await,
                Err(error) if error.is_damage() => {
                    return Ok(Checked { damage: Some(Damage::Unreadable), file: Some(reading.file) });
                }
                Err(error) => return Err(Error::Storage(error)),
            }
        }
        let actual = reading.digester.finish();
        let damage = (actual != digest).then_some(Damage::Digest { actual });
        Ok(Checked { damage, file: Some(reading.file) })
    }

    /// Moves a blob that was found to be damaged out of the way, unless another file has taken its place since. Returns the
    /// disk space that lies in quarantine now, nothing if its file is gone; `None` if it was not this file.
    pub async fn quarantine(&self, digest: Digest, checked: Checked, found_ms: i64) -> Result<Option<u64>, Error> {
        let this = self.clone();
        blocking("setting a damaged blob aside", move || {
            if !checked.is_current(&this, &digest)? {
                return Ok(None);
            }
            let moved = this.store.quarantine(&digest, found_ms).map_err(Error::Storage)?;
            Ok(Some(moved.map_or(0, |moved| moved.stored_bytes)))
        })
        .await
    }

    /// The blobs whose digest begins with this byte, and what else lies in their folder.
    pub async fn list_files(&self, algorithm: Algorithm, first: u8) -> Result<BlobFiles, Error> {
        let store = Arc::clone(&self.store);
        blocking("listing blobs", move || store.list_blob_files(algorithm, first).map_err(Error::Storage)).await
    }

    /// A blob's file, known to the index or not; `None` if there is none.
    pub async fn find_file(&self, digest: Digest) -> Result<Option<FileSize>, Error> {
        let store = Arc::clone(&self.store);
        blocking("looking for a blob", move || Ok(store.find_blob_file(&digest))).await
    }

    /// What lies in quarantine, the oldest first.
    pub async fn list_quarantined(&self) -> Result<Vec<Quarantined>, Error> {
        let store = Arc::clone(&self.store);
        blocking("listing the quarantine", move || store.list_quarantined().map_err(Error::Storage)).await
    }

    /// Removes what lies in quarantine.
    pub async fn remove_quarantined(&self, quarantined: Quarantined) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("removing damaged bytes", move || store.remove_quarantined(&quarantined).map_err(Error::Storage)).await
    }
}

impl Reading {
    /// Digests one piece. Returns how many bytes that were; nothing at the end. Blocks.
    fn read(mut self) -> (Self, Result<u64, storage::Error>) {
        let read = self.file.read_at(&mut self.piece, self.position).map(|read| {
            self.digester.update(&self.piece[..read]);
            self.position += read as u64;
            read as u64
        });
        (self, read)
    }
}
