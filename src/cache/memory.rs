//! Small values kept in memory in front of the index: which repositories are private, where tags point, manifests.
//!
//! Nothing here is the truth: losing any of it costs a query. A value read from the index just before a change could
//! reach the memory just after it; the epoch keeps it out, so that a reader sees every change that was acknowledged.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, UnitWeighter, Weighter};

use super::Error;
use crate::metadata::TagRow;
use crate::oci::{Digest, MediaType, RepositoryName, Tag};

/// Entries of the small maps.
const ENTRIES_MAX: usize = 100_000;
/// What a manifest's entry weighs beyond its bytes.
const ENTRY_BYTES: u64 = 512;
/// Parts of a map that are locked by themselves, at most.
const SHARDS_MAX: u64 = 8;
/// What such a part of the manifests holds at least: the largest manifest has to fit into one.
const SHARD_BYTES_MIN: u64 = 8 << 20;

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
///
/// Its maps are read for every request, some more than once: a read must cost little and write nothing that all cores
/// share, so they are not of the kind that keeps an exact order of use.
#[derive(Debug)]
pub struct Memory {
    epoch: Mutex<u64>,
    private: Map<RepositoryName, bool>,
    tags: Map<(RepositoryName, Tag), Arc<TagRow>>,
    manifests: Map<(RepositoryName, Digest), Arc<StoredManifest>, ByBytes>,
}

type Map<K, V, W = UnitWeighter> = Cache<K, V, W>;

/// A manifest's weight in its map.
#[derive(Clone)]
struct ByBytes;

impl Weighter<(RepositoryName, Digest), Arc<StoredManifest>> for ByBytes {
    fn weight(&self, _: &(RepositoryName, Digest), manifest: &Arc<StoredManifest>) -> u64 {
        manifest.bytes.len() as u64 + ENTRY_BYTES
    }
}

/// Something of a repository, looked up without a key of its own.
#[derive(Hash)]
struct Of<'a, T>(&'a RepositoryName, &'a T);

impl<T: Eq> Equivalent<(RepositoryName, T)> for Of<'_, T> {
    fn equivalent(&self, (name, other): &(RepositoryName, T)) -> bool {
        self.1 == other && self.0 == name
    }
}

/// A map of entries that weigh `weight_max` at most together.
fn map<K, V, W>(shards: u64, entries_max: usize, weight_max: u64, weigh: W) -> Map<K, V, W>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let mut options = OptionsBuilder::new();
    let shards = usize::try_from(shards.clamp(1, SHARDS_MAX)).unwrap_or(1);
    options.shards(shards).estimated_items_capacity(entries_max).weight_capacity(weight_max);
    let options = options.build().expect("both capacities are given");
    Cache::with_options(options, weigh, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

impl Memory {
    /// An empty memory that keeps at most so many bytes of manifests.
    pub fn new(manifests_max_bytes: u64) -> Self {
        let manifests_max = usize::try_from(manifests_max_bytes / ENTRY_BYTES).unwrap_or(usize::MAX);
        Self {
            epoch: Mutex::new(0),
            private: map(SHARDS_MAX, ENTRIES_MAX, ENTRIES_MAX as u64, UnitWeighter),
            tags: map(SHARDS_MAX, ENTRIES_MAX, ENTRIES_MAX as u64, UnitWeighter),
            manifests: map(manifests_max_bytes / SHARD_BYTES_MIN, manifests_max, manifests_max_bytes, ByBytes),
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
        if let Some(row) = self.tags.get(&Of(name, tag)) {
            return Ok(Some(row));
        }
        let epoch = self.epoch();
        let Some(row) = load.await?.map(Arc::new) else { return Ok(None) };
        self.remember(epoch, || self.tags.insert((name.clone(), tag.clone()), Arc::clone(&row)));
        Ok(Some(row))
    }

    /// A manifest. From memory, or from the store by `load`.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        load: impl Future<Output = Result<Option<Arc<StoredManifest>>, Error>>,
    ) -> Result<Option<Arc<StoredManifest>>, Error> {
        if let Some(manifest) = self.manifests.get(&Of(name, digest)) {
            return Ok(Some(manifest));
        }
        let epoch = self.epoch();
        let Some(manifest) = load.await? else { return Ok(None) };
        self.remember(epoch, || self.manifests.insert((name.clone(), *digest), Arc::clone(&manifest)));
        Ok(Some(manifest))
    }

    /// To be called after a repository became private, and before that is acknowledged.
    pub fn forget_repository(&self, name: &RepositoryName) {
        self.forget(|| self.private.remove(name));
    }

    /// To be called after a tag moved or went, and before that is acknowledged.
    pub fn forget_tag(&self, name: &RepositoryName, tag: &Tag) {
        self.forget(|| self.tags.remove(&Of(name, tag)));
    }

    /// To be called after a manifest and the tags naming it went, and before that is acknowledged.
    pub fn forget_manifest(&self, name: &RepositoryName, digest: &Digest) {
        self.forget(|| {
            self.manifests.remove(&Of(name, digest));
            self.tags.retain(|(repository, _), row| row.digest != *digest || repository != name);
        });
    }

    /// To be called after a blob's bytes were found to be wrong: whatever repository has them for a manifest.
    pub fn forget_bytes(&self, digest: &Digest) {
        self.forget(|| self.manifests.retain(|(_, of), _| of != digest));
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

    fn forget<T>(&self, invalidate: impl FnOnce() -> T) {
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
