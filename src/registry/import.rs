//! Import: content of an upstream that came some other way than from it, taken in as what it is there, not as a push.
//!
//! Its bytes pass the same door as any other: the digest is compared before anything is visible. What an operator says is
//! the upstream's is believed of names and tags alone.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;

use super::error::Error;
use super::routing::Target;
use super::{Chunk, Registry};
use crate::cache::space::Class;
use crate::cache::{self, Source, to_the_end};
use crate::metadata::Provenance;
use crate::oci::{Digest, Manifest, Tag};

impl Registry {
    /// Takes a blob in as an upstream's.
    pub async fn import_blob<S, E>(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        chunk: Chunk<S>,
    ) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let source = self.importable(target).await?;
        self.take_blob(source.canonical, None, Class::Cached, digest, chunk).await
    }

    /// Shows a blob that is stored for another repository in an upstream's.
    pub async fn import_link(self: &Arc<Self>, target: &Target, digest: &Digest) -> Result<(), Error> {
        let name = self.importable(target).await?.canonical;
        let unknown = || Error::BlobUnknown { name: name.clone(), digest: *digest };
        if self.readable(&self.depot().metadata.find_mountable(digest).await?, &target.caller.sight).is_empty() {
            return Err(unknown());
        }
        let (depot, repository, wanted) = (Arc::clone(self.depot()), name.clone(), *digest);
        let linked = to_the_end(async move { depot.link(&repository, &wanted, Provenance::Cached).await }).await;
        let is_stored = linked.unwrap_or(Err(cache::Error::Stopped)).map_err(Error::cache(&name))?;
        if is_stored { Ok(()) } else { Err(unknown()) }
    }

    /// Takes a manifest in as an upstream's, and has tags name it as if the upstream had just said so. A tag that somebody
    /// pushed stays what it is.
    pub async fn import_manifest(
        self: &Arc<Self>,
        target: &Target,
        digest: Digest,
        tags: Vec<Tag>,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let source = self.importable(target).await?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != digest {
            return Err(Error::DigestMismatch { expected: digest, actual });
        }
        let manifest = Manifest::parse(&bytes, content_type).map_err(Error::ManifestInvalid)?;
        let (this, name) = (Arc::clone(self), source.canonical.clone());
        let stored =
            to_the_end(async move { this.manifests.store(&source, digest, &manifest, &bytes, &tags).await }).await;
        stored.unwrap_or(Err(cache::Error::Stopped)).map_err(Error::cache(&name))
    }

    /// The upstream's repository that cached content of this name belongs to.
    async fn importable(&self, target: &Target) -> Result<Source, Error> {
        let route = &self.locate(target)?.route;
        let invalid = |reason| Error::NameInvalid { reason };
        let Some(mirrored) = &route.mirrored else {
            let name = &target.name;
            return Err(invalid(format!(
                "{name} is no configured upstream's: what is cached here comes from one of those"
            )));
        };
        for name in &route.private {
            if self.is_private(name).await? && !route.overlay {
                return Err(invalid(format!(
                    "somebody pushed to {name}, so nobody would be shown what is cached of it"
                )));
            }
        }
        Ok(super::source(mirrored, &self.mirrors))
    }
}
