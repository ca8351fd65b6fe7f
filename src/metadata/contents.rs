//! What a manifest consists of and how much of it is here: questions for those who explain, not for those who serve.

use super::{Error, Metadata, cannot, limit_of};
use crate::oci::{Digest, RepositoryName};

/// A blob that a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Part {
    /// Its digest.
    pub digest: Digest,
    /// Its length, as the manifest states it.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Its bytes are stored.
    pub is_stored: bool,
    /// The repository may show it.
    pub is_linked: bool,
}

/// A manifest that an index refers to.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Child {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes are stored, and it is a manifest of the repository.
    pub is_here: bool,
    /// Blobs it refers to, as far as it is known what they are.
    #[sqlx(try_from = "i64")]
    pub blobs: u64,
    /// Bytes of those that are not stored.
    #[sqlx(try_from = "i64")]
    pub missing_bytes: u64,
}

impl Metadata {
    /// Up to `limit` blobs that the manifest refers to, the largest first.
    pub async fn list_parts(&self, repo: &RepositoryName, manifest: &Digest, limit: usize) -> Result<Vec<Part>, Error> {
        sqlx::query_as(
            "SELECT b.digest, mb.size_bytes, b.state = 1 AS is_stored,
                    EXISTS (SELECT 1 FROM link l WHERE l.repository_id = r.id AND l.blob_id = b.id) AS is_linked
             FROM repository r JOIN manifest m ON m.repository_id = r.id
             JOIN manifest_blob mb ON mb.manifest_id = m.id JOIN blob b ON b.id = mb.blob_id
             WHERE r.name = $1 AND m.digest = $2 ORDER BY mb.size_bytes DESC, b.digest LIMIT $3",
        )
        .bind(repo)
        .bind(manifest)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the blobs of manifest", manifest))
    }

    /// Up to `limit` manifests that the index refers to, those that are here first.
    pub async fn list_children(
        &self,
        repo: &RepositoryName,
        index: &Digest,
        limit: usize,
    ) -> Result<Vec<Child>, Error> {
        sqlx::query_as(
            "SELECT c.digest, COALESCE(b.state = 1, FALSE) AS is_here,
                    (SELECT COUNT(*) FROM manifest_blob mb WHERE mb.manifest_id = m.id) AS blobs,
                    (SELECT COALESCE(SUM(mb.size_bytes), 0) FROM manifest_blob mb JOIN blob p ON p.id = mb.blob_id
                     WHERE mb.manifest_id = m.id AND p.state <> 1) AS missing_bytes
             FROM repository r JOIN manifest i ON i.repository_id = r.id JOIN manifest_child c ON c.manifest_id = i.id
             LEFT JOIN manifest m ON m.repository_id = r.id AND m.digest = c.digest LEFT JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND i.digest = $2 ORDER BY is_here DESC, c.digest LIMIT $3",
        )
        .bind(repo)
        .bind(index)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the children of index", index))
    }
}
