//! Small values kept in memory in front of the index: which repositories are private, where tags point, manifests.
//!
//! Nothing here is the truth: losing any of it costs a query. A value read from the index just before a change could
//! reach the memory just after it; the epoch keeps it out, so that a reader sees every change that was acknowledged.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use moka::sync::Cache;

use super::Error;
use crate::metadata::TagRow;
use crate::oci::{Digest, MediaType, RepositoryName, Tag};

/// Entries of the small maps.
const ENTRIES_MAX: u64 = 100_000;
/// What a manifest's entry weighs beyond its bytes.
const ENTRY_BYTES: usize = 512;

/// A manifest, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its digest as text, as headers want it.
    pub digest_text: String,
    /// Its media type.
    pub media_type: MediaType,
    /// Its bytes, as they came.
    pub bytes: Bytes,
}

impl StoredManifest {
    /// A manifest with these bytes.
    pub fn new(digest: Digest, media_type: MediaType, bytes: Bytes) -> Arc<Self> {
        Arc::new(Self { digest_text: digest.to_string(), digest, media_type, bytes })
    }
}

/// The memory of one server.
#[derive(Debug)]
pub struct Memory {
    epoch: Mutex<u64>,
    private: Cache<RepositoryName, bool>,
    tags: Cache<(RepositoryName, Tag), Arc<TagRow>>,
    manifests: Cache<(RepositoryName, Digest), Arc<StoredManifest>>,
}

impl Memory {
    /// An empty memory that keeps at most so many bytes of manifests.
    pub fn new(manifests_max_bytes: u64) -> Self {
        let weigh = |_: &(RepositoryName, Digest), manifest: &Arc<StoredManifest>| {
            u32::try_from(manifest.bytes.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            epoch: Mutex::new(0),
            private: Cache::new(ENTRIES_MAX),
            tags: Cache::new(ENTRIES_MAX),
            manifests: Cache::builder().weigher(weigh).max_capacity(manifests_max_bytes).build(),
        }
    }

    /// Is the repository private? From memory, or from the index by `load`.
    pub async fn is_private(
        &self,
        name: &RepositoryName,
        load: impl Future<Output = Result<bool, Error>>,
    ) -> Result<bool, Error> {
        if let Some(private) = self.private.get(name) {
            return Ok(private);
        }
        let epoch = self.epoch();
        let private = load.await?;
        self.remember(epoch, || self.private.insert(name.clone(), private));
        Ok(private)
    }

    /// Where a tag points. From memory, or from the index by `load`.
    pub async fn tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        load: impl Future<Output = Result<Option<TagRow>, Error>>,
    ) -> Result<Option<Arc<TagRow>>, Error> {
        let key = (name.clone(), tag.clone());
        if let Some(row) = self.tags.get(&key) {
            return Ok(Some(row));
        }
        let epoch = self.epoch();
        let Some(row) = load.await?.map(Arc::new) else { return Ok(None) };
        self.remember(epoch, || self.tags.insert(key, Arc::clone(&row)));
        Ok(Some(row))
    }

    /// A manifest. From memory, or from the store by `load`.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        load: impl Future<Output = Result<Option<Arc<StoredManifest>>, Error>>,
    ) -> Result<Option<Arc<StoredManifest>>, Error> {
        let key = (name.clone(), *digest);
        if let Some(manifest) = self.manifests.get(&key) {
            return Ok(Some(manifest));
        }
        let epoch = self.epoch();
        let Some(manifest) = load.await? else { return Ok(None) };
        self.remember(epoch, || self.manifests.insert(key, Arc::clone(&manifest)));
        Ok(Some(manifest))
    }

    /// To be called after a repository became private, and before that is acknowledged.
    pub fn forget_repository(&self, name: &RepositoryName) {
        self.forget(|| self.private.invalidate(name));
    }

    /// To be called after a tag moved or went, and before that is acknowledged.
    pub fn forget_tag(&self, name: &RepositoryName, tag: &Tag) {
        self.forget(|| self.tags.invalidate(&(name.clone(), tag.clone())));
    }

    /// To be called after a manifest and the tags naming it went, and before that is acknowledged.
    pub fn forget_manifest(&self, name: &RepositoryName, digest: &Digest) {
        self.forget(|| {
            self.manifests.invalidate(&(name.clone(), *digest));
            for (key, row) in &self.tags {
                if key.0 == *name && row.digest == *digest {
                    self.tags.invalidate(&*key);
                }
            }
        });
    }

    /// To be called after a blob's bytes were found to be wrong: whatever repository has them for a manifest.
    pub fn forget_bytes(&self, digest: &Digest) {
        self.forget(|| {
            for (key, _) in &self.manifests {
                if key.1 == *digest {
                    self.manifests.invalidate(&*key);
                }
            }
        });
    }

    fn epoch(&self) -> u64 {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, since: u64, insert: impl FnOnce()) {
        let epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if *epoch == since {
            insert();
        }
    }

    fn forget(&self, invalidate: impl FnOnce()) {
        let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        *epoch += 1;
        invalidate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_read_before_a_change_does_not_enter_after_it() {
        let memory = Memory::new(1 << 20);
        let name: RepositoryName = "team/app".parse().unwrap();
        let read_then_changed = async {
            memory.forget_repository(&name);
            Ok(false)
        };
        assert!(!memory.is_private(&name, read_then_changed).await.unwrap());
        assert!(memory.is_private(&name, async { Ok(true) }).await.unwrap(), "the old value was kept");
        assert!(memory.is_private(&name, async { Ok(false) }).await.unwrap(), "the new value was not kept");
    }
}
