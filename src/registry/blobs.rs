//! Blobs: pulling, asking for, deleting (distribution-spec, "Pulling blobs", "Deleting blobs").

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry, within_patience};
use crate::blobs::{self, BlobReader};
use crate::cache::{self, Bypass, Fill, Outcome, Pin, Probe, Role, Source, Start, to_the_end};
use crate::fault;
use crate::metadata::{BlobRow, Link};
use crate::oci::{ByteRange, Digest, RangeRequest, RepositoryName};
use crate::report::Chain;

/// How far ahead of a fill a range may begin to be served by it; beyond, it is asked of the upstream by itself, so that lazy
/// pullers never wait behind the rest of a large layer.
const COVERED_SOON_BYTES: u64 = 16 << 20;

/// How long a client waits for the check of a blob that it doubts.
const LOOK_AFTER_WITHIN: Duration = Duration::from_secs(10);

/// Where a blob's bytes come from.
#[derive(Debug)]
pub enum Content {
    /// A file, whole or growing.
    File(BlobReader),
    /// Past the store.
    Bypass(Box<Bypass>),
}

/// A blob to be sent.
#[derive(Debug)]
pub struct PulledBlob {
    /// Its bytes.
    pub content: Content,
    /// Its size, if anybody knows.
    pub size_bytes: Option<u64>,
    /// The part to send; `None` for all of it.
    pub range: Option<ByteRange>,
    /// How it was come by.
    pub outcome: Outcome,
}

/// What a HEAD says of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// Its size, if anybody knows.
    pub size_bytes: Option<u64>,
    /// How that was come by.
    pub outcome: Outcome,
}

