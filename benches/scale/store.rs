//! The generator: a store with as many rows as wanted, written by the functions that serve.
//!
//! Repositories are half an upstream's and half pushed; one pushed repository has a tenth of all tags. Every manifest names a
//! config and eight layers of its own. The blobs used longest ago have files, so that evicting them removes files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use entrepot::metadata::{self, Metadata, NewManifest, Provenance};
use entrepot::oci::{Algorithm, Digest, Manifest, RepositoryName, Tag};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::{Result, blob_file};

/// What a small blob takes on the disk.
const BLOCK_BYTES: u64 = 4096;
/// Blobs of one manifest, its config among them.
const BLOBS_PER_MANIFEST: usize = 9;
/// Manifests that are asked for.
const ASKED_MAX: usize = 1000;
/// Changes on their way to the index at a time.
const CHANGES_AT_ONCE: usize = 1024;
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// When everything was used that is used least.
const LONG_AGO_MS: i64 = 1_700_000_000_000;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Shape {
    repositories: usize,
    manifests: usize,
    tags: usize,
    /// Blobs that have files and go first.
    victims: usize,
    /// Pushed manifests that are to be deleted, whose blobs have files.
    garbage: usize,
}

impl Shape {
    /// A million blobs and what belongs to them, times this.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes")]
    pub fn of(factor: f64) -> Self {
        let times = |n: usize| ((n as f64 * factor) as usize).max(20);
        Self {
            repositories: times(10_000),
            manifests: times(100_000),
            tags: times(200_000),
            // Fewer are gone before the pulls have begun to feel it.
            victims: times(200_000).min(20_000),
            garbage: times(1_000),
        }
    }

    /// What is asked for, and nothing else.
    pub fn small() -> Self {
        Self { repositories: ASKED_MAX, manifests: ASKED_MAX, tags: ASKED_MAX, victims: 0, garbage: 0 }
    }

    fn blobs(&self) -> usize {
        self.manifests * (BLOBS_PER_MANIFEST + 1)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blobs, Self { repositories, manifests, tags, .. }) = (self.blobs(), self);
        write!(f, "{blobs} blobs, {manifests} manifests, {repositories} repositories and {tags} tags")
    }
}

/// A store on the disk.
pub struct Store {
    pub dir: PathBuf,
    pub victims: usize,
    /// What the index says of cached content.
    pub cached_bytes: u64,
    shape: Shape,
}

/// A manifest and what it consists of.
struct Made {
    repository: RepositoryName,
    provenance: Provenance,
    bytes: Bytes,
    blobs: Vec<Digest>,
    tags: Vec<Tag>,
}

impl Store {
    /// Makes it below `dir`.
    pub fn create(dir: &Path, shape: &Shape) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(create(dir, shape))
    }

    pub fn victim_bytes(&self) -> u64 {
        self.victims as u64 * BLOCK_BYTES
    }

    /// Where a blob that is not here is taken in as an upstream's, for which there has to be room.
    pub fn cold_path(&self, content: &str) -> String {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        format!("/api/v1/cached/blob?repository={}&digest={digest}", self.shape.repository(0))
    }

    /// Manifests by tag, of an upstream's repositories and of pushed ones.
    pub fn manifest_paths(&self) -> Vec<String> {
        // An odd one comes to both kinds.
        let step = (self.shape.manifests / ASKED_MAX).saturating_sub(1) | 1;
        let asked =
            (0..self.shape.manifests).step_by(step).filter(|number| !self.shape.is_garbage(*number)).take(ASKED_MAX);
        asked.map(|number| format!("/v2/{}/manifests/m{number}", self.shape.repository(number))).collect()
    }

    /// The manifests that are to be deleted.
    pub fn garbage_paths(&self) -> Vec<String> {
        let all = (0..self.shape.manifests).filter(|number| self.shape.is_garbage(*number));
        let path =
            |made: Made| format!("/v2/{}/manifests/{}", made.repository, Digest::of(Algorithm::Sha256, &made.bytes));
        all.map(|number| path(self.shape.make(number))).collect()
    }

    /// Pages of the tags of the repository that has most.
    pub fn tag_pages(&self, n: usize) -> Vec<String> {
        let name = self.shape.most_tagged();
        (0..1000)
            .map(|seed| format!("/v2/{name}/tags/list?n={n}&last=t{:06}", seed * 7919 % self.shape.many_tags()))
            .collect()
    }

    /// Pages of the catalog.
    pub fn catalog_pages(&self, n: usize) -> Vec<String> {
        let of = |seed: usize| self.shape.repository(seed * 7919 % self.shape.repositories);
        (0..1000).map(|seed| format!("/v2/_catalog?n={n}&last={}", of(seed))).collect()
    }
}

