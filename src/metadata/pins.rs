//! Pins: what operators keep from being evicted, by tag or by digest, and the blobs that this comes to.
//!
//! A pin stands for everything that the manifest leads to: children, configs, layers, and what is attached to any of them.
//! `blob.pinned` says so of each blob, also of one that is not here yet, so that it is kept from the moment it comes. A tag that
//! moves takes its pin along.

use futures::FutureExt as _;
use globset::GlobMatcher;
use sqlx::SqliteConnection;

use super::{Error, Metadata, cannot};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// A pin, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRow {
    /// The repository, by the name under which it is kept.
    pub repo: RepositoryName,
    /// The tag or the digest.
    pub reference: Reference,
    /// A pattern of the configuration says so, not a command.
    pub is_configured: bool,
    /// The manifest it stands for at present, if that is known here.
    pub manifest: Option<Digest>,
    /// What that leads to.
    pub extent: Extent,
}

/// Tags that the configuration pins.
#[derive(Clone, Debug)]
pub struct PinPattern {
    /// Of these repositories.
    pub repositories: GlobMatcher,
    /// These tags.
    pub tags: GlobMatcher,
}

/// How much a manifest leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Extent {
    /// Blobs, manifests among them.
    #[sqlx(try_from = "i64")]
    pub blobs: u64,
    /// Those that are not here.
    #[sqlx(try_from = "i64")]
    pub missing_blobs: u64,
    /// What those that are here take on disk.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
}

#[derive(sqlx::FromRow)]
struct Written {
    repository: RepositoryName,
    reference: String,
    configured: bool,
}

/// `WITH` a table `led` of manifests: those whose keys the JSON array `$1` has, their children, and what is attached to any.
macro_rules! led_by {
    ($statement:literal) => {
        concat!(
            "WITH RECURSIVE led (id) AS (
                 SELECT value FROM json_each($1)
                 UNION
                 SELECT m.id FROM led JOIN manifest p ON p.id = led.id JOIN manifest_child c ON c.manifest_id = p.id
                     JOIN manifest m ON m.repository_id = p.repository_id AND m.digest = c.digest
                 UNION
                 SELECT m.id FROM led JOIN manifest p ON p.id = led.id
                     JOIN manifest m ON m.repository_id = p.repository_id AND m.subject = p.digest
             ), part (blob_id) AS (
                 SELECT m.blob_id FROM led JOIN manifest m ON m.id = led.id
                 UNION
                 SELECT mb.blob_id FROM led JOIN manifest_blob mb ON mb.manifest_id = led.id
             ) ",
            $statement
        )
    };
}

impl Metadata {
    /// Pins a manifest. False if the same pin was there already.
    pub async fn pin(&self, repo: &RepositoryName, reference: &Reference) -> Result<bool, Error> {
        let (repo, text) = (repo.clone(), reference.to_string());
        self.write("pin", reference, move |connection| {
            async move {
                let is_new = insert(connection, &repo, &text, false).await?;
                refresh(connection).await?;
                Ok(is_new)
            }
            .boxed()
        })
        .await
    }

