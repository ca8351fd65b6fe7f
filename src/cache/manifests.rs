//! Manifests of upstreams: fetched once however many ask, verified, kept like blobs, answered for when the upstream fails.
//!
//! The tag row is written last, so that whoever finds a tag finds its manifest: a HEAD that pins a digest is always
//! followed by a GET that this server can answer.

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::belief::Beliefs;
use super::error::{Error, Wrong};
use super::fills::Depot;
use super::flights::{Flights, Role};
use super::memory::{Memory, StoredManifest};
use super::outcome::Outcome;
use super::revalidate::{Confirmed, Demand};
use super::space::{Class, Holding, blocks_for};
use super::{Source, Verifier};
use crate::blobs;
use crate::fault;
use crate::metadata::{NewManifest, Provenance, TagRow};
use crate::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::report::Chain;
use crate::upstream::FetchedManifest;

/// Answers "there is no such manifest" and "you may not" that are remembered at most.
const NEGATIVES_MAX: u64 = 10_000;

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

/// What is asked for: a manifest of a repository.
pub type Key = (RepositoryName, Reference);

/// The manifests of upstreams.
pub struct Manifests {
    pub(super) depot: Arc<Depot>,
    pub(super) memory: Arc<Memory>,
    verifier: Arc<Verifier>,
    fetches: Flights<Key, Result<Arc<StoredManifest>, Error>>,
    pub(super) checks: Flights<Key, Result<Confirmed, Error>>,
    pub(super) demand: Demand,
    /// Since when and for how long, in Unix milliseconds, an upstream's no is taken for its answer.
    negatives: Beliefs<Key, Error>,
}

impl Manifests {
    /// Over what is in the store.
    pub fn new(depot: Arc<Depot>, memory: Arc<Memory>, verifier: Arc<Verifier>) -> Arc<Self> {
        let negatives = Beliefs::new(depot.clock.clone(), NEGATIVES_MAX);
        let (fetches, checks) = (Flights::default(), Flights::default());
        Arc::new(Self { depot, memory, verifier, fetches, checks, demand: Demand::default(), negatives })
    }

    /// The manifest that a tag or a digest names. With `confirm_now` the upstream is asked what the tag names, however
    /// fresh the cached answer is.
    pub async fn pull(
        self: &Arc<Self>,
        source: &Source,
        reference: &Reference,
        confirm_now: bool,
    ) -> Result<PulledManifest, Error> {
        let pulled = match reference {
            Reference::Digest(digest) => self.pull_digest(source, digest).await,
            Reference::Tag(tag) => self.pull_tag(source, tag, confirm_now).await,
        }?;
        self.depot.room.touch(pulled.manifest.digest);
        Ok(pulled)
    }

