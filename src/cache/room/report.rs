//! The sums and the bounds, for whoever watches.

use super::Room;

impl Room {
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
        self.metrics.space_unwritten(unwritten_bytes);
        self.metrics.limit("cache_max_bytes", limits.cache_max_bytes);
        self.metrics.limit("store_max_bytes", limits.store_max_bytes);
        self.metrics.limit("min_free_bytes", limits.min_free_bytes);
        self.metrics.limit("quarantine_max_bytes", self.quarantine_max_bytes);
    }
}
