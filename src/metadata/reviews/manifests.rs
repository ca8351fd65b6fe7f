//! Manifests under review: those that an index listed, or that were attached to a manifest, which is gone.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::super::{Error, Metadata, cannot, manifests};
use super::{After, Decision, Moment};
use crate::oci::{Digest, RepositoryName};

/// A manifest in the queue, and what holds it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ManifestReview {
    /// Its row's key.
    pub id: i64,
    /// Where it is.
    pub repository: RepositoryName,
    /// Its digest.
    pub digest: Digest,
    /// What its bytes take on disk.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
    /// When its bytes were last used.
    pub accessed_ms: i64,
    /// What keeps it alive: `tag`, `index`, `subject`, `pin`.
    pub held_by: Option<String>,
}

/// What was done with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewedManifest {
    /// As it was found.
    pub review: ManifestReview,
    /// What was decided and done.
    pub decision: Decision,
}

/// What holds a manifest.
const REVIEW: &str = "
    SELECT m.id, r.name AS repository, m.digest, b.stored_bytes, b.accessed_ms,
           CASE WHEN EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id) THEN 'tag'
                WHEN EXISTS (SELECT 1 FROM manifest_child c JOIN manifest i ON i.id = c.manifest_id
                             WHERE c.digest = m.digest AND i.repository_id = m.repository_id AND i.id <> m.id)
                THEN 'index'
                WHEN EXISTS (SELECT 1 FROM manifest s WHERE s.repository_id = m.repository_id
                             AND s.digest = m.subject AND s.id <> m.id) THEN 'subject'
                WHEN b.pinned THEN 'pin'
           END AS held_by
    FROM manifest m JOIN blob b ON b.id = m.blob_id JOIN repository r ON r.id = m.repository_id WHERE m.id = $1";

const DUE: &str = "SELECT due_ms, id FROM manifest_review WHERE due_ms <= $1 AND (due_ms, id) > ($2, $3)
    ORDER BY due_ms, id LIMIT $4";

impl Metadata {
    /// Up to `limit` manifests whose time has come, and where to go on.
    pub async fn due_manifests(
        &self,
        due_by_ms: i64,
        after: After,
        limit: usize,
    ) -> Result<(Vec<ManifestReview>, Option<After>), Error> {
        let failed = |source| cannot("list", "manifests to be reviewed")(source);
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let due = super::due(&mut questions, DUE, due_by_ms, after, limit).await.map_err(failed)?;
        let mut reviews = Vec::with_capacity(due.len());
        for (_, id) in &due {
            reviews.extend(review(&mut questions, *id).await.map_err(failed)?);
        }
        questions.rollback().await.map_err(failed)?;
        Ok((reviews, due.last().copied()))
    }

    /// Looks at each manifest again and removes it if nothing holds it, in one transaction.
    pub async fn review_manifests(&self, manifests: Vec<i64>, at: Moment) -> Result<Vec<ReviewedManifest>, Error> {
        self.write("review", &"manifests", move |connection| {
            async move {
                let mut reviewed = Vec::with_capacity(manifests.len());
                for id in manifests {
                    let Some(review) = review(connection, id).await? else { continue };
                    let decision = review.decide(at);
                    act(connection, id, decision).await?;
                    reviewed.push(ReviewedManifest { review, decision });
                }
                Ok(reviewed)
            }
            .boxed()
        })
        .await
    }

    /// Looks at these manifests again later.
    pub async fn postpone_manifests(&self, manifests: Vec<i64>, due_ms: i64) -> Result<(), Error> {
        self.write("postpone the review of", &"manifests", move |connection| {
            async move {
                for id in manifests {
                    act(connection, id, Decision::Later { due_ms }).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }
}

async fn review(connection: &mut SqliteConnection, id: i64) -> Result<Option<ManifestReview>, sqlx::Error> {
    sqlx::query_as(REVIEW).bind(id).fetch_optional(connection).await
}

async fn act(connection: &mut SqliteConnection, id: i64, decision: Decision) -> Result<(), sqlx::Error> {
    match decision {
        // The entry goes with the row.
        Decision::Delete => manifests::forget(connection, id).await,
        Decision::Later { due_ms } => {
            let later = sqlx::query("UPDATE manifest_review SET due_ms = $2 WHERE id = $1").bind(id).bind(due_ms);
            later.execute(connection).await.map(|_| ())
        }
        _ => sqlx::query("DELETE FROM manifest_review WHERE id = $1").bind(id).execute(connection).await.map(|_| ()),
    }
}
