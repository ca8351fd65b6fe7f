//! Room under a quota: promised before the first byte, made by evicting what the same repositories have cached.

use std::sync::Arc;

use super::Room;
use crate::cache::Error;
use crate::cache::flights::to_the_end;
use crate::cache::quotas::{Answer, Quota};
use crate::oci::RepositoryName;

/// Cached blobs looked at per round of eviction.
const CANDIDATES_MAX: usize = 256;

/// What is promised to a repository under its quota. Dropping it ends the promise: the index counts what became of it.
#[derive(Debug)]
pub struct QuotaPromise {
    room: Arc<Room>,
    repo: RepositoryName,
    quota: usize,
    bytes: u64,
}

impl QuotaPromise {
    /// Promises more.
    pub(super) async fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        self.room.promise_under(&self.repo, self.quota, bytes).await?;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes another promise of the same quota over.
    pub(super) fn absorb(&mut self, mut other: Self) {
        debug_assert!(self.quota == other.quota, "promises under one quota are added");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for QuotaPromise {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.quotas.end(self.quota, self.bytes);
        }
    }
}

impl Room {
    /// Promises a repository so many bytes under its quota; `None` if it is under none.
    pub async fn promise_quota(
        self: &Arc<Self>,
        repo: &RepositoryName,
        bytes: u64,
    ) -> Result<Option<QuotaPromise>, Error> {
        let Some(mut promise) = self.quota_of(repo) else { return Ok(None) };
        promise.grow(bytes).await?;
        Ok(Some(promise))
    }

    /// A promise of nothing under the quota of a repository, to be grown; `None` if it is under none.
    pub(super) fn quota_of(self: &Arc<Self>, repo: &RepositoryName) -> Option<QuotaPromise> {
        let quota = self.quotas.of(repo)?;
        Some(QuotaPromise { room: Arc::clone(self), repo: repo.clone(), quota, bytes: 0 })
    }

    /// Counts what a repository has taken of its quota already, whatever that allows.
    pub(super) fn adopt_quota(self: &Arc<Self>, repo: &RepositoryName, bytes: u64) -> Option<QuotaPromise> {
        let mut promise = self.quota_of(repo)?;
        self.quotas.adopt(promise.quota, bytes);
        promise.bytes = bytes;
        Some(promise)
    }

    /// Every repository is under the quota that the configuration says, from the start.
    pub(super) async fn assign_quotas(&self) -> Result<(), Error> {
        let rules: Vec<String> =
            self.quotas.all().iter().map(|quota| format!("{} {}", quota.name, quota.repositories.glob())).collect();
        let of = |repo: &RepositoryName| Some(self.quotas.all()[self.quotas.of(repo)?].name.clone());
        Ok(self.metadata.assign_quotas(&rules.join("\n"), of).await?)
    }

    /// Exports every quota beside what is held under it.
    pub async fn report_quotas(&self) -> Result<(), Error> {
        for quota in self.quotas.all() {
            let held_bytes = self.metadata.quota_bytes(&quota.name).await?;
            self.metrics.quota(&quota.name, held_bytes, quota.max_bytes);
        }
        Ok(())
    }

    /// What is promised under all quotas and not held yet, in bytes.
    pub fn quota_promised_bytes(&self) -> u64 {
        (0..self.quotas.all().len()).map(|quota| self.quotas.promised_bytes(quota)).sum()
    }

    async fn promise_under(self: &Arc<Self>, repo: &RepositoryName, quota: usize, bytes: u64) -> Result<(), Error> {
        let Quota { name, max_bytes, .. } = &self.quotas.all()[quota];
        let over = || Error::OverQuota { quota: name.clone(), max_bytes: *max_bytes, bytes };
        if bytes > *max_bytes {
            return Err(over());
        }
        if !self.metadata.is_under(repo, name).await? {
            self.metadata.assign_quota(repo, name, self.clock.now_ms()).await?;
        }
        loop {
            let epoch = self.quotas.epoch(quota);
            let held_bytes = self.metadata.quota_bytes(name).await?;
            match self.quotas.promise(quota, bytes, held_bytes, epoch) {
                Answer::Granted => return Ok(()),
                Answer::Again => {}
                Answer::Over { bytes: excess } => {
                    let (room, name) = (Arc::clone(self), name.clone());
                    let evicted = to_the_end(async move { room.evict_under(&name, excess).await });
                    if evicted.await.unwrap_or(Err(Error::Stopped))? == 0 {
                        return Err(over());
                    }
                }
            }
        }
    }

    /// Evicts among what the repositories under a quota have cached; nothing, if all of that were not enough.
    async fn evict_under(&self, quota: &str, bytes: u64) -> Result<u64, Error> {
        let _alone = self.evicting.lock().await;
        if self.metadata.evictable_under(quota).await? < bytes {
            return Ok(0);
        }
        let rows = self.metadata.oldest_under(quota, CANDIDATES_MAX).await?;
        self.evict_among(&rows, bytes).await
    }
}
