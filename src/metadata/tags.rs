//! Tags: names that move from manifest to manifest within one repository.
//!
//! A pushed tag belongs to whoever pushed it: only another push moves it.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::pins::Arrived;
use super::{Error, Metadata, Provenance, cannot, limit_of, pins, repositories};
use crate::oci::{Digest, RepositoryName, Tag};

/// What is known of a tag.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TagRow {
    /// The tag.
    pub name: Tag,
    /// The manifest it names.
    pub digest: Digest,
    /// Who set it.
    #[sqlx(rename = "pushed", try_from = "bool")]
    pub provenance: Provenance,
    /// When an upstream last confirmed it, or it was written.
    pub checked_ms: i64,
    /// When it was last written.
    pub updated_ms: i64,
}

impl Metadata {
    /// The tag, if the repository has it.
    pub async fn find_tag(&self, repo: &RepositoryName, tag: &Tag) -> Result<Option<TagRow>, Error> {
        sqlx::query_as(
            "SELECT t.name, m.digest, t.pushed, t.checked_ms, t.updated_ms
             FROM repository r JOIN tag t ON t.repository_id = r.id JOIN manifest m ON m.id = t.manifest_id
             WHERE r.name = $1 AND t.name = $2",
        )
        .bind(repo)
        .bind(tag)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look up tag", tag))
    }

    /// Points the tag at a manifest of the repository. `Pushed` makes the repository private. False, and nothing changed, if
    /// the repository has no such manifest, or if the tag was pushed and this is none.
    pub async fn put_tag(
        &self,
        repo: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        provenance: Provenance,
        now_ms: i64,
    ) -> Result<bool, Error> {
        let is_configured = self.pins_by_pattern(repo, tag);
        let (repo, name, digest) = (repo.clone(), tag.clone(), *digest);
        self.write("write tag", tag, move |connection| {
            async move {
                let manifest: Option<i64> = sqlx::query_scalar(
                    "SELECT m.id FROM repository r JOIN manifest m ON m.repository_id = r.id
                     WHERE r.name = $1 AND m.digest = $2",
                )
                .bind(&repo)
                .bind(digest)
                .fetch_optional(&mut *connection)
                .await?;
                let Some(manifest_id) = manifest else { return Ok(false) };
                let repository_id = repositories::ensure(connection, &repo, provenance, now_ms).await?;
                let is_set = upsert(connection, repository_id, &name, manifest_id, provenance, now_ms).await?;
                let tags = [(name, is_configured)];
                let arrived = Arrived { repo: &repo, repository_id, manifest_id, digest: &digest, tags: &tags };
                pins::settle(connection, &arrived).await?;
                Ok(is_set)
            }
            .boxed()
        })
        .await
    }

    /// Records that an upstream confirmed the tag; a tag that is not there is passed over.
    pub async fn mark_tag_checked(&self, repo: &RepositoryName, tag: &Tag, now_ms: i64) -> Result<(), Error> {
        let (repo, name) = (repo.clone(), tag.clone());
        self.write("record the check of tag", tag, move |connection| {
            async move {
                sqlx::query(
                    "UPDATE tag SET checked_ms = $3
                     WHERE repository_id = (SELECT id FROM repository WHERE name = $1) AND name = $2",
                )
                .bind(repo)
                .bind(name)
                .bind(now_ms)
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Forgets a tag that came from an upstream. One that was pushed meanwhile stays, and the answer is false.
    pub async fn delete_cached_tag(&self, repo: &RepositoryName, tag: &Tag) -> Result<bool, Error> {
        let (repo, name) = (repo.clone(), tag.clone());
        self.write("forget tag", tag, move |connection| {
            async move {
                let done = sqlx::query(
                    "DELETE FROM tag WHERE repository_id = (SELECT id FROM repository WHERE name = $1) AND name = $2
                     AND NOT pushed",
                )
                .bind(repo)
                .bind(name)
                .execute(connection)
                .await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Deletes the tag, not its manifest. False if there was none.
    pub async fn delete_tag(&self, repo: &RepositoryName, tag: &Tag) -> Result<bool, Error> {
        let (repo, name) = (repo.clone(), tag.clone());
        self.write("delete tag", tag, move |connection| async move { delete(connection, &repo, &name).await }.boxed())
            .await
    }

    /// Up to `limit` tags of the repository after `after`, in bytewise order.
    pub async fn list_tags(&self, repo: &RepositoryName, after: Option<&str>, limit: usize) -> Result<Vec<Tag>, Error> {
        sqlx::query_scalar(
            "SELECT t.name FROM repository r JOIN tag t ON t.repository_id = r.id
             WHERE r.name = $1 AND t.name > $2 ORDER BY t.name LIMIT $3",
        )
        .bind(repo)
        .bind(after.unwrap_or_default())
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the tags of", repo))
    }
}

/// What [`Metadata::delete_tag`] does, inside a change.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    tag: &Tag,
) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query("DELETE FROM tag WHERE repository_id = (SELECT id FROM repository WHERE name = $1) AND name = $2")
            .bind(repo)
            .bind(tag)
            .execute(&mut *connection)
            .await?;
    if pins::is_written(connection, repo, tag.as_str()).await? {
        pins::refresh(connection).await?;
    }
    Ok(done.rows_affected() > 0)
}

/// Is there such a tag, and was it pushed?
pub(super) async fn is_pushed(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    tag: &Tag,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM repository r JOIN tag t ON t.repository_id = r.id
                        WHERE r.name = $1 AND t.name = $2 AND t.pushed)",
    )
    .bind(repo)
    .bind(tag)
    .fetch_one(connection)
    .await
}

/// Points a tag at a manifest; false if it was pushed and this is no push.
pub(super) async fn upsert(
    connection: &mut SqliteConnection,
    repository_id: i64,
    name: &Tag,
    manifest_id: i64,
    provenance: Provenance,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO tag (repository_id, name, manifest_id, pushed, checked_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $5)
         ON CONFLICT (repository_id, name) DO UPDATE SET
             manifest_id = excluded.manifest_id, pushed = excluded.pushed,
             checked_ms = excluded.checked_ms, updated_ms = excluded.updated_ms
         WHERE excluded.pushed OR NOT tag.pushed",
    )
    .bind(repository_id)
    .bind(name)
    .bind(manifest_id)
    .bind(provenance.is_pushed())
    .bind(now_ms)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Was the tag pushed, and for another manifest than this?
pub(super) async fn names_another(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    name: &Tag,
    digest: &Digest,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM repository r JOIN tag t ON t.repository_id = r.id
             JOIN manifest m ON m.id = t.manifest_id
         WHERE r.name = $1 AND t.name = $2 AND t.pushed AND m.digest <> $3)",
    )
    .bind(repo)
    .bind(name)
    .bind(digest)
    .fetch_one(connection)
    .await
}
