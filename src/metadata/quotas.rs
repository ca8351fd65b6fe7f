//! Quotas: which repositories are under which, and what these hold together.
//!
//! A blob counts in every repository that links it, as `entrepot ls` shows it: what is shared is charged to each. The sums are kept
//! by triggers in the transaction that changes the rows.

use futures::FutureExt as _;

use super::{BlobRow, Error, Metadata, cannot, limit_of};
use crate::oci::RepositoryName;

impl Metadata {
    /// Puts every repository under the quota that `of` names, when the configuration's `rules` are not those of the last start.
    pub async fn assign_quotas(
        &self,
        rules: &str,
        of: impl Fn(&RepositoryName) -> Option<String>,
    ) -> Result<(), Error> {
        let failed = |source| cannot("read", "the rules of quotas")(source);
        let known: Option<String> =
            sqlx::query_scalar("SELECT rules FROM quota_rule").fetch_optional(self.readers()).await.map_err(failed)?;
        if known.unwrap_or_default() == rules {
            return Ok(());
        }
        let repositories: Vec<(i64, RepositoryName)> =
            sqlx::query_as("SELECT id, name FROM repository").fetch_all(self.readers()).await.map_err(failed)?;
        let assigned: Vec<(i64, Option<String>)> = repositories.into_iter().map(|(id, name)| (id, of(&name))).collect();
        let rules = rules.to_owned();
        self.write("assign", &"quotas", move |connection| {
            async move {
                for (id, quota) in assigned {
                    sqlx::query("UPDATE repository SET quota = $2 WHERE id = $1 AND quota IS NOT $2")
                        .bind(id)
                        .bind(quota)
                        .execute(&mut *connection)
                        .await?;
                }
                sqlx::query(
                    "INSERT INTO quota_rule (id, rules) VALUES (1, $1)
                     ON CONFLICT (id) DO UPDATE SET rules = excluded.rules",
                )
                .bind(rules)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Puts a repository under a quota, making it if there is none yet.
    pub async fn assign_quota(&self, repo: &RepositoryName, quota: &str, now_ms: i64) -> Result<(), Error> {
        let (name, quota) = (repo.clone(), quota.to_owned());
        self.write("assign the quota of", repo, move |connection| {
            async move {
                sqlx::query(
                    "INSERT INTO repository (name, private, created_ms, quota) VALUES ($1, FALSE, $3, $2)
                     ON CONFLICT (name) DO UPDATE SET quota = excluded.quota",
                )
                .bind(name)
                .bind(quota)
                .bind(now_ms)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Is the repository under this quota already?
    pub async fn is_under(&self, repo: &RepositoryName, quota: &str) -> Result<bool, Error> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM repository WHERE name = $1 AND quota = $2)")
            .bind(repo)
            .bind(quota)
            .fetch_one(self.readers())
            .await
            .map_err(cannot("look up the quota of", repo))
    }

    /// What the repositories under a quota hold, in bytes.
    pub async fn quota_bytes(&self, quota: &str) -> Result<u64, Error> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT COALESCE(SUM(s.stored_bytes), 0) FROM repository r
             JOIN repository_sum s ON s.repository_id = r.id WHERE r.quota = $1",
        )
        .bind(quota)
        .fetch_one(self.readers())
        .await
        .map_err(cannot("measure quota", quota))?;
        Ok(bytes.unsigned_abs())
    }

    /// As [`Metadata::oldest_cached`], of the repositories under a quota, from the beginning.
    pub async fn oldest_under(&self, quota: &str, limit: usize) -> Result<Vec<BlobRow>, Error> {
        sqlx::query_as(
            "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob
             WHERE state = 1 AND NOT pushed AND pinned = 0
               AND EXISTS (SELECT 1 FROM link l JOIN repository r ON r.id = l.repository_id
                           WHERE l.blob_id = blob.id AND r.quota = $1)
             ORDER BY is_manifest, accessed_ms, digest LIMIT $2",
        )
        .bind(quota)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the oldest cached blobs under", quota))
    }

    /// What of that takes on disk, in bytes.
    pub async fn evictable_under(&self, quota: &str) -> Result<u64, Error> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT COALESCE(SUM(stored_bytes), 0) FROM blob
             WHERE state = 1 AND NOT pushed AND pinned = 0
               AND EXISTS (SELECT 1 FROM link l JOIN repository r ON r.id = l.repository_id
                           WHERE l.blob_id = blob.id AND r.quota = $1)",
        )
        .bind(quota)
        .fetch_one(self.readers())
        .await
        .map_err(cannot("measure the cached blobs under", quota))?;
        Ok(bytes.unsigned_abs())
    }
}
