//! Warming: a reference is brought into the cache with all that a pull of it takes, before anybody pulls.
//!
//! It runs as long as somebody reads what it tells. Who goes away stops it at the next blob: fills that have begun end on the
//! server's account, like those of any client that leaves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::mpsc;

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry};
use crate::cache::{Outcome, PulledManifest, Role, Source, StoredManifest, Visibility};
use crate::metadata::{BlobRow, Link};
use crate::oci::{Descriptor, Digest, Manifest, Platform, Reference};

/// How often it is told how far it has come.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Indexes in indexes beyond which nothing is fetched.
const DEPTH_MAX: usize = 4;
/// Referrers of one manifest that are fetched, and the length of a blob of theirs: signatures and attestations, not archives.
const REFERRERS_MAX: usize = 100;
const REFERRER_BLOB_MAX_BYTES: u64 = 4 << 20;

/// What is to be warmed.
#[derive(Clone, Debug)]
pub struct Order {
    /// The repository.
    pub target: Target,
    /// Tag or digest.
    pub reference: Reference,
    /// The platforms of an index; `None` for all.
    pub platforms: Option<Vec<Platform>>,
    /// Have the tag confirmed by the upstream now.
    pub refresh: bool,
}

/// What happens while it is warmed.
#[derive(Debug)]
pub enum Event {
    /// A manifest is here.
    Manifest(PulledManifest),
    /// A blob is here.
    Blob {
        /// Which.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// How it was come by.
        outcome: Outcome,
    },
    /// How far it has come.
    Progress(Figures),
    /// Something that a pull does not need was left out.
    Skipped(Part, Failure),
    /// Something that a pull needs is not to be had.
    Failed(Part, Failure),
    /// There is nothing more to come.
    Ended(Figures),
}

/// A part of what was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A manifest.
    Manifest(Reference),
    /// The list of what is attached to a manifest.
    Referrers(Digest),
    /// A blob.
    Blob(Digest),
}

/// Sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Manifests that are here.
    pub manifests: u64,
    /// Blobs that are here.
    pub blobs: u64,
    /// Blobs there are to be.
    pub blobs_wanted: u64,
    /// Bytes of these.
    pub wanted_bytes: u64,
    /// Bytes of blobs that were here before.
    pub here_bytes: u64,
    /// Bytes of blobs that came, those under way included.
    pub fetched_bytes: u64,
    /// What failed.
    pub failed: u64,
}

/// Why a part is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operation that a client would have asked for failed.
    #[error(transparent)]
    Registry(#[from] Error),
    /// The index has no such platform.
    #[error("the index has nothing for {wanted}, but for {available}")]
    NoPlatform {
        /// What was ordered.
        wanted: Platform,
        /// What there is, separated by commas.
        available: String,
    },
    /// The tag was to be confirmed.
    #[error("the upstream could not confirm the tag ({reason}); what is cached is still served")]
    Unconfirmed {
        /// One word.
        reason: &'static str,
    },
    /// Only its clients may fetch it.
    #[error(
        "its upstream lets in only those who log in themselves (visibility: passthrough), and entrepot has no credentials for it"
    )]
    Guarded,
    /// It would evict itself.
    #[error("it has {wanted_bytes} bytes of blobs, and the cache may hold {max_bytes} (cache.max_size)")]
    TooLarge {
        /// How many.
        wanted_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// It was brought, and evicted again.
    #[error(
        "it was evicted again before the rest had come: the cache is too small for all that is used (cache.max_size)"
    )]
    Evicted,
}

impl Registry {
    /// Brings what is ordered into the cache, and tells as it goes. The last word is [`Event::Ended`].
    pub async fn warm(&self, order: Order, tell: mpsc::Sender<Event>) {
        let mut warming = Warming { registry: self, order: &order, tell, figures: Figures::default() };
        match self.source_to_warm(&order).await {
            Ok(Some(source)) => warming.run(&source).await,
            // What was pushed here is here.
            Ok(None) => {}
            Err(failure) => warming.failed(Part::Manifest(order.reference.clone()), failure).await,
        }
        let figures = warming.figures;
        warming.tell(Event::Ended(figures)).await;
    }

    /// Where it comes from, nowhere if it was pushed here.
    async fn source_to_warm(&self, order: &Order) -> Result<Option<Source>, Failure> {
        let route = &self.locate(&order.target)?.route;
        let private = self.private_name(route).await?;
        let source = match Place::of(route, private, &self.mirrors) {
            Place::Local(name) => {
                return self.local_manifest(&name, &order.reference).await.map(|_| None).map_err(Into::into);
            }
            Place::Mirror(source) => source,
            Place::Overlay(name, source) => match self.pushed_manifest(&name, &order.reference).await {
                Err(Error::ManifestUnknown { .. }) => source,
                answer => return answer.map(|_| None).map_err(Into::into),
            },
        };
        match source.mirror.policy().visibility {
            Visibility::Passthrough { has_own_credentials: false, .. } => Err(Failure::Guarded),
            _ => Ok(Some(source)),
        }
    }

