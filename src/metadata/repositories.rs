//! Repositories: their names, and whether they are private.

use sqlx::SqliteConnection;

use super::{Error, Metadata, Provenance, cannot, limit_of};
use crate::oci::RepositoryName;

/// What is known of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RepositoryRow {
    /// Its key in the index.
    pub id: i64,
    /// It had an accepted push; it stays private when everything in it is deleted again.
    pub private: bool,
}

impl Metadata {
    /// The repository of that name, if anything was ever put into it.
    pub async fn repository(&self, name: &RepositoryName) -> Result<Option<RepositoryRow>, Error> {
        sqlx::query_as("SELECT id, private FROM repository WHERE name = $1")
            .bind(name)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look up repository", name))
    }

    /// Up to `limit` names after `after`, in bytewise order, of the repositories that hold at least one manifest or link.
    pub async fn list_repositories(&self, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryName>, Error> {
        let after = after.unwrap_or_default();
        sqlx::query_scalar(
            "SELECT r.name FROM repository r WHERE r.name > $1
             AND (EXISTS (SELECT 1 FROM link l WHERE l.repository_id = r.id)
                  OR EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = r.id))
             ORDER BY r.name LIMIT $2",
        )
        .bind(after)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list repositories after", after))
    }
}

/// The repository's key; it is created if there is none, and becomes private if something was pushed.
pub(super) async fn ensure(
    connection: &mut SqliteConnection,
    name: &RepositoryName,
    provenance: Provenance,
    now_ms: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO repository (name, private, created_ms) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET private = repository.private OR excluded.private
         RETURNING id",
    )
    .bind(name)
    .bind(provenance.is_pushed())
    .bind(now_ms)
    .fetch_one(connection)
    .await
}
