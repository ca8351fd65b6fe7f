//! Manifests of upstreams: fetched once however many ask, verified, kept like blobs, answered for when the upstream fails.
//!
//! The tag row is written last, so that whoever finds a tag finds its manifest: a HEAD that pins a digest is always
//! followed by a GET that this server can answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use tracing::warn;

use super::Source;
use super::error::{Error, Wrong};
use super::fills::Depot;
use super::flights::{Flights, Role};
use super::freshness::{Decision, TagState, decide};
use super::memory::{Memory, StoredManifest};
use super::outcome::Outcome;
use super::space::{Class, Holding, blocks_for};
use crate::blobs;
use crate::metadata::{NewManifest, Provenance, TagRow};
use crate::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::report::Chain;
use crate::upstream::FetchedManifest;

/// "There is no such manifest" answers remembered at most.
const NEGATIVES_MAX: u64 = 10_000;
/// How long a client waits for the head of an answer: containerd gives up at 30 s (§13 of the design).
pub const HEADERS_WITHIN: Duration = Duration::from_secs(25);

/// Why an answer could not be confirmed: for the `Warning` header, the log and the metric.
#[derive(Clone, Debug)]
pub struct Staleness {
    /// One word.
    pub reason: &'static str,
}

/// A manifest and how it was come by.
#[derive(Clone, Debug)]
pub struct PulledManifest {
    /// The manifest.
    pub manifest: Arc<StoredManifest>,
    /// How it was come by.
    pub outcome: Outcome,
    /// Set if it could not be confirmed although it should have been.
    pub stale: Option<Staleness>,
}

#[derive(Clone, Debug)]
enum Confirmed {
    /// The tag names this manifest, which is here.
    Known(Arc<StoredManifest>),
    /// The tag names this manifest now, which had to be fetched.
    Fetched(Arc<StoredManifest>),
}

type Key = (RepositoryName, Reference);

/// The manifests of upstreams.
pub struct Manifests {
    depot: Arc<Depot>,
    memory: Arc<Memory>,
    fetches: Flights<Key, Result<Arc<StoredManifest>, Error>>,
    checks: Flights<Key, Result<Confirmed, Error>>,
    /// Until when (Unix milliseconds) a manifest is known not to be there.
    negatives: Cache<Key, (i64, Error)>,
}

impl Manifests {
    /// Over what is in the store.
    pub fn new(depot: Arc<Depot>, memory: Arc<Memory>) -> Arc<Self> {
        let negatives = Cache::new(NEGATIVES_MAX);
        Arc::new(Self { depot, memory, fetches: Flights::default(), checks: Flights::default(), negatives })
    }

    /// The manifest that a tag or a digest names.
    pub async fn pull(self: &Arc<Self>, source: &Source, reference: &Reference) -> Result<PulledManifest, Error> {
        let pulled = match reference {
            Reference::Digest(digest) => self.pull_digest(source, digest, Outcome::Hit).await,
            Reference::Tag(tag) => self.pull_tag(source, tag).await,
        }?;
        self.depot.room.touch(pulled.manifest.digest);
        Ok(pulled)
    }

