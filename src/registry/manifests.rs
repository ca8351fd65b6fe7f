//! Manifests: pulling, pushing, deleting (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting manifests").

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::routing::Target;
use super::{Keeps, Place, Registry, Sparse, within_patience};
use crate::cache::space::{Class, Holding, blocks_for};
use crate::cache::{self, Outcome, Probe, PulledManifest, Source, Witness, to_the_end};
use crate::fault;
use crate::metadata::{self, Grounds, NewManifest, Provenance, Removal};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, Tag};

/// How often what a manifest names is looked for, when it goes while the manifest is being recorded.
const ADOPTIONS_MAX: u32 = 3;

/// Why a manifest was not recorded.
enum Unstored {
    /// Something it names went after it was found.
    Gone(Vec<Digest>),
    /// Something failed.
    Failed(Error),
}

impl From<Error> for Unstored {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A manifest that is about to be recorded.
struct Arriving<'a> {
    name: &'a RepositoryName,
    digest: Digest,
    manifest: &'a Manifest,
    bytes: Bytes,
    tags: &'a [Tag],
    keeps: &'a Keeps,
    witness: Option<&'a Witness>,
}

/// What a push made.
#[derive(Debug)]
pub struct PushedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its subject, now listed as having it for a referrer.
    pub subject: Option<Digest>,
    /// The tags that name it now.
    pub tags: Vec<Tag>,
}

/// A manifest on its way to a client.
#[derive(Debug)]
pub struct FoundManifest {
    /// The manifest, and how it was come by.
    pub pulled: PulledManifest,
    /// The repository, by the name under which it is kept.
    pub(super) name: RepositoryName,
    /// The upstream that what it names may come from.
    source: Option<Source>,
}

impl Registry {
    /// The manifest that a tag or a digest names.
    pub async fn pull_manifest(&self, target: &Target, reference: &Reference) -> Result<FoundManifest, Error> {
        within_patience(target, pin!(self.find_manifest(target, reference))).await
    }

    /// A client has got a manifest, and may go on to what it names.
    pub fn manifest_got(&self, found: &FoundManifest, target: &Target, reference: &Reference) {
        self.pulled(found, target, reference);
        if let Some(source) = &found.source {
            self.prefetch.manifest_got(source, &found.pulled.manifest);
        }
    }

    async fn find_manifest(&self, target: &Target, reference: &Reference) -> Result<FoundManifest, Error> {
        let insists = target.caller.insists;
        let (pulled, name, source) = match self.place(target, Probe::Manifest(reference.clone())).await? {
            Place::Local(name) => (self.local_manifest(&name, reference).await?, name, None),
            Place::Mirror(source) => {
                let pulled = self.mirrored_manifest(&source, reference, insists).await?;
                (pulled, source.canonical.clone(), Some(source))
            }
            Place::Overlay(name, source) => match self.pushed_manifest(&name, reference).await {
                Err(Error::ManifestUnknown { .. }) => {
                    let pulled = self.mirrored_manifest(&source, reference, insists).await?;
                    (pulled, source.canonical.clone(), Some(source))
                }
                answer => (answer?, name, Some(source)),
            },
        };
        Ok(FoundManifest { pulled, name, source })
    }