impl Registry {
    /// A blob, or the part of it that `range` selects.
    pub async fn pull_blob(
        &self,
        target: &Target,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<PulledBlob, Error> {
        within_patience(target, Box::pin(self.find_blob(target, digest, range))).await
    }

    async fn find_blob(
        &self,
        target: &Target,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<PulledBlob, Error> {
        let place = self.place(target, Probe::Blob(*digest)).await?;
        if target.caller.insists {
            self.look_after(digest).await;
        }
        match place {
            Place::Local(name) => self.local_blob(&name, digest, range).await,
            Place::Mirror(source) => self.mirrored_blob(&source, digest, range).await,
            Place::Overlay(name, source) => match self.local_blob(&name, digest, range).await {
                Err(Error::BlobUnknown { .. }) => self.mirrored_blob(&source, digest, range).await,
                answer => answer,
            },
        }
    }

    /// Somebody does not believe the stored bytes: they are digested again, and set aside if they are damaged. A blob too
    /// long for that is given as it is, and looked after meanwhile.
    async fn look_after(&self, digest: &Digest) {
        let checked = tokio::time::timeout(LOOK_AFTER_WITHIN, self.verifier.verify_now(*digest)).await;
        if let Ok(Err(error)) = checked {
            warn!(%digest, error = %Chain(&error), "a blob that a reader doubts could not be checked");
        }
    }

    /// What a pull would give, without starting one: a HEAD never costs a transfer.
    pub async fn head_blob(&self, target: &Target, digest: &Digest) -> Result<BlobHead, Error> {
        within_patience(target, Box::pin(self.find_head(target, digest))).await
    }

    async fn find_head(&self, target: &Target, digest: &Digest) -> Result<BlobHead, Error> {
        match self.place(target, Probe::Blob(*digest)).await? {
            Place::Local(name) => self.local_head(&name, digest).await,
            Place::Mirror(source) => self.vouch(target, &source, digest).await,
            Place::Overlay(name, source) => match self.local_head(&name, digest).await {
                Err(Error::BlobUnknown { .. }) => self.vouch(target, &source, digest).await,
                answer => answer,
            },
        }
    }

    /// An upstream's word on a blob. Whoever asks may be about to push a manifest that relies on it.
    async fn vouch(&self, target: &Target, source: &Source, digest: &Digest) -> Result<BlobHead, Error> {
        let head = self.mirrored_head(source, digest).await?;
        // What is not for everyone is fetched for nobody's push: the repository it went to would show it to all.
        if !self.is_guarded(&source.canonical) {
            self.vouched.insert((self.home(target)?, *digest), source.clone());
        }
        Ok(head)
    }

    /// Takes a blob out of a repository at once, even if a manifest there names it. Its bytes go when nobody needs them.
    pub async fn delete_blob(&self, target: &Target, digest: &Digest) -> Result<(), Error> {
        let name = self.stored_name(target, Probe::Blob(*digest)).await?;
        let notices = self.unlinked(&name, digest, target.caller.witness.as_deref());
        if self.depot().metadata.unlink_blob_telling(&name, digest, &notices).await? {
            fault::point("delete: done");
            Ok(())
        } else {
            Err(Error::BlobUnknown { name, digest: *digest })
        }
    }

    async fn local_head(&self, name: &RepositoryName, digest: &Digest) -> Result<BlobHead, Error> {
        match self.depot().metadata.find_link(name, digest).await? {
            Link::Linked(row) if row.is_present() => {
                // Who asks may be about to name it in a manifest: it is not swept away meanwhile.
                self.depot().room.touch(*digest);
                Ok(BlobHead { size_bytes: Some(row.size_bytes), outcome: Outcome::Local })
            }
            _ => Err(Error::BlobUnknown { name: name.clone(), digest: *digest }),
        }
    }

    async fn local_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<PulledBlob, Error> {
        let unknown = || Error::BlobUnknown { name: name.clone(), digest: *digest };
        let pin = self.depot().room.pin(*digest);
        let Link::Linked(row) = self.depot().metadata.find_link(name, digest).await? else { return Err(unknown()) };
        if row.is_present()
            && let Some(reader) = self.open(name, &row, pin).await?
        {
            self.depot().room.touch(*digest);
            return sized(reader, range, Outcome::Local);
        }
        Err(self.lost_or(digest, unknown()).await)
    }

    async fn mirrored_head(&self, source: &Source, digest: &Digest) -> Result<BlobHead, Error> {
        let link = self.depot().metadata.find_link(&source.canonical, digest).await?;
        if let Link::Linked(row) = &link
            && row.is_present()
        {
            return Ok(BlobHead { size_bytes: Some(row.size_bytes), outcome: Outcome::Hit });
        }
        let stated = match self.proofs.head(source, digest).await {
            Ok(stated) => stated,
            // Whoever asks for the head of a blob of a repository that nobody pulled from is about to push to it, and
            // must be able to when the upstream is out of reach. A pull asks for a manifest first.
            Err(error) if error.is_out_of_reach() && self.is_unknown(&source.canonical).await? => {
                return Err(Error::BlobUnknown { name: source.canonical.clone(), digest: *digest });
            }
            Err(error) => return Err(Error::cache(&source.canonical)(error)),
        };
        Ok(BlobHead { size_bytes: stated, outcome: Outcome::Miss })
    }

    async fn is_unknown(&self, name: &RepositoryName) -> Result<bool, Error> {
        Ok(self.depot().metadata.repository(name).await?.is_none())
    }

    async fn mirrored_blob(
        &self,
        source: &Source,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<PulledBlob, Error> {
        let depot = self.depot();
        let pin = depot.room.pin(*digest);
        let link = depot.metadata.find_link(&source.canonical, digest).await?;
        if let Link::Linked(row) | Link::Unlinked(row) = &link
            && row.is_present()
            && let Some(reader) = self.open(&source.canonical, row, pin).await?
        {
            if matches!(link, Link::Unlinked(_)) {
                self.prove_and_link(source, digest).await?;
            }
            if range.is_none() {
                self.prefetch.blob_got(source, digest, None);
            }
            depot.room.touch(*digest);
            return sized(reader, range, Outcome::Hit);
        }
        // The first one may have been told just now that the bytes that were here are wrong.
        let pin = depot.room.pin(*digest);
        let (is_linked, is_whole) = (matches!(link, Link::Linked(_)), range.is_none());
        let (fill, role, start) = self.join_fill(source, digest, is_linked, is_whole).await?;
        match start {
            Start::Ready { file, size_bytes } => {
                let outcome = if role == Role::Led { Outcome::Miss } else { Outcome::Coalesced };
                let range = range.zip(size_bytes).map(|(range, size)| select(range, size)).transpose()?;
                if let Some(ahead) = range.filter(|range| is_far_ahead(&fill, *range))
                    && let Ok(bypass) = Bypass::open(source, *digest, Some(ahead)).await
                {
                    let content = Content::Bypass(Box::new(bypass));
                    return Ok(PulledBlob { content, size_bytes, range: Some(ahead), outcome: Outcome::Bypass });
                }
                let reader = fill.reader(file, size_bytes, pin);
                Ok(PulledBlob { content: Content::File(reader), size_bytes, range, outcome })
            }
            Start::Bypass => self.bypass(source, digest, range).await,
            Start::Waiting => Err(Error::cache(&source.canonical)(cache::Error::Stopped)),
            Start::Failed(error) => Err(Error::cache(&source.canonical)(error)),
        }
    }

    /// Joins the blob's fill and waits until it has begun. One that another repository's upstream feeds may be joined only
    /// by who may read the blob here too, and its failure is not ours: then our own upstream is asked.
    async fn join_fill(
        &self,
        source: &Source,
        digest: &Digest,
        is_linked: bool,
        is_whole: bool,
    ) -> Result<(Arc<Fill>, Role, Start), Error> {
        let stated_bytes = self.depot().metadata.descriptor_size(&source.canonical, digest).await?;
        loop {
            let (fill, role) = self.fills.join(source, *digest, stated_bytes);
            let is_foreign = fill.repository != source.canonical;
            if is_foreign && !is_linked {
                self.proofs.head(source, digest).await.map_err(Error::cache(&source.canonical))?;
            }
            if is_whole {
                self.prefetch.blob_got(source, digest, Some(Arc::clone(&fill)));
            }
            match fill.started().await {
                Start::Failed(_) if is_foreign => fill.ended().await,
                start => return Ok((fill, role, start)),
            }
        }
    }

    async fn bypass(&self, source: &Source, digest: &Digest, range: Option<RangeRequest>) -> Result<PulledBlob, Error> {
        let failed = |error| Error::cache(&source.canonical)(error);
        // Only the upstream's own word is good for a length that a client is promised.
        let known = if range.is_some() { self.proofs.head(source, digest).await.map_err(failed)? } else { None };
        let range = range.zip(known).map(|(range, size)| select(range, size)).transpose()?;
        let bypass = Bypass::open(source, *digest, range).await.map_err(failed)?;
        let size_bytes = if range.is_some() { known } else { bypass.length_bytes() };
        Ok(PulledBlob { content: Content::Bypass(Box::new(bypass)), size_bytes, range, outcome: Outcome::Bypass })
    }

    pub(super) async fn prove_and_link(&self, source: &Source, digest: &Digest) -> Result<(), Error> {
        self.proofs.head(source, digest).await.map_err(Error::cache(&source.canonical))?;
        let (depot, repo, wanted) = (Arc::clone(self.depot()), source.canonical.clone(), *digest);
        let linked = to_the_end(async move { depot.link_pulled(&repo, &wanted).await }).await;
        linked.unwrap_or(Err(cache::Error::Stopped)).map_err(Error::cache(&source.canonical))
    }

    /// Opens a blob whose row says it is there. `None` if its bytes are lost, which is recorded then: what is cached is
    /// fetched again.
    pub(super) async fn open(
        &self,
        name: &RepositoryName,
        row: &BlobRow,
        pin: Pin,
    ) -> Result<Option<BlobReader>, Error> {
        match self.depot().blobs.open(row.digest, row.size_bytes).await {
            Ok(Some(reader)) => {
                let standing = pin.standing();
                return Ok(Some(reader.pinned(Arc::new(pin), standing)));
            }
            Ok(None) | Err(blobs::Error::Length { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.verifier.verify_length(row.digest).await.map_err(Error::cache(name))?;
        Ok(None)
    }

    /// What a repository lacks that links it: content that was pushed here and is lost, or never was here.
    pub(super) async fn lost_or(&self, digest: &Digest, unknown: Error) -> Error {
        match self.depot().metadata.is_lost(digest).await {
            Ok(true) => Error::Damaged { digest: *digest },
            Ok(false) => unknown,
            Err(error) => error.into(),
        }
    }
}

fn select(range: RangeRequest, size_bytes: u64) -> Result<ByteRange, Error> {
    range.within(size_bytes).map_err(|_| Error::RangeUnsatisfiable { size_bytes })
}

fn sized(reader: BlobReader, range: Option<RangeRequest>, outcome: Outcome) -> Result<PulledBlob, Error> {
    let size_bytes = reader.size_bytes;
    let range = range.zip(size_bytes).map(|(range, size)| select(range, size)).transpose()?;
    Ok(PulledBlob { content: Content::File(reader), size_bytes, range, outcome })
}

fn is_far_ahead(fill: &Fill, range: ByteRange) -> bool {
    fill.servable_bytes().is_some_and(|servable| range.start > servable.saturating_add(COVERED_SOON_BYTES))
}
