//! Sweeping: garbage collection beside the requests.
//!
//! What may have become garbage waits in the index's review queue (`metadata/reviews`), so that the cost follows the garbage and
//! not the store. A sweep takes what has waited for the grace period, a batch at a time: the decision is one short transaction,
//! in which everything that happened meanwhile counts, and the bytes go as they do when they are evicted (`room/sweep.rs`).
//!
//! Goes: bytes that no repository links; links to blobs that no manifest of the repository names; manifests that an index listed,
//! or that were attached to a manifest, which was deleted; rows of what is no more. Stays: untagged manifests that were pushed,
//! until somebody deletes them; everything cached that is linked, until it is evicted.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::Error;
use super::fills::Depot;
use super::memory::Memory;
use super::room::Batch;
use crate::fault;
use crate::metadata::{After, BlobReview, BlobState, Decision, ManifestReview, Moment, ReviewedBlob};
use crate::oci::{Digest, RepositoryName};

/// Rows that one look for garbage outside of the queue covers, and entries that are dated in one transaction.
const ROWS_MAX: usize = 1000;
/// What a dry run lists one by one; the sums cover everything.
const LISTED_MAX: usize = 1000;
/// Before every entry of the queue.
const FIRST: After = (i64::MIN, 0);

/// What is configured of sweeps.
#[derive(Clone, Copy, Debug)]
pub struct SweepOptions {
    /// How long what may be garbage is left alone, and what was used stays whoever needs it.
    pub grace: Duration,
    /// How often to look; zero for when it is asked for only.
    pub interval: Duration,
    /// Blobs or manifests in one transaction.
    pub batch_max: usize,
}

/// What is asked of one sweep.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepRequest {
    /// Another grace period than the configured one.
    pub grace: Option<Duration>,
    /// Look for garbage in the whole index, not in the queue alone.
    pub full: bool,
    /// Say what would go, and remove nothing.
    pub dry_run: bool,
}

/// Something that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// `blob`, `manifest` or `row`.
    pub kind: &'static str,
    /// Which.
    pub digest: Digest,
    /// Where, for a manifest.
    pub repository: Option<RepositoryName>,
    /// Disk space it takes, in bytes.
    pub stored_bytes: u64,
    /// Why it goes.
    pub reason: &'static str,
}

/// What a sweep did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of the queue looked at.
    pub reviewed: u64,
    /// Manifests removed.
    pub manifests: u64,
    /// Blobs whose bytes were removed.
    pub blobs: u64,
    /// Disk space that gave back, in bytes.
    pub freed_bytes: u64,
    /// Links removed from repositories that have no use for the blob.
    pub links: u64,
    /// Blobs that may be evicted from now on, because no push needs them any more.
    pub demoted: u64,
    /// Rows removed of blobs that had no bytes.
    pub rows: u64,
    /// Repositories removed because they were empty and never pushed to.
    pub repositories: u64,
    /// Entries left in the queue: not due yet, or in use.
    pub queued: u64,
    /// It was stopped before its end.
    pub is_partial: bool,
    /// What would go, of a dry run.
    pub garbage: Vec<Garbage>,
}

/// Sweeps one store, one sweep at a time.
#[derive(Debug)]
pub struct Sweeper {
    depot: Arc<Depot>,
    memory: Arc<Memory>,
    options: SweepOptions,
    alone: tokio::sync::Mutex<()>,
    stopping: CancellationToken,
}

impl Sweeper {
    /// Over what is in the store.
    pub fn new(depot: Arc<Depot>, memory: Arc<Memory>, options: SweepOptions) -> Self {
        Self { depot, memory, options, alone: tokio::sync::Mutex::default(), stopping: CancellationToken::new() }
    }

    /// What is configured.
    pub fn options(&self) -> SweepOptions {
        self.options
    }

