//! What operators keep and what they take away: pins, and removals by name.

use std::sync::Arc;

use super::routing::Target;
use super::{Caller, Error, Keeps, Names, Registry};
use crate::cache::{self, Witness, to_the_end};
use crate::metadata::Metadata;
use crate::oci::{Reference, RepositoryName};

/// Manifests and links of a repository removed per question.
const PAGE: usize = 256;

/// What the removal of a repository took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedRepository {
    /// Manifests, with their tags.
    pub manifests: u64,
    /// Links to other blobs, whose bytes go when nobody needs them.
    pub links: u64,
}

/// The name under which what an operator writes is kept: the one somebody pushed to, else what is cached of the upstream.
async fn kept_name(names: &Names, metadata: &Metadata, name: &RepositoryName) -> Result<RepositoryName, Error> {
    let target = Target { name: name.clone(), ns: None, host: None, caller: Caller::default() };
    let route = super::route(names, &target)?;
    for private in &route.private {
        if metadata.repository(private).await?.is_some_and(|row| row.private) {
            return Ok(private.clone());
        }
    }
    Ok(route.mirrored.map_or(route.home, |mirrored| mirrored.canonical))
}

impl Registry {
    /// As [`kept_name`], of this registry.
    pub async fn kept_name(&self, name: &RepositoryName) -> Result<RepositoryName, Error> {
        kept_name(self.names.names(), &self.depot().metadata, name).await
    }

    /// Keeps a manifest and all that it leads to from eviction and from retention, now and when it comes. Returns the name
    /// under which it is kept, and whether that is news.
    pub async fn pin(&self, name: &RepositoryName, reference: &Reference) -> Result<(RepositoryName, bool), Error> {
        let kept = self.kept_name(name).await?;
        let is_new = self.depot().metadata.pin(&kept, reference).await?;
        self.measure_pins().await;
        Ok((kept, is_new))
    }

    /// Takes a pin off again. Returns the name under which it was kept, and whether there was one.
    pub async fn unpin(&self, name: &RepositoryName, reference: &Reference) -> Result<(RepositoryName, bool), Error> {
        let kept = self.kept_name(name).await?;
        let was_there = self.depot().metadata.unpin(&kept, reference).await?;
        self.measure_pins().await;
        Ok((kept, was_there))
    }

    async fn measure_pins(&self) {
        // A figure for people: what is pinned holds, measured or not.
        let _ = self.depot().room.measure_pinned().await;
    }

    /// Removes a tag, or a manifest with every tag that names it, as a client's DELETE does. What is pinned stays.
    pub async fn remove(
        self: &Arc<Self>,
        name: &RepositoryName,
        reference: &Reference,
        witness: Option<Arc<Witness>>,
    ) -> Result<RepositoryName, Error> {
        let kept = self.kept_name(name).await?;
        if self.depot().metadata.is_pinned(&kept, reference).await? {
            return Err(Error::Pinned { name: kept, reference: reference.clone() });
        }
        let (this, repository, wanted) = (Arc::clone(self), kept.clone(), reference.clone());
        let removed = to_the_end(async move {
            this.forget_manifest(&repository, &wanted, Keeps::default(), witness.as_deref()).await
        });
        if removed.await.unwrap_or(Err(Error::cache(&kept)(cache::Error::Stopped)))? {
            Ok(kept)
        } else {
            Err(Error::ManifestUnknown { name: kept, reference: reference.clone() })
        }
    }

    /// Removes everything that a repository holds, and forgets its name: it is nobody's again. What is pinned keeps it.
    pub async fn remove_repository(
        self: &Arc<Self>,
        name: &RepositoryName,
        witness: Option<Arc<Witness>>,
    ) -> Result<(RepositoryName, RemovedRepository), Error> {
        let kept = self.kept_name(name).await?;
        let metadata = &self.depot().metadata;
        if metadata.repository(&kept).await?.is_none() {
            let reason = format!("there is no repository {kept} here");
            return Err(Error::NameUnknown { name: kept.to_string(), reason });
        }
        if let Some(pin) =
            metadata.list_pins().await?.into_iter().find(|pin| pin.repo == kept && pin.manifest.is_some())
        {
            return Err(Error::Pinned { name: kept, reference: pin.reference });
        }
        let (this, repository) = (Arc::clone(self), kept.clone());
        let removed = to_the_end(async move { this.forget_repository(&repository, witness.as_deref()).await });
        let removed = removed.await.unwrap_or(Err(Error::cache(&kept)(cache::Error::Stopped)))?;
        Ok((kept, removed))
    }

    async fn forget_repository(
        &self,
        name: &RepositoryName,
        witness: Option<&Witness>,
    ) -> Result<RemovedRepository, Error> {
        let metadata = &self.depot().metadata;
        let mut removed = RemovedRepository::default();
        loop {
            let page = metadata.list_manifests(name, None, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for digest in page {
                let is_gone = self.forget_manifest(name, &Reference::Digest(digest), Keeps::default(), witness).await?;
                removed.manifests += u64::from(is_gone);
            }
        }
        loop {
            let page = metadata.list_linked(name, None, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for digest in page {
                let notices = self.unlinked(name, &digest, witness);
                removed.links += u64::from(metadata.unlink_blob_telling(name, &digest, &notices).await?);
            }
        }
        metadata.delete_empty_repository(name).await?;
        self.memory.forget_repository(name);
        Ok(removed)
    }
}
