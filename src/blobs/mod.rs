//! Content addressing: how bytes become a blob, and how a blob is read.
//!
//! Bytes come in through one door, [`BlobWriter::prove`], which compares their digest first; [`Blobs::put`] is the same
//! door for bytes that are all at hand. Nothing here knows who may read what, or how much room there is.

mod check;
mod fresh;
mod front;
mod inlet;
mod landing;
mod names;
mod reader;
mod staging;
mod writer;

use std::sync::Arc;

use bytes::Bytes;

use crate::fault;
use crate::oci::{Digest, Digester, UploadId};
use crate::pause::pause;
use crate::storage::{self, Store};

pub use crate::storage::FileSize;

pub use check::{Checked, Damage, ReadRate};
pub use fresh::FRESH_BYTES_OF_ALL_MAX;
pub use inlet::{Inlet, Intake, PourError};
pub use landing::Lease;
pub use names::NameFile;
pub use reader::{BlobPin, BlobReader, Growth, Progress, Standing};
pub use staging::Staging;
pub use writer::{BlobWriter, Committed, Proven, Suspended};

/// Files that are removed, each by some ten microseconds of work, before others have the processor.
const REMOVED_AT_A_STRETCH: usize = 4;

/// Why a blob could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("storing bytes")]
    Storage(#[source] storage::Error),
    /// The bytes are not what they were announced as. Nothing of them was kept.
    #[error("the bytes have digest {actual}, not {expected}")]
    Mismatch {
        /// What they should have been.
        expected: Digest,
        /// What they are.
        actual: Digest,
    },
    /// A committed blob has another length than the index says: bytes were lost or added behind our back.
    #[error("blob {digest} has {actual_bytes} bytes on disk, the index says {expected_bytes}")]
    Length {
        /// The blob.
        digest: Digest,
        /// What the index says.
        expected_bytes: u64,
        /// What is there.
        actual_bytes: u64,
    },
    /// A blocking job of ours ended without an answer, because the program is ending or the job panicked.
    #[error("a job of the store was stopped while {during}")]
    Stopped {
        /// What it was doing.
        during: &'static str,
    },
}

impl Error {
    /// Did it fail because the file system is full?
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_no_space())
    }
}

/// The blobs of one store. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<Store>,
}