    /// Sweeps once. Whoever asks while another sweep is under way waits for its end first.
    pub async fn sweep(&self, request: SweepRequest) -> Result<Swept, Error> {
        let _alone = self.alone.lock().await;
        // Reads that the index does not know yet would not count.
        self.depot.room.flush_touches().await?;
        if request.full {
            self.look_everywhere().await?;
        }
        let grace = request.grace.unwrap_or(self.options.grace);
        let mut swept = Swept::default();
        loop {
            let (at, due_by_ms) = self.begin(grace).await?;
            if request.dry_run {
                self.preview(at, due_by_ms, &mut swept).await?;
                break;
            }
            let removed_before = swept.removed();
            self.sweep_manifests(at, due_by_ms, &mut swept).await?;
            self.sweep_blobs(at, due_by_ms, &mut swept).await?;
            self.sweep_repositories(due_by_ms, &mut swept).await?;
            // Without a grace period what has just become garbage is due as well.
            if !grace.is_zero() || swept.removed() == removed_before || self.stopping.is_cancelled() {
                break;
            }
        }
        swept.is_partial = self.stopping.is_cancelled();
        swept.queued = self.report().await?;
        self.tell(&swept, request.dry_run);
        Ok(swept)
    }

    /// Ends a sweep under way after its batch, and begins none any more.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let _ended = self.alone.lock().await;
    }

    /// Dates what is new in the queue. Returns the moment, and when the entries that count were due at the latest.
    async fn begin(&self, grace: Duration) -> Result<(Moment, i64), Error> {
        let (now_ms, grace_ms, usual_ms) = (self.depot.clock.now_ms(), ms(grace), ms(self.options.grace));
        let due_ms = now_ms.saturating_add(usual_ms);
        while self.depot.metadata.date_reviews(due_ms, ROWS_MAX).await? > 0 {}
        Ok((Moment { now_ms, grace_ms }, due_ms.saturating_sub(grace_ms)))
    }

    async fn look_everywhere(&self) -> Result<(), Error> {
        let mut after = i64::MIN;
        while let Some(next) = self.depot.metadata.enqueue_garbage(after, ROWS_MAX).await? {
            after = next;
            if self.stopping.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    async fn sweep_manifests(&self, at: Moment, due_by_ms: i64, swept: &mut Swept) -> Result<(), Error> {
        let (metadata, mut after) = (&self.depot.metadata, FIRST);
        while !self.stopping.is_cancelled() {
            let (due, last) = metadata.due_manifests(due_by_ms, after, self.options.batch_max).await?;
            let Some(last) = last else { break };
            after = last;
            let reviewed = metadata.review_manifests(due.into_iter().map(|review| review.id).collect(), at).await?;
            for done in reviewed {
                swept.reviewed += 1;
                if done.decision == Decision::Delete {
                    let ManifestReview { repository, digest, .. } = &done.review;
                    fault::point("sweep: manifest gone");
                    self.memory.forget_manifest(repository, digest);
                    info!(%repository, %digest, "swept a manifest that nothing holds any more");
                    swept.manifests += 1;
                }
            }
        }
        Ok(())
    }

    async fn sweep_blobs(&self, at: Moment, due_by_ms: i64, swept: &mut Swept) -> Result<(), Error> {
        let mut after = FIRST;
        while !self.stopping.is_cancelled() {
            let (due, last) = self.depot.metadata.due_blobs(due_by_ms, after, self.options.batch_max).await?;
            let Some(last) = last else { break };
            after = last;
            let Batch { reviewed, removed } = self.depot.room.sweep(due, at).await?;
            for done in reviewed {
                for (repository, digest) in &done.forgotten {
                    self.memory.forget_manifest(repository, digest);
                }
                swept.count(&done);
            }
            swept.blobs += removed.len() as u64;
            swept.freed_bytes += removed.iter().map(|row| row.stored_bytes).sum::<u64>();
        }
        Ok(())
    }

    async fn sweep_repositories(&self, due_by_ms: i64, swept: &mut Swept) -> Result<(), Error> {
        while !self.stopping.is_cancelled() {
            let (reviewed, removed) = self.depot.metadata.sweep_repositories(due_by_ms, self.options.batch_max).await?;
            if reviewed == 0 {
                break;
            }
            swept.reviewed += reviewed;
            swept.repositories += removed.len() as u64;
        }
        Ok(())
    }

    /// What would go now. What only goes because something else does is not foreseen.
    async fn preview(&self, at: Moment, due_by_ms: i64, swept: &mut Swept) -> Result<(), Error> {
        let (metadata, batch_max) = (&self.depot.metadata, self.options.batch_max);
        let mut after = FIRST;
        while let (due, Some(last)) = metadata.due_manifests(due_by_ms, after, batch_max).await? {
            after = last;
            swept.reviewed += due.len() as u64;
            for review in due.iter().filter(|review| review.decide(at) == Decision::Delete) {
                swept.manifests += 1;
                swept.list(Garbage::of_manifest(review));
            }
        }
        after = FIRST;
        while let (due, Some(last)) = metadata.due_blobs(due_by_ms, after, batch_max).await? {
            after = last;
            for review in due {
                let decision = review.decide(at);
                let garbage = Garbage::of_blob(&review, decision);
                let reviewed = ReviewedBlob { review, decision, forgotten: Vec::new() };
                swept.count(&reviewed);
                if reviewed.is_condemned() {
                    swept.blobs += 1;
                    swept.freed_bytes += reviewed.review.row.stored_bytes;
                }
                if let Some(garbage) = garbage {
                    swept.list(garbage);
                }
            }
        }
        Ok(())
    }

    /// Exports how long the queue is. Returns that.
    async fn report(&self) -> Result<u64, Error> {
        let queue = self.depot.metadata.review_queue().await?;
        let queued_ms = queue.first_due_ms.map(|due_ms| due_ms.saturating_sub(ms(self.options.grace)));
        let oldest_ms = queued_ms.map_or(0, |queued_ms| self.depot.clock.now_ms().saturating_sub(queued_ms));
        let oldest = Duration::from_millis(u64::try_from(oldest_ms).unwrap_or(0));
        self.depot.metrics.sweep_queue(queue.entries, oldest);
        Ok(queue.entries)
    }

    fn tell(&self, swept: &Swept, dry_run: bool) {
        let Swept { reviewed, manifests, blobs, freed_bytes, links, demoted, rows, repositories, queued, .. } = swept;
        if dry_run {
            return;
        }
        self.depot.metrics.swept(*reviewed, *manifests, *blobs, *freed_bytes);
        if swept.removed() > 0 {
            info!(
                reviewed,
                manifests, blobs, freed_bytes, links, demoted, rows, repositories, queued, "swept the store"
            );
        }
        if swept.is_partial {
            warn!(queued, "a sweep was stopped; the next start goes on with it");
        }
    }
}

impl Swept {
    /// How many things went: zero, and there is nothing more to be had.
    fn removed(&self) -> u64 {
        self.manifests + self.blobs + self.links + self.demoted + self.rows + self.repositories
    }

    fn count(&mut self, done: &ReviewedBlob) {
        self.reviewed += 1;
        self.manifests += done.forgotten.len() as u64;
        if matches!(done.decision, Decision::Keep | Decision::Later { .. }) {
            return;
        }
        self.links += u64::try_from(done.review.unneeded_links).unwrap_or(0);
        self.demoted += u64::from(done.decision == Decision::Demote);
        self.rows += u64::from(done.decision == Decision::Forget);
    }

    fn list(&mut self, garbage: Garbage) {
        if self.garbage.len() < LISTED_MAX {
            self.garbage.push(garbage);
        }
    }
}

impl Garbage {
    fn of_manifest(review: &ManifestReview) -> Self {
        Self {
            kind: "manifest",
            digest: review.digest,
            repository: Some(review.repository.clone()),
            stored_bytes: review.stored_bytes,
            reason: "its index or its subject was deleted, and nothing else holds it",
        }
    }

    fn of_blob(review: &BlobReview, decision: Decision) -> Option<Self> {
        let (kind, reason) = match decision {
            Decision::Delete if review.links == 0 => ("blob", "no repository has it"),
            Decision::Delete => ("blob", "no manifest of the repositories that have it names it"),
            Decision::Forget => ("row", "it has no bytes and nobody names it"),
            _ => return None,
        };
        let stored_bytes = if review.row.state == BlobState::Absent { 0 } else { review.row.stored_bytes };
        Some(Self { kind, digest: review.row.digest, repository: None, stored_bytes, reason })
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
