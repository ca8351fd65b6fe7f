//! Losses: blobs whose bytes were found damaged or missing, remembered where they were pushed and cannot be fetched again.

use futures::FutureExt as _;

use super::{Error, Metadata, blobs, cannot, limit_of};
use crate::oci::{Digest, RepositoryName};

/// A pushed blob without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct LossRow {
    /// Its digest.
    pub digest: Digest,
    /// What was found: `missing`, `length`, `digest`, `unreadable`.
    pub finding: String,
    /// When, Unix milliseconds.
    pub found_ms: i64,
    /// A repository that links it, the first by name.
    pub repository: RepositoryName,
}

impl Metadata {
    /// Records that a stored blob has lost its bytes: they were damaged and set aside, or are not there. Pushed or cached, the
    /// row turns `Absent` and keeps its links; of a pushed one the loss is remembered until its bytes are stored again. True if
    /// it was present.
    pub async fn mark_lost(&self, digest: &Digest, finding: &'static str, now_ms: i64) -> Result<bool, Error> {
        let lost = *digest;
        self.write("record the loss of blob", digest, move |connection| {
            async move {
                let Some(row) = blobs::peek(connection, &lost).await?.filter(blobs::BlobRow::is_present) else {
                    return Ok(false);
                };
                sqlx::query("UPDATE blob SET state = 0, stored_bytes = 0 WHERE digest = $1")
                    .bind(lost)
                    .execute(&mut *connection)
                    .await?;
                if row.pushed {
                    sqlx::query(
                        "INSERT INTO loss (blob_id, finding, found_ms) SELECT id, $2, $3 FROM blob WHERE digest = $1
                         ON CONFLICT (blob_id) DO UPDATE SET finding = excluded.finding, found_ms = excluded.found_ms",
                    )
                    .bind(lost)
                    .bind(finding)
                    .bind(now_ms)
                    .execute(connection)
                    .await?;
                }
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Was this blob pushed, and are its bytes lost?
    pub async fn is_lost(&self, digest: &Digest) -> Result<bool, Error> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM loss l JOIN blob b ON b.id = l.blob_id WHERE b.digest = $1)")
            .bind(digest)
            .fetch_one(self.readers())
            .await
            .map_err(cannot("look up the loss of blob", digest))
    }

    /// How many pushed blobs are lost that some repository still links.
    pub async fn count_losses(&self) -> Result<u64, Error> {
        let n: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM loss l WHERE EXISTS (SELECT 1 FROM link k WHERE k.blob_id = l.blob_id)",
        )
        .fetch_one(self.readers())
        .await
        .map_err(cannot("count", "lost blobs"))?;
        Ok(n.unsigned_abs())
    }

    /// Up to `limit` of them, the latest found first.
    pub async fn list_losses(&self, limit: usize) -> Result<Vec<LossRow>, Error> {
        sqlx::query_as(
            "SELECT b.digest, l.finding, l.found_ms, MIN(r.name) AS repository
             FROM loss l JOIN blob b ON b.id = l.blob_id JOIN link k ON k.blob_id = b.id
             JOIN repository r ON r.id = k.repository_id
             GROUP BY b.digest, l.finding, l.found_ms ORDER BY l.found_ms DESC, b.digest LIMIT $1",
        )
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "lost blobs"))
    }
}
