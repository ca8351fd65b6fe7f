//! How far the check of all stored blobs has come, and the check of the index itself.

use futures::FutureExt as _;

use super::columns::{cursor_column, length_column};
use super::{Error, Metadata, cannot, limit_of};
use crate::oci::Digest;

/// Problems of the index that are named; more would only say the same.
const PROBLEMS_MAX: u32 = 20;

/// A pass over all blobs in the order of their digests. Times are Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct ScrubRow {
    /// When it began.
    pub started_ms: i64,
    /// The last digest checked, while it is under way and has come to any.
    pub position: Option<Digest>,
    /// Blobs checked.
    #[sqlx(try_from = "i64")]
    pub checked_blobs: u64,
    /// Their length.
    #[sqlx(try_from = "i64")]
    pub checked_bytes: u64,
    /// How many of them were damaged.
    #[sqlx(try_from = "i64")]
    pub damaged_blobs: u64,
    /// When it ended; `None` while it is under way.
    pub ended_ms: Option<i64>,
}

impl Metadata {
    /// The pass that is under way, or the last one that ended.
    pub async fn scrub(&self) -> Result<Option<ScrubRow>, Error> {
        sqlx::query_as(
            "SELECT started_ms, position, checked_blobs, checked_bytes, damaged_blobs, ended_ms FROM scrub WHERE id = 1",
        )
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read the state of", "the scrub"))
    }

    /// Records how far a pass has come.
    pub async fn put_scrub(&self, row: ScrubRow) -> Result<(), Error> {
        self.write("record the state of", &"the scrub", move |connection| {
            async move {
                sqlx::query(
                    "INSERT OR REPLACE INTO scrub
                         (id, started_ms, position, checked_blobs, checked_bytes, damaged_blobs, ended_ms)
                     VALUES (1, $1, $2, $3, $4, $5, $6)",
                )
                .bind(row.started_ms)
                .bind(row.position)
                .bind(length_column(row.checked_blobs))
                .bind(length_column(row.checked_bytes))
                .bind(length_column(row.damaged_blobs))
                .bind(row.ended_ms)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Up to `limit` blobs that are present after `after`, by digest, with their lengths in bytes.
    pub async fn list_present(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<(Digest, u64)>, Error> {
        let rows: Vec<(Digest, i64)> = sqlx::query_as(
            "SELECT digest, size_bytes FROM blob WHERE digest > $1 AND state = 1 ORDER BY digest LIMIT $2",
        )
        .bind(cursor_column(after))
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "stored blobs"))?;
        Ok(rows.into_iter().map(|(digest, size_bytes)| (digest, size_bytes.unsigned_abs())).collect())
    }

    /// What is wrong with the index's file itself, if anything. Reads all of it.
    pub async fn problems(&self) -> Result<Vec<String>, Error> {
        let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("PRAGMA quick_check({PROBLEMS_MAX})")))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("check", "the index"))?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }
}
