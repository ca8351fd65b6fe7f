//! Blobs under review.

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::super::{BlobRow, BlobState, Error, Metadata, cannot, manifests};
use super::{After, Decision, Moment};
use crate::oci::{Digest, RepositoryName};

/// Manifest rows without bytes that one review removes: more are left to the next.
const MANIFESTS_MAX: i64 = 64;

/// A blob in the queue, and who needs it. A repository needs what its manifests are or name.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BlobReview {
    /// Its row's key.
    pub id: i64,
    /// What is known of it.
    #[sqlx(flatten)]
    pub row: BlobRow,
    /// Repositories that link it.
    pub links: i64,
    /// Of these, the ones that do not need it.
    pub unneeded_links: i64,
    /// Of these, the ones that need it for something pushed.
    pub pushed_links: i64,
    /// Links that say something else about that than the manifests do.
    pub mislabelled_links: i64,
    /// A manifest is it or names it.
    pub is_named: bool,
    /// It has no bytes, and manifests that came from upstreams are it.
    pub has_lost_manifests: bool,
    /// A repository that links it without a need has an upload open.
    pub is_uploading: bool,
}

/// What was done with a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewedBlob {
    /// As it was found.
    pub review: BlobReview,
    /// What was decided, and is done as far as the index is concerned.
    pub decision: Decision,
    /// Manifests that lost their bytes and are forgotten.
    pub forgotten: Vec<(RepositoryName, Digest)>,
}

/// `$1` is the blob's key in all of these, bound, so that each list is made once and not once for every link.
macro_rules! needed_by {
    ($which:literal) => {
        concat!(
            "SELECT m.repository_id FROM manifest_blob r JOIN manifest m ON m.id = r.manifest_id
             WHERE r.blob_id = $1",
            $which,
            " UNION SELECT m.repository_id FROM manifest m WHERE m.blob_id = $1",
            $which
        )
    };
}

const REVIEW: &str = concat!(
    "WITH needed AS (",
    needed_by!(""),
    "), by_push AS (",
    needed_by!(" AND m.pushed"),
    ")
     SELECT b.id, b.digest, b.size_bytes, b.stored_bytes, b.state, b.pushed, b.is_manifest, b.accessed_ms,
            (SELECT COUNT(*) FROM link l WHERE l.blob_id = $1) AS links,
            (SELECT COUNT(*) FROM link l WHERE l.blob_id = $1
             AND l.repository_id NOT IN (SELECT repository_id FROM needed)) AS unneeded_links,
            (SELECT COUNT(*) FROM link l WHERE l.blob_id = $1
             AND l.repository_id IN (SELECT repository_id FROM by_push)) AS pushed_links,
            (SELECT COUNT(*) FROM link l WHERE l.blob_id = $1
             AND l.pushed <> (l.repository_id IN (SELECT repository_id FROM by_push))) AS mislabelled_links,
            EXISTS (SELECT 1 FROM manifest_blob r WHERE r.blob_id = $1)
                OR EXISTS (SELECT 1 FROM manifest m WHERE m.blob_id = $1) AS is_named,
            b.state = 0 AND EXISTS (SELECT 1 FROM manifest m WHERE m.blob_id = $1 AND NOT m.pushed)
                AS has_lost_manifests,
            EXISTS (SELECT 1 FROM link l JOIN repository p ON p.id = l.repository_id
                    JOIN upload u ON u.repository = p.name
                    WHERE l.blob_id = $1 AND l.repository_id NOT IN (SELECT repository_id FROM needed))
                AS is_uploading
     FROM blob b WHERE b.id = $1"
);

const DUE: &str = "SELECT due_ms, id FROM blob_review WHERE due_ms <= $1 AND (due_ms, id) > ($2, $3)
    ORDER BY due_ms, id LIMIT $4";

impl Metadata {
    /// Up to `limit` blobs whose time has come, and where to go on.
    pub async fn due_blobs(
        &self,
        due_by_ms: i64,
        after: After,
        limit: usize,
    ) -> Result<(Vec<BlobReview>, Option<After>), Error> {
        let failed = |source| cannot("list", "blobs to be reviewed")(source);
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let due = super::due(&mut questions, DUE, due_by_ms, after, limit).await.map_err(failed)?;
        let mut reviews = Vec::with_capacity(due.len());
        for (_, id) in &due {
            reviews.extend(review(&mut questions, *id).await.map_err(failed)?);
        }
        questions.rollback().await.map_err(failed)?;
        Ok((reviews, due.last().copied()))
    }

    /// Looks at each blob again and acts on it, in one transaction: links, rows and the queue are as they shall be, and what is
    /// to lose its bytes says `Deleting`. The caller holds the naming locks of all of them. A blob that comes with `false` is
    /// not demoted, because there is no room for it among what is cached: its bytes go.
    pub async fn review_blobs(&self, blobs: Vec<(i64, bool)>, at: Moment) -> Result<Vec<ReviewedBlob>, Error> {
        self.write("review", &"blobs", move |connection| {
            async move {
                let mut reviewed = Vec::with_capacity(blobs.len());
                for (id, may_demote) in blobs {
                    if let Some(review) = review(connection, id).await? {
                        reviewed.push(act(connection, review, may_demote, at).await?);
                    }
                }
                Ok(reviewed)
            }
            .boxed()
        })
        .await
    }

