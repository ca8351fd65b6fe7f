//! What is kept, repository by repository and tag by tag: for those who look after a store, not for those who serve from it.

use super::{Error, Extent, Metadata, Provenance, cannot, limit_of};
use crate::oci::{Digest, RepositoryName, Tag};

/// A repository and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RepositoryHolding {
    /// Its name.
    pub name: RepositoryName,
    /// Somebody pushed to it.
    pub private: bool,
    /// Its tags.
    #[sqlx(try_from = "i64")]
    pub tags: u64,
    /// Its manifests.
    #[sqlx(try_from = "i64")]
    pub manifests: u64,
    /// What the blobs that can be read through it take on disk; a blob that several repositories share counts in each.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
    /// When one of its manifests was last used; `None` if it has none.
    pub used_ms: Option<i64>,
}

/// A tag and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagHolding {
    /// The tag.
    pub name: Tag,
    /// What it names.
    pub digest: Digest,
    /// Who set it.
    pub provenance: Provenance,
    /// Its manifest is kept from eviction.
    pub is_pinned: bool,
    /// When it was last written.
    pub updated_ms: i64,
    /// When its manifest was last pulled or written.
    pub used_ms: i64,
    /// What it leads to.
    pub extent: Extent,
}

#[derive(sqlx::FromRow)]
struct TagFound {
    name: Tag,
    digest: Digest,
    pushed: bool,
    pinned: bool,
    updated_ms: i64,
    accessed_ms: i64,
}

impl Metadata {
    /// Up to `limit` repositories after `after`, in bytewise order, that hold anything.
    pub async fn list_holdings(&self, after: Option<&str>, limit: usize) -> Result<Vec<RepositoryHolding>, Error> {
        let after = after.unwrap_or_default();
        sqlx::query_as(
            "SELECT r.name, r.private, (SELECT COUNT(*) FROM tag t WHERE t.repository_id = r.id) AS tags,
                    (SELECT COUNT(*) FROM manifest m WHERE m.repository_id = r.id) AS manifests,
                    (SELECT COALESCE(SUM(b.stored_bytes), 0) FROM link l JOIN blob b ON b.id = l.blob_id
                     WHERE l.repository_id = r.id AND b.state = 1) AS stored_bytes,
                    (SELECT MAX(b.accessed_ms) FROM manifest m JOIN blob b ON b.id = m.blob_id
                     WHERE m.repository_id = r.id) AS used_ms
             FROM repository r WHERE r.name > $1
               AND (EXISTS (SELECT 1 FROM link l WHERE l.repository_id = r.id)
                    OR EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = r.id))
             ORDER BY r.name LIMIT $2",
        )
        .bind(after)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list what is held after", after))
    }

    /// Up to `limit` tags of the repository after `after`, in bytewise order, with what each leads to.
    pub async fn list_tag_holdings(
        &self,
        repo: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<TagHolding>, Error> {
        let found: Vec<TagFound> = sqlx::query_as(
            "SELECT t.name, m.digest, t.pushed, b.pinned, t.updated_ms, b.accessed_ms
             FROM repository r JOIN tag t ON t.repository_id = r.id JOIN manifest m ON m.id = t.manifest_id
             JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND t.name > $2 ORDER BY t.name LIMIT $3",
        )
        .bind(repo)
        .bind(after.unwrap_or_default())
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list what is held of", repo))?;
        let mut tags = Vec::with_capacity(found.len());
        for TagFound { name, digest, pushed, pinned: is_pinned, updated_ms, accessed_ms: used_ms } in found {
            let extent = self.extent(repo, &digest).await?;
            tags.push(TagHolding { name, digest, provenance: pushed.into(), is_pinned, updated_ms, used_ms, extent });
        }
        Ok(tags)
    }

    /// Up to `limit` blobs that can be read through the repository, in the order of their digests, after `after`.
    pub async fn list_linked(
        &self,
        repo: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, Error> {
        sqlx::query_scalar(
            "SELECT b.digest FROM repository r JOIN link l ON l.repository_id = r.id JOIN blob b ON b.id = l.blob_id
             WHERE r.name = $1 AND b.digest > $2 ORDER BY b.digest LIMIT $3",
        )
        .bind(repo)
        .bind(super::columns::cursor_column(after))
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the blobs of", repo))
    }

    /// Up to `limit` manifests of the repository, in the order of their digests, after `after`.
    pub async fn list_manifests(
        &self,
        repo: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, Error> {
        sqlx::query_scalar(
            "SELECT m.digest FROM repository r JOIN manifest m ON m.repository_id = r.id
             WHERE r.name = $1 AND m.digest > $2 ORDER BY m.digest LIMIT $3",
        )
        .bind(repo)
        .bind(super::columns::cursor_column(after))
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the manifests of", repo))
    }

    /// Forgets the name of a repository that holds nothing any more: it is nobody's again. False if it holds something.
    pub async fn delete_empty_repository(&self, repo: &RepositoryName) -> Result<bool, Error> {
        use futures::FutureExt as _;
        let name = repo.clone();
        self.write("forget repository", repo, move |connection| {
            async move {
                let done = sqlx::query(
                    "DELETE FROM repository WHERE name = $1
                       AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repository_id = repository.id)
                       AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = repository.id)",
                )
                .bind(name)
                .execute(connection)
                .await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }
}
