//! Links: through which repositories a blob may be read.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::{BlobChange, BlobRow, Error, Metadata, Notice, Provenance, blobs, cannot, notices, repositories};
use crate::oci::{Digest, RepositoryName};

/// Repositories that [`Metadata::find_mountable`] names: enough to find one the caller may read.
const MOUNTABLE_MAX: i64 = 100;

/// What a repository has to do with a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The blob may be read through the repository; whether its bytes are here, the row says.
    Linked(BlobRow),
    /// The bytes are stored, but the repository may not show them.
    Unlinked(BlobRow),
    /// Neither linked nor stored.
    Unknown,
}

#[derive(sqlx::FromRow)]
struct Found {
    #[sqlx(flatten)]
    blob: BlobRow,
    linked: bool,
}

impl Metadata {
    /// What the repository has to do with the blob.
    pub async fn find_link(&self, repo: &RepositoryName, digest: &Digest) -> Result<Link, Error> {
        let found: Option<Found> = sqlx::query_as(
            "SELECT b.digest, b.size_bytes, b.stored_bytes, b.state, b.pushed, b.is_manifest, b.accessed_ms,
                    EXISTS (SELECT 1 FROM repository r JOIN link l ON l.repository_id = r.id AND l.blob_id = b.id
                            WHERE r.name = $1) AS linked
             FROM blob b WHERE b.digest = $2",
        )
        .bind(repo)
        .bind(digest)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look up the link of blob", digest))?;
        Ok(match found {
            Some(Found { blob, linked: true }) => Link::Linked(blob),
            Some(Found { blob, linked: false }) if blob.is_present() => Link::Unlinked(blob),
            _ => Link::Unknown,
        })
    }

    /// Repositories from which the blob can be mounted, by name: they link it and its bytes are here. At most 100.
    pub async fn find_mountable(&self, digest: &Digest) -> Result<Vec<RepositoryName>, Error> {
        sqlx::query_scalar(
            "SELECT r.name FROM blob b JOIN link l ON l.blob_id = b.id JOIN repository r ON r.id = l.repository_id
             WHERE b.digest = $1 AND b.state = 1 ORDER BY r.name LIMIT $2",
        )
        .bind(digest)
        .bind(MOUNTABLE_MAX)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("find repositories to mount from blob", digest))
    }

    /// Links a blob that is present to the repository, which is created if it is new. `Pushed` makes the repository private and
    /// the blob pushed. `None`, and nothing changed, if the blob is not present.
    pub async fn link_blob(
        &self,
        repo: &RepositoryName,
        digest: &Digest,
        provenance: Provenance,
        now_ms: i64,
    ) -> Result<Option<BlobChange>, Error> {
        let (repo, wanted) = (repo.clone(), *digest);
        self.write("link blob", digest, move |connection| {
            async move {
                let before = blobs::peek(connection, &wanted).await?;
                let Some(blob_id) = claim(connection, &wanted, provenance, now_ms).await? else { return Ok(None) };
                let repository_id = repositories::ensure(connection, &repo, provenance, now_ms).await?;
                insert(connection, repository_id, blob_id, provenance).await?;
                let after = blobs::peek(connection, &wanted).await?;
                Ok(after.map(|after| BlobChange { before, after }))
            }
            .boxed()
        })
        .await
    }

    /// Takes the link away; the bytes stay. False if there was none.
    pub async fn unlink_blob(&self, repo: &RepositoryName, digest: &Digest) -> Result<bool, Error> {
        self.unlink_blob_telling(repo, digest, &[]).await
    }

    /// The same, of which this is told if there was one.
    pub async fn unlink_blob_telling(
        &self,
        repo: &RepositoryName,
        digest: &Digest,
        notices: &[Notice],
    ) -> Result<bool, Error> {
        let (repo, wanted, queued) = (repo.clone(), *digest, self.queued(notices));
        let is_told = !queued.is_empty();
        let unlinked = self.write("unlink blob", digest, move |connection| {
            async move {
                let done = sqlx::query(
                    "DELETE FROM link WHERE repository_id = (SELECT id FROM repository WHERE name = $1)
                     AND blob_id = (SELECT id FROM blob WHERE digest = $2)",
                )
                .bind(repo)
                .bind(wanted)
                .execute(&mut *connection)
                .await?;
                let is_gone = done.rows_affected() > 0;
                if is_gone {
                    notices::queue(connection, &queued).await?;
                }
                Ok(is_gone)
            }
            .boxed()
        });
        let is_gone = unlinked.await?;
        if is_told {
            self.wake();
        }
        Ok(is_gone)
    }
}

/// The key of a blob that is present, which is used now and becomes pushed if this is a push.
async fn claim(
    connection: &mut SqliteConnection,
    digest: &Digest,
    provenance: Provenance,
    now_ms: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE blob SET pushed = pushed OR $2, accessed_ms = MAX(accessed_ms, $3)
         WHERE digest = $1 AND state = 1 RETURNING id",
    )
    .bind(digest)
    .bind(provenance.is_pushed())
    .bind(now_ms)
    .fetch_optional(connection)
    .await
}

/// Links a blob to a repository; a link that was once pushed stays so.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    repository_id: i64,
    blob_id: i64,
    provenance: Provenance,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO link (repository_id, blob_id, pushed) VALUES ($1, $2, $3)
         ON CONFLICT (repository_id, blob_id) DO UPDATE SET pushed = link.pushed OR excluded.pushed",
    )
    .bind(repository_id)
    .bind(blob_id)
    .bind(provenance.is_pushed())
    .execute(connection)
    .await
    .map(|_| ())
}
