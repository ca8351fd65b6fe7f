//! Adoption: what a pushed manifest names becomes pushed content of its repository.
//!
//! A client does not upload what it was told is there already: content this repository has from an upstream, or content that
//! the upstream behind the same name has. Resting on that alone, an acknowledged image would lose its layers to eviction.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _, join_all};

use super::Registry;
use super::error::Error;
use crate::cache::Source;
use crate::metadata::{BlobRow, Link, Provenance};
use crate::oci::{Digest, Manifest, RepositoryName};

/// Indexes in indexes beyond which nothing is adopted: the specification's own example has two levels.
const DEPTH_MAX: usize = 4;

impl Registry {
    /// Adopts what `manifest` names into `home`, looking also in the repositories that `home` is laid over. Returns what
    /// is nowhere to be had: blobs first, then children.
    pub(super) fn adopt<'a>(
        self: &'a Arc<Self>,
        home: &'a RepositoryName,
        behind: &'a [RepositoryName],
        manifest: &'a Manifest,
        depth: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, Error>> {
        async move {
            let own = manifest.blobs.iter().filter(|blob| !blob.is_foreign).map(|blob| blob.digest);
            let adopted =
                join_all(own.map(|digest| async move {
                    Ok::<_, Error>((digest, self.adopt_blob(home, behind, &digest).await?))
                }));
            let adopted: Vec<(Digest, bool)> = adopted.await.into_iter().collect::<Result<_, _>>()?;
            let mut missing: Vec<Digest> =
                adopted.into_iter().filter(|(_, is_here)| !is_here).map(|(digest, _)| digest).collect();
            missing.dedup();
            for child in &manifest.children {
                if !self.adopt_child(home, behind, &child.digest, depth).await? {
                    missing.push(child.digest);
                }
            }
            Ok(missing)
        }
        .boxed()
    }

    async fn adopt_child(
        self: &Arc<Self>,
        home: &RepositoryName,
        behind: &[RepositoryName],
        digest: &Digest,
        depth: usize,
    ) -> Result<bool, Error> {
        let Some(child) = self.manifests.find(home, digest).await.map_err(Error::cache(home))? else {
            return Ok(false);
        };
        let Link::Linked(row) = self.depot().metadata.find_link(home, digest).await? else { return Ok(false) };
        if !row.pushed && depth < DEPTH_MAX {
            let media_type = Some(child.media_type.as_str());
            let parsed = Manifest::parse(&child.bytes, media_type).map_err(Error::ManifestInvalid)?;
            self.adopt(home, behind, &parsed, depth + 1).await?;
            self.claim(home, digest).await?;
        }
        Ok(true)
    }

    async fn adopt_blob(
        self: &Arc<Self>,
        home: &RepositoryName,
        behind: &[RepositoryName],
        digest: &Digest,
    ) -> Result<bool, Error> {
        let metadata = &self.depot().metadata;
        if let Link::Linked(row) = metadata.find_link(home, digest).await?
            && row.is_present()
        {
            return if row.pushed { Ok(true) } else { self.claim(home, digest).await };
        }
        for name in behind {
            if matches!(metadata.find_link(name, digest).await?, Link::Linked(row) if row.is_present()) {
                return self.claim(home, digest).await;
            }
        }
        match self.vouched.get(&(home.clone(), *digest)) {
            Some(source) => self.fetch_vouched(home, &source, digest).await,
            None => Ok(false),
        }
    }

    /// A client was told that the upstream has the blob, and relied on that: it is fetched now.
    async fn fetch_vouched(
        self: &Arc<Self>,
        home: &RepositoryName,
        source: &Source,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let (fill, _) = self.fills.join(source, *digest, None);
        fill.ended().await;
        self.claim(home, digest).await
    }

    /// Links a stored blob to `home` as pushed content. False if its bytes are not there.
    async fn claim(&self, home: &RepositoryName, digest: &Digest) -> Result<bool, Error> {
        self.depot().link(home, digest, Provenance::Pushed).await.map_err(Error::cache(home))
    }

    /// [`Registry::claim`] for a mount, which must not acknowledge bytes that were lost.
    pub(super) async fn claim_readable(&self, home: &RepositoryName, digest: &Digest) -> Result<bool, Error> {
        let Some(row) = self.depot().metadata.find_blob(digest).await?.filter(BlobRow::is_present) else {
            return Ok(false);
        };
        let _pin = self.depot().room.pin(*digest);
        let is_readable = matches!(self.depot().blobs.open(*digest, row.size_bytes).await, Ok(Some(_)));
        if is_readable { self.claim(home, digest).await } else { Ok(false) }
    }
}