    /// A manifest of this repository that is in the store.
    pub async fn find(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Error> {
        self.memory.manifest(name, digest, self.read(name, digest)).await
    }

    /// What a tag of this repository names, as far as the store knows.
    pub async fn find_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<Option<Arc<TagRow>>, Error> {
        self.memory.tag(name, tag, async { Ok(self.depot.metadata.find_tag(name, tag).await?) }).await
    }

    async fn read(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Error> {
        let Some((row, state)) = self.depot.metadata.find_manifest(name, digest).await? else { return Ok(None) };
        if !state.is_present() {
            return Ok(None);
        }
        let bytes = match self.depot.blobs.read(row.digest, row.size_bytes).await {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) | Err(blobs::Error::Length { .. }) => {
                warn!(digest = %row.digest, repository = %name, "a manifest's bytes are lost or damaged");
                self.depot.room.discard(row.digest).await?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(bytes.map(|bytes| StoredManifest::new(row.digest, MediaType::new(&row.media_type), bytes)))
    }

    async fn pull_digest(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        outcome: Outcome,
    ) -> Result<PulledManifest, Error> {
        if let Some(manifest) = self.find(&source.canonical, digest).await? {
            return Ok(PulledManifest { manifest, outcome, stale: None });
        }
        self.fetch(source, &Reference::Digest(*digest)).await
    }

    async fn pull_tag(self: &Arc<Self>, source: &Source, tag: &Tag) -> Result<PulledManifest, Error> {
        let row = self.find_tag(&source.canonical, tag).await?;
        let state = row.as_ref().map(|row| TagState { checked_ms: row.checked_ms });
        let policy = source.mirror.freshness(tag);
        let decision = decide(state, &policy, self.depot.clock.now_ms());
        let offline = || Error::Offline { host: source.mirror.host().clone() };
        match (decision, row) {
            (Decision::Fresh, Some(row)) => self.pull_digest(source, &row.digest, Outcome::Hit).await,
            (Decision::ServeStale, Some(row)) => self.serve_stale(source, &row, offline()).await,
            (Decision::Revalidate { may_serve_stale }, Some(row)) => {
                self.revalidate(source, tag, &row, may_serve_stale).await
            }
            (Decision::Unavailable, _) => Err(offline()),
            _ => self.fetch(source, &Reference::Tag(tag.clone())).await,
        }
    }

    async fn serve_stale(&self, source: &Source, row: &TagRow, trouble: Error) -> Result<PulledManifest, Error> {
        // A tag whose manifest was evicted is as good as not cached.
        let Some(manifest) = self.find(&source.canonical, &row.digest).await? else { return Err(trouble) };
        let reason = trouble.kind();
        self.depot.metrics.served_stale(source.mirror.host().as_str(), reason);
        Ok(PulledManifest { manifest, outcome: Outcome::Stale, stale: Some(Staleness { reason }) })
    }

    async fn revalidate(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        row: &Arc<TagRow>,
        may_serve_stale: bool,
    ) -> Result<PulledManifest, Error> {
        let key = (source.canonical.clone(), Reference::Tag(tag.clone()));
        let check = self.checks.run(key, || {
            let (this, source, tag, digest) = (Arc::clone(self), source.clone(), tag.clone(), row.digest);
            async move { this.check(&source, &tag, digest).await }
        });
        let wait = if may_serve_stale { source.mirror.policy().stale_after_wait } else { HEADERS_WITHIN };
        let host = || source.mirror.host().clone();
        let (confirmed, role) = match tokio::time::timeout(wait, check).await {
            Ok((answer, role)) => (answer.unwrap_or(Err(Error::Stopped)), role),
            Err(_) => (Err(Error::Slow { host: host(), waited: wait }), Role::Followed),
        };
        match confirmed {
            Ok(Confirmed::Known(manifest)) => {
                Ok(PulledManifest { manifest, outcome: Outcome::Revalidated, stale: None })
            }
            Ok(Confirmed::Fetched(manifest)) => Ok(PulledManifest { manifest, outcome: fetched_by(role), stale: None }),
            Err(error) if error.is_not_found() && source.mirror.policy().forget_on_404 => {
                self.depot.metadata.delete_cached_tag(&source.canonical, tag).await?;
                self.memory.forget_tag(&source.canonical, tag);
                Err(error)
            }
            Err(error) if may_serve_stale => self.serve_stale(source, row, error).await,
            Err(error) => Err(error),
        }
    }

    /// One HEAD, which costs nothing of a rate limit; only a changed digest costs a GET.
    async fn check(&self, source: &Source, tag: &Tag, known: Digest) -> Result<Confirmed, Error> {
        if let Some(manifest) = self.fresh(source, tag).await? {
            return Ok(Confirmed::Known(manifest));
        }
        let mirror = &source.mirror;
        let reference = Reference::Tag(tag.clone());
        let head = mirror.ask("head_manifest", mirror.upstream().head_manifest(&source.remote, &reference)).await?;
        match head.digest {
            Some(digest) => {
                if let Some(manifest) = self.find(&source.canonical, &digest).await? {
                    self.confirm(source, tag, known, digest).await?;
                    return Ok(Confirmed::Known(manifest));
                }
                let fetched = self.ask_for(source, &Reference::Digest(digest)).await?;
                Ok(Confirmed::Fetched(self.keep(source, digest, fetched, Some(tag)).await?))
            }
            // An upstream that does not say the digest in a HEAD has to be asked for the whole.
            None => Ok(Confirmed::Fetched(self.fetch_now(source, &reference).await?)),
        }
    }

    /// What a tag names, if it is fresh: another's question may have been answered since this one's asker looked.
    async fn fresh(&self, source: &Source, tag: &Tag) -> Result<Option<Arc<StoredManifest>>, Error> {
        let Some(row) = self.find_tag(&source.canonical, tag).await? else { return Ok(None) };
        let state = TagState { checked_ms: row.checked_ms };
        match decide(Some(state), &source.mirror.freshness(tag), self.depot.clock.now_ms()) {
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

    async fn fetch(self: &Arc<Self>, source: &Source, reference: &Reference) -> Result<PulledManifest, Error> {
        let key = (source.canonical.clone(), reference.clone());
        let now_ms = self.depot.clock.now_ms();
        if let Some((_, error)) = self.negatives.get(&key).filter(|(until_ms, _)| now_ms < *until_ms) {
            return Err(error);
        }
        let fetch = self.fetches.run(key.clone(), || {
            let (this, source, reference) = (Arc::clone(self), source.clone(), reference.clone());
            async move { this.fetch_now(&source, &reference).await }
        });
        let (answer, role) = tokio::time::timeout(HEADERS_WITHIN, fetch)
            .await
            .map_err(|_| Error::Slow { host: source.mirror.host().clone(), waited: HEADERS_WITHIN })?;
        let manifest = answer.unwrap_or(Err(Error::Stopped)).inspect_err(|error| {
            let ttl_ms = i64::try_from(source.mirror.policy().negative_ttl.as_millis()).unwrap_or(i64::MAX);
            if error.is_not_found() && ttl_ms > 0 {
                self.negatives.insert(key, (now_ms.saturating_add(ttl_ms), error.clone()));
            }
        })?;
        Ok(PulledManifest { manifest, outcome: fetched_by(role), stale: None })
    }

    async fn ask_for(&self, source: &Source, reference: &Reference) -> Result<FetchedManifest, Error> {
        let mirror = &source.mirror;
        mirror.ask("fetch_manifest", mirror.upstream().fetch_manifest(&source.remote, reference)).await
    }

    async fn fetch_now(&self, source: &Source, reference: &Reference) -> Result<Arc<StoredManifest>, Error> {
        let known = match reference {
            Reference::Digest(digest) => self.find(&source.canonical, digest).await?,
            Reference::Tag(tag) => self.fresh(source, tag).await?,
        };
        if let Some(manifest) = known {
            return Ok(manifest);
        }
        let fetched = self.ask_for(source, reference).await?;
        match reference {
            Reference::Digest(digest) => self.keep(source, *digest, fetched, None).await,
            Reference::Tag(tag) => {
                let claimed = fetched.claimed.unwrap_or_else(|| Digest::of(Algorithm::Sha256, &fetched.bytes));
                self.keep(source, claimed, fetched, Some(tag)).await
            }
        }
    }

    /// Verifies what came, keeps it if there is room, and only then lets a tag name it.
    async fn keep(
        &self,
        source: &Source,
        digest: Digest,
        fetched: FetchedManifest,
        tag: Option<&Tag>,
    ) -> Result<Arc<StoredManifest>, Error> {
        let wrong = |how: Wrong| Error::Wrong {
            host: source.mirror.host().clone(),
            asked: format!("manifest {} of {}", tag.map_or_else(|| digest.to_string(), Tag::to_string), source.remote),
            source: Arc::new(how),
        };
        let actual = Digest::of(digest.algorithm(), &fetched.bytes);
        if actual != digest {
            return Err(wrong(Wrong::Digest { actual }));
        }
        let parsed = Manifest::parse(&fetched.bytes, fetched.content_type.as_deref());
        let parsed = parsed.map_err(|error| wrong(Wrong::Manifest(error)))?;
        let media_type = MediaType::from(parsed.kind);
        match self.store(source, digest, &parsed, &fetched.bytes, tag).await {
            // A cache that cannot keep it answers all the same.
            Ok(()) | Err(Error::NoRoom { .. }) => {}
            Err(error) => warn!(%digest, error = %Chain(&error), "a fetched manifest could not be kept"),
        }
        Ok(StoredManifest::new(digest, media_type, fetched.bytes))
    }

    async fn store(
        &self,
        source: &Source,
        digest: Digest,
        manifest: &Manifest,
        bytes: &Bytes,
        tag: Option<&Tag>,
    ) -> Result<(), Error> {
        let Depot { metadata, blobs, room, clock, .. } = &*self.depot;
        let reservation = room.reserve(Class::Cached, blocks_for(bytes.len() as u64)).await?;
        let named = room.naming(&digest).await;
        let stored_bytes = blobs.put(digest, bytes.clone()).await?;
        let change = metadata
            .put_manifest(NewManifest {
                repo: &source.canonical,
                digest,
                media_type: manifest.kind.media_type(),
                size_bytes: bytes.len() as u64,
                stored_bytes,
                manifest,
                provenance: Provenance::Cached,
                tags: tag.map_or(&[], std::slice::from_ref),
                now_ms: clock.now_ms(),
            })
            .await?;
        reservation
            .admit(change.before.as_ref().and_then(Holding::of), Holding { stored_bytes, pushed: change.after.pushed });
        drop(named);
        if let Some(tag) = tag {
            self.memory.forget_tag(&source.canonical, tag);
        }
        Ok(())
    }
}

/// How a client sees a transfer that it started or joined.
pub(super) fn fetched_by(role: Role) -> Outcome {
    if role == Role::Led { Outcome::Miss } else { Outcome::Coalesced }
}

impl std::fmt::Debug for Manifests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Manifests")
    }
}
