//! Blobs: which are stored, how long they are, when they were last used.
//!
//! ```text
//! Absent ──commit──▶ Present ──mark_deleting──▶ Deleting ──mark_absent──▶ Absent
//! ```
//! Deletion takes three durable steps: the row turns `Deleting` (the blob is invisible), the bytes go, the row turns `Absent`.
//! A crash between them leaves `Deleting` rows, which whoever starts the registry finishes.

use futures::FutureExt as _;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::columns::{cursor_column, length_column};
use super::{Error, Metadata, Provenance, cannot, limit_of, links, repositories};
use crate::oci::{Digest, RepositoryName};

/// Rows one command changes: longer lists are cut, so that nobody's commit waits for a list of a hundred thousand.
const ROWS_PER_COMMAND_MAX: usize = 500;

/// Whether a blob's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[repr(i32)]
pub enum BlobState {
    /// No bytes: known by references alone, or evicted.
    Absent = 0,
    /// Stored and readable.
    Present = 1,
    /// No longer readable, its bytes are being removed.
    Deleting = 2,
}

impl BlobState {
    /// True if the bytes are here and may be read.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Present)
    }
}

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BlobRow {
    /// Its digest.
    pub digest: Digest,
    /// Its length; for a blob that was never stored, what a manifest states.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// What it takes on disk; 0 while absent.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
    /// Whether its bytes are stored.
    pub state: BlobState,
    /// Some push holds it: it is not evicted.
    pub pushed: bool,
    /// Its bytes are a manifest somewhere: small, and what every pull begins with.
    pub is_manifest: bool,
    /// When it was last used.
    pub accessed_ms: i64,
}

impl BlobRow {
    /// True while the bytes can be read.
    pub fn is_present(&self) -> bool {
        self.state == BlobState::Present
    }
}

impl Metadata {
    /// The blob, whoever links it.
    pub async fn find_blob(&self, digest: &Digest) -> Result<Option<BlobRow>, Error> {
        sqlx::query_as(
            "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob WHERE digest = $1",
        )
        .bind(digest)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look up blob", digest))
    }

    /// Records that the bytes are stored, and links the blob to the repository, which is created if it is new. `Pushed` makes
    /// the repository private and the blob pushed for good. Durable when it returns.
    ///
    /// A row that is `Deleting` turns `Present`: the caller has made sure that nobody removes the bytes it has just written.
    pub async fn commit_blob(
        &self,
        repo: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        stored_bytes: u64,
        provenance: Provenance,
        now_ms: i64,
    ) -> Result<BlobChange, Error> {
        let (name, stored) = (
            repo.clone(),
            NewBlob { digest: *digest, size_bytes, stored_bytes, provenance, is_manifest: false, now_ms },
        );
        self.write("commit blob", digest, move |connection| {
            async move {
                let repository_id = repositories::ensure(connection, &name, provenance, now_ms).await?;
                let (blob_id, change) = store(connection, &stored).await?;
                links::insert(connection, repository_id, blob_id, provenance).await?;
                Ok(change)
            }
            .boxed()
        })
        .await
    }

    /// Records last uses; an older time than the recorded one changes nothing, an unknown digest is passed over.
    pub async fn touch(&self, touches: &[(Digest, i64)]) -> Result<(), Error> {
        for part in touches.chunks(ROWS_PER_COMMAND_MAX) {
            let part = part.to_vec();
            self.write("record last uses of", &"blobs", move |connection| {
                async move {
                    let mut update = QueryBuilder::<Sqlite>::new("WITH touched (digest, accessed_ms) AS (");
                    update.push_values(part, |mut row, (digest, accessed_ms)| {
                        row.push_bind(digest).push_bind(accessed_ms);
                    });
                    update.push(
                        ") UPDATE blob SET accessed_ms = touched.accessed_ms FROM touched
                         WHERE blob.digest = touched.digest AND blob.accessed_ms < touched.accessed_ms",
                    );
                    update.build().persistent(false).execute(connection).await.map(|_| ())
                }
                .boxed()
            })
            .await?;
        }
        Ok(())
    }

    /// Up to `limit` blobs in the order of eviction: present, not pushed and not pinned, layers and configs before manifests, then the
    /// longest unused, then by digest. `after` is last use and digest of the last row of the previous page.
    pub async fn oldest_cached(&self, limit: usize, after: Option<(i64, Digest)>) -> Result<Vec<BlobRow>, Error> {
        // The cursor names no class: the row of its digest still knows whether it is a manifest.
        let (accessed_ms, digest) = after.map_or((i64::MIN, None), |(ms, digest)| (ms, Some(digest)));
        let digest = cursor_column(digest.as_ref());
        sqlx::query_as(
            "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob
             WHERE state = 1 AND NOT pushed AND pinned = 0
               AND (is_manifest, accessed_ms, digest)
                   > (COALESCE((SELECT c.is_manifest FROM blob c WHERE c.digest = $2), FALSE), $1, $2)
             ORDER BY is_manifest, accessed_ms, digest LIMIT $3",
        )
        .bind(accessed_ms)
        .bind(digest)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the oldest", "cached blobs"))
    }

