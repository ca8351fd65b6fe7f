//! The review queue: what may have become garbage, and what is decided of it.
//!
//! Triggers put rows in (`migrations/0003_gc.sql`). A sweep gives each its time, asks for those whose time has come, and has the
//! writer look at each again and act in one transaction: whatever was pushed, linked or read meanwhile counts.

mod blobs;
mod decide;
mod manifests;

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::{Error, Metadata, cannot, limit_of};
use crate::oci::RepositoryName;

pub use blobs::{BlobReview, ReviewedBlob};
pub use decide::{Decision, Moment};
pub use manifests::{ManifestReview, ReviewedManifest};

/// Where a page of the queue begins: after this time and this row.
pub type After = (i64, i64);

/// How long the queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct QueueLength {
    /// Entries.
    #[sqlx(try_from = "i64")]
    pub entries: u64,
    /// The time of the entry that is due first, as far as entries have one.
    pub first_due_ms: Option<i64>,
}

/// Up to `limit` entries of one kind whose time has come, after this one.
async fn due(
    questions: &mut SqliteConnection,
    statement: &'static str,
    due_by_ms: i64,
    after: After,
    limit: usize,
) -> Result<Vec<After>, sqlx::Error> {
    let due = sqlx::query_as(statement).bind(due_by_ms).bind(after.0).bind(after.1).bind(limit_of(limit));
    due.fetch_all(questions).await
}

impl Metadata {
    /// Gives up to `limit` entries of each kind that have no time yet this one. Returns how many.
    pub async fn date_reviews(&self, due_ms: i64, limit: usize) -> Result<u64, Error> {
        let limit = limit_of(limit);
        self.write("date", &"what is to be reviewed", move |connection| {
            async move {
                let mut dated = 0;
                for statement in [
                    "UPDATE manifest_review SET due_ms = $1
                     WHERE id IN (SELECT id FROM manifest_review WHERE due_ms IS NULL LIMIT $2)",
                    "UPDATE blob_review SET due_ms = $1
                     WHERE id IN (SELECT id FROM blob_review WHERE due_ms IS NULL LIMIT $2)",
                    "UPDATE repository_review SET due_ms = $1
                     WHERE id IN (SELECT id FROM repository_review WHERE due_ms IS NULL LIMIT $2)",
                ] {
                    let done = sqlx::query(statement).bind(due_ms).bind(limit).execute(&mut *connection).await?;
                    dated += done.rows_affected();
                }
                Ok(dated)
            }
            .boxed()
        })
        .await
    }

    /// How long the queue is.
    pub async fn review_queue(&self) -> Result<QueueLength, Error> {
        sqlx::query_as(
            "SELECT COUNT(*) AS entries, MIN(due_ms) AS first_due_ms FROM (
                 SELECT due_ms FROM manifest_review UNION ALL SELECT due_ms FROM blob_review
                 UNION ALL SELECT due_ms FROM repository_review)",
        )
        .fetch_one(self.readers())
        .await
        .map_err(cannot("measure", "the review queue"))
    }

    /// Looks for garbage that is not in the queue among the blobs of up to `limit` rows after row `after`, and puts it in.
    /// Returns where to go on, `None` at the end.
    pub async fn enqueue_garbage(&self, after: i64, limit: usize) -> Result<Option<i64>, Error> {
        let failed = |source| cannot("look for", "garbage")(source);
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT MAX(id) FROM (SELECT id FROM blob WHERE id > $1 ORDER BY id LIMIT $2)")
                .bind(after)
                .bind(limit_of(limit))
                .fetch_one(&mut *questions)
                .await
                .map_err(failed)?;
        let Some(last) = last else { return Ok(None) };
        let found = suspects(&mut questions, after, last).await.map_err(failed)?;
        questions.rollback().await.map_err(failed)?;
        if !found.is_empty() {
            self.write("queue for review", &"blobs", move |connection| enqueue(connection, found).boxed()).await?;
        }
        Ok(Some(last))
    }

    /// Removes repositories that hold nothing and were never pushed to, among up to `limit` whose time has come. Returns how
    /// many were looked at, and the names of those that went.
    pub async fn sweep_repositories(&self, due_by_ms: i64, limit: usize) -> Result<(u64, Vec<RepositoryName>), Error> {
        let limit = limit_of(limit);
        self.write("remove", &"empty repositories", move |connection| {
            async move {
                let due: Vec<i64> =
                    sqlx::query_scalar("SELECT id FROM repository_review WHERE due_ms <= $1 ORDER BY due_ms LIMIT $2")
                        .bind(due_by_ms)
                        .bind(limit)
                        .fetch_all(&mut *connection)
                        .await?;
                let mut removed = Vec::new();
                for id in &due {
                    let empty: Option<RepositoryName> = sqlx::query_scalar(
                        "DELETE FROM repository WHERE id = $1 AND NOT private
                         AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repository_id = $1)
                         AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = $1) RETURNING name",
                    )
                    .bind(id)
                    .fetch_optional(&mut *connection)
                    .await?;
                    removed.extend(empty);
                    let answered = sqlx::query("DELETE FROM repository_review WHERE id = $1").bind(id);
                    answered.execute(&mut *connection).await?;
                }
                Ok((due.len() as u64, removed))
            }
            .boxed()
        })
        .await
    }
}

/// As at the end of `migrations/0003_gc.sql`, for the blobs of some rows.
async fn suspects(connection: &mut SqliteConnection, after: i64, last: i64) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT blob_id FROM (
             SELECT blob_id, repository_id FROM link WHERE pushed AND blob_id > $1 AND blob_id <= $2
             EXCEPT SELECT r.blob_id, m.repository_id FROM manifest_blob r JOIN manifest m ON m.id = r.manifest_id
                    WHERE r.blob_id > $1 AND r.blob_id <= $2
             EXCEPT SELECT blob_id, repository_id FROM manifest WHERE blob_id > $1 AND blob_id <= $2)
         UNION SELECT b.id FROM blob b
               WHERE b.id > $1 AND b.id <= $2 AND NOT EXISTS (SELECT 1 FROM link l WHERE l.blob_id = b.id)
         UNION SELECT b.id FROM blob b JOIN manifest m ON m.blob_id = b.id
               WHERE b.id > $1 AND b.id <= $2 AND b.state = 0 AND NOT m.pushed",
    )
    .bind(after)
    .bind(last)
    .fetch_all(connection)
    .await
}

async fn enqueue(connection: &mut SqliteConnection, found: Vec<i64>) -> Result<(), sqlx::Error> {
    for id in found {
        // It may have gone since it was found.
        sqlx::query("INSERT INTO blob_review (id) SELECT id FROM blob WHERE id = $1 ON CONFLICT (id) DO NOTHING")
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