    /// Makes sure that a blob is here.
    async fn bring(&self, source: &Source, blob: &Descriptor) -> Result<Outcome, Error> {
        let depot = self.depot();
        let mut outcome = Outcome::Hit;
        for is_last in [false, true] {
            let pin = depot.room.pin(blob.digest);
            let link = depot.metadata.find_link(&source.canonical, &blob.digest).await?;
            if let Link::Linked(row) | Link::Unlinked(row) = &link
                && row.is_present()
                && self.open(&source.canonical, row, pin).await?.is_some()
            {
                if matches!(link, Link::Unlinked(_)) {
                    self.prove_and_link(source, &blob.digest).await?;
                }
                depot.room.touch(blob.digest);
                return Ok(outcome);
            }
            if is_last {
                break;
            }
            let role = self.prefetch.bring(source, blob).await.map_err(Error::cache(&source.canonical))?;
            outcome = if role == Role::Led { Outcome::Miss } else { Outcome::Coalesced };
        }
        Err(Error::NoRoom { bytes: blob.size_bytes })
    }
}

/// A manifest that is to be brought.
struct Wanted {
    reference: Reference,
    depth: usize,
    /// Attached to another one: a pull does without it.
    is_referrer: bool,
}

struct Warming<'a> {
    registry: &'a Registry,
    order: &'a Order,
    tell: mpsc::Sender<Event>,
    figures: Figures,
}

