//! What was pushed, with its age: for the rules that say what stays.

use futures::FutureExt as _;

use super::{Error, Metadata, Notice, cannot, manifests, notices, tags};
use crate::oci::{Digest, RepositoryName, Tag};

/// A pushed tag and its age.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AgedTag {
    /// The tag.
    pub name: Tag,
    /// What it names.
    pub digest: Digest,
    /// When it was last written.
    pub updated_ms: i64,
    /// When its manifest was last pulled or written, in whichever repository.
    pub used_ms: i64,
    /// It belongs to what is pinned.
    pub is_pinned: bool,
}

/// A pushed manifest that no tag names and that belongs to no other manifest.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AgedManifest {
    /// Its digest.
    pub digest: Digest,
    /// When it was last pulled or written, in whichever repository.
    pub used_ms: i64,
}

impl Metadata {
    /// The pushed tags of the repository, the last written first.
    pub async fn list_aged_tags(&self, repo: &RepositoryName) -> Result<Vec<AgedTag>, Error> {
        sqlx::query_as(
            "SELECT t.name, m.digest, t.updated_ms, b.accessed_ms AS used_ms, b.pinned AS is_pinned
             FROM repository r JOIN tag t ON t.repository_id = r.id JOIN manifest m ON m.id = t.manifest_id
             JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND t.pushed ORDER BY t.updated_ms DESC, t.name DESC",
        )
        .bind(repo)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the pushed tags of", repo))
    }

    /// The pushed manifests of the repository that nothing there leads to: no tag, no index, no subject. What is pinned is not
    /// among them.
    pub async fn list_untagged(&self, repo: &RepositoryName) -> Result<Vec<AgedManifest>, Error> {
        sqlx::query_as(
            "SELECT m.digest, b.accessed_ms AS used_ms
             FROM repository r JOIN manifest m ON m.repository_id = r.id JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND m.pushed AND b.pinned = 0
               AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id)
               AND NOT EXISTS (SELECT 1 FROM manifest_child c JOIN manifest p ON p.id = c.manifest_id
                               WHERE c.digest = m.digest AND p.repository_id = r.id)
               AND NOT EXISTS (SELECT 1 FROM manifest s WHERE s.repository_id = r.id AND s.digest = m.subject)
             ORDER BY m.digest",
        )
        .bind(repo)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the untagged manifests of", repo))
    }

    /// Deletes the tag, if it is still as it was when that was decided. False if it is not.
    pub async fn delete_tag_as_it_was(
        &self,
        repo: &RepositoryName,
        tag: &AgedTag,
        notices: &[Notice],
    ) -> Result<bool, Error> {
        let (repo, was, queued) = (repo.clone(), tag.clone(), self.queued(notices));
        let deleted = self.write("delete tag", &tag.name, move |connection| {
            async move {
                let is_as_it_was: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM repository r JOIN tag t ON t.repository_id = r.id
                                    JOIN manifest m ON m.id = t.manifest_id
                                    WHERE r.name = $1 AND t.name = $2 AND m.digest = $3 AND t.updated_ms = $4)",
                )
                .bind(&repo)
                .bind(&was.name)
                .bind(was.digest)
                .bind(was.updated_ms)
                .fetch_one(&mut *connection)
                .await?;
                let is_gone = is_as_it_was && tags::delete(connection, &repo, &was.name).await?;
                if is_gone {
                    notices::queue(connection, &queued).await?;
                }
                Ok(is_gone)
            }
            .boxed()
        });
        let is_gone = deleted.await?;
        self.wake();
        Ok(is_gone)
    }

    /// As [`Metadata::delete_manifest`], unless a tag names it by now. False if one does, or there is no such manifest.
    pub async fn delete_untagged(
        &self,
        repo: &RepositoryName,
        digest: &Digest,
        notices: &[Notice],
    ) -> Result<bool, Error> {
        let (repo, wanted, queued) = (repo.clone(), *digest, self.queued(notices));
        let deleted = self.write("delete untagged manifest", digest, move |connection| {
            async move {
                let is_tagged: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM repository r JOIN manifest m ON m.repository_id = r.id
                                    JOIN tag t ON t.manifest_id = m.id WHERE r.name = $1 AND m.digest = $2)",
                )
                .bind(&repo)
                .bind(wanted)
                .fetch_one(&mut *connection)
                .await?;
                let is_gone = !is_tagged && manifests::delete(connection, &repo, &wanted).await?;
                if is_gone {
                    notices::queue(connection, &queued).await?;
                }
                Ok(is_gone)
            }
            .boxed()
        });
        let is_gone = deleted.await?;
        self.wake();
        Ok(is_gone)
    }
}
