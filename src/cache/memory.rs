//! Small values kept in memory in front of the index: which repositories are private, where tags point, manifests.
//!
//! Nothing here is the truth: losing any of it costs a query. A value read from the index just before a change could
//! reach the memory just after it; the epoch keeps it out, so that a reader sees every change that was acknowledged.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, UnitWeighter, Weighter};

use super::Error;
use crate::metadata::TagRow;
use crate::near::Near;
use crate::oci::{Digest, MediaType, RepositoryName, Tag};

/// Entries of the small maps.
const ENTRIES_MAX: usize = 100_000;
/// What a manifest's entry weighs beyond its bytes.
const ENTRY_BYTES: u64 = 512;
/// Parts of a map that are locked by themselves, at most.
const SHARDS_MAX: u64 = 8;
/// What such a part of the manifests holds at least: the largest manifest has to fit into one.
const SHARD_BYTES_MIN: u64 = 8 << 20;
/// Copies of small values that all threads have together.
const NEAR_MAX: usize = 16 * 1024;
/// What share of the bytes of all manifests they may have copies of, and the largest one: nearly all are smaller.
const NEAR_SHARE: u64 = 4;
const NEAR_MANIFEST_BYTES_MAX: u64 = 16 * 1024;

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

    /// The same in memory of its own, unless that is too much.
    fn copied(&self) -> Option<Arc<Self>> {
        let is_small = self.bytes.len() as u64 <= NEAR_MANIFEST_BYTES_MAX;
        is_small.then(|| Self::new(self.digest, self.media_type.clone(), Bytes::copy_from_slice(&self.bytes)))
    }
}

/// The memory of one server.
///
/// What loads a value is made only when that is needed, and in memory of its own: it would make the future of every request
/// as large as a query is.
///
/// Its maps are read for every request, some more than once: a read must cost little, so they are not of the kind that keeps
/// an exact order of use, and each thread has copies of what it lately read, which hold until something of the same kind is
/// forgotten.
#[derive(Debug)]
pub struct Memory {
    private: Layered<RepositoryName, bool>,
    tags: Layered<(RepositoryName, Tag), Arc<TagRow>>,
    manifests: Layered<(RepositoryName, Digest), Arc<StoredManifest>, ByBytes>,
}

/// What all threads share, and the copies of each.
#[derive(Debug)]
struct Layered<K: Send, V: Send, W = UnitWeighter> {
    epoch: AtomicU64,
    /// Held while the epoch moves, and while something read from the index enters.
    entering: Mutex<()>,
    near: Near<K, V>,
    shared: Cache<K, V, W>,
}

/// A manifest's weight in its map.
#[derive(Clone, Debug)]
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

