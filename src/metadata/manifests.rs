//! Manifests: what was read from them once, so that nobody has to read them again. Their bytes are blobs of the store.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, SqliteConnection};

use super::blobs::NewBlob;
use super::columns::Malformed;
use super::notices::Queued;
use super::pins::Arrived;
use super::{
    BlobChange, BlobState, Error, Metadata, Notice, Provenance, blobs, cannot, links, notices, pins, references,
    repositories, tags,
};
use crate::oci::{Digest, Manifest, RepositoryName, Tag};

/// A manifest whose bytes are stored, to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct NewManifest<'a> {
    /// Where it was pushed to or fetched for.
    pub repo: &'a RepositoryName,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The media type it came with.
    pub media_type: &'a str,
    /// Its length.
    pub size_bytes: u64,
    /// What it takes on disk.
    pub stored_bytes: u64,
    /// What its bytes say.
    pub manifest: &'a Manifest,
    /// Who brought it.
    pub provenance: Provenance,
    /// Tags to point at it.
    pub tags: &'a [Tag],
    /// Those of the tags that nobody moves: if one of them names another manifest already, nothing is recorded.
    pub immutable: &'a [Tag],
    /// What is told of it to those who listen, in the same transaction.
    pub notices: &'a [Notice],
    /// Now.
    pub now_ms: i64,
}

/// What is known of a manifest in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// The digest of its bytes.
    pub digest: Digest,
    /// The media type it is served with.
    pub media_type: String,
    /// Its length.
    pub size_bytes: u64,
    /// The manifest it is attached to.
    pub subject: Option<Digest>,
    /// Its artifact type, for the referrers list.
    pub artifact_type: Option<String>,
    /// Its annotations, for the referrers list.
    pub annotations: BTreeMap<String, String>,
    /// Who brought it.
    pub provenance: Provenance,
}

/// What a manifest refers to and a repository does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Config and layers that are not linked or not stored, each once, in the manifest's order.
    pub blobs: Vec<Digest>,
    /// Children that are no manifests of the repository, each once, in the index's order.
    pub children: Vec<Digest>,
}

impl FromRow<'_, SqliteRow> for ManifestRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let annotations = serde_json::from_str(row.try_get("annotations")?);
        Ok(Self {
            digest: row.try_get("digest")?,
            media_type: row.try_get("media_type")?,
            size_bytes: u64::try_from(row.try_get::<i64, _>("size_bytes")?).map_err(|_| malformed("length"))?,
            subject: row.try_get("subject")?,
            artifact_type: row.try_get("artifact_type")?,
            annotations: annotations.map_err(|_| malformed("annotations"))?,
            provenance: row.try_get::<bool, _>("pushed")?.into(),
        })
    }
}

fn malformed(expected: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Malformed { expected }))
}

#[derive(sqlx::FromRow)]
struct Found {
    #[sqlx(flatten)]
    manifest: ManifestRow,
    state: BlobState,
}

impl Metadata {
    /// Records a manifest, in one transaction: its blob as present and linked, what it refers to, and its tags. `Pushed` makes
    /// the repository private and its tags pushed. A cached tag does not overwrite a pushed one; the rest is recorded all the
    /// same. A manifest that is known keeps the media type it first came with.
    ///
    /// As with [`Metadata::commit_blob`], the caller has made sure that nobody removes the bytes it has just written.
    pub async fn put_manifest(&self, new: NewManifest<'_>) -> Result<BlobChange, Error> {
        let owned = Owned::of(self, &new);
        let recorded = self.write("record manifest", &new.digest, move |connection| {
            async move { put(connection, &owned).await }.boxed()
        });
        recorded.await?.map_err(|tag| Error::TagTaken { tag })
    }

