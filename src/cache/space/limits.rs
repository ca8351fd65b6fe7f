//! The bounds, and which of them cannot hold together.

/// What the index may grow between two looks at it, at most: its log is written back every few MiB.
const INDEX_HEADROOM_MAX_BYTES: u64 = 4 << 20;
/// The index's headroom is no more than this share of the store: one part in so many.
const INDEX_HEADROOM_SHARE: u64 = 16;

/// What has to be left of a file system beside `min_free`: an empty store takes about this much.
const USABLE_MIN_BYTES: u64 = 1 << 20;

/// The bounds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of everything that came from upstreams.
    pub cache_max_bytes: u64,
    /// Of everything in the store.
    pub store_max_bytes: u64,
    /// What stays free on the file system for its other users; 0 if that is nobody's concern.
    pub min_free_bytes: u64,
}

/// Bounds that cannot hold, and the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The cache may have more than everything together.
    #[error(
        "cache.max_size ({cache_max_bytes} bytes here) is more than storage.max_size ({store_max_bytes} bytes here), \
         which bounds everything: lower the one or raise the other"
    )]
    CacheBeyondStore {
        /// `cache.max_size`.
        cache_max_bytes: u64,
        /// `storage.max_size`.
        store_max_bytes: u64,
    },
    /// Nothing could ever be stored.
    #[error(
        "storage.min_free ({min_free_bytes} bytes here) is all of the file system, which has {total_bytes} bytes: \
         nothing could be stored, so lower it or use a larger disk"
    )]
    MinFreeBeyondDisk {
        /// `storage.min_free`.
        min_free_bytes: u64,
        /// The file system's size.
        total_bytes: u64,
    },
    /// What may not be evicted is over the bound already.
    #[error(
        "the store holds {held_bytes} bytes that are never evicted (pushed content and the index), more than \
         storage.max_size allows ({store_max_bytes} bytes here): raise it, or start with the old bound and delete content"
    )]
    HeldBeyondStore {
        /// Pushed content and the index.
        held_bytes: u64,
        /// `storage.max_size`.
        store_max_bytes: u64,
    },
}

impl Limits {
    /// Can these bounds hold, on a file system of this size with so much in the store that is never evicted?
    pub fn check(&self, total_bytes: u64, held_bytes: u64) -> Result<(), Contradiction> {
        let Self { cache_max_bytes, store_max_bytes, min_free_bytes } = *self;
        if cache_max_bytes > store_max_bytes {
            return Err(Contradiction::CacheBeyondStore { cache_max_bytes, store_max_bytes });
        }
        if min_free_bytes > 0 && total_bytes.saturating_sub(min_free_bytes) < USABLE_MIN_BYTES {
            return Err(Contradiction::MinFreeBeyondDisk { min_free_bytes, total_bytes });
        }
        if held_bytes > store_max_bytes {
            return Err(Contradiction::HeldBeyondStore { held_bytes, store_max_bytes });
        }
        Ok(())
    }

    /// What is kept from reservations, so that the index may grow until it is looked at again.
    pub fn index_headroom_bytes(&self) -> u64 {
        INDEX_HEADROOM_MAX_BYTES.min(self.store_max_bytes / INDEX_HEADROOM_SHARE)
    }
}