    /// Turns those that are still present, not pushed and not pinned `Deleting`, and returns them: nobody else gets the same row.
    /// What was pushed, pinned or marked by another since it was chosen is passed over.
    pub async fn mark_deleting(&self, digests: &[Digest]) -> Result<Vec<BlobRow>, Error> {
        let mut marked = Vec::with_capacity(digests.len());
        for part in digests.chunks(ROWS_PER_COMMAND_MAX) {
            let part = part.to_vec();
            let rows = self.write("mark for deletion", &"blobs", move |connection| {
                async move {
                    let mut update = among(
                        "UPDATE blob SET state = 2 WHERE state = 1 AND NOT pushed AND pinned = 0 AND digest",
                        &part,
                    );
                    update.push(" RETURNING digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms");
                    update.build_query_as().persistent(false).fetch_all(connection).await
                }
                .boxed()
            });
            marked.extend(rows.await?);
        }
        Ok(marked)
    }

    /// Takes a deletion back, because somebody found the row before it was marked: `Deleting` turns `Present`.
    pub async fn unmark_deleting(&self, digest: &Digest) -> Result<(), Error> {
        let wanted = *digest;
        self.write("take back the deletion of blob", digest, move |connection| {
            async move {
                let update = sqlx::query("UPDATE blob SET state = 1 WHERE digest = $1 AND state = 2").bind(wanted);
                update.execute(connection).await.map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Ends a deletion: `Deleting` turns `Absent`; links and references stay, so that a refill needs no parsing. Rows in any
    /// other state are passed over.
    pub async fn mark_absent(&self, digests: &[Digest]) -> Result<(), Error> {
        for part in digests.chunks(ROWS_PER_COMMAND_MAX) {
            let part = part.to_vec();
            self.write("end the deletion of", &"blobs", move |connection| {
                async move {
                    let mut update =
                        among("UPDATE blob SET state = 0, stored_bytes = 0 WHERE state = 2 AND digest", &part);
                    update.build().persistent(false).execute(connection).await.map(|_| ())
                }
                .boxed()
            })
            .await?;
        }
        Ok(())
    }

    /// Every blob whose deletion was begun and not ended: at start, what a crash has left to finish.
    pub async fn list_deleting(&self) -> Result<Vec<BlobRow>, Error> {
        sqlx::query_as(
            "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob
             WHERE state = 2 ORDER BY digest",
        )
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "blobs being deleted"))
    }
}

/// The statement `begun`, for each of `digests`: one for all of them is a tenth of the work of one each.
fn among(begun: &str, digests: &[Digest]) -> QueryBuilder<Sqlite> {
    let mut statement = QueryBuilder::new(begun);
    statement.push(" IN (");
    let mut list = statement.separated(", ");
    for digest in digests {
        list.push_bind(*digest);
    }
    statement.push(")");
    statement
}
/// A blob whose bytes are stored.
pub(super) struct NewBlob {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) provenance: Provenance,
    pub(super) is_manifest: bool,
    pub(super) now_ms: i64,
}

/// What a blob's row said before a change and says after it, so that whoever counts bytes can follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobChange {
    /// Before; `None` if there was no row.
    pub before: Option<BlobRow>,
    /// After.
    pub after: BlobRow,
}

/// A row with its key.
#[derive(sqlx::FromRow)]
struct Keyed {
    id: i64,
    #[sqlx(flatten)]
    row: BlobRow,
}

/// The row as it is inside a change.
pub(super) async fn peek(connection: &mut SqliteConnection, digest: &Digest) -> Result<Option<BlobRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob WHERE digest = $1",
    )
    .bind(digest)
    .fetch_optional(connection)
    .await
}

/// Makes the row present; what was once pushed, or once a manifest, stays so. Returns its key.
pub(super) async fn store(
    connection: &mut SqliteConnection,
    stored: &NewBlob,
) -> Result<(i64, BlobChange), sqlx::Error> {
    let before = peek(connection, &stored.digest).await?;
    let Keyed { id, row: after } = sqlx::query_as(
        "INSERT INTO blob (digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms)
         VALUES ($1, $2, $3, 1, $4, $5, $6)
         ON CONFLICT (digest) DO UPDATE SET
             size_bytes = excluded.size_bytes, stored_bytes = excluded.stored_bytes, state = excluded.state,
             pushed = blob.pushed OR excluded.pushed, is_manifest = blob.is_manifest OR excluded.is_manifest,
             accessed_ms = excluded.accessed_ms
         RETURNING id, digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms",
    )
    .bind(stored.digest)
    .bind(length_column(stored.size_bytes))
    .bind(length_column(stored.stored_bytes))
    .bind(stored.provenance.is_pushed())
    .bind(stored.is_manifest)
    .bind(stored.now_ms)
    .fetch_one(connection)
    .await?;
    Ok((id, BlobChange { before, after }))
}
