//! Totals: how much of everything there is, without counting it each time.
//!
//! Triggers add and subtract in the transaction that changes a row, so the sums cannot be half right. They say how many rows
//! there are and what they take, never who holds them, and [`Metadata::recount`] rebuilds them from the rows.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::{BlobState, Error, Metadata, cannot};

/// How much of everything there is. Bytes are what the blobs take on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Present and evictable.
    pub cached_bytes: u64,
    /// Present and pushed.
    pub pushed_bytes: u64,
    /// Being removed.
    pub deleting_bytes: u64,
    /// Blobs present, manifests' bytes among them.
    pub n_blobs: u64,
    /// Manifests, counted in each repository that knows them.
    pub n_manifests: u64,
    /// Repositories ever written to, empty ones included.
    pub n_repositories: u64,
}

/// A running sum, as it stands or as the rows make it.
#[derive(sqlx::FromRow)]
struct BlobSum {
    state: BlobState,
    pushed: bool,
    n_blobs: i64,
    stored_bytes: i64,
}

impl Metadata {
    /// How much of everything there is.
    pub async fn totals(&self) -> Result<Totals, Error> {
        let failed = |source| cannot("read", "the totals")(source);
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let sums: Vec<BlobSum> = sqlx::query_as("SELECT state, pushed, n_blobs, stored_bytes FROM blob_sum")
            .fetch_all(&mut *questions)
            .await
            .map_err(failed)?;
        let (n_manifests, n_repositories): (i64, i64) =
            sqlx::query_as("SELECT (SELECT n_manifests FROM manifest_sum), (SELECT COUNT(*) FROM repository)")
                .fetch_one(&mut *questions)
                .await
                .map_err(failed)?;
        questions.rollback().await.map_err(failed)?;
        Ok(add_up(&sums, n_manifests, n_repositories))
    }

    /// Compares the running sums with the rows and rebuilds them where they differ; true if they did. Reads every row, so it is
    /// for scrubbing, not for every day.
    pub async fn recount(&self) -> Result<bool, Error> {
        self.write("recount", &"the totals", |connection| recount(connection).boxed()).await
    }
}

fn add_up(sums: &[BlobSum], n_manifests: i64, n_repositories: i64) -> Totals {
    let mut totals = Totals {
        n_manifests: n_manifests.unsigned_abs(),
        n_repositories: n_repositories.unsigned_abs(),
        ..Totals::default()
    };
    for sum in sums {
        let stored_bytes = sum.stored_bytes.unsigned_abs();
        match (sum.state, sum.pushed) {
            (BlobState::Absent, _) => {}
            (BlobState::Present, false) => totals.cached_bytes += stored_bytes,
            (BlobState::Present, true) => totals.pushed_bytes += stored_bytes,
            (BlobState::Deleting, _) => totals.deleting_bytes += stored_bytes,
        }
        if sum.state == BlobState::Present {
            totals.n_blobs += sum.n_blobs.unsigned_abs();
        }
    }
    totals
}

async fn recount(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let kept: Vec<BlobSum> =
        sqlx::query_as("SELECT state, pushed, n_blobs, stored_bytes FROM blob_sum").fetch_all(&mut *connection).await?;
    let counted: Vec<BlobSum> = sqlx::query_as(
        "SELECT state, pushed, COUNT(*) AS n_blobs, CAST(SUM(stored_bytes) AS BIGINT) AS stored_bytes
         FROM blob GROUP BY state, pushed",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut drifted = false;
    for sum in kept {
        let (n_blobs, stored_bytes) = counted
            .iter()
            .find(|counted| (counted.state, counted.pushed) == (sum.state, sum.pushed))
            .map_or((0, 0), |counted| (counted.n_blobs, counted.stored_bytes));
        if (n_blobs, stored_bytes) == (sum.n_blobs, sum.stored_bytes) {
            continue;
        }
        drifted = true;
        sqlx::query("UPDATE blob_sum SET n_blobs = $3, stored_bytes = $4 WHERE state = $1 AND pushed = $2")
            .bind(sum.state)
            .bind(sum.pushed)
            .bind(n_blobs)
            .bind(stored_bytes)
            .execute(&mut *connection)
            .await?;
    }
    let manifests = sqlx::query(
        "UPDATE manifest_sum SET n_manifests = (SELECT COUNT(*) FROM manifest)
         WHERE n_manifests <> (SELECT COUNT(*) FROM manifest)",
    )
    .execute(&mut *connection)
    .await?;
    let repositories = sqlx::query(
        "UPDATE repository_sum SET stored_bytes = counted.stored_bytes
         FROM (SELECT r.id, COALESCE((SELECT SUM(b.stored_bytes) FROM link l JOIN blob b ON b.id = l.blob_id
                                      WHERE l.repository_id = r.id AND b.state = 1), 0) AS stored_bytes
               FROM repository r) AS counted
         WHERE repository_sum.repository_id = counted.id AND repository_sum.stored_bytes <> counted.stored_bytes",
    )
    .execute(connection)
    .await?;
    Ok(drifted || manifests.rows_affected() > 0 || repositories.rows_affected() > 0)
}
