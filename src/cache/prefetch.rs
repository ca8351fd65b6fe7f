//! Layers before they are asked for: who gets an image's manifest and then its first layer will want the others.
//!
//! The manifest alone starts nothing, because many only look at manifests and configs; nor does a part of a layer, because who
//! asks for parts wants no wholes. Only what the manifest names that the client got is fetched, never another platform's,
//! so many blobs at a time, behind everything a client waits for; the first that is not to be had ends it for that image.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tracing::debug;

use super::error::Error;
use super::fills::{Fill, Fills};
use super::flights::Role;
use super::memory::StoredManifest;
use super::{Source, mirror::Mirror};
use crate::metadata::Link;
use crate::oci::{Descriptor, Digest, Host, Manifest, RepositoryName};

/// Images whose layers may still be asked for.
const IMAGES_MAX: u64 = 1_000;
/// Layers of these.
const LAYERS_MAX: u64 = 100_000;
/// A pull goes from the manifest to the layers at once.
const EXPECTED_FOR: Duration = Duration::from_mins(10);
/// An image that would take more than this share of the cache is left to its clients: it would evict its own layers.
const CACHE_SHARE: u64 = 2;

/// What is expected to be asked for.
pub struct Prefetch {
    fills: Arc<Fills>,
    /// By manifest.
    images: Cache<(RepositoryName, Digest), Arc<Image>>,
    /// By layer.
    layers: Cache<(RepositoryName, Digest), Arc<Image>>,
    /// Blobs fetched ahead at a time, by upstream.
    slots: Mutex<HashMap<Host, Arc<Semaphore>>>,
}

/// An image whose manifest a client got.
struct Image {
    /// Config and layers.
    blobs: Vec<Descriptor>,
    is_pulled: AtomicBool,
}

impl Prefetch {
    /// Nothing is expected.
    pub fn new(fills: Arc<Fills>) -> Arc<Self> {
        let images = Cache::builder().max_capacity(IMAGES_MAX).time_to_live(EXPECTED_FOR).build();
        let layers = Cache::builder().max_capacity(LAYERS_MAX).time_to_live(EXPECTED_FOR).build();
        Arc::new(Self { fills, images, layers, slots: Mutex::default() })
    }

    /// A client got this manifest.
    pub fn manifest_got(&self, source: &Source, manifest: &StoredManifest) {
        let key = (source.canonical.clone(), manifest.digest);
        let is_image = manifest.media_type.kind().is_some_and(|kind| !kind.is_index());
        if !source.mirror.policy().prefetches || !is_image || self.images.contains_key(&key) {
            return;
        }
        let Ok(parsed) = Manifest::parse(&manifest.bytes, Some(manifest.media_type.as_str())) else { return };
        let blobs: Vec<Descriptor> = parsed.blobs.into_iter().filter(|blob| !blob.is_foreign).collect();
        let image = Arc::new(Image { blobs, is_pulled: AtomicBool::new(false) });
        // The first is the config, which is also looked at by who pulls nothing.
        for layer in image.blobs.iter().skip(1) {
            self.layers.insert((source.canonical.clone(), layer.digest), Arc::clone(&image));
        }
        self.images.insert(key, image);
    }

    /// A client asks for a whole blob: if it is a layer of an expected image, the others are fetched. `fill` is what brings
    /// the blob, unless it is here: nothing gets in line before it.
    pub fn blob_got(self: &Arc<Self>, source: &Source, digest: &Digest, fill: Option<Arc<Fill>>) {
        if !source.mirror.policy().prefetches {
            return;
        }
        let Some(image) = self.layers.get(&(source.canonical.clone(), *digest)) else { return };
        if image.is_pulled.swap(true, Ordering::Relaxed) {
            return;
        }
        let size_bytes: u64 = image.blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size_bytes));
        if size_bytes > self.fills.depot().room.limits().cache_max_bytes / CACHE_SHARE {
            debug!(repository = %source.canonical, size_bytes, "an image too large for the cache is not prefetched");
            return;
        }
        let (this, source, asked) = (Arc::clone(self), source.clone(), *digest);
        self.fills.beside(async move {
            if let Some(fill) = fill {
                fill.in_line().await;
            }
            this.fetch(&source, &image, asked).await;
        });
    }

    async fn fetch(&self, source: &Source, image: &Image, asked: Digest) {
        let slots = self.slots(&source.mirror);
        let mut others = Vec::with_capacity(image.blobs.len());
        for blob in &image.blobs {
            if blob.digest != asked {
                others.push(self.fetch_blob(source, blob, &slots).boxed());
            }
        }
        let mut fetched = stream::iter(others).buffer_unordered(source.mirror.policy().prefetch_max);
        while let Some(is_here) = fetched.next().await {
            if !is_here {
                debug!(repository = %source.canonical, "what is left of an image is not prefetched");
                return;
            }
        }
    }

    /// Fetches one blob, unless it is here or somebody fetches it. Returns whether it is worth going on.
    async fn fetch_blob(&self, source: &Source, blob: &Descriptor, slots: &Semaphore) -> bool {
        let Ok(_slot) = slots.acquire().await else { return false };
        let depot = self.fills.depot();
        let is_here = match depot.metadata.find_link(&source.canonical, &blob.digest).await {
            Ok(Link::Linked(row) | Link::Unlinked(row)) => row.is_present(),
            Ok(_) => false,
            Err(_) => return false,
        };
        if is_here {
            return true;
        }
        // Who pulls the image comes for it sooner than a turn would.
        let Some(turn) = depot.fills.try_ahead() else { return true };
        let (fill, role) = self.fills.prefetch(source, blob.digest, Some(blob.size_bytes), turn);
        if role == Role::Followed {
            return true;
        }
        let ended = fill.outcome().await;
        let result = if ended.is_ok() { "committed" } else { "failed" };
        depot.metrics.prefetched(source.mirror.host().as_str(), result);
        ended.is_ok()
    }

    /// Fetches one blob for somebody who can wait: behind everything that a client waits for, and beside what is prefetched
    /// of its upstream. It goes on when nobody waits any more.
    pub async fn bring(&self, source: &Source, blob: &Descriptor) -> Result<Role, Error> {
        let slots = self.slots(&source.mirror);
        let _slot = slots.acquire().await.map_err(|_| Error::Stopped)?;
        let mut others = source.upstream().n_sources() - 1;
        loop {
            let turn = self.fills.depot().fills.ahead().await;
            let (fill, role) = self.fills.prefetch(source, blob.digest, Some(blob.size_bytes), turn);
            match fill.outcome().await {
                Ok(()) => return Ok(role),
                // Another upstream's failure is not ours: then our own is asked.
                Err(_) if fill.repository != source.canonical => {}
                // Who sent it is asked last now.
                Err(Error::Wrong { .. }) if others > 0 => others -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn slots(&self, mirror: &Mirror) -> Arc<Semaphore> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(mirror.policy().prefetch_max.max(1)));
        Arc::clone(slots.entry(mirror.host().clone()).or_insert_with(new))
    }
}

impl std::fmt::Debug for Prefetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prefetch")
    }
}