impl Shape {
    fn repository(&self, manifest: usize) -> String {
        let number = manifest % self.repositories;
        if number.is_multiple_of(2) {
            format!("docker.io/org{}/app{number:05}", number % 100)
        } else {
            format!("team{}/app{number:05}", number % 100)
        }
    }

    /// Those that were pushed last. Every second one was pushed.
    fn is_garbage(&self, manifest: usize) -> bool {
        !manifest.is_multiple_of(2) && manifest + 2 * self.garbage >= self.manifests
    }

    fn most_tagged(&self) -> String {
        self.repository(1)
    }

    fn many_tags(&self) -> usize {
        (self.tags / 10).max(1)
    }

    /// The tags of a manifest: one it is asked for by, and what is left of all tags in equal parts; the first of the
    /// repository with most tags has a tenth of all.
    fn tags_of(&self, manifest: usize) -> Vec<Tag> {
        let mut tags = vec![format!("m{manifest}")];
        if manifest == 1 {
            tags.extend((0..self.many_tags()).map(|number| format!("t{number:06}")));
        }
        let rest = self.tags.saturating_sub(self.many_tags() + self.manifests);
        if manifest < rest {
            tags.push(format!("also-{manifest}"));
        }
        tags.into_iter().map(|tag| tag.parse().expect("it is a tag")).collect()
    }

    fn make(&self, number: usize) -> Made {
        let repository: RepositoryName = self.repository(number).parse().expect("it is a name");
        let provenance = Provenance::from(!repository.as_str().starts_with("docker.io/"));
        let digest = |of: String| Digest::of(Algorithm::Sha256, of.as_bytes());
        let blobs: Vec<Digest> = (0..BLOBS_PER_MANIFEST).map(|blob| digest(format!("{number}/{blob}"))).collect();
        let descriptor = |digest: &Digest| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest.to_string(), "size": 1 });
        let layers: Vec<_> = blobs[1..].iter().map(descriptor).collect();
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(&blobs[0]), "layers": layers });
        Made { repository, provenance, bytes: Bytes::from(manifest.to_string()), blobs, tags: self.tags_of(number) }
    }
}

async fn create(dir: &Path, shape: &Shape) -> Result<Store> {
    let root = dir.join("store");
    fs::create_dir_all(dir)?;
    // The folders, the lock and the marker of a store are made by who knows them.
    let store = entrepot::storage::Store::open(&root, true)?;
    let index = Metadata::open(metadata::Options::new(store.index_path())).await?;
    store.mark_complete()?;
    let numbers = || stream::iter(0..shape.manifests);
    let root = &root;
    numbers()
        .map(Ok)
        .try_for_each_concurrent(CHANGES_AT_ONCE, |number| {
            let index = index.clone();
            async move { put(&index, root, shape, number).await }
        })
        .await?;
    let cached_bytes = index.totals().await?.cached_bytes;
    index.close().await;
    let victims = shape.victims;
    Ok(Store { dir: dir.to_owned(), victims, cached_bytes, shape: shape.clone() })
}

async fn put(index: &Metadata, root: &Path, shape: &Shape, number: usize) -> Result<()> {
    let Made { repository, provenance, bytes, blobs, tags } = shape.make(number);
    let (digest, age) = (Digest::of(Algorithm::Sha256, &bytes), i64::try_from(number)?);
    fs::write(blob_file(root, &digest.hex()), &bytes)?;
    let parsed = Manifest::parse(&bytes, Some(IMAGE))?;
    for first in (0..tags.len()).step_by(1000) {
        let new = NewManifest {
            notices: &[],
            repo: &repository,
            digest,
            media_type: IMAGE,
            size_bytes: bytes.len() as u64,
            stored_bytes: BLOCK_BYTES,
            manifest: &parsed,
            provenance,
            tags: &tags[first..tags.len().min(first + 1000)],
            immutable: &[],
            now_ms: LONG_AGO_MS + age,
        };
        index.put_manifest(new).await?;
    }
    // Every second manifest is an upstream's, so that twice as many have to be gone through for as many victims.
    let is_victim = !provenance.is_pushed() && number * BLOBS_PER_MANIFEST / 2 <= shape.victims + BLOBS_PER_MANIFEST;
    let has_files = is_victim || shape.is_garbage(number);
    for blob in blobs {
        if has_files {
            fs::write(blob_file(root, &blob.hex()), b"x")?;
        }
        index.commit_blob(&repository, &blob, 1, BLOCK_BYTES, provenance, LONG_AGO_MS + age).await?;
    }
    Ok(())
}
