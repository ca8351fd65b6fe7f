//! The sums and the bounds, for whoever watches.

use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::Room;
use crate::cache::Error;

impl Room {
    /// Measures what is pinned of the cache, and says so when that alone fills it: from then on nothing else is kept, and what is
    /// not cached is passed through.
    pub async fn measure_pinned(&self) -> Result<(), Error> {
        let pinned_bytes = self.metadata.pinned_bytes().await?;
        let before = self.pinned_bytes.swap(pinned_bytes, Ordering::Relaxed);
        let cache_max_bytes = self.limits().cache_max_bytes;
        match (before >= cache_max_bytes, pinned_bytes >= cache_max_bytes) {
            (false, true) => warn!(
                pinned_bytes,
                cache_max_bytes,
                "what is pinned fills the cache: nothing else is kept. Raise cache.max_size or take pins off (entrepot pin --list)"
            ),
            (true, false) => info!(pinned_bytes, cache_max_bytes, "the cache has room beside what is pinned again"),
            _ => {}
        }
        Ok(())
    }

    /// Measures what is not counted by event, and exports everything.
    pub fn report(&self) {
        self.measure_index();
        let (sums, limits, unwritten_bytes) = {
            let ledger = self.ledger();
            (ledger.sums(), ledger.limits(), ledger.unwritten_bytes())
        };
        let kinds = [
            ("cached", sums.cached),
            ("partial", sums.partial),
            ("filling", sums.filling),
            ("deleting", sums.deleting),
            ("pushed", sums.pushed),
            ("uploading", sums.uploading),
            ("quarantined", sums.quarantined),
            ("index", sums.index),
        ];
        for (kind, bytes) in kinds {
            self.metrics.space(kind, bytes);
        }
        self.metrics.space_pinned(self.pinned_bytes.load(Ordering::Relaxed));
        self.metrics.space_unwritten(unwritten_bytes);
        self.metrics.limit("cache_max_bytes", limits.cache_max_bytes);
        self.metrics.limit("store_max_bytes", limits.store_max_bytes);
        self.metrics.limit("min_free_bytes", limits.min_free_bytes);
        self.metrics.limit("quarantine_max_bytes", self.quarantine_max_bytes);
    }
}