impl Warming<'_> {
    async fn run(&mut self, source: &Source) {
        let blobs = self.manifests(source).await;
        self.figures.blobs_wanted = blobs.len() as u64;
        self.figures.wanted_bytes = blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size_bytes));
        let (wanted_bytes, max_bytes) =
            (self.figures.wanted_bytes, self.registry.depot().room.limits().cache_max_bytes);
        if wanted_bytes > max_bytes {
            let failure = Failure::TooLarge { wanted_bytes, max_bytes };
            return self.failed(Part::Manifest(self.order.reference.clone()), failure).await;
        }
        let brought = self.blobs(source, &blobs).await;
        self.look_again(source, &brought).await;
    }

    /// Brings the manifests, the referrers' included. Returns the blobs that they name, each once.
    async fn manifests(&mut self, source: &Source) -> Vec<Descriptor> {
        let mut wanted = vec![Wanted { reference: self.order.reference.clone(), depth: 0, is_referrer: false }];
        let (mut seen, mut named, mut blobs) = (HashSet::new(), HashSet::new(), Vec::new());
        while let Some(next) = wanted.pop() {
            let Some(manifest) = self.manifest(source, &next).await else { continue };
            if !seen.insert(manifest.digest) {
                continue;
            }
            let part = || Part::Manifest(next.reference.clone());
            let parsed = match Manifest::parse(&manifest.bytes, Some(manifest.media_type.as_str())) {
                Ok(parsed) => parsed,
                Err(invalid) => {
                    self.failed(part(), Error::ManifestInvalid(invalid).into()).await;
                    continue;
                }
            };
            for blob in parsed.blobs {
                let is_wanted = !next.is_referrer || blob.size_bytes <= REFERRER_BLOB_MAX_BYTES;
                if is_wanted && !blob.is_foreign && named.insert(blob.digest) {
                    blobs.push(blob);
                }
            }
            if next.depth < DEPTH_MAX {
                for child in self.chosen(&part(), &parsed.children).await {
                    let reference = Reference::Digest(child);
                    wanted.push(Wanted { reference, depth: next.depth + 1, is_referrer: next.is_referrer });
                }
            }
            if !next.is_referrer {
                wanted.extend(self.referrers(source, &manifest.digest).await);
            }
        }
        blobs
    }

    async fn manifest(&mut self, source: &Source, wanted: &Wanted) -> Option<Arc<StoredManifest>> {
        let part = Part::Manifest(wanted.reference.clone());
        let refresh = self.order.refresh && wanted.depth == 0;
        match self.registry.mirrored_manifest(source, &wanted.reference, refresh).await {
            Ok(pulled) => {
                self.figures.manifests += 1;
                let (manifest, stale) = (Arc::clone(&pulled.manifest), pulled.stale.clone());
                self.tell(Event::Manifest(pulled)).await;
                if let Some(stale) = stale.filter(|_| refresh) {
                    self.failed(part, Failure::Unconfirmed { reason: stale.reason }).await;
                }
                Some(manifest)
            }
            Err(error) if wanted.is_referrer => {
                self.tell(Event::Skipped(part, error.into())).await;
                None
            }
            Err(error) => {
                self.failed(part, error.into()).await;
                None
            }
        }
    }

    /// Those of an index's children that are ordered; one that names no platform always is.
    async fn chosen(&mut self, part: &Part, children: &[Descriptor]) -> Vec<Digest> {
        let Some(platforms) = &self.order.platforms else { return children.iter().map(|child| child.digest).collect() };
        let mut chosen: Vec<Digest> =
            children.iter().filter(|child| child.platform.is_none()).map(|child| child.digest).collect();
        let has_platforms = chosen.len() < children.len();
        for wanted in platforms.iter().filter(|_| has_platforms) {
            let found = wanted.choose(children, |child| child.platform.as_ref());
            chosen.extend(found.iter().map(|child| child.digest));
            if found.is_empty() {
                // What buildx attaches to an index runs nowhere, and says so.
                let mut available: Vec<String> =
                    children.iter().filter_map(|child| child.platform.as_ref()).map(ToString::to_string).collect();
                available.retain(|platform| platform != "unknown/unknown");
                available.dedup();
                let failure = Failure::NoPlatform { wanted: wanted.clone(), available: available.join(", ") };
                self.failed(part.clone(), failure).await;
            }
        }
        chosen
    }

    /// What is attached to a manifest. It is no failure if the upstream does not say.
    async fn referrers(&mut self, source: &Source, subject: &Digest) -> Vec<Wanted> {
        match self.registry.lists.referrers(source, subject, false).await {
            Ok(listed) => {
                let referrers =
                    listed.entries.iter().take(REFERRERS_MAX).map(|referrer| Reference::Digest(referrer.digest));
                referrers.map(|reference| Wanted { reference, depth: 1, is_referrer: true }).collect()
            }
            Err(error) => {
                let error = Error::cache(&source.canonical)(error);
                self.tell(Event::Skipped(Part::Referrers(*subject), error.into())).await;
                Vec::new()
            }
        }
    }

    /// Brings the blobs, so many at a time. Returns those that came.
    async fn blobs(&mut self, source: &Source, blobs: &[Descriptor]) -> Vec<Digest> {
        let (registry, at_once) = (self.registry, source.mirror.policy().prefetch_max.max(1));
        let bringing: Vec<_> =
            blobs.iter().map(|blob| async move { (blob, registry.bring(source, blob).await) }.boxed()).collect();
        let mut bringing = stream::iter(bringing).buffer_unordered(at_once);
        let (mut left, mut brought): (HashSet<Digest>, _) =
            (blobs.iter().map(|blob| blob.digest).collect(), Vec::new());
        let mut time = tokio::time::interval(TELL_EVERY);
        loop {
            let ended = tokio::select! {
                ended = bringing.next() => ended,
                _ = time.tick() => {
                    let under_way = left.iter().filter_map(|digest| registry.fills.find(digest));
                    let under_way_bytes: u64 = under_way.map(|fill| fill.view().received_bytes).sum();
                    let mut figures = self.figures;
                    figures.fetched_bytes += under_way_bytes;
                    self.tell(Event::Progress(figures)).await;
                    continue;
                }
            };
            let Some((blob, result)) = ended else { return brought };
            left.remove(&blob.digest);
            match result {
                Ok(outcome) => {
                    let (digest, size_bytes) = (blob.digest, blob.size_bytes);
                    let sum = if outcome == Outcome::Hit {
                        &mut self.figures.here_bytes
                    } else {
                        &mut self.figures.fetched_bytes
                    };
                    *sum += size_bytes;
                    self.figures.blobs += 1;
                    brought.push(digest);
                    self.tell(Event::Blob { digest, size_bytes, outcome }).await;
                }
                Err(error) => self.failed(Part::Blob(blob.digest), error.into()).await,
            }
        }
    }

    /// What came first may have gone for what came last.
    async fn look_again(&mut self, source: &Source, brought: &[Digest]) {
        for digest in brought {
            let found = self.registry.depot().metadata.find_link(&source.canonical, digest).await;
            let is_here = |row: &BlobRow| row.is_present();
            if !matches!(&found, Ok(Link::Linked(row)) if is_here(row)) {
                self.failed(Part::Blob(*digest), Failure::Evicted).await;
            }
        }
    }

    async fn failed(&mut self, part: Part, failure: Failure) {
        self.figures.failed += 1;
        self.tell(Event::Failed(part, failure)).await;
    }

    /// Who does not listen any more does not go on with this either.
    async fn tell(&self, event: Event) {
        let _ = self.tell.send(event).await;
    }
}