impl<K, V, W> Layered<K, V, W>
where
    K: Clone + Eq + Hash + Send,
    V: Clone + Send,
    W: Weighter<K, V> + Clone,
{
    /// Entries that weigh `weight_max` at most together, and copies of `near_max` of them for each thread.
    fn new(shards: u64, entries_max: usize, weight_max: u64, weigh: W, near_max: usize) -> Self {
        let mut options = OptionsBuilder::new();
        let shards = usize::try_from(shards.clamp(1, SHARDS_MAX)).unwrap_or(1);
        options.shards(shards).estimated_items_capacity(entries_max).weight_capacity(weight_max);
        let options = options.build().expect("both capacities are given");
        let shared = Cache::with_options(options, weigh, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { epoch: AtomicU64::new(0), entering: Mutex::default(), near: Near::new(near_max), shared }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Takes in what was read from the index, unless something was forgotten since.
    fn remember(&self, since: u64, key: K, value: V) {
        let _entering = self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() == since {
            self.shared.insert(key, value);
        }
    }

    /// The new epoch begins when what is to be forgotten is gone: whoever sees it can copy none of that.
    fn forget<T>(&self, invalidate: impl FnOnce(&Cache<K, V, W>) -> T) {
        let _entering = self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        invalidate(&self.shared);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// What is remembered. `epoch` is from before this call; `copy` makes what shares no count that is moved with the
    /// original, if there is to be a copy.
    fn get<Q>(&self, key: &Q, epoch: u64, own: impl FnOnce() -> K, copy: impl FnOnce(&V) -> Option<V>) -> Option<V>
    where
        Q: Hash + Equivalent<K>,
    {
        if let Some(value) = self.near.get(key, epoch) {
            return Some(value);
        }
        let value = self.shared.get(key)?;
        if let Some(copy) = copy(&value) {
            self.near.put(own(), copy, epoch);
        }
        Some(value)
    }
}

impl Memory {
    /// An empty memory that keeps at most so many bytes of manifests.
    pub fn new(manifests_max_bytes: u64) -> Self {
        let manifests_max = usize::try_from(manifests_max_bytes / ENTRY_BYTES).unwrap_or(usize::MAX);
        let manifest_shards = manifests_max_bytes / SHARD_BYTES_MIN;
        let near_manifests = manifests_max_bytes / NEAR_SHARE / NEAR_MANIFEST_BYTES_MAX;
        let near_manifests = usize::try_from(near_manifests).unwrap_or(NEAR_MAX).min(NEAR_MAX);
        Self {
            private: Layered::new(SHARDS_MAX, ENTRIES_MAX, ENTRIES_MAX as u64, UnitWeighter, NEAR_MAX),
            tags: Layered::new(SHARDS_MAX, ENTRIES_MAX, ENTRIES_MAX as u64, UnitWeighter, NEAR_MAX),
            manifests: Layered::new(manifest_shards, manifests_max, manifests_max_bytes, ByBytes, near_manifests),
        }
    }

    /// Is the repository private? From memory, or from the index by `load`.
    pub async fn is_private(
        &self,
        name: &RepositoryName,
        load: impl AsyncFnOnce() -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let epoch = self.private.epoch();
        if let Some(private) = self.private.get(name, epoch, || name.clone(), |private| Some(*private)) {
            return Ok(private);
        }
        let private = Box::pin(load()).await?;
        self.private.remember(epoch, name.clone(), private);
        Ok(private)
    }

    /// Where a tag points. From memory, or from the index by `load`.
    pub async fn tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        load: impl AsyncFnOnce() -> Result<Option<TagRow>, Error>,
    ) -> Result<Option<Arc<TagRow>>, Error> {
        let (epoch, own) = (self.tags.epoch(), || (name.clone(), tag.clone()));
        if let Some(row) = self.tags.get(&Of(name, tag), epoch, own, |row| Some(Arc::new(TagRow::clone(row)))) {
            return Ok(Some(row));
        }
        let Some(row) = Box::pin(load()).await?.map(Arc::new) else { return Ok(None) };
        self.tags.remember(epoch, own(), Arc::clone(&row));
        Ok(Some(row))
    }

    /// A manifest. From memory, or from the store by `load`.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        load: impl AsyncFnOnce() -> Result<Option<Arc<StoredManifest>>, Error>,
    ) -> Result<Option<Arc<StoredManifest>>, Error> {
        let (epoch, own) = (self.manifests.epoch(), || (name.clone(), *digest));
        if let Some(manifest) = self.manifests.get(&Of(name, digest), epoch, own, |manifest| manifest.copied()) {
            return Ok(Some(manifest));
        }
        let Some(manifest) = Box::pin(load()).await? else { return Ok(None) };
        self.manifests.remember(epoch, own(), Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    /// To be called after a repository became private, and before that is acknowledged.
    pub fn forget_repository(&self, name: &RepositoryName) {
        self.private.forget(|private| private.remove(name));
    }

    /// To be called after a tag moved or went, and before that is acknowledged.
    pub fn forget_tag(&self, name: &RepositoryName, tag: &Tag) {
        self.tags.forget(|tags| tags.remove(&Of(name, tag)));
    }

    /// To be called after a manifest and the tags naming it went, and before that is acknowledged.
    pub fn forget_manifest(&self, name: &RepositoryName, digest: &Digest) {
        self.manifests.forget(|manifests| manifests.remove(&Of(name, digest)));
        self.tags.forget(|tags| tags.retain(|(repository, _), row| row.digest != *digest || repository != name));
    }

    /// To be called after a blob's bytes were found to be wrong: whatever repository has them for a manifest.
    pub fn forget_bytes(&self, digest: &Digest) {
        self.manifests.forget(|manifests| manifests.retain(|(_, of), _| of != digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_read_before_a_change_does_not_enter_after_it() {
        let memory = Memory::new(1 << 20);
        let name: RepositoryName = "team/app".parse().unwrap();
        let read_then_changed = async || {
            memory.forget_repository(&name);
            Ok(false)
        };
        assert!(!memory.is_private(&name, read_then_changed).await.unwrap());
        assert!(memory.is_private(&name, async || Ok(true)).await.unwrap(), "the old value was kept");
        assert!(memory.is_private(&name, async || Ok(false)).await.unwrap(), "the new value was not kept");
    }

    #[tokio::test]
    async fn what_a_thread_has_copied_is_forgotten_with_the_rest() {
        let memory = Memory::new(1 << 20);
        let (name, tag): (RepositoryName, Tag) = ("team/app".parse().unwrap(), "v1".parse().unwrap());
        let stored = |bytes: &'static [u8]| {
            let digest = Digest::of(crate::oci::Algorithm::Sha256, bytes);
            StoredManifest::new(digest, MediaType::new("application/json"), Bytes::from_static(bytes))
        };
        let (first, second) = (stored(b"first"), stored(b"second"));
        let row = |manifest: &StoredManifest| TagRow {
            name: tag.clone(),
            digest: manifest.digest,
            provenance: crate::metadata::Provenance::Pushed,
            checked_ms: 0,
            updated_ms: 0,
        };
        let nothing = async || Ok(None);
        for now in [&first, &second] {
            assert!(!memory.is_private(&name, async || Ok(false)).await.unwrap());
            memory.forget_repository(&name);
            assert!(memory.is_private(&name, async || Ok(true)).await.unwrap());
            memory.tag(&name, &tag, async || Ok(Some(row(now)))).await.unwrap();
            memory.manifest(&name, &now.digest, async || Ok(Some(Arc::clone(now)))).await.unwrap();
            for _ in 0..3 {
                assert_eq!(memory.tag(&name, &tag, nothing).await.unwrap().unwrap().digest, now.digest);
                assert_eq!(memory.manifest(&name, &now.digest, async || Ok(None)).await.unwrap().as_ref(), Some(now));
                assert!(memory.is_private(&name, async || Ok(false)).await.unwrap());
            }
            memory.forget_tag(&name, &tag);
            assert_eq!(memory.tag(&name, &tag, nothing).await.unwrap(), None);
            memory.forget_bytes(&now.digest);
            assert_eq!(memory.manifest(&name, &now.digest, async || Ok(None)).await.unwrap(), None);
            memory.forget_repository(&name);
        }
    }
}
