//! What can go wrong with an operation of the registry, in the specification's words. `http::error` alone gives statuses.

use std::sync::Arc;
use std::time::Duration;

use crate::oci::{Digest, ManifestInvalid, Reference, RepositoryName, Tag, UploadId};
use crate::{blobs, cache, metadata};

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be served at all.
    #[error("{reason}")]
    NameUnknown {
        /// The name as asked.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The repository is for those whose credentials are good at its upstream.
    #[error("repository {name} needs credentials that its upstream accepts: log in to this registry with those")]
    Unauthorized {
        /// The name as asked.
        name: RepositoryName,
    },
    /// The name is well-formed but must not be used for this.
    #[error("{reason}")]
    NameInvalid {
        /// Why, and what to do.
        reason: String,
    },
    /// No such blob in the repository.
    #[error("blob {digest} is not known in repository {name}")]
    BlobUnknown {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// No such manifest in the repository.
    #[error("manifest {reference} is not known in repository {name}")]
    ManifestUnknown {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
    },
    /// The manifest refers to content that is not here.
    #[error("the manifest refers to {} that repository {name} does not have: push that first", count(missing.len()))]
    ManifestBlobUnknown {
        /// The repository.
        name: RepositoryName,
        /// What is missing.
        missing: Vec<Digest>,
    },
    /// The bytes are no manifest.
    #[error("{0}")]
    ManifestInvalid(ManifestInvalid),
    /// The tag is set once and for all.
    #[error("tag {tag} of repository {name} is immutable: it is there already and stays; use another tag")]
    TagImmutable {
        /// The repository.
        name: RepositoryName,
        /// The tag.
        tag: Tag,
    },
    /// The manifest is larger than the limit.
    #[error("the manifest has more than {max_bytes} bytes, the limit is push.manifest_max")]
    ManifestTooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The bytes have another digest than the client said.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// What the client said.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// No such upload session, or not of this repository.
    #[error("upload session {id} is not known: start again with POST")]
    UploadUnknown {
        /// The session.
        id: UploadId,
    },
    /// The session is being written by another request.
    #[error("upload session {id} is being written by another request")]
    UploadBusy {
        /// The session.
        id: UploadId,
    },
    /// The chunk does not begin where the last one ended.
    #[error("the chunk begins at byte {given}, the session has reached byte {offset_bytes}: continue there")]
    ChunkOutOfOrder {
        /// The session.
        id: UploadId,
        /// Where the chunk begins.
        given: u64,
        /// Where it has to begin.
        offset_bytes: u64,
    },
    /// `Content-Range` and `Content-Length` contradict each other.
    #[error("Content-Range says {range_bytes} bytes, the body has {length_bytes}")]
    SizeInvalid {
        /// By the range.
        range_bytes: u64,
        /// By the length.
        length_bytes: u64,
    },
    /// The client's body broke off.
    #[error("the request's body broke off after {received_bytes} bytes")]
    BodyBroken {
        /// Bytes that came, all kept in the session.
        received_bytes: u64,
    },
    /// No more sessions.
    #[error("there are {max} upload sessions already, the limit is push.sessions_max: try again later")]
    TooManyUploads {
        /// The limit.
        max: usize,
    },
    /// No more sessions for this one.
    #[error(
        "{identity} has {max} upload sessions already, the limit is push.sessions_per_identity_max: finish or cancel some, \
         or try again later"
    )]
    TooManyUploadsOfOne {
        /// Who it is.
        identity: Arc<str>,
        /// The limit.
        max: usize,
    },
    /// The range selects nothing.
    #[error("the range selects no byte of the blob's {size_bytes}")]
    RangeUnsatisfiable {
        /// The blob's size.
        size_bytes: u64,
    },
    /// No room for what is pushed.
    #[error("the store has no room{}: delete content, or raise storage.max_size", more(*bytes))]
    NoRoom {
        /// How many were wanted; 0 if the disk itself is full.
        bytes: u64,
    },
    /// The repository's quota is used up.
    #[error(
        "repository {name} is under {quota}, which allows {max_bytes} bytes: {bytes} more do not fit; \
         delete content, or have the quota raised"
    )]
    OverQuota {
        /// The repository.
        name: RepositoryName,
        /// The quota, as the configuration calls it.
        quota: String,
        /// The bound, in bytes.
        max_bytes: u64,
        /// How many more were wanted.
        bytes: u64,
    },
    /// It is pinned.
    #[error("{name} has {reference} pinned: take the pin off first (entrepot pin --remove, or the key `pin`)")]
    Pinned {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
    },
    /// The answer took longer than a client waits for it.
    #[error("repository {name} did not answer within {} s: an upstream is slow, try again later", waited.as_secs())]
    TooSlow {
        /// The name as asked.
        name: RepositoryName,
        /// For how long.
        waited: Duration,
    },
    /// The cache could not answer.
    #[error("repository {name}")]
    Cache {
        /// The repository.
        name: RepositoryName,
        /// Why.
        source: cache::Error,
    },
    /// Pushed content is damaged on disk.
    #[error(
        "{digest} was pushed here but its bytes were damaged on disk or lost: push it again \
         (GET /api/v1/scrub lists all of these, and damaged bytes are kept in the store's folder quarantine)"
    )]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// The blobs could not be read or written.
    #[error("using the store")]
    Blobs(#[source] blobs::Error),
    /// The index could not be read or written.
    #[error("using the index")]
    Metadata(#[source] metadata::Error),
}

fn more(bytes: u64) -> String {
    if bytes == 0 { " because its disk is full".to_owned() } else { format!(" for {bytes} more bytes") }
}

fn count(n: usize) -> String {
    if n == 1 { "content".to_owned() } else { format!("{n} pieces of content") }
}

impl From<metadata::Error> for Error {
    fn from(error: metadata::Error) -> Self {
        if error.is_no_space() { Self::NoRoom { bytes: 0 } } else { Self::Metadata(error) }
    }
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::Mismatch { expected, actual } => Self::DigestMismatch { expected, actual },
            // `min_free` makes this rare, not impossible: others write to the file system too.
            error if error.is_no_space() => Self::NoRoom { bytes: 0 },
            error => Self::Blobs(error),
        }
    }
}

impl Error {
    /// For mapping a failure of the cache that concerns `name`.
    pub(super) fn cache(name: &RepositoryName) -> impl FnOnce(cache::Error) -> Self {
        let name = name.clone();
        move |source| match source {
            cache::Error::NoRoom { bytes } => Self::NoRoom { bytes },
            cache::Error::OverQuota { quota, max_bytes, bytes } => Self::OverQuota { name, quota, max_bytes, bytes },
            cache::Error::Blobs(error) if error.is_no_space() => Self::NoRoom { bytes: 0 },
            cache::Error::Metadata(error) if error.is_no_space() => Self::NoRoom { bytes: 0 },
            source => Self::Cache { name, source },
        }
    }
}
