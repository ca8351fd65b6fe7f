//! Facts about the index, by what they are about.

mod blobs;
mod durability;
mod lists;
mod manifests;
mod model;
mod names;
mod notices;
mod tags;
mod uploads;

use std::time::Duration;

use futures::FutureExt as _;

use super::*;
use crate::oci::{Algorithm, Digest, EventKind, EventSource, Manifest, Reference, RepositoryName, Tag};

/// An index in a folder of its own. Batches are bounded by number alone, so that no test depends on the machine's speed.
struct Index {
    folder: tempfile::TempDir,
    metadata: Metadata,
}

impl Index {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metadata = open(folder.path()).await.unwrap();
        Self { folder, metadata }
    }

    /// Opens the file again without closing it first.
    async fn reopen(self) -> Self {
        let Self { folder, metadata } = self;
        drop(metadata);
        let metadata = open(folder.path()).await.unwrap();
        Self { folder, metadata }
    }
}

impl std::ops::Deref for Index {
    type Target = Metadata;

    fn deref(&self) -> &Metadata {
        &self.metadata
    }
}

async fn open(folder: &Path) -> Result<Metadata, Error> {
    Metadata::open_with(Options::new(folder.join("index.sqlite")), Duration::MAX).await
}

/// Has the writer run a statement of the test's own.
async fn execute(index: &Metadata, statement: &'static str) -> Result<u64, Error> {
    let work = index.write("execute", &statement, move |connection| {
        async move { Ok(sqlx::query(statement).execute(connection).await?.rows_affected()) }.boxed()
    });
    work.await
}

fn repo(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

/// An image whose config and layers are the digests of the given contents, all of 10 bytes.
fn image(blobs: &[&str]) -> Manifest {
    let descriptors: Vec<String> = blobs.iter().map(|blob| descriptor(digest(blob), "application/x")).collect();
    let (config, layers) = descriptors.split_first().expect("an image has a config");
    parse(&format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(",")))
}

/// An index of the given children, all of 10 bytes.
fn index_of(children: &[Digest]) -> Manifest {
    let children: Vec<String> = children.iter().map(|child| descriptor(*child, "application/x")).collect();
    parse(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(",")))
}

fn descriptor(digest: Digest, media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":10}}"#)
}

fn parse(text: &str) -> Manifest {
    Manifest::parse(text.as_bytes(), None).unwrap()
}

/// A manifest of 100 bytes on 4096, at time 1.
fn put<'a>(
    repo: &'a RepositoryName,
    name: &str,
    manifest: &'a Manifest,
    provenance: Provenance,
    tags: &'a [Tag],
) -> NewManifest<'a> {
    NewManifest {
        repo,
        digest: digest(name),
        media_type: manifest.kind.media_type(),
        size_bytes: 100,
        stored_bytes: 4096,
        manifest,
        provenance,
        tags,
        immutable: &[],
        notices: &[],
        now_ms: 1,
    }
}
