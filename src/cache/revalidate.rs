//! Tags of upstreams: answered from the cache while fresh, confirmed by one HEAD for all who ask, and before their time is
//! up if they are in demand; answered all the same when the upstream cannot or should not be asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::Source;
use super::error::Error;
use super::flights::Role;
use super::freshness::{Asking, Decision, TagState, decide, ends_soon};
use super::manifests::{Key, Manifests, PulledManifest, Staleness, claimed, fetched_by};
use super::memory::StoredManifest;
use super::outcome::Outcome;
use crate::metadata::{Provenance, TagRow};
use crate::oci::{Digest, Reference, Tag};

/// How long the upstream's word is waited for on behalf of who insists on it and can be given the cached answer.
pub(super) const INSISTING_WAIT: Duration = Duration::from_secs(10);
/// Why a tag is served stale although the upstream was not asked; otherwise the reason is the kind of its error.
pub(super) const OFFLINE: &str = "offline";
pub(super) const BUDGET: &str = "budget";
/// Tags whose demand is counted at a time.
const DEMANDS_MAX: u64 = 10_000;
/// Requests in the last part of a tag's time that make it one in demand.
const DEMAND_MIN: u32 = 3;
/// What the count is set to once the tag is being confirmed: further requests change nothing.
const DEMAND_MET: u32 = 1 << 31;

/// What the upstream says of a tag.
#[derive(Clone, Debug)]
pub(super) enum Confirmed {
    /// The tag names this manifest, which is here.
    Known(Arc<StoredManifest>),
    /// The tag names this manifest now, which had to be fetched.
    Fetched(Arc<StoredManifest>),
}

/// How often tags are asked for shortly before their time is up, counted anew after each confirmation.
pub(super) struct Demand(Cache<Key, (i64, Arc<AtomicU32>)>);

impl Default for Demand {
    /// Nobody asked.
    fn default() -> Self {
        Self(Cache::new(DEMANDS_MAX))
    }
}

impl Demand {
    /// One more request for a tag confirmed at `checked_ms`. Returns the count if the tag is in demand and not met yet.
    fn note(&self, key: &Key, checked_ms: i64) -> Option<Arc<AtomicU32>> {
        let count = match self.0.get(key) {
            Some((since_ms, count)) if since_ms == checked_ms => count,
            _ => {
                let count = Arc::default();
                self.0.insert(key.clone(), (checked_ms, Arc::clone(&count)));
                count
            }
        };
        let asked = count.fetch_add(1, Ordering::Relaxed) + 1;
        (DEMAND_MIN..DEMAND_MET).contains(&asked).then_some(count)
    }
}