    /// Takes a pin off. False if no command had put one there.
    pub async fn unpin(&self, repo: &RepositoryName, reference: &Reference) -> Result<bool, Error> {
        let (repo, text) = (repo.clone(), reference.to_string());
        self.write("take the pin off", reference, move |connection| {
            async move {
                let done = sqlx::query("DELETE FROM pin WHERE repository = $1 AND reference = $2 AND NOT configured")
                    .bind(repo)
                    .bind(text)
                    .execute(&mut *connection)
                    .await?;
                refresh(connection).await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Is this very tag or digest pinned?
    pub async fn is_pinned(&self, repo: &RepositoryName, reference: &Reference) -> Result<bool, Error> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pin WHERE repository = $1 AND reference = $2)")
            .bind(repo)
            .bind(reference.to_string())
            .fetch_one(self.readers())
            .await
            .map_err(cannot("look up the pin of", reference))
    }

    /// Every pin, by repository.
    pub async fn list_pins(&self) -> Result<Vec<PinRow>, Error> {
        let written: Vec<Written> = sqlx::query_as(
            "SELECT repository, reference, configured FROM pin ORDER BY repository, reference, configured",
        )
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list", "the pins"))?;
        let mut pins = Vec::with_capacity(written.len());
        for Written { repository: repo, reference, configured: is_configured } in written {
            // Nothing else is ever written there.
            let Ok(reference) = reference.parse::<Reference>() else { continue };
            let manifest = match &reference {
                Reference::Digest(digest) => self.find_manifest(&repo, digest).await?.map(|(row, _)| row.digest),
                Reference::Tag(tag) => self.find_tag(&repo, tag).await?.map(|row| row.digest),
            };
            let extent = match &manifest {
                Some(digest) => self.extent(&repo, digest).await?,
                None => Extent::default(),
            };
            pins.push(PinRow { repo, reference, is_configured, manifest, extent });
        }
        Ok(pins)
    }

    /// How much a manifest leads to; nothing if the repository does not know it.
    pub async fn extent(&self, repo: &RepositoryName, manifest: &Digest) -> Result<Extent, Error> {
        let failed = |source| cannot("measure manifest", manifest)(source);
        let root: Option<i64> = sqlx::query_scalar(
            "SELECT m.id FROM repository r JOIN manifest m ON m.repository_id = r.id WHERE r.name = $1 AND m.digest = $2",
        )
        .bind(repo)
        .bind(manifest)
        .fetch_optional(self.readers())
        .await
        .map_err(failed)?;
        sqlx::query_as(led_by!(
            "SELECT COUNT(*) AS blobs, COALESCE(SUM(b.state <> 1), 0) AS missing_blobs,
                    COALESCE(SUM(CASE WHEN b.state = 1 THEN b.stored_bytes END), 0) AS stored_bytes
             FROM part JOIN blob b ON b.id = part.blob_id"
        ))
        .bind(json(&Vec::from_iter(root)))
        .fetch_one(self.readers())
        .await
        .map_err(failed)
    }

    /// What pinned blobs of the cache take on disk, in bytes.
    pub async fn pinned_bytes(&self) -> Result<u64, Error> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT COALESCE(SUM(stored_bytes), 0) FROM blob WHERE pinned = 1 AND state = 1 AND NOT pushed",
        )
        .fetch_one(self.readers())
        .await
        .map_err(cannot("measure", "what is pinned"))?;
        Ok(bytes.unsigned_abs())
    }

    /// From now on tags that `patterns` match are pinned when they come, and those that are here already
    /// now. `written` is how the configuration says it: every tag is looked at only when that has changed.
    pub async fn pin_by_patterns(&self, patterns: Vec<PinPattern>, written: &[String]) -> Result<(), Error> {
        let failed = |source| cannot("read", "the patterns of pins")(source);
        let known: Option<String> = sqlx::query_scalar("SELECT patterns FROM pin_pattern")
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        let written = written.join("\n");
        let is_known = known.unwrap_or_default() == written;
        // A second call would change nothing: the configuration is read once.
        let patterns = self.inner.pin_patterns.get_or_init(|| patterns);
        if is_known {
            return Ok(());
        }
        let tags: Vec<(RepositoryName, Tag)> = if patterns.is_empty() {
            Vec::new()
        } else {
            sqlx::query_as("SELECT r.name, t.name FROM tag t JOIN repository r ON r.id = t.repository_id")
                .fetch_all(self.readers())
                .await
                .map_err(failed)?
        };
        let matched: Vec<_> = tags.into_iter().filter(|(repo, tag)| self.pins_by_pattern(repo, tag)).collect();
        self.write("pin by", &"patterns", move |connection| {
            async move {
                sqlx::query("DELETE FROM pin WHERE configured").execute(&mut *connection).await?;
                for (repo, tag) in matched {
                    insert(connection, &repo, tag.as_str(), true).await?;
                }
                sqlx::query(
                    "INSERT INTO pin_pattern (id, patterns) VALUES (1, $1)
                     ON CONFLICT (id) DO UPDATE SET patterns = excluded.patterns",
                )
                .bind(written)
                .execute(&mut *connection)
                .await?;
                refresh(connection).await
            }
            .boxed()
        })
        .await
    }

    /// Does the configuration pin this tag?
    pub(super) fn pins_by_pattern(&self, repo: &RepositoryName, tag: &Tag) -> bool {
        let fits =
            |pattern: &PinPattern| pattern.tags.is_match(tag.as_str()) && pattern.repositories.is_match(repo.as_str());
        self.inner.pin_patterns.get().is_some_and(|patterns| patterns.iter().any(fits))
    }
}

/// A manifest that came, or that a tag names now.
pub(super) struct Arrived<'a> {
    pub(super) repo: &'a RepositoryName,
    pub(super) repository_id: i64,
    pub(super) manifest_id: i64,
    pub(super) digest: &'a Digest,
    /// The tags that name it now, and whether the configuration pins each.
    pub(super) tags: &'a [(Tag, bool)],
}

