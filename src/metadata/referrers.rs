//! Referrers: manifests that name another as their subject (distribution-spec, "Listing Referrers").

use super::columns::cursor_column;
use super::{Error, ManifestRow, Metadata, cannot, limit_of};
use crate::oci::{Digest, RepositoryName};

impl Metadata {
    /// Up to `limit` referrers of `subject` in the repository after `after`, ordered by digest, of one artifact type if one is
    /// given. The subject itself need not be known.
    pub async fn list_referrers(
        &self,
        repo: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<ManifestRow>, Error> {
        sqlx::query_as(
            "SELECT m.digest, m.media_type, b.size_bytes, m.subject, m.artifact_type, m.annotations, m.pushed
             FROM repository r JOIN manifest m ON m.repository_id = r.id JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND m.subject = $2 AND m.digest > $3 AND ($4 IS NULL OR m.artifact_type = $4)
             ORDER BY m.digest LIMIT $5",
        )
        .bind(repo)
        .bind(subject)
        .bind(cursor_column(after))
        .bind(artifact_type)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the referrers of", subject))
    }
}