    /// As [`Metadata::put_manifest`], if all of `grounds` is still there in the same transaction: blobs stored as pushed content
    /// and linked to the repository, children stored and known to it. What is not is returned, and nothing is recorded.
    pub async fn put_manifest_on(
        &self,
        new: NewManifest<'_>,
        grounds: Grounds,
    ) -> Result<Result<BlobChange, Vec<Digest>>, Error> {
        let owned = Owned::of(self, &new);
        let is_told = !owned.queued.is_empty();
        let recorded = self.write("record manifest", &new.digest, move |connection| {
            async move {
                let missing = grounds.missing(connection, &owned.repo).await?;
                if missing.is_empty() {
                    put(connection, &owned).await.map(|put| put.map(Ok))
                } else {
                    Ok(Ok(Err(missing)))
                }
            }
            .boxed()
        });
        let recorded = recorded.await?;
        if is_told {
            self.wake();
        }
        recorded.map_err(|tag| Error::TagTaken { tag })
    }

    /// The manifest, if the repository knows it, and whether its bytes are here.
    pub async fn find_manifest(
        &self,
        repo: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(ManifestRow, BlobState)>, Error> {
        let found: Option<Found> = sqlx::query_as(
            "SELECT m.digest, m.media_type, b.size_bytes, m.subject, m.artifact_type, m.annotations, m.pushed, b.state
             FROM repository r JOIN manifest m ON m.repository_id = r.id JOIN blob b ON b.id = m.blob_id
             WHERE r.name = $1 AND m.digest = $2",
        )
        .bind(repo)
        .bind(digest)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look up manifest", digest))?;
        Ok(found.map(|found| (found.manifest, found.state)))
    }

    /// Forgets the manifest in this repository, in one transaction: the tags that name it, its references, its place among the
    /// referrers, and the link of its blob. The bytes stay. False if the repository does not know it.
    pub async fn delete_manifest(&self, repo: &RepositoryName, digest: &Digest) -> Result<bool, Error> {
        let (repo, wanted) = (repo.clone(), *digest);
        self.write("delete manifest", digest, move |connection| {
            async move { delete(connection, &repo, &wanted).await }.boxed()
        })
        .await
    }

    /// What the manifest refers to and the repository does not have; foreign blobs need not be here.
    pub async fn missing_references(&self, repo: &RepositoryName, manifest: &Manifest) -> Result<Missing, Error> {
        let failed = |source| cannot("check the references of a manifest for", repo)(source);
        // One transaction, so that all answers are of one moment.
        let mut questions = self.readers().begin().await.map_err(failed)?;
        let mut missing = Missing::default();
        let mut asked = BTreeSet::new();
        for blob in manifest.blobs.iter().filter(|blob| !blob.is_foreign) {
            if asked.insert(blob.digest) && !has_blob(&mut questions, repo, &blob.digest).await.map_err(failed)? {
                missing.blobs.push(blob.digest);
            }
        }
        asked.clear();
        for child in &manifest.children {
            if asked.insert(child.digest) && !has_manifest(&mut questions, repo, &child.digest).await.map_err(failed)? {
                missing.children.push(child.digest);
            }
        }
        questions.rollback().await.map_err(failed)?;
        Ok(missing)
    }

    /// The length that a manifest of this repository states for a blob: the newest one that names it. A claim of whoever made
    /// the manifest, so only for content of the same repository, and proven with the digest.
    pub async fn descriptor_size(&self, repo: &RepositoryName, digest: &Digest) -> Result<Option<u64>, Error> {
        let stated: Option<i64> = sqlx::query_scalar(
            "SELECT mb.size_bytes
             FROM blob b JOIN manifest_blob mb ON mb.blob_id = b.id JOIN manifest m ON m.id = mb.manifest_id
                 JOIN repository r ON r.id = m.repository_id
             WHERE b.digest = $1 AND r.name = $2 ORDER BY mb.manifest_id DESC LIMIT 1",
        )
        .bind(digest)
        .bind(repo)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("look up the stated length of", digest))?;
        Ok(stated.and_then(|bytes| u64::try_from(bytes).ok()))
    }
}

