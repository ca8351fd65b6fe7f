//! What an index has lost, put together again from the record of names and from the bytes themselves.
//!
//! Pushed content gets its names back from the record; what its manifests name becomes theirs again, as when they were pushed.
//! Everything else that is stored is cached content that no repository links yet: a pull through an upstream asks that with HEAD,
//! and links it, without a byte being fetched twice.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use super::Error;
use crate::blobs::{Blobs, FileSize, NameFile};
use crate::metadata::{BlobRow, FoundBlob, Metadata, NameRecord, Names, NewManifest, Provenance};
use crate::oci::{Digest, Manifest, RepositoryName};

/// Files up to this length are looked at for being manifests.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;

/// A name that cannot be given back, because the bytes it stands for are not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameless {
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// Its manifest, or a blob that its manifest names.
    pub digest: Digest,
    /// The manifest that needs it.
    pub manifest: Digest,
}

/// Has the index learn what the record of names knows. Returns what is named and not here.
pub async fn learn_names(
    metadata: &Metadata,
    blobs: &Blobs,
    names: &Names,
    now_ms: i64,
) -> Result<Vec<Nameless>, Error> {
    let mut nameless = Vec::new();
    for repository in &names.private {
        metadata.make_private(repository, now_ms).await?;
    }
    if names.is_complete() {
        forget_deleted(metadata, names).await?;
    }
    for ((repository, digest), media_type) in &names.manifests {
        if metadata.find_manifest(repository, digest).await?.is_some_and(|(row, _)| row.provenance.is_pushed()) {
            continue;
        }
        learn_manifest(metadata, blobs, (repository, digest, media_type), now_ms, &mut nameless).await?;
    }
    for ((repository, tag), digest) in &names.tags {
        let known = metadata.find_tag(repository, tag).await?;
        if known.is_some_and(|row| row.digest == *digest && row.provenance.is_pushed()) {
            continue;
        }
        if !metadata.put_tag(repository, tag, digest, Provenance::Pushed, now_ms).await? {
            warn!(%repository, %tag, %digest, "a pushed tag cannot be given back: its manifest is not here, push it again");
        }
    }
    metadata.names_learnt(names.batch).await?;
    let (manifests, tags) = (names.manifests.len(), names.tags.len());
    info!(manifests, tags, "the index has learnt the names of pushed content");
    Ok(nameless)
}

/// What the index names and the record does not was deleted since.
async fn forget_deleted(metadata: &Metadata, names: &Names) -> Result<(), Error> {
    let known = metadata.pushed_names().await?;
    for (repository, tag) in known.tags.keys().filter(|key| !names.tags.contains_key(key)) {
        metadata.delete_tag(repository, tag).await?;
    }
    for (repository, digest) in known.manifests.keys().filter(|key| !names.manifests.contains_key(key)) {
        metadata.delete_manifest(repository, digest).await?;
    }
    Ok(())
}

async fn learn_manifest(
    metadata: &Metadata,
    blobs: &Blobs,
    (repository, digest, media_type): (&RepositoryName, &Digest, &str),
    now_ms: i64,
    nameless: &mut Vec<Nameless>,
) -> Result<(), Error> {
    let lost = |of: &Digest| Nameless { repository: repository.clone(), digest: *of, manifest: *digest };
    let row = find_stored(metadata, blobs, digest, None).await?;
    let bytes = match &row {
        Some(row) => blobs.read(*digest, row.size_bytes).await?,
        None => None,
    };
    // It is digested here, since nobody has vouched for the bytes if the index did not know them.
    let parsed = bytes
        .filter(|bytes| Digest::of(digest.algorithm(), bytes) == *digest)
        .and_then(|bytes| Manifest::parse(&bytes, Some(media_type)).ok());
    let (Some(row), Some(manifest)) = (row, parsed) else {
        nameless.push(lost(digest));
        return Ok(());
    };
    let new = NewManifest {
        notices: &[],
        repo: repository,
        digest: *digest,
        media_type,
        size_bytes: row.size_bytes,
        stored_bytes: row.stored_bytes,
        manifest: &manifest,
        provenance: Provenance::Pushed,
        tags: &[],
        immutable: &[],
        now_ms,
    };
    metadata.put_manifest(new).await?;
    for blob in manifest.blobs.iter().filter(|blob| !blob.is_foreign) {
        let is_stored = find_stored(metadata, blobs, &blob.digest, Some(blob.size_bytes)).await?.is_some();
        if !is_stored || metadata.link_blob(repository, &blob.digest, Provenance::Pushed, now_ms).await?.is_none() {
            nameless.push(lost(&blob.digest));
        }
    }
    Ok(())
}

/// The row of a blob that is stored. One that an older index does not know is recorded, if its file has the length it should:
/// no file gets a blob's name before its digest is proven.
async fn find_stored(
    metadata: &Metadata,
    blobs: &Blobs,
    digest: &Digest,
    size_bytes: Option<u64>,
) -> Result<Option<BlobRow>, Error> {
    let row = metadata.find_blob(digest).await?;
    if row.as_ref().is_some_and(BlobRow::is_present) {
        return Ok(row);
    }
    let file = blobs.find_file(*digest).await?;
    let Some(file) = file.filter(|file| size_bytes.is_none_or(|expected| expected == file.length_bytes)) else {
        return Ok(None);
    };
    metadata.record_found(&describe(blobs, *digest, file).await?).await?;
    Ok(metadata.find_blob(digest).await?.filter(BlobRow::is_present))
}

/// A stored file that is what its name says, as the index is to know it.
pub(super) async fn describe(blobs: &Blobs, digest: Digest, file: FileSize) -> Result<FoundBlob, Error> {
    let FileSize { length_bytes: size_bytes, stored_bytes, written_ms } = file;
    let is_small = size_bytes <= MANIFEST_MAX_BYTES;
    let bytes = if is_small { blobs.read(digest, size_bytes).await? } else { None };
    let is_manifest = bytes.is_some_and(|bytes| Manifest::parse(&bytes, None).is_ok());
    Ok(FoundBlob { digest, size_bytes, stored_bytes, is_manifest, written_ms })
}

/// The record of names that lies in a store.
pub fn recorded_names(blobs: &Blobs) -> Arc<dyn NameRecord> {
    Arc::new(Recorded(blobs.name_file()))
}

#[derive(Debug)]
struct Recorded(NameFile);

impl NameRecord for Recorded {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.read()
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.0.append(lines)
    }

    fn replace(&self, lines: &[u8]) -> io::Result<()> {
        self.0.replace(lines)
    }
}