/// Pins what has come, if it belongs to what is pinned.
pub(super) async fn settle(connection: &mut SqliteConnection, arrived: &Arrived<'_>) -> Result<(), sqlx::Error> {
    for (tag, is_configured) in arrived.tags {
        if *is_configured {
            insert(connection, arrived.repo, tag.as_str(), true).await?;
        }
    }
    if !sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pin)").fetch_one(&mut *connection).await? {
        return Ok(());
    }
    for (tag, _) in arrived.tags {
        if is_written(connection, arrived.repo, tag.as_str()).await? {
            // What the tag named before is pinned by it no more.
            return refresh(connection).await;
        }
    }
    if is_reached(connection, arrived).await? { mark(connection, &[arrived.manifest_id]).await } else { Ok(()) }
}

/// Is this very tag or digest pinned?
pub(super) async fn is_written(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    reference: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pin WHERE repository = $1 AND reference = $2)")
        .bind(repo)
        .bind(reference)
        .fetch_one(connection)
        .await
}

/// By its digest, by a parent, or by what it is attached to.
async fn is_reached(connection: &mut SqliteConnection, arrived: &Arrived<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pin WHERE repository = $1 AND reference = $2)
             OR EXISTS (SELECT 1 FROM manifest_child c JOIN manifest p ON p.id = c.manifest_id
                        JOIN blob b ON b.id = p.blob_id
                        WHERE c.digest = $3 AND p.repository_id = $4 AND b.pinned = 1)
             OR EXISTS (SELECT 1 FROM manifest m
                        JOIN manifest s ON s.repository_id = m.repository_id AND s.digest = m.subject
                        JOIN blob b ON b.id = s.blob_id WHERE m.id = $5 AND b.pinned = 1)",
    )
    .bind(arrived.repo)
    .bind(arrived.digest.to_string())
    .bind(arrived.digest)
    .bind(arrived.repository_id)
    .bind(arrived.manifest_id)
    .fetch_one(connection)
    .await
}

/// A manifest is gone from a repository: if it was pinned, what it led to may be pinned no more.
pub(super) async fn lost(connection: &mut SqliteConnection, blob_id: i64) -> Result<(), sqlx::Error> {
    let was_pinned: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM blob WHERE id = $1 AND pinned = 1)")
        .bind(blob_id)
        .fetch_one(&mut *connection)
        .await?;
    if was_pinned { refresh(connection).await } else { Ok(()) }
}

/// Makes `blob.pinned` anew: the cost follows what is pinned, not the store.
pub(super) async fn refresh(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE blob SET pinned = 0 WHERE pinned = 1").execute(&mut *connection).await?;
    let mut roots: Vec<i64> = sqlx::query_scalar(
        "SELECT t.manifest_id FROM pin p JOIN repository r ON r.name = p.repository
         JOIN tag t ON t.repository_id = r.id AND t.name = p.reference",
    )
    .fetch_all(&mut *connection)
    .await?;
    let digests: Vec<(RepositoryName, String)> =
        sqlx::query_as("SELECT repository, reference FROM pin WHERE reference LIKE '%:%'")
            .fetch_all(&mut *connection)
            .await?;
    for (repo, reference) in digests {
        let Ok(digest) = reference.parse::<Digest>() else { continue };
        let root: Option<i64> = sqlx::query_scalar(
            "SELECT m.id FROM repository r JOIN manifest m ON m.repository_id = r.id WHERE r.name = $1 AND m.digest = $2",
        )
        .bind(repo)
        .bind(digest)
        .fetch_optional(&mut *connection)
        .await?;
        roots.extend(root);
    }
    mark(connection, &roots).await
}

async fn mark(connection: &mut SqliteConnection, roots: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query(led_by!("UPDATE blob SET pinned = 1 WHERE pinned = 0 AND id IN (SELECT blob_id FROM part)"))
        .bind(json(roots))
        .execute(connection)
        .await
        .map(|_| ())
}

async fn insert(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    reference: &str,
    is_configured: bool,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO pin (repository, reference, configured) VALUES ($1, $2, $3)
         ON CONFLICT (repository, reference, configured) DO NOTHING",
    )
    .bind(repo)
    .bind(reference)
    .bind(is_configured)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

fn json(ids: &[i64]) -> String {
    serde_json::to_string(ids).expect("numbers are always JSON")
}