/// A [`NewManifest`] that the writer can keep after its caller is gone.
struct Owned {
    repo: RepositoryName,
    media_type: String,
    manifest: Manifest,
    /// Each tag, and whether the configuration pins it.
    tags: Vec<(Tag, bool)>,
    immutable: Vec<Tag>,
    queued: Vec<Queued>,
    blob: NewBlob,
}

impl Owned {
    fn of(index: &Metadata, new: &NewManifest<'_>) -> Self {
        Self {
            repo: new.repo.clone(),
            media_type: new.media_type.to_owned(),
            manifest: new.manifest.clone(),
            tags: new.tags.iter().map(|tag| (tag.clone(), index.pins_by_pattern(new.repo, tag))).collect(),
            immutable: new.immutable.to_vec(),
            queued: index.queued(new.notices),
            blob: NewBlob {
                digest: new.digest,
                size_bytes: new.size_bytes,
                stored_bytes: new.stored_bytes,
                provenance: new.provenance,
                is_manifest: true,
                now_ms: new.now_ms,
            },
        }
    }
}

/// What a manifest was found to rest on before it is recorded: a sweep may have come in between.
#[derive(Clone, Debug, Default)]
pub struct Grounds {
    /// Config and layers.
    pub blobs: Vec<Digest>,
    /// Manifests that an index lists.
    pub children: Vec<Digest>,
}

impl Grounds {
    async fn missing(
        &self,
        connection: &mut SqliteConnection,
        repo: &RepositoryName,
    ) -> Result<Vec<Digest>, sqlx::Error> {
        let mut missing = Vec::new();
        for (digests, question) in [
            (
                &self.blobs,
                "SELECT EXISTS (SELECT 1 FROM blob b JOIN repository r ON r.name = $1
                                JOIN link l ON l.repository_id = r.id AND l.blob_id = b.id
                                WHERE b.digest = $2 AND b.state = 1 AND b.pushed)",
            ),
            (
                &self.children,
                "SELECT EXISTS (SELECT 1 FROM repository r JOIN manifest m ON m.repository_id = r.id
                                JOIN blob b ON b.id = m.blob_id
                                WHERE r.name = $1 AND m.digest = $2 AND b.state = 1)",
            ),
        ] {
            for digest in digests {
                let is_there: bool =
                    sqlx::query_scalar(question).bind(repo).bind(digest).fetch_one(&mut *connection).await?;
                if !is_there {
                    missing.push(*digest);
                }
            }
        }
        Ok(missing)
    }
}

/// A manifest's row goes, with its tags and references (ON DELETE CASCADE) and the link of its blob.
pub(super) async fn forget(connection: &mut SqliteConnection, manifest_id: i64) -> Result<(), sqlx::Error> {
    let deleted: Option<(i64, i64)> =
        sqlx::query_as("DELETE FROM manifest WHERE id = $1 RETURNING repository_id, blob_id")
            .bind(manifest_id)
            .fetch_optional(&mut *connection)
            .await?;
    let Some((repository_id, blob_id)) = deleted else { return Ok(()) };
    sqlx::query("DELETE FROM link WHERE repository_id = $1 AND blob_id = $2")
        .bind(repository_id)
        .bind(blob_id)
        .execute(&mut *connection)
        .await?;
    pins::lost(connection, blob_id).await
}

/// What [`Metadata::delete_manifest`] does, inside a change.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    digest: &Digest,
) -> Result<bool, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT m.id FROM repository r JOIN manifest m ON m.repository_id = r.id WHERE r.name = $1 AND m.digest = $2",
    )
    .bind(repo)
    .bind(digest)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(manifest_id) = found else { return Ok(false) };
    forget(connection, manifest_id).await?;
    Ok(true)
}

