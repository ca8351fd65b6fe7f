//! Manifests: pulling, pushing, deleting (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting manifests").

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry, Sparse, within_patience};
use crate::cache::space::{Class, Holding, blocks_for};
use crate::cache::{self, Outcome, Probe, PulledManifest, Source, to_the_end};
use crate::fault;
use crate::metadata::{NewManifest, Provenance};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, Tag};

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
    /// The upstream that what it names may come from.
    source: Option<Source>,
}

impl Registry {
    /// The manifest that a tag or a digest names.
    pub async fn pull_manifest(&self, target: &Target, reference: &Reference) -> Result<FoundManifest, Error> {
        within_patience(target, self.find_manifest(target, reference)).await
    }

    /// A client has got a manifest, and may go on to what it names.
    pub fn manifest_got(&self, found: &FoundManifest) {
        if let Some(source) = &found.source {
            self.prefetch.manifest_got(source, &found.pulled.manifest);
        }
    }

    async fn find_manifest(&self, target: &Target, reference: &Reference) -> Result<FoundManifest, Error> {
        let insists = target.caller.insists;
        let (pulled, source) = match self.place(target, Probe::Manifest(reference.clone())).await? {
            Place::Local(name) => (self.local_manifest(&name, reference).await?, None),
            Place::Mirror(source) => (self.mirrored_manifest(&source, reference, insists).await?, Some(source)),
            Place::Overlay(name, source) => match self.pushed_manifest(&name, reference).await {
                Err(Error::ManifestUnknown { .. }) => {
                    (self.mirrored_manifest(&source, reference, insists).await?, Some(source))
                }
                answer => (answer?, Some(source)),
            },
        };
        Ok(FoundManifest { pulled, source })
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
        let behind = self.readable_by_all(self.route(target)?.private);
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
        let (this, set, repository) = (Arc::clone(self), tags.clone(), name.clone());
        let stored = to_the_end(async move {
            let missing = this.adopt(&repository, &behind, &manifest, 0).await?;
            this.check_missing(&repository, &manifest, missing)?;
            fault::point("manifest: adopted");
            this.store_manifest(&repository, digest, &manifest, bytes, &set).await
        });
        stored.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))?;
        Ok(PushedManifest { digest, subject, tags })
    }

    /// Removes a tag, or a manifest with every tag that names it.
    pub async fn delete_manifest(self: &Arc<Self>, target: &Target, reference: &Reference) -> Result<(), Error> {
        let name = self.stored_name(target, Probe::Manifest(reference.clone())).await?;
        let (this, repository, wanted) = (Arc::clone(self), name.clone(), reference.clone());
        let deleted = to_the_end(async move { this.forget_manifest(&repository, &wanted).await });
        if deleted.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))? {
            Ok(())
        } else {
            Err(Error::ManifestUnknown { name, reference: reference.clone() })
        }
    }

    pub(super) async fn forget_manifest(&self, name: &RepositoryName, reference: &Reference) -> Result<bool, Error> {
        let deleted = match reference {
            Reference::Tag(tag) => {
                let deleted = self.depot().metadata.delete_tag(name, tag).await?;
                self.memory.forget_tag(name, tag);
                deleted
            }
            Reference::Digest(digest) => {
                let deleted = self.depot().metadata.delete_manifest(name, digest).await?;
                self.memory.forget_manifest(name, digest);
                deleted
            }
        };
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
            None => Err(self.lost_or(&digest, unknown()).await),
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

    async fn store_manifest(
        &self,
        name: &RepositoryName,
        digest: Digest,
        manifest: &Manifest,
        bytes: Bytes,
        tags: &[Tag],
    ) -> Result<(), Error> {
        let depot = self.depot();
        let size_bytes = bytes.len() as u64;
        let reservation =
            depot.room.reserve_for(name, Class::Pushed, blocks_for(size_bytes)).await.map_err(Error::cache(name))?;
        let naming = async {
            let stored_bytes = depot.blobs.put(digest, bytes).await?;
            fault::point("manifest: stored");
            let change = depot
                .metadata
                .put_manifest(NewManifest {
                    repo: name,
                    digest,
                    media_type: manifest.kind.media_type(),
                    size_bytes,
                    stored_bytes,
                    manifest,
                    provenance: Provenance::Pushed,
                    tags,
                    now_ms: depot.clock.now_ms(),
                })
                .await?;
            fault::point("manifest: recorded");
            reservation.admit(change.before.as_ref().and_then(Holding::of), Holding::of_present(stored_bytes, true));
            Ok::<_, Error>(())
        };
        depot.room.name(&digest, naming).await?;
        self.memory.forget_repository(name);
        for tag in tags {
            self.memory.forget_tag(name, tag);
        }
        Ok(())
    }
}
