//! Lists that upstreams gave: the tags of a repository, what is attached to a manifest. Kept as the cache wrote them, within a
//! bound over all of them.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::columns::cursor_column;
use super::{Error, Metadata, cannot};
use crate::oci::{Digest, RepositoryName};

/// A list as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ListRow {
    /// What the cache wrote.
    pub body: Vec<u8>,
    /// When the upstream said so.
    pub checked_ms: i64,
}

impl Metadata {
    /// The list of what is attached to `subject`, or without one of the repository's tags, if one is kept.
    pub async fn find_list(&self, repo: &RepositoryName, subject: Option<&Digest>) -> Result<Option<ListRow>, Error> {
        sqlx::query_as("SELECT body, checked_ms FROM upstream_list WHERE repository = $1 AND subject = $2")
            .bind(repo)
            .bind(cursor_column(subject))
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look up a list of", repo))
    }

    /// Keeps a list in place of the one before, and removes those that were longest not confirmed while all of them together
    /// have more than `bytes_max`. Returns the bytes of all that are kept.
    pub async fn put_list(
        &self,
        repo: &RepositoryName,
        subject: Option<&Digest>,
        body: Vec<u8>,
        now_ms: i64,
        bytes_max: u64,
    ) -> Result<u64, Error> {
        let (name, subject) = (repo.clone(), cursor_column(subject));
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let kept = self.write("keep a list of", repo, move |connection| {
            async move {
                sqlx::query(
                    "INSERT INTO upstream_list (repository, subject, body, checked_ms) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (repository, subject) DO UPDATE SET
                         body = excluded.body, checked_ms = excluded.checked_ms",
                )
                .bind(name)
                .bind(subject)
                .bind(body)
                .bind(now_ms)
                .execute(&mut *connection)
                .await?;
                shrink(connection, bytes_max).await
            }
            .boxed()
        });
        Ok(u64::try_from(kept.await?).unwrap_or_default())
    }

    /// Forgets a list.
    pub async fn delete_list(&self, repo: &RepositoryName, subject: Option<&Digest>) -> Result<(), Error> {
        let (name, subject) = (repo.clone(), cursor_column(subject));
        self.write("forget a list of", repo, move |connection| {
            async move {
                sqlx::query("DELETE FROM upstream_list WHERE repository = $1 AND subject = $2")
                    .bind(name)
                    .bind(subject)
                    .execute(connection)
                    .await
                    .map(|_| ())
            }
            .boxed()
        })
        .await
    }
}

async fn shrink(connection: &mut SqliteConnection, bytes_max: i64) -> Result<i64, sqlx::Error> {
    loop {
        let bytes: i64 =
            sqlx::query_scalar("SELECT body_bytes FROM upstream_list_sum").fetch_one(&mut *connection).await?;
        if bytes <= bytes_max {
            return Ok(bytes);
        }
        sqlx::query(
            "DELETE FROM upstream_list WHERE id = (SELECT id FROM upstream_list ORDER BY checked_ms, id LIMIT 1)",
        )
        .execute(&mut *connection)
        .await?;
    }
}