impl Blobs {
    /// The blobs of this store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Is the store still where it was opened? See [`Store::assert_there`].
    pub async fn assert_there(&self) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("looking for the store", move || store.assert_there().map_err(Error::Storage)).await
    }

    /// Tries whether the store is still there and takes bytes.
    pub async fn try_write(&self) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("trying the disk", move || store.try_write().map_err(Error::Storage)).await
    }

    /// Opens a committed blob for reading; `None` if its bytes are not there.
    pub async fn open(&self, digest: Digest, size_bytes: u64) -> Result<Option<BlobReader>, Error> {
        let store = Arc::clone(&self.store);
        blocking("opening a blob", move || {
            let path = store.blob_path(&digest);
            let Some(file) = store.open_read(&path).map_err(Error::Storage)? else { return Ok(None) };
            let actual_bytes = staging::length_bytes(&file, &path)?;
            if actual_bytes != size_bytes {
                return Err(Error::Length { digest, expected_bytes: size_bytes, actual_bytes });
            }
            Ok(Some(BlobReader::whole(Arc::new(file), size_bytes)))
        })
        .await
    }

    /// Reads a whole small blob into memory; `None` if its bytes are not there.
    pub async fn read(&self, digest: Digest, size_bytes: u64) -> Result<Option<Bytes>, Error> {
        let Some(reader) = self.open(digest, size_bytes).await? else { return Ok(None) };
        let path = self.store.blob_path(&digest);
        blocking("reading a blob", move || staging::read_all(&reader.file, &path, size_bytes).map(Some)).await
    }

    /// Digests a blob's bytes as they are on the disk, whatever their length; `None` if they are not there.
    pub async fn digest(&self, digest: Digest) -> Result<Option<Digest>, Error> {
        let store = Arc::clone(&self.store);
        blocking("reading a blob", move || {
            let path = store.blob_path(&digest);
            let Some(file) = store.open_read(&path).map_err(Error::Storage)? else { return Ok(None) };
            let mut digester = Digester::new(digest.algorithm());
            let length_bytes = staging::length_bytes(&file, &path)?;
            staging::digest_range(&file, &path, &mut digester, 0..length_bytes)?;
            Ok(Some(digester.finish()))
        })
        .await
    }

    /// Commits bytes that are all at hand. Returns the disk space they take, in bytes.
    pub async fn put(&self, expected: Digest, bytes: Bytes) -> Result<u64, Error> {
        let store = Arc::clone(&self.store);
        blocking("committing a blob", move || {
            let actual = Digest::of(expected.algorithm(), &bytes);
            if actual != expected {
                return Err(Error::Mismatch { expected, actual });
            }
            let path = store.put_path();
            let committed = (|| {
                let (file, _) = store.open_staging(&path).map_err(Error::Storage)?;
                staging::write_at(&file, &path, 0, &[bytes])?;
                store.sync(&file, &path).map_err(Error::Storage)?;
                store.name(&file, &path, &expected).map_err(Error::Storage)
            })();
            if committed.is_err() {
                // What cannot be removed now is removed at the next start.
                let _ = store.remove(&path);
            }
            committed
        })
        .await
    }

    /// Notes that a blob whose name was given is in the index too, or gone.
    pub async fn forget_note(&self, digest: Digest) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("ending the naming of a blob", move || store.forget_note(&digest).map_err(Error::Storage)).await
    }

    /// Removes a blob's bytes. Whoever has it open reads on.
    pub async fn remove(&self, digest: Digest) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("removing a blob", move || store.remove(&store.blob_path(&digest)).map_err(Error::Storage)).await
    }

    /// Removes the bytes of many, in order, a few at a stretch. Returns those that could not be removed. An error says nothing of
    /// any of them: the process ends.
    pub async fn remove_all(&self, digests: Vec<Digest>) -> Result<Vec<(Digest, Error)>, Error> {
        let store = Arc::clone(&self.store);
        let remove = move || {
            let failed = digests.into_iter().enumerate().filter_map(|(nth, digest)| {
                if nth > 0 && nth.is_multiple_of(REMOVED_AT_A_STRETCH) {
                    pause();
                }
                let removed = store.remove(&store.blob_path(&digest)).map_err(Error::Storage);
                fault::point("removal: one of many gone");
                removed.err().map(|error| (digest, error))
            });
            Ok(failed.collect())
        };
        blocking("removing blobs", remove).await
    }

    /// The staging file of a fill, with what an earlier attempt left in it.
    pub async fn stage_fill(&self, digest: Digest) -> Result<Staging, Error> {
        let path = self.store.fill_path(&digest);
        Staging::open(Arc::clone(&self.store), path).await
    }

    /// The staging file of an upload session, with what earlier chunks left in it.
    pub async fn stage_upload(&self, id: UploadId) -> Result<Staging, Error> {
        let path = self.store.upload_path(&id);
        Staging::open(Arc::clone(&self.store), path).await
    }

    /// Removes the staging file of a fill.
    pub async fn remove_fill(&self, digest: Digest) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("removing a fill", move || store.remove(&store.fill_path(&digest)).map_err(Error::Storage)).await
    }

    /// Removes the staging file of an upload session.
    pub async fn remove_upload(&self, id: UploadId) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        blocking("removing an upload", move || store.remove(&store.upload_path(&id)).map_err(Error::Storage)).await
    }
}

/// Runs file IO off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    during: &'static str,
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(Error::Stopped { during }))
}

#[cfg(test)]
mod tests;
