//! What a crash or a failing disk leaves half-done, and how it is ended: at start, and while serving as soon as the disk works.

use tracing::warn;

use super::Room;
use crate::blobs;
use crate::cache::Error;
use crate::metadata::{BlobRow, BlobState};
use crate::oci::Digest;
use crate::report::Chain;

impl Room {
    /// Gives a blob its name and has the index record it: `naming` does both, while nobody else names or removes this blob. If
    /// it fails half-way, what it named goes again unless the index has it. To be run to its end.
    pub async fn name<T, E>(&self, digest: &Digest, naming: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let _named = self.naming(digest).await;
        let named = naming.await;
        let ended = if named.is_ok() { self.forget_note(digest).await } else { self.unname(digest).await };
        if let Err(error) = ended {
            // The note stays with it, so it will be tried again.
            warn!(%digest, error = %Chain(&error), "a blob's naming could not be ended");
        }
        named
    }

    /// Ends what was left half-done: removals that got stuck, and names without a row. What cannot be ended now is tried again.
    pub async fn finish_leftovers(&self) -> Result<(), Error> {
        self.blobs.assert_there().await?;
        self.finish_removals().await?;
        for digest in self.blobs.store().list_noted().map_err(blobs::Error::Storage)? {
            let _named = self.naming(&digest).await;
            self.unname(&digest).await?;
        }
        Ok(())
    }

    /// Removals whose row says `deleting` and that nobody is about to end. Returns how many bytes that freed.
    pub(super) async fn finish_removals(&self) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        for row in self.metadata.list_deleting().await? {
            let _named = self.naming(&row.digest).await;
            let row = self.metadata.find_blob(&row.digest).await?.filter(|row| row.state == BlobState::Deleting);
            // Whoever holds it open opened it before it was marked, and may be about to open its file.
            let Some(row) = row.filter(|row| !self.ledger().is_pinned(&row.digest)) else { continue };
            self.blobs.remove(row.digest).await?;
            self.metadata.mark_absent(&[row.digest]).await?;
            self.ledger().finish_delete(row.stored_bytes);
            freed_bytes += row.stored_bytes;
        }
        Ok(freed_bytes)
    }

    /// Bytes without a row take space that nobody counts, but the row may be there: an earlier commit's, or this one's after
    /// all. To be called with the name held.
    async fn unname(&self, digest: &Digest) -> Result<(), Error> {
        let row = self.metadata.find_blob(digest).await?;
        if !row.as_ref().is_some_and(BlobRow::is_present) {
            self.blobs.remove(*digest).await?;
        }
        self.forget_note(digest).await
    }

    async fn forget_note(&self, digest: &Digest) -> Result<(), Error> {
        Ok(self.blobs.forget_note(*digest).await?)
    }
}