impl Manifests {
    pub(super) async fn pull_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        confirm_now: bool,
    ) -> Result<PulledManifest, Error> {
        if confirm_now {
            self.forget_no(&(source.canonical.clone(), Reference::Tag(tag.clone())));
        }
        let row = self.find_tag(&source.canonical, tag).await?;
        let state = row.as_ref().map(|row| TagState { checked_ms: row.checked_ms });
        let policy = source.mirror.freshness(tag, confirm_now);
        let is_offline = policy.asking == Asking::Never;
        let now_ms = self.depot.clock.now_ms();
        let offline = || Error::Offline { host: source.mirror.host().clone() };
        match (decide(state, &policy, now_ms), row) {
            (Decision::Fresh, Some(row)) => {
                if ends_soon(TagState { checked_ms: row.checked_ms }, &policy, now_ms) {
                    self.confirm_ahead(source, tag, &row);
                }
                self.pull_digest(source, &row.digest).await
            }
            (Decision::ServeStale, Some(row)) => {
                let reason = if is_offline { OFFLINE } else { BUDGET };
                match Box::pin(self.stale(source, &row, reason)).await? {
                    Some(answer) => Ok(answer),
                    None if is_offline => Err(offline()),
                    None => Box::pin(self.fetch(source, &Reference::Tag(tag.clone()))).await,
                }
            }
            (Decision::Revalidate { may_serve_stale }, Some(row)) => {
                Box::pin(self.revalidate(source, tag, &row, may_serve_stale, confirm_now)).await
            }
            (Decision::Unavailable, _) => Err(offline()),
            _ => Box::pin(self.fetch(source, &Reference::Tag(tag.clone()))).await,
        }
    }

    /// The cached answer, unconfirmed; none if the manifest was evicted: such a tag is as good as not cached.
    async fn stale(
        &self,
        source: &Source,
        row: &TagRow,
        reason: &'static str,
    ) -> Result<Option<PulledManifest>, Error> {
        let Some(manifest) = self.find(&source.canonical, &row.digest).await? else { return Ok(None) };
        self.depot.metrics.served_stale(source.mirror.host().as_str(), reason);
        Ok(Some(PulledManifest { manifest, outcome: Outcome::Stale, stale: Some(Staleness { reason }) }))
    }

    async fn revalidate(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        row: &Arc<TagRow>,
        may_serve_stale: bool,
        confirm_now: bool,
    ) -> Result<PulledManifest, Error> {
        let mirror = &source.mirror;
        let may_serve_stale = may_serve_stale && self.find(&source.canonical, &row.digest).await?.is_some();
        let wait = match (may_serve_stale, confirm_now) {
            (false, _) => Duration::MAX,
            (true, true) => INSISTING_WAIT,
            // Whoever came first has waited for it; it is asked on, but waited for no more.
            (true, false) if mirror.is_in_trouble() => Duration::ZERO,
            (true, false) => mirror.policy().stale_after_wait,
        };
        let key = (source.canonical.clone(), Reference::Tag(tag.clone()));
        let remembered = if confirm_now { None } else { self.remembered(&key) };
        let (confirmed, role) = match remembered {
            Some(error) => (Err(error), Role::Followed),
            None => self.check_within(source, tag, row, key, wait).await,
        };
        match confirmed {
            Ok(Confirmed::Known(manifest)) => {
                Ok(PulledManifest { manifest, outcome: Outcome::Revalidated, stale: None })
            }
            Ok(Confirmed::Fetched(manifest)) => Ok(PulledManifest { manifest, outcome: fetched_by(role), stale: None }),
            Err(error) if error.is_not_found() && mirror.policy().forget_on_404 => {
                self.depot.metadata.delete_cached_tag(&source.canonical, tag).await?;
                self.memory.forget_tag(&source.canonical, tag);
                Err(error)
            }
            Err(error) if may_serve_stale => self.stale(source, row, error.kind()).await?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    async fn check_within(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        row: &Arc<TagRow>,
        key: Key,
        wait: Duration,
    ) -> (Result<Confirmed, Error>, Role) {
        let check = self.checks.run(key, || Arc::clone(self).check(source.clone(), tag.clone(), Arc::clone(row)));
        let Ok((answer, role)) = tokio::time::timeout(wait, check).await else {
            source.mirror.kept_waiting();
            return (Err(Error::Slow { host: source.mirror.host().clone(), waited: wait }), Role::Followed);
        };
        (answer.unwrap_or(Err(Error::Stopped)), role)
    }

    /// Begins to confirm a tag whose time is nearly up, if it is in demand and there are not too many of them already.
    fn confirm_ahead(self: &Arc<Self>, source: &Source, tag: &Tag, row: &Arc<TagRow>) {
        let key = (source.canonical.clone(), Reference::Tag(tag.clone()));
        let Some(count) = self.demand.note(&key, row.checked_ms) else { return };
        let Ok(turn) = Arc::clone(&self.depot.refreshes).try_acquire_owned() else { return };
        count.store(DEMAND_MET, Ordering::Relaxed);
        if self.remembered(&key).is_some() {
            return;
        }
        self.checks.begin(key, || {
            let check = Arc::clone(self).check(source.clone(), tag.clone(), Arc::clone(row));
            let (metrics, host) = (self.depot.metrics.clone(), source.mirror.host().clone());
            async move {
                let confirmed = check.await;
                drop(turn);
                metrics.refreshed_ahead(host.as_str(), confirmed.as_ref().err().map_or("ok", Error::kind));
                confirmed
            }
        });
    }

    /// One HEAD, which costs nothing of a rate limit; only a changed digest costs a GET. `seen` is what made the asker ask.
    async fn check(self: Arc<Self>, source: Source, tag: Tag, seen: Arc<TagRow>) -> Result<Confirmed, Error> {
        let confirmed = self.ask_about(&source, &tag, &seen).await;
        confirmed.inspect_err(|error| self.remember(&source, &Reference::Tag(tag), error))
    }

    async fn ask_about(&self, source: &Source, tag: &Tag, seen: &TagRow) -> Result<Confirmed, Error> {
        if let Some(manifest) = self.fresh(source, tag, Some(seen)).await? {
            return Ok(Confirmed::Known(manifest));
        }
        let mirror = &source.mirror;
        let reference = Reference::Tag(tag.clone());
        let head = mirror.ask("head_manifest", source.upstream().head_manifest(&source.remote, &reference)).await?;
        let Some(digest) = head.digest else {
            // An upstream that does not say the digest in a HEAD has to be asked for the whole.
            let fetched = self.ask_for(source, &reference).await?;
            return Ok(Confirmed::Fetched(self.keep(source, claimed(&fetched), fetched, Some(tag)).await?));
        };
        if let Some(manifest) = self.find(&source.canonical, &digest).await? {
            self.confirm(source, tag, seen.digest, digest).await?;
            return Ok(Confirmed::Known(manifest));
        }
        let fetched = self.ask_for(source, &Reference::Digest(digest)).await?;
        Ok(Confirmed::Fetched(self.keep(source, digest, fetched, Some(tag)).await?))
    }

    /// What a tag names, if it is fresh and was confirmed after the asker looked: another's question may have been
    /// answered since.
    pub(super) async fn fresh(
        &self,
        source: &Source,
        tag: &Tag,
        seen: Option<&TagRow>,
    ) -> Result<Option<Arc<StoredManifest>>, Error> {
        let Some(row) = self.find_tag(&source.canonical, tag).await? else { return Ok(None) };
        if seen.is_some_and(|seen| row.checked_ms <= seen.checked_ms) {
            return Ok(None);
        }
        let state = TagState { checked_ms: row.checked_ms };
        match decide(Some(state), &source.mirror.freshness(tag, false), self.depot.clock.now_ms()) {
            Decision::Fresh => self.find(&source.canonical, &row.digest).await,
            _ => Ok(None),
        }
    }

    /// Notes that a tag names a manifest that is here: the one it was known to name, or another.
    async fn confirm(&self, source: &Source, tag: &Tag, known: Digest, digest: Digest) -> Result<(), Error> {
        let (metadata, now_ms) = (&self.depot.metadata, self.depot.clock.now_ms());
        if digest == known {
            metadata.mark_tag_checked(&source.canonical, tag, now_ms).await?;
        } else {
            metadata.put_tag(&source.canonical, tag, &digest, Provenance::Cached, now_ms).await?;
        }
        self.memory.forget_tag(&source.canonical, tag);
        Ok(())
    }
}