    /// A manifest of this repository that is in the store.
    pub async fn find(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Error> {
        self.memory.manifest(name, digest, async || self.read(name, digest).await).await
    }

    /// What a tag of this repository names, as far as the store knows.
    pub async fn find_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<Option<Arc<TagRow>>, Error> {
        self.memory.tag(name, tag, async || Ok(self.depot.metadata.find_tag(name, tag).await?)).await
    }

    async fn read(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Error> {
        let Some((row, state)) = self.depot.metadata.find_manifest(name, digest).await? else { return Ok(None) };
        if !state.is_present() {
            return Ok(None);
        }
        match self.depot.blobs.read(row.digest, row.size_bytes).await {
            // They are digested because it costs next to nothing, and only once for as long as they stay in memory.
            Ok(Some(bytes)) if Digest::of(digest.algorithm(), &bytes) == row.digest => {
                Ok(Some(StoredManifest::new(row.digest, MediaType::new(&row.media_type), bytes)))
            }
            Ok(_) | Err(blobs::Error::Length { .. }) => {
                self.verifier.verify_now(row.digest).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn pull_digest(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
    ) -> Result<PulledManifest, Error> {
        if let Some(manifest) = self.find(&source.canonical, digest).await? {
            return Ok(PulledManifest { manifest, outcome: Outcome::Hit, stale: None });
        }
        Box::pin(self.fetch(source, &Reference::Digest(*digest))).await
    }

    /// Fetches what is not here, once for all who ask at the same time.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        source: &Source,
        reference: &Reference,
    ) -> Result<PulledManifest, Error> {
        let key = (source.canonical.clone(), reference.clone());
        if let Some(error) = self.remembered(&key) {
            return Err(error);
        }
        let fetch = self.fetches.run(key, || {
            let (this, source, reference) = (Arc::clone(self), source.clone(), reference.clone());
            async move {
                let fetched = this.fetch_now(&source, &reference).await;
                fetched.inspect_err(|error| this.remember(&source, &reference, error))
            }
        });
        let (answer, role) = fetch.await;
        let manifest = answer.unwrap_or(Err(Error::Stopped))?;
        Ok(PulledManifest { manifest, outcome: fetched_by(role), stale: None })
    }

    /// What the upstream said a moment ago, if that was a no.
    pub fn remembered(&self, key: &Key) -> Option<Error> {
        self.negatives.find(key)
    }

    /// Somebody insists on the upstream's word: what it said is not taken for that. When it may be asked again is up to its
    /// accounts, which know what it said of the rate.
    pub(super) fn forget_no(&self, key: &Key) {
        self.negatives.drop(key);
    }

    /// Takes note of a no: "there is no such thing", "you may not", "not so often". Outages are the breaker's, and what one
    /// caller may not another one may.
    pub(super) fn remember(&self, source: &Source, reference: &Reference, error: &Error) {
        if source.caller.is_some() && !error.is_not_found() {
            return;
        }
        let Some(time) = error.lasts(source.mirror.policy().negative_ttl).filter(|time| !time.is_zero()) else {
            return;
        };
        self.negatives.hold((source.canonical.clone(), reference.clone()), error.clone(), time);
    }

    pub(super) async fn ask_for(&self, source: &Source, reference: &Reference) -> Result<FetchedManifest, Error> {
        let (mirror, upstream) = (&source.mirror, source.upstream());
        let mut others = upstream.n_sources() - 1;
        loop {
            let fetched = mirror.ask("fetch_manifest", upstream.fetch_manifest(&source.remote, reference)).await?;
            if is_as_asked(reference, &fetched) {
                return Ok(fetched);
            }
            fetched.origin.sent_wrong();
            // Whoever has this one says what is wrong with it.
            if others == 0 {
                return Ok(fetched);
            }
            others -= 1;
        }
    }

    pub(super) async fn fetch_now(&self, source: &Source, reference: &Reference) -> Result<Arc<StoredManifest>, Error> {
        let known = match reference {
            Reference::Digest(digest) => self.find(&source.canonical, digest).await?,
            Reference::Tag(tag) => self.fresh(source, tag, None).await?,
        };
        if let Some(manifest) = known {
            return Ok(manifest);
        }
        let fetched = self.ask_for(source, reference).await?;
        match reference {
            Reference::Digest(digest) => self.keep(source, *digest, fetched, None).await,
            Reference::Tag(tag) => self.keep(source, claimed(&fetched), fetched, Some(tag)).await,
        }
    }

    /// Verifies what came, keeps it if there is room, and only then lets a tag name it.
    pub(super) async fn keep(
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
        match self.store(source, digest, &parsed, &fetched.bytes, tag.map_or(&[], std::slice::from_ref)).await {
            // A cache that cannot keep it answers all the same.
            Ok(()) | Err(Error::NoRoom { .. } | Error::OverQuota { .. }) => {}
            Err(error) => warn!(%digest, error = %Chain(&error), "a fetched manifest could not be kept"),
        }
        Ok(StoredManifest::new(digest, media_type, fetched.bytes))
    }

    /// Keeps a manifest whose bytes were compared with its digest, and lets tags name it, as if it had just been fetched.
    pub async fn store(
        &self,
        source: &Source,
        digest: Digest,
        manifest: &Manifest,
        bytes: &Bytes,
        tags: &[Tag],
    ) -> Result<(), Error> {
        let Depot { metadata, blobs, room, clock, .. } = &*self.depot;
        let reservation = room.reserve_for(&source.canonical, Class::Cached, blocks_for(bytes.len() as u64)).await?;
        let naming = async {
            let stored_bytes = blobs.put(digest, bytes.clone()).await?;
            fault::point("manifest: stored");
            let change = metadata
                .put_manifest(NewManifest {
                    notices: &[],
                    repo: &source.canonical,
                    digest,
                    media_type: manifest.kind.media_type(),
                    size_bytes: bytes.len() as u64,
                    stored_bytes,
                    manifest,
                    provenance: Provenance::Cached,
                    tags,
                    immutable: &[],
                    now_ms: clock.now_ms(),
                })
                .await?;
            fault::point("manifest: recorded");
            let after = Holding::of_present(stored_bytes, change.after.pushed);
            reservation.admit(change.before.as_ref().and_then(Holding::of), after);
            Ok::<_, Error>(())
        };
        room.name(&digest, naming).await?;
        for tag in tags {
            self.memory.forget_tag(&source.canonical, tag);
        }
        Ok(())
    }
}

/// How a client sees a transfer that it started or joined.
pub(super) fn fetched_by(role: Role) -> Outcome {
    if role == Role::Led { Outcome::Miss } else { Outcome::Coalesced }
}

fn is_as_asked(reference: &Reference, fetched: &FetchedManifest) -> bool {
    let expected = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => claimed(fetched),
    };
    Digest::of(expected.algorithm(), &fetched.bytes) == expected
        && Manifest::parse(&fetched.bytes, fetched.content_type.as_deref()).is_ok()
}

/// What a manifest that was asked for by tag is to be held against: the upstream's word, or itself.
pub(super) fn claimed(fetched: &FetchedManifest) -> Digest {
    fetched.claimed.unwrap_or_else(|| Digest::of(Algorithm::Sha256, &fetched.bytes))
}

impl std::fmt::Debug for Manifests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Manifests")
    }
}
