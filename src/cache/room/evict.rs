//! Eviction and every other removal: what makes room, in three durable steps.
//!
//! The row says `deleting` (invisible from then on), the bytes go, the row says `absent`. A crash in between leaves a
//! `deleting` row, which start-up finishes; a failure too, which `leftovers` finishes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use tracing::{info, warn};

use super::Room;
use super::naming::Naming;
use crate::cache::Error;
use crate::cache::notice::notice;
use crate::cache::space::Candidate;
use crate::fault;
use crate::metadata::BlobRow;
use crate::oci::{Digest, EventKind, EventTarget};
use crate::report::Chain;

/// Cached blobs looked at per round of eviction. More would share the syncs of its steps, of which there are few enough, and
/// keep a thread busy for longer while pulls wait for it.
const CANDIDATES_MAX: usize = 64;

impl Room {
    /// Can so much be freed? What is held open counts as cached but does not go, and nothing is to go in vain.
    pub(super) async fn is_evictable(&self, bytes: u64) -> Result<bool, Error> {
        let mut evictable_bytes = self.ledger().sums().partial;
        let mut after = None;
        while evictable_bytes < bytes {
            let rows = self.metadata.oldest_cached(CANDIDATES_MAX, after).await?;
            let Some(last) = rows.last() else { return Ok(false) };
            after = Some((last.accessed_ms, last.digest));
            let ledger = self.ledger();
            let free = rows.iter().filter(|row| !ledger.is_pinned(&row.digest));
            evictable_bytes += free.map(|row| row.stored_bytes).sum::<u64>();
        }
        Ok(true)
    }

    /// Frees at least `bytes` if it can; returns how many it freed.
    pub(super) async fn evict(&self, bytes: u64) -> Result<u64, Error> {
        // What is not there cannot be removed, and would be back, uncounted, with its disk.
        self.blobs.assert_there().await?;
        // Removals that failed: nobody else removes while this one evicts.
        let mut freed_bytes = if self.sums().deleting > 0 { self.finish_removals().await? } else { 0 };
        if freed_bytes < bytes {
            freed_bytes += self.evict_partial(bytes - freed_bytes).await?;
        }
        let mut after = None;
        while freed_bytes < bytes {
            let rows = self.metadata.oldest_cached(CANDIDATES_MAX, after).await?;
            let Some(last) = rows.last() else { break };
            after = Some((last.accessed_ms, last.digest));
            freed_bytes += self.evict_among(&rows, bytes - freed_bytes).await?;
        }
        Ok(freed_bytes)
    }

    /// Fills that nobody continues go first: nobody can read them.
    async fn evict_partial(&self, bytes: u64) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        while freed_bytes < bytes {
            let Some(digest) = self.ledger().any_partial() else { break };
            let _named = self.naming(&digest).await;
            // A fill may have adopted it while we waited for its name.
            if !self.ledger().has_partial(&digest) {
                continue;
            }
            self.blobs.remove_fill(digest).await?;
            freed_bytes += self.ledger().take_partial(&digest);
        }
        Ok(freed_bytes)
    }

    pub(super) async fn evict_among(&self, rows: &[BlobRow], bytes: u64) -> Result<u64, Error> {
        let candidates: Vec<Candidate> = rows
            .iter()
            .map(|row| Candidate {
                digest: row.digest,
                stored_bytes: row.stored_bytes,
                is_manifest: row.is_manifest,
                accessed_ms: row.accessed_ms,
            })
            .collect();
        let mut victims = self.ledger().victims(&candidates, bytes);
        // Never waits for a lock while holding others; a blob that is being named right now is no victim anyway.
        let mut held = BTreeMap::new();
        victims.retain(|digest| {
            let slot = Naming::slot(digest);
            if let Entry::Vacant(vacant) = held.entry(slot)
                && let Some(guard) = self.naming.try_lock_slot(slot)
            {
                vacant.insert(guard);
            }
            held.contains_key(&slot)
        });
        let marked = self.metadata.mark_deleting(&victims).await?;
        fault::point("evict: marked");
        let removed = self.remove_marked(marked).await?;
        // The third step is one for all of them: each by itself would cost a sync of the disk.
        let digests: Vec<Digest> = removed.iter().map(|row| row.digest).collect();
        if let Err(error) = self.metadata.mark_absent(&digests).await {
            warn!(error = %Chain(&error), "the removal of evicted blobs could not be ended");
            return Ok(0);
        }
        fault::point("evict: row absent");
        {
            let mut ledger = self.ledger();
            for row in &removed {
                ledger.finish_delete(row.stored_bytes);
            }
        }
        for row in &removed {
            self.metrics.evicted_blobs.increment(1);
            self.metrics.evicted_bytes.increment(row.stored_bytes);
            info!(digest = %row.digest, stored_bytes = row.stored_bytes, "evicted");
        }
        self.tell_evicted(&removed).await;
        Ok(removed.iter().map(|row| row.stored_bytes).sum())
    }

    /// Room is made whether or not anybody can be told.
    async fn tell_evicted(&self, removed: &[BlobRow]) {
        if !self.metadata.is_listened_to(EventKind::Evict) {
            return;
        }
        let told = async {
            let mut notices = Vec::new();
            for row in removed {
                let target = EventTarget {
                    digest: Some(row.digest.to_string()),
                    size: Some(row.size_bytes),
                    length: Some(row.size_bytes),
                    ..EventTarget::default()
                };
                for repository in self.metadata.repositories_of(&row.digest).await? {
                    let (kind, target, now_ms) = (EventKind::Evict, target.clone(), self.clock.now_ms());
                    notices.push(notice(&self.metadata, kind, &repository, target, None, now_ms));
                }
            }
            self.metadata.queue_notices(&notices).await
        };
        if let Err(error) = told.await {
            warn!(error = %Chain(&error), "events about evicted blobs could not be queued");
        }
    }

    /// The second step for victims whose rows say `deleting`; returns those whose bytes are gone. What somebody needs after all
    /// is present again. What could not be removed keeps its row, and counts, until `finish_removals` can end it.
    async fn remove_marked(&self, marked: Vec<BlobRow>) -> Result<Vec<BlobRow>, Error> {
        let (reopened, mut doomed): (Vec<BlobRow>, Vec<BlobRow>) = {
            let mut ledger = self.ledger();
            for row in &marked {
                ledger.begin_delete(row.stored_bytes);
            }
            // Somebody found the row before it was marked and may be about to open the file.
            marked.into_iter().partition(|row| ledger.is_pinned(&row.digest))
        };
        for row in reopened {
            match self.metadata.unmark_deleting(&row.digest).await {
                Ok(()) => self.ledger().cancel_delete(row.stored_bytes),
                Err(error) => warn!(digest = %row.digest, error = %Chain(&error), "a blob in use could not be kept"),
            }
        }
        for (digest, error) in self.blobs.remove_all(doomed.iter().map(|row| row.digest).collect()).await? {
            warn!(%digest, error = %Chain(&error), "removing an evicted blob failed");
            doomed.retain(|row| row.digest != digest);
        }
        if !doomed.is_empty() {
            fault::point("evict: bytes gone");
        }
        Ok(doomed)
    }
}