    /// Stores a manifest, byte for byte, and lets tags name it. Nothing is visible before everything is durable.
    pub async fn push_manifest(
        self: &Arc<Self>,
        target: &Target,
        reference: &Reference,
        tags: Vec<Tag>,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        let behind = self.readable(&self.locate(target)?.route.private, &target.caller.sight);
        let name = self.home(target)?;
        let (digest, tags) = match reference {
            Reference::Tag(tag) => (Digest::of(Algorithm::Sha256, &bytes), vec![tag.clone()]),
            Reference::Digest(digest) => (*digest, tags),
        };
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != digest {
            return Err(Error::DigestMismatch { expected: digest, actual });
        }
        let manifest = Manifest::parse(&bytes, content_type).map_err(Error::ManifestInvalid)?;
        let subject = manifest.subject;
        let keeps = target.caller.keeps.clone();
        self.check_kept(&name, &digest, &tags, &keeps).await?;
        let (this, set, repository) = (Arc::clone(self), tags.clone(), name.clone());
        let witness = target.caller.witness.clone();
        let stored = to_the_end(async move {
            let (name, tags, manifest, keeps, witness) = (&repository, &*set, &manifest, &keeps, witness.as_deref());
            this.adopt_and_store(&behind, Arriving { name, digest, manifest, bytes, tags, keeps, witness }).await
        });
        stored.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))?;
        Ok(PushedManifest { digest, subject, tags })
    }

    /// Removes a tag, or a manifest with every tag that names it.
    pub async fn delete_manifest(self: &Arc<Self>, target: &Target, reference: &Reference) -> Result<(), Error> {
        let name = self.stored_name(target, Probe::Manifest(reference.clone())).await?;
        let (this, repository, wanted) = (Arc::clone(self), name.clone(), reference.clone());
        let (keeps, witness) = (target.caller.keeps.clone(), target.caller.witness.clone());
        let deleted =
            to_the_end(async move { this.forget_manifest(&repository, &wanted, keeps, witness.as_deref()).await });
        if deleted.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))? {
            Ok(())
        } else {
            Err(Error::ManifestUnknown { name, reference: reference.clone() })
        }
    }

    /// The index has the last word, in the transaction that sets the tags; this keeps bytes from being stored in vain.
    async fn check_kept(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        tags: &[Tag],
        keeps: &Keeps,
    ) -> Result<(), Error> {
        for tag in tags.iter().filter(|tag| keeps.keeps(tag)) {
            let row = self.depot().metadata.find_tag(name, tag).await?;
            if row.is_some_and(|row| row.provenance.is_pushed() && row.digest != *digest) {
                return Err(Error::TagImmutable { name: name.clone(), tag: tag.clone() });
            }
        }
        Ok(())
    }

    /// Tags that are kept keep what they name, as it is in the transaction that removes.
    pub(super) async fn forget_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        keeps: Keeps,
        witness: Option<&Witness>,
    ) -> Result<bool, Error> {
        let removal =
            if keeps.is_nothing() { Removal::default() } else { Removal::sparing(move |tag| keeps.keeps(tag)) };
        let removal = removal.telling(self.deleted(name, reference, witness));
        let removed = self.depot().metadata.remove(name, reference, removal).await;
        match reference {
            Reference::Tag(tag) => self.memory.forget_tag(name, tag),
            Reference::Digest(digest) => self.memory.forget_manifest(name, digest),
        }
        let deleted = removed.map_err(|error| match error {
            metadata::Error::TagKept { tag } => Error::TagImmutable { name: name.clone(), tag },
            error => error.into(),
        })?;
        fault::point("delete: done");
        Ok(deleted)
    }

    /// Where pushed tags are laid over an upstream's, a tag that came from there is the upstream's to answer for.
    pub(super) async fn pushed_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<PulledManifest, Error> {
        if let Reference::Tag(tag) = reference {
            let row = self.manifests.find_tag(name, tag).await.map_err(Error::cache(name))?;
            if row.is_none_or(|row| !row.provenance.is_pushed()) {
                return Err(Error::ManifestUnknown { name: name.clone(), reference: reference.clone() });
            }
        }
        self.local_manifest(name, reference).await
    }

    pub(super) async fn local_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<PulledManifest, Error> {
        let failed = |error| Error::cache(name)(error);
        let unknown = || Error::ManifestUnknown { name: name.clone(), reference: reference.clone() };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                self.manifests.find_tag(name, tag).await.map_err(failed)?.ok_or_else(unknown)?.digest
            }
        };
        match self.manifests.find(name, &digest).await.map_err(failed)? {
            Some(manifest) => {
                self.depot().room.touch(digest);
                Ok(PulledManifest { manifest, outcome: Outcome::Local, stale: None })
            }
            None => Err(Box::pin(self.lost_or(&digest, unknown())).await),
        }
    }

    pub(super) async fn mirrored_manifest(
        &self,
        source: &Source,
        reference: &Reference,
        confirm_now: bool,
    ) -> Result<PulledManifest, Error> {
        self.manifests.pull(source, reference, confirm_now).await.map_err(Error::cache(&source.canonical))
    }

    fn check_missing(&self, name: &RepositoryName, manifest: &Manifest, missing: Vec<Digest>) -> Result<(), Error> {
        let may_lack = match self.options.sparse {
            Sparse::Accept => true,
            Sparse::Indexes => manifest.kind.is_index(),
            Sparse::Refuse => false,
        };
        if may_lack || missing.is_empty() {
            return Ok(());
        }
        Err(Error::ManifestBlobUnknown { name: name.clone(), missing })
    }

    /// What a sweep took between adoption and the manifest's row is looked for once more, and then missed.
    async fn adopt_and_store(self: &Arc<Self>, behind: &[RepositoryName], arriving: Arriving<'_>) -> Result<(), Error> {
        let Arriving { name, manifest, .. } = arriving;
        let mut attempts_left = ADOPTIONS_MAX;
        loop {
            let missing = self.adopt(name, behind, manifest, 0).await?;
            fault::point("manifest: adopted");
            let grounds = grounds(manifest, &missing);
            self.check_missing(name, manifest, missing)?;
            attempts_left -= 1;
            match self.store_manifest(&arriving, grounds).await? {
                Ok(()) => return Ok(()),
                Err(gone) if attempts_left == 0 => {
                    return Err(Error::ManifestBlobUnknown { name: name.clone(), missing: gone });
                }
                Err(_) => {}
            }
        }
    }

    async fn store_manifest(
        &self,
        arriving: &Arriving<'_>,
        grounds: Grounds,
    ) -> Result<Result<(), Vec<Digest>>, Error> {
        let Arriving { name, digest, manifest, ref bytes, tags, keeps, witness } = *arriving;
        let depot = self.depot();
        let kept: Vec<Tag> = tags.iter().filter(|tag| keeps.keeps(tag)).cloned().collect();
        let size_bytes = bytes.len() as u64;
        let reservation =
            depot.room.reserve_for(name, Class::Pushed, blocks_for(size_bytes)).await.map_err(Error::cache(name))?;
        let naming = async {
            let stored_bytes = depot.blobs.put(digest, bytes.clone()).await.map_err(Error::from)?;
            fault::point("manifest: stored");
            let new = NewManifest {
                notices: &self.pushed(name, (&digest, manifest, size_bytes), tags, witness),
                repo: name,
                digest,
                media_type: manifest.kind.media_type(),
                size_bytes,
                stored_bytes,
                manifest,
                provenance: Provenance::Pushed,
                tags,
                immutable: &kept,
                now_ms: depot.clock.now_ms(),
            };
            let recorded = depot.metadata.put_manifest_on(new, grounds).await.map_err(|error| match error {
                metadata::Error::TagTaken { tag } => Error::TagImmutable { name: name.clone(), tag },
                error => error.into(),
            })?;
            let change = recorded.map_err(Unstored::Gone)?;
            fault::point("manifest: recorded");
            reservation.admit(change.before.as_ref().and_then(Holding::of), Holding::of_present(stored_bytes, true));
            Ok(())
        };
        match depot.room.name(&digest, naming).await {
            Ok(()) => {}
            Err(Unstored::Gone(gone)) => return Ok(Err(gone)),
            Err(Unstored::Failed(error)) => return Err(error),
        }
        self.memory.forget_repository(name);
        for tag in tags {
            self.memory.forget_tag(name, tag);
        }
        Ok(Ok(()))
    }
}

/// What a manifest names, without what was found to be missing.
fn grounds(manifest: &Manifest, missing: &[Digest]) -> Grounds {
    let blobs = manifest.blobs.iter().filter(|blob| !blob.is_foreign).map(|blob| blob.digest);
    let children = manifest.children.iter().map(|child| child.digest);
    Grounds {
        blobs: blobs.filter(|digest| !missing.contains(digest)).collect(),
        children: children.filter(|digest| !missing.contains(digest)).collect(),
    }
}