    /// Looks at these blobs again later.
    pub async fn postpone_blobs(&self, blobs: Vec<i64>, due_ms: i64) -> Result<(), Error> {
        self.write("postpone the review of", &"blobs", move |connection| {
            async move {
                for id in blobs {
                    postpone(connection, id, due_ms).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Ends the removal of what a review condemned: `Deleting` turns `Absent`, and rows that nobody needs go.
    pub async fn end_reviews(&self, blobs: Vec<i64>) -> Result<(), Error> {
        self.write("end the deletion of", &"blobs", move |connection| {
            async move {
                for id in blobs {
                    let absent = sqlx::query("UPDATE blob SET state = 0, stored_bytes = 0 WHERE id = $1 AND state = 2");
                    absent.bind(id).execute(&mut *connection).await?;
                    forget(connection, id).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }
}

async fn review(connection: &mut SqliteConnection, id: i64) -> Result<Option<BlobReview>, sqlx::Error> {
    sqlx::query_as(REVIEW).bind(id).fetch_optional(connection).await
}

async fn act(
    connection: &mut SqliteConnection,
    review: BlobReview,
    may_demote: bool,
    at: Moment,
) -> Result<ReviewedBlob, sqlx::Error> {
    let id = review.id;
    let mut decision = review.decide(at);
    let mut forgotten = Vec::new();
    if decision == Decision::Demote && !may_demote {
        decision = Decision::Delete;
    }
    match decision {
        Decision::Later { due_ms } => {
            postpone(connection, id, due_ms).await?;
            return Ok(ReviewedBlob { review, decision, forgotten });
        }
        Decision::Keep => {}
        Decision::Trim | Decision::Demote | Decision::Delete | Decision::Forget => {
            if review.has_lost_manifests {
                forgotten = forget_manifests(connection, id).await?;
            }
            trim(connection, id).await?;
        }
    }
    match decision {
        Decision::Delete => {
            let marked = sqlx::query("UPDATE blob SET state = 2 WHERE id = $1 AND state = 1");
            marked.bind(id).execute(&mut *connection).await?;
        }
        Decision::Forget => forget(connection, id).await?,
        _ => {}
    }
    // What has lost a manifest just now may be of no use at all: it is looked at once more.
    if forgotten.is_empty() && !matches!(decision, Decision::Delete) {
        sqlx::query("DELETE FROM blob_review WHERE id = $1").bind(id).execute(connection).await?;
    }
    Ok(ReviewedBlob { review, decision, forgotten })
}

async fn postpone(connection: &mut SqliteConnection, id: i64, due_ms: i64) -> Result<(), sqlx::Error> {
    let later = sqlx::query("UPDATE blob_review SET due_ms = $2 WHERE id = $1").bind(id).bind(due_ms);
    later.execute(connection).await.map(|_| ())
}

/// Links that nobody needs go; what is left of them, and the blob, count as pushed if a pushed manifest needs them.
async fn trim(connection: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
    for statement in [
        concat!("DELETE FROM link WHERE blob_id = $1 AND repository_id NOT IN (", needed_by!(""), ")"),
        concat!(
            "UPDATE link SET pushed = NOT pushed
             WHERE blob_id = $1 AND pushed <> (repository_id IN (",
            needed_by!(" AND m.pushed"),
            "))"
        ),
        "UPDATE blob SET pushed = EXISTS (SELECT 1 FROM link l WHERE l.blob_id = $1 AND l.pushed)
         WHERE id = $1 AND EXISTS (SELECT 1 FROM link l WHERE l.blob_id = $1)
           AND pushed AND NOT EXISTS (SELECT 1 FROM link l WHERE l.blob_id = $1 AND l.pushed)",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Manifests of upstreams whose bytes are gone: they are fetched, and read, anew when they are asked for.
async fn forget_manifests(
    connection: &mut SqliteConnection,
    id: i64,
) -> Result<Vec<(RepositoryName, Digest)>, sqlx::Error> {
    let lost: Vec<(i64, RepositoryName, Digest)> = sqlx::query_as(
        "SELECT m.id, r.name, m.digest FROM manifest m JOIN repository r ON r.id = m.repository_id
         WHERE m.blob_id = $1 AND NOT m.pushed LIMIT $2",
    )
    .bind(id)
    .bind(MANIFESTS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for (manifest_id, ..) in &lost {
        manifests::forget(connection, *manifest_id).await?;
    }
    Ok(lost.into_iter().map(|(_, repository, digest)| (repository, digest)).collect())
}

/// The row goes if nothing at all leads to it.
async fn forget(connection: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM blob WHERE id = $1 AND state = 0
         AND NOT EXISTS (SELECT 1 FROM link l WHERE l.blob_id = $1)
         AND NOT EXISTS (SELECT 1 FROM manifest_blob r WHERE r.blob_id = $1)
         AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.blob_id = $1)",
    )
    .bind(id)
    .execute(connection)
    .await
    .map(|_| ())
}

impl ReviewedBlob {
    /// Its row says `Deleting`, and its bytes are to be removed now.
    pub fn is_condemned(&self) -> bool {
        self.decision == Decision::Delete && self.review.row.state == BlobState::Present
    }
}
