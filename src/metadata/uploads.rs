//! Upload sessions: which are open, so that a push goes on after a restart. Their bytes are the blobs room's.

use futures::FutureExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::columns::{Malformed, algorithm_code, algorithm_of};
use super::{Error, Metadata, cannot};
use crate::oci::{Algorithm, RepositoryName, UploadId};

/// An open upload session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRow {
    /// Its name.
    pub id: UploadId,
    /// The repository pushed to, which may not exist yet.
    pub repo: RepositoryName,
    /// The digest algorithm the client announced.
    pub algorithm: Option<Algorithm>,
    /// When it was opened.
    pub started_ms: i64,
    /// When the client last did something with it.
    pub touched_ms: i64,
}

impl FromRow<'_, SqliteRow> for UploadRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let code: Option<u8> = row.try_get("algorithm")?;
        let algorithm = code.map(|code| algorithm_of(code).ok_or(Malformed { expected: "algorithm" })).transpose();
        Ok(Self {
            id: row.try_get("id")?,
            repo: row.try_get("repository")?,
            algorithm: algorithm.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            started_ms: row.try_get("started_ms")?,
            touched_ms: row.try_get("touched_ms")?,
        })
    }
}

impl Metadata {
    /// Records a session that was opened. Its name must be new.
    pub async fn insert_upload(&self, upload: &UploadRow) -> Result<(), Error> {
        let row = upload.clone();
        self.write("open upload session", &upload.id, move |connection| {
            async move {
                sqlx::query(
                    "INSERT INTO upload (id, repository, algorithm, started_ms, touched_ms)
                     VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(row.id)
                .bind(row.repo)
                .bind(row.algorithm.map(algorithm_code))
                .bind(row.started_ms)
                .bind(row.touched_ms)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// The session of that name, if it is open.
    pub async fn find_upload(&self, id: &UploadId) -> Result<Option<UploadRow>, Error> {
        sqlx::query_as("SELECT id, repository, algorithm, started_ms, touched_ms FROM upload WHERE id = $1")
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look up upload session", id))
    }

    /// Records that the client did something with the session. False if it is not open.
    pub async fn touch_upload(&self, id: &UploadId, now_ms: i64) -> Result<bool, Error> {
        let wanted = *id;
        self.write("touch upload session", id, move |connection| {
            async move {
                let done = sqlx::query("UPDATE upload SET touched_ms = $2 WHERE id = $1")
                    .bind(wanted)
                    .bind(now_ms)
                    .execute(connection)
                    .await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Forgets the session. False if it was not open: of several that end it, one gets true.
    pub async fn delete_upload(&self, id: &UploadId) -> Result<bool, Error> {
        let wanted = *id;
        self.write("close upload session", id, move |connection| {
            async move {
                let done = sqlx::query("DELETE FROM upload WHERE id = $1").bind(wanted).execute(connection).await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// How many sessions are open.
    pub async fn count_uploads(&self) -> Result<u64, Error> {
        let n_uploads: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM upload")
            .fetch_one(self.readers())
            .await
            .map_err(cannot("count", "upload sessions"))?;
        Ok(n_uploads.unsigned_abs())
    }

    /// The sessions with which nobody did anything since `touched_ms`, the longest idle first.
    pub async fn list_uploads_before(&self, touched_ms: i64) -> Result<Vec<UploadRow>, Error> {
        sqlx::query_as(
            "SELECT id, repository, algorithm, started_ms, touched_ms FROM upload
             WHERE touched_ms < $1 ORDER BY touched_ms, id",
        )
        .bind(touched_ms)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "idle upload sessions"))
    }
}
