//! Manifests: pulling, pushing, deleting (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting manifests").

use bytes::Bytes;

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry, Sparse};
use crate::cache::space::{Class, Holding, blocks_for};
use crate::cache::{Outcome, PulledManifest, Source};
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

impl Registry {
    /// The manifest that a tag or a digest names.
    pub async fn pull_manifest(&self, target: &Target, reference: &Reference) -> Result<PulledManifest, Error> {
        match self.place(target).await? {
            Place::Local(name) => self.local_manifest(&name, reference).await,
            Place::Mirror(source) => self.mirrored_manifest(&source, reference).await,
            Place::Overlay(name, source) => match self.local_manifest(&name, reference).await {
                Err(Error::ManifestUnknown { .. }) => self.mirrored_manifest(&source, reference).await,
                answer => answer,
            },
        }
    }

    /// Stores a manifest, byte for byte, and lets tags name it. Nothing is visible before everything is durable.
    pub async fn push_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        tags: Vec<Tag>,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
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
        self.check_references(&name, &manifest).await?;
        self.store_manifest(&name, digest, &manifest, bytes, &tags).await?;
        Ok(PushedManifest { digest, subject: manifest.subject, tags })
    }

    /// Removes a tag, or a manifest with every tag that names it.
    pub async fn delete_manifest(&self, target: &Target, reference: &Reference) -> Result<(), Error> {
        let name = self.stored_name(target).await?;
        let deleted = match reference {
            Reference::Tag(tag) => {
                let deleted = self.depot().metadata.delete_tag(&name, tag).await?;
                self.memory.forget_tag(&name, tag);
                deleted
            }
            Reference::Digest(digest) => {
                let deleted = self.depot().metadata.delete_manifest(&name, digest).await?;
                self.memory.forget_manifest(&name, digest);
                deleted
            }
        };
        if deleted { Ok(()) } else { Err(Error::ManifestUnknown { name, reference: reference.clone() }) }
    }

    async fn local_manifest(&self, name: &RepositoryName, reference: &Reference) -> Result<PulledManifest, Error> {
        let failed = |error| Error::cache(name)(error);
        let unknown = || Error::ManifestUnknown { name: name.clone(), reference: reference.clone() };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                self.manifests.find_tag(name, tag).await.map_err(failed)?.ok_or_else(unknown)?.digest
            }
        };
        let manifest = self.manifests.find(name, &digest).await.map_err(failed)?.ok_or_else(unknown)?;
        Ok(PulledManifest { manifest, outcome: Outcome::Local, stale: None })
    }

    async fn mirrored_manifest(&self, source: &Source, reference: &Reference) -> Result<PulledManifest, Error> {
        self.manifests.pull(source, reference).await.map_err(Error::cache(&source.canonical))
    }

    async fn check_references(&self, name: &RepositoryName, manifest: &Manifest) -> Result<(), Error> {
        let refused = match self.options.sparse {
            Sparse::Accept => return Ok(()),
            Sparse::Indexes => !manifest.kind.is_index(),
            Sparse::Refuse => true,
        };
        if !refused {
            return Ok(());
        }
        let missing = self.depot().metadata.missing_references(name, manifest).await?;
        let missing: Vec<Digest> = missing.blobs.into_iter().chain(missing.children).collect();
        if missing.is_empty() { Ok(()) } else { Err(Error::ManifestBlobUnknown { name: name.clone(), missing }) }
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
            depot.room.reserve(Class::Pushed, blocks_for(size_bytes)).await.map_err(Error::cache(name))?;
        let named = depot.room.naming(&digest).await;
        let stored_bytes = depot.blobs.put(digest, bytes).await?;
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
        reservation.admit(change.before.as_ref().and_then(Holding::of), Holding { stored_bytes, pushed: true });
        drop(named);
        self.memory.forget_repository(name);
        for tag in tags {
            self.memory.forget_tag(name, tag);
        }
        Ok(())
    }
}
