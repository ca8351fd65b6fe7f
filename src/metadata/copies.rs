//! The index as a file: checked when it is opened, copied while it is in use, filled again from what is stored.

use std::path::Path;

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::columns::length_column;
use super::{Error, Metadata, cannot};
use crate::oci::Digest;

/// An index up to this size is read through when it is opened; that of a larger one is left to the scrub, for it would keep the
/// start waiting.
const CHECKED_MAX_BYTES: i64 = 32 << 20;

/// A stored blob that the index does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// What it takes on disk.
    pub stored_bytes: u64,
    /// Its bytes are a manifest's.
    pub is_manifest: bool,
    /// When its file was written, Unix milliseconds: nobody knows when it was last used.
    pub written_ms: i64,
}

impl Metadata {
    /// Writes a consistent copy of the index into a new file. Nobody is kept from reading or writing meanwhile.
    pub async fn back_up(&self, target: &Path) -> Result<(), Error> {
        let failed = |source| cannot("copy the index to", &target.display())(source);
        sqlx::query("VACUUM INTO $1")
            .bind(target.to_string_lossy().into_owned())
            .execute(self.readers())
            .await
            .map_err(failed)
            .map(|_| ())
    }

    /// Records a blob that is stored and of which nothing else is known: as cached content that no repository links. One
    /// that is known keeps what is known of it, and is present now.
    pub async fn record_found(&self, found: &FoundBlob) -> Result<(), Error> {
        let found = *found;
        self.write("record the found blob", &found.digest, move |connection| {
            async move {
                sqlx::query(
                    "INSERT INTO blob (digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms)
                     VALUES ($1, $2, $3, 1, FALSE, $4, $5)
                     ON CONFLICT (digest) DO UPDATE SET
                         size_bytes = excluded.size_bytes, stored_bytes = excluded.stored_bytes, state = 1,
                         is_manifest = blob.is_manifest OR excluded.is_manifest
                     WHERE blob.state = 0",
                )
                .bind(found.digest)
                .bind(length_column(found.size_bytes))
                .bind(length_column(found.stored_bytes))
                .bind(found.is_manifest)
                .bind(found.written_ms)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }
}

/// Reads an index through that is about to be opened, if it is small.
pub(super) async fn check_small(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let opening = |source| Error::opening(path, source);
    let size_bytes: i64 = sqlx::query_scalar("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        .fetch_one(&mut *connection)
        .await
        .map_err(opening)?;
    if size_bytes > CHECKED_MAX_BYTES {
        return Ok(());
    }
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await.map_err(opening)?;
    if found == "ok" {
        return Ok(());
    }
    Err(Error::Damaged { path: path.to_owned(), source: sqlx::Error::Protocol(found) })
}
