//! Does the index agree with itself? Questions that read every row: for scrubbing, drills and tests, not for every day.

use sqlx::SqliteConnection;

use super::columns::algorithm_code;
use super::{BlobRow, Error, Metadata, cannot, limit_of};
use crate::oci::Algorithm;

/// Something in the index that no change of this program leaves there.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Flaw {
    /// What is wrong.
    pub rule: String,
    /// With what: a name, a digest in hexadecimal, a row.
    pub subject: String,
}

/// A running sum that is not what its rows make.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Drift {
    /// Which sum.
    pub sum: String,
    /// As it stands.
    pub kept: i64,
    /// As the rows make it.
    pub counted: i64,
}

/// What must select nothing, with what it means if it does. Each selects one text. That rows lead to rows is the database's own
/// rule (foreign keys), which is asked separately.
const RULES: &[(&str, &str)] = &[
    (
        "a tag names a manifest of another repository",
        "SELECT r.name || ':' || t.name FROM tag t JOIN manifest m ON m.id = t.manifest_id
         JOIN repository r ON r.id = t.repository_id WHERE m.repository_id <> t.repository_id LIMIT $1",
    ),
    (
        "a manifest rests on the blob of another digest",
        "SELECT lower(hex(m.digest)) FROM manifest m JOIN blob b ON b.id = m.blob_id WHERE b.digest <> m.digest LIMIT $1",
    ),
    (
        "the blob of a manifest does not count as one",
        "SELECT lower(hex(m.digest)) FROM manifest m JOIN blob b ON b.id = m.blob_id WHERE NOT b.is_manifest LIMIT $1",
    ),
    (
        "a pushed manifest counts as cached: it may be evicted",
        "SELECT lower(hex(m.digest)) FROM manifest m JOIN blob b ON b.id = m.blob_id
         WHERE m.pushed AND b.state <> 0 AND NOT b.pushed LIMIT $1",
    ),
    (
        "a blob that was pushed to a repository counts as cached: it may be evicted",
        "SELECT lower(hex(b.digest)) FROM link l JOIN blob b ON b.id = l.blob_id
         WHERE l.pushed AND b.state <> 0 AND NOT b.pushed LIMIT $1",
    ),
    (
        "a repository that was pushed to is not private",
        "SELECT DISTINCT r.name FROM link l JOIN repository r ON r.id = l.repository_id
         WHERE l.pushed AND NOT r.private LIMIT $1",
    ),
    (
        "a blob without bytes takes space",
        "SELECT lower(hex(digest)) FROM blob WHERE state = 0 AND stored_bytes <> 0 LIMIT $1",
    ),
    (
        "a pushed blob has lost its bytes and nobody was told",
        "SELECT DISTINCT lower(hex(b.digest)) FROM blob b JOIN link l ON l.blob_id = b.id
         WHERE b.state = 0 AND l.pushed AND NOT EXISTS (SELECT 1 FROM loss o WHERE o.blob_id = b.id) LIMIT $1",
    ),
];

impl Metadata {
    /// The rows of the blobs whose digest begins with this byte, in the order of digests.
    pub async fn list_blobs_beginning(&self, algorithm: Algorithm, first: u8) -> Result<Vec<BlobRow>, Error> {
        let code = algorithm_code(algorithm);
        let after = first.checked_add(1).map_or_else(|| vec![code + 1], |next| vec![code, next]);
        sqlx::query_as(
            "SELECT digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms FROM blob
             WHERE digest >= $1 AND digest < $2 ORDER BY digest",
        )
        .bind(vec![code, first])
        .bind(after)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "blobs"))
    }

    /// What is wrong with the rows, up to `limit` of each kind.
    pub async fn list_flaws(&self, limit: usize) -> Result<Vec<Flaw>, Error> {
        let failed = |source| cannot("look for flaws in", "the index")(source);
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let flaws = flaws(&mut questions, limit_of(limit)).await.map_err(failed)?;
        questions.rollback().await.map_err(failed)?;
        Ok(flaws)
    }

    /// The running sums that differ from what the rows make; [`Metadata::recount`] mends them.
    pub async fn list_drift(&self) -> Result<Vec<Drift>, Error> {
        sqlx::query_as(
            "WITH counted AS (SELECT state, pushed, COUNT(*) AS n_blobs, SUM(stored_bytes) AS stored_bytes
                              FROM blob GROUP BY state, pushed),
             sums AS (
                 SELECT 'blobs of state ' || s.state || ', pushed ' || s.pushed AS sum, s.n_blobs AS kept,
                        COALESCE(c.n_blobs, 0) AS counted
                 FROM blob_sum s LEFT JOIN counted c ON c.state = s.state AND c.pushed = s.pushed
                 UNION ALL
                 SELECT 'bytes of state ' || s.state || ', pushed ' || s.pushed, s.stored_bytes,
                        COALESCE(c.stored_bytes, 0)
                 FROM blob_sum s LEFT JOIN counted c ON c.state = s.state AND c.pushed = s.pushed
                 UNION ALL
                 SELECT 'manifests', n_manifests, (SELECT COUNT(*) FROM manifest) FROM manifest_sum
                 UNION ALL
                 SELECT 'bytes of lists', body_bytes,
                        (SELECT COALESCE(SUM(256 + length(body)), 0) FROM upstream_list) FROM upstream_list_sum)
             SELECT sum, kept, counted FROM sums WHERE kept <> counted",
        )
        .fetch_all(self.readers())
        .await
        .map_err(cannot("recount", "the totals"))
    }
}

async fn flaws(connection: &mut SqliteConnection, limit: i64) -> Result<Vec<Flaw>, sqlx::Error> {
    let mut flaws = Vec::new();
    for (rule, question) in RULES {
        let subjects: Vec<String> = sqlx::query_scalar(*question).bind(limit).fetch_all(&mut *connection).await?;
        flaws.extend(subjects.into_iter().map(|subject| Flaw { rule: (*rule).to_owned(), subject }));
    }
    let dangling: Vec<Flaw> = sqlx::query_as(
        "SELECT 'a row of ' || \"table\" || ' leads to no ' || parent AS rule,
                'row ' || COALESCE(rowid, 'without a number') AS subject FROM pragma_foreign_key_check LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    flaws.extend(dangling);
    let damage: Vec<String> =
        sqlx::query_scalar("SELECT quick_check FROM pragma_quick_check").fetch_all(connection).await?;
    let damage = damage.into_iter().filter(|line| line != "ok");
    flaws.extend(damage.map(|subject| Flaw { rule: "the file of the index is damaged".to_owned(), subject }));
    Ok(flaws)
}
