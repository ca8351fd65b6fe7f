//! The removal of what nobody needs: the same durable steps as eviction, for pushed bytes too.
//!
//! ```text
//! naming lock ─ transaction: looked at again, links gone, row `deleting` ─ bytes ─ transaction: row absent, or gone ─ ledger
//! ```
//! Until its bytes are off the disk a blob counts as what it was. A crash in between leaves a `deleting` row, which start-up
//! finishes, and its entry in the review queue, which the next sweep answers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tracing::{debug, warn};

use super::Room;
use super::naming::Naming;
use crate::cache::Error;
use crate::cache::flights::to_the_end;
use crate::cache::space::{Class, Holding};
use crate::fault;
use crate::metadata::{BlobReview, BlobRow, Decision, Moment, ReviewedBlob};
use crate::report::Chain;

/// What came of a batch.
#[derive(Debug, Default)]
pub(in crate::cache) struct Batch {
    /// What was looked at, and what was done about it in the index.
    pub reviewed: Vec<ReviewedBlob>,
    /// Blobs whose bytes are off the disk.
    pub removed: Vec<BlobRow>,
}

impl Room {
    /// Reviews blobs whose time has come, and removes what nobody needs.
    pub(in crate::cache) async fn sweep(self: &Arc<Self>, due: Vec<BlobReview>, at: Moment) -> Result<Batch, Error> {
        let room = Arc::clone(self);
        to_the_end(async move { room.sweep_batch(due, at).await }).await.unwrap_or(Err(Error::Stopped))
    }

    async fn sweep_batch(&self, due: Vec<BlobReview>, at: Moment) -> Result<Batch, Error> {
        let (mut held, mut ready, mut used) = (BTreeMap::new(), Vec::new(), Vec::new());
        for review in due {
            // Never waits for a lock while holding others; what is being named right now is left to the next sweep.
            let slot = Naming::slot(&review.row.digest);
            if let Entry::Vacant(vacant) = held.entry(slot) {
                let Some(guard) = self.naming.try_lock_slot(slot) else { continue };
                vacant.insert(guard);
            }
            if self.is_in_use(&review, at) { used.push(review.id) } else { ready.push(review) }
        }
        if !used.is_empty() {
            self.metadata.postpone_blobs(used, at.now_ms.saturating_add(at.grace_ms)).await?;
        }
        let promises: BTreeMap<i64, u64> = ready
            .iter()
            .filter(|review| review.decide(at) == Decision::Demote && self.ledger().make_way(review.row.stored_bytes))
            .map(|review| (review.id, review.row.stored_bytes))
            .collect();
        let blobs = ready.iter().map(|review| (review.id, promises.contains_key(&review.id))).collect();
        let reviewed = self.metadata.review_blobs(blobs, at).await;
        self.settle_promises(promises, reviewed.as_deref().unwrap_or_default());
        let reviewed = reviewed?;
        let removed = self.remove_condemned(&reviewed).await?;
        Ok(Batch { reviewed, removed })
    }

    /// Read or held open, although the index does not know?
    fn is_in_use(&self, review: &BlobReview, at: Moment) -> bool {
        let ledger = self.ledger();
        let read_ms = ledger.unflushed_read_ms(&review.row.digest);
        review.decide(at) != Decision::Keep
            && (ledger.is_pinned(&review.row.digest)
                || read_ms.is_some_and(|read_ms| read_ms.saturating_add(at.grace_ms) > at.now_ms))
    }

    /// Blobs that became cached count as that, in the room that was kept for them.
    fn settle_promises(&self, promises: BTreeMap<i64, u64>, reviewed: &[ReviewedBlob]) {
        let mut ledger = self.ledger();
        for bytes in promises.into_values() {
            ledger.release(Class::Cached, bytes, 0);
        }
        for demoted in reviewed.iter().filter(|reviewed| reviewed.decision == Decision::Demote) {
            let before = Holding::of(&demoted.review.row);
            let after = before.map(|held| Holding { pushed: false, ..held });
            if let Some(after) = after {
                ledger.change(before, after);
            }
        }
    }

    /// Rows of what is condemned say `deleting`. What is not swept in the end counts as that too, until `finish_removals` ends it.
    async fn remove_condemned(&self, reviewed: &[ReviewedBlob]) -> Result<Vec<BlobRow>, Error> {
        let mut condemned = Vec::new();
        for reviewed in reviewed.iter().filter(|reviewed| reviewed.is_condemned()) {
            fault::point("sweep: marked");
            let row = &reviewed.review.row;
            if !self.ledger().is_pinned(&row.digest) {
                condemned.push(&reviewed.review);
            } else if let Err(error) = self.spare(row).await {
                warn!(digest = %row.digest, error = %Chain(&error), "a blob in use could not be kept");
                self.leave_deleting(row);
            }
        }
        let swept = self.sweep_away(&condemned).await;
        let removed = swept.as_deref().unwrap_or_default();
        for review in condemned.iter().filter(|review| !removed.iter().any(|row| row.digest == review.row.digest)) {
            self.leave_deleting(&review.row);
        }
        let mut ledger = self.ledger();
        for held in removed.iter().filter_map(Holding::of) {
            ledger.swept(held);
        }
        drop(ledger);
        swept
    }

    /// Removes the bytes of what is condemned and then its rows. Returns what is gone.
    async fn sweep_away(&self, condemned: &[&BlobReview]) -> Result<Vec<BlobRow>, Error> {
        let mut gone = condemned.to_vec();
        for (digest, error) in self.blobs.remove_all(gone.iter().map(|review| review.row.digest).collect()).await? {
            warn!(%digest, error = %Chain(&error), "removing a blob nobody needs failed");
            gone.retain(|review| review.row.digest != digest);
        }
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        fault::point("sweep: bytes gone");
        self.metadata.end_reviews(gone.iter().map(|review| review.id).collect()).await?;
        fault::point("sweep: row gone");
        for BlobRow { digest, stored_bytes, pushed, .. } in gone.iter().map(|review| &review.row) {
            debug!(%digest, stored_bytes, pushed, "swept");
        }
        Ok(gone.into_iter().map(|review| review.row.clone()).collect())
    }

    /// Its row says `deleting`, and its bytes count as that, until `finish_removals` can end it.
    fn leave_deleting(&self, row: &BlobRow) {
        if let Some(held) = Holding::of(row) {
            self.ledger().change(Some(held), Holding { deleting: true, ..held });
        }
    }

    /// Somebody found the row before it was marked and may be about to open the file.
    async fn spare(&self, row: &BlobRow) -> Result<(), Error> {
        self.metadata.unmark_deleting(&row.digest).await?;
        let spared = self.metadata.find_blob(&row.digest).await?;
        if let Some(after) = spared.as_ref().and_then(Holding::of) {
            self.ledger().change(Holding::of(row), after);
        }
        Ok(())
    }
}