async fn put(connection: &mut SqliteConnection, new: &Owned) -> Result<Result<BlobChange, Tag>, sqlx::Error> {
    for tag in &new.immutable {
        if tags::names_another(connection, &new.repo, tag, &new.blob.digest).await? {
            return Ok(Err(tag.clone()));
        }
    }
    let NewBlob { provenance, now_ms, .. } = new.blob;
    let repository_id = repositories::ensure(connection, &new.repo, provenance, now_ms).await?;
    let (blob_id, change) = blobs::store(connection, &new.blob).await?;
    links::insert(connection, repository_id, blob_id, provenance).await?;
    let manifest_id = insert(connection, new, repository_id, blob_id).await?;
    for part in new.manifest.blobs.chunks(references::ROWS_MAX) {
        references::insert_blobs(connection, manifest_id, part, now_ms).await?;
    }
    for part in new.manifest.children.chunks(references::ROWS_MAX) {
        references::insert_children(connection, manifest_id, part).await?;
    }
    if provenance.is_pushed() {
        take_over(connection, repository_id, manifest_id).await?;
    }
    for (tag, _) in &new.tags {
        tags::upsert(connection, repository_id, tag, manifest_id, provenance, now_ms).await?;
    }
    let Owned { repo, tags, blob: NewBlob { digest, .. }, .. } = new;
    pins::settle(connection, &Arrived { repo, repository_id, manifest_id, digest, tags }).await?;
    notices::queue(connection, &new.queued).await?;
    Ok(Ok(change))
}

/// What a pushed manifest names is this push's too from now on, although it came from an upstream or was pushed elsewhere.
async fn take_over(connection: &mut SqliteConnection, repository_id: i64, manifest_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE link SET pushed = TRUE WHERE repository_id = $1 AND NOT pushed
         AND blob_id IN (SELECT r.blob_id FROM manifest_blob r JOIN blob b ON b.id = r.blob_id
                         WHERE r.manifest_id = $2 AND b.pushed)",
    )
    .bind(repository_id)
    .bind(manifest_id)
    .execute(&mut *connection)
    .await?;
    // So are the manifests that it lists, and those that these list.
    sqlx::query(
        "WITH RECURSIVE listed (digest) AS (
             SELECT digest FROM manifest_child WHERE manifest_id = $2
             UNION SELECT c.digest FROM listed l JOIN manifest m ON m.repository_id = $1 AND m.digest = l.digest
                   JOIN manifest_child c ON c.manifest_id = m.id)
         UPDATE manifest SET pushed = TRUE
         WHERE repository_id = $1 AND NOT pushed AND digest IN (SELECT digest FROM listed)",
    )
    .bind(repository_id)
    .bind(manifest_id)
    .execute(&mut *connection)
    .await
    .map(|_| ())
}

async fn insert(
    connection: &mut SqliteConnection,
    new: &Owned,
    repository_id: i64,
    blob_id: i64,
) -> Result<i64, sqlx::Error> {
    let annotations = serde_json::to_string(&new.manifest.annotations).expect("a map of strings is always JSON");
    sqlx::query_scalar(
        "INSERT INTO manifest
             (repository_id, blob_id, digest, media_type, subject, artifact_type, annotations, pushed, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (repository_id, digest) DO UPDATE SET pushed = manifest.pushed OR excluded.pushed
         RETURNING id",
    )
    .bind(repository_id)
    .bind(blob_id)
    .bind(new.blob.digest)
    .bind(&new.media_type)
    .bind(new.manifest.subject)
    .bind(&new.manifest.artifact_type)
    .bind(annotations)
    .bind(new.blob.provenance.is_pushed())
    .bind(new.blob.now_ms)
    .fetch_one(connection)
    .await
}

async fn has_blob(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    digest: &Digest,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM blob b JOIN repository r ON r.name = $1
                        JOIN link l ON l.repository_id = r.id AND l.blob_id = b.id
                        WHERE b.digest = $2 AND b.state = 1)",
    )
    .bind(repo)
    .bind(digest)
    .fetch_one(connection)
    .await
}

async fn has_manifest(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    digest: &Digest,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM repository r JOIN manifest m ON m.repository_id = r.id
                        WHERE r.name = $1 AND m.digest = $2)",
    )
    .bind(repo)
    .bind(digest)
    .fetch_one(connection)
    .await
}
