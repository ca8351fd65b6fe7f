//! The operations of the distribution specification, in its words and without HTTP.

mod access;
mod adoption;
mod blobs;
mod caller;
mod directory;
mod error;
pub mod explain;
mod import;
mod keeping;
mod manifests;
mod notices;
mod referrers;
pub mod retention;
pub mod routing;
mod sessions;
mod tags;
mod uploads;
pub mod warm;

use std::collections::HashMap;
use std::ops::DerefMut;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use moka::sync::Cache;

use crate::cache::{
    Access, Fills, HEADERS_WITHIN, ListLimits, Lists, Manifests, Memory, Mirror, Prefetch, Probe, Proofs, Scrub,
    ScrubOptions, Source, SweepOptions, Sweeper, Verifier, Visibility,
};
use crate::oci::{Digest, Host, RepositoryName};
use directory::{Directory, Located};

pub use blobs::{BlobHead, Content, PulledBlob};
pub use caller::{Caller, Keeps, Sight};
pub use error::Error;
pub use keeping::RemovedRepository;
pub use manifests::{FoundManifest, PushedManifest};
pub use routing::{Names, Target};
pub use sessions::Uploads;
pub use tags::{PAGE_MAX, Page};
pub use uploads::{Chunk, Mounted};

pub use crate::blobs::{BlobPin, BlobReader, Growth, Progress, Standing};
pub use crate::cache::{
    Bypass, Depot, Error as CacheError, FillView, Garbage, Outcome, PulledManifest, ScrubView, Staleness,
    StoredManifest, SweepRequest, Swept, Verified, Witness,
};
pub use crate::metadata::{PinRow as Pinned, RepositoryHolding, TagHolding};
pub use crate::upstream::{Credentials, Error as UpstreamError};

/// Answers "the upstream has it" that are remembered, and for how long: a push follows within minutes.
const VOUCHED_MAX: u64 = 10_000;
const VOUCHED_FOR: Duration = Duration::from_hours(1);

/// Which content a manifest may name that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparse {
    /// None.
    Refuse,
    /// An index may lack platforms.
    Indexes,
    /// Any.
    Accept,
}

/// What is configured of pushes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which content a manifest may name that is not here.
    pub sparse: Sparse,
    /// Size of a manifest.
    pub manifest_max_bytes: u64,
    /// Upload sessions at a time.
    pub sessions_max: usize,
    /// Upload sessions of one identity at a time.
    pub sessions_per_identity_max: usize,
    /// When and how fast stored blobs are checked.
    pub scrub: ScrubOptions,
    /// What stays of pushed content.
    pub retention: Vec<retention::Rule>,
    /// When and how garbage is collected.
    pub sweep: SweepOptions,
    /// The bounds of what is kept of upstreams' lists.
    pub lists: ListLimits,
}

/// The registry: what every operation works with, made once.
#[derive(Debug)]
pub struct Registry {
    names: Directory,
    mirrors: HashMap<Host, Arc<Mirror>>,
    /// Upstreams whose content is not for everyone.
    guarded: Vec<Host>,
    fills: Arc<Fills>,
    prefetch: Arc<Prefetch>,
    manifests: Arc<Manifests>,
    lists: Arc<Lists>,
    memory: Arc<Memory>,
    verifier: Arc<Verifier>,
    scrub: Scrub,
    sweeper: Sweeper,
    proofs: Proofs,
    access: Arc<Access>,
    uploads: Uploads,
    pulls: notices::Pulls,
    /// Blobs a client was told an upstream has, by the repository it may be about to push to.
    vouched: Cache<(RepositoryName, Digest), Source>,
    options: Options,
}

/// The head of an answer, or an error that says that it took too long.
async fn within_patience<T>(
    target: &Target,
    mut answer: Pin<impl DerefMut<Target = impl Future<Output = Result<T, Error>>>>,
) -> Result<T, Error> {
    // What is in memory is there at once, and a timer costs more than that.
    if let Poll::Ready(answer) = futures::poll!(answer.as_mut()) {
        return answer;
    }
    let waited = HEADERS_WITHIN;
    let too_slow = |_| Error::TooSlow { name: target.name.clone(), waited };
    tokio::time::timeout(waited, answer).await.map_err(too_slow)?
}

/// Where the repository of a request is.
enum Place {
    /// Here, and nobody else is asked.
    Local(RepositoryName),
    /// At an upstream.
    Mirror(Source),
    /// Here, and at an upstream what is not here.
    Overlay(RepositoryName, Source),
}

impl Place {
    /// The place of a repository; `private` is the first name of it that somebody pushed to.
    fn of(route: &routing::Route, private: Option<RepositoryName>, mirrors: &HashMap<Host, Arc<Mirror>>) -> Self {
        match (private, route.mirrored.as_ref().map(|mirrored| source(mirrored, mirrors))) {
            (Some(name), Some(source)) if route.overlay => Self::Overlay(name, source),
            (Some(name), _) => Self::Local(name),
            (None, Some(source)) => Self::Mirror(source),
            (None, None) => Self::Local(route.home.clone()),
        }
    }

    /// The same place for who wants nothing that is not here. Where pushed tags are laid over an upstream under a name of
    /// their own, what is cached of it is under the upstream's.
    fn without_upstream(self) -> Self {
        match self {
            Self::Mirror(source) => Self::Local(source.canonical),
            Self::Local(name) | Self::Overlay(name, _) => Self::Local(name),
        }
    }
}

fn source(mirrored: &routing::Mirrored, mirrors: &HashMap<Host, Arc<Mirror>>) -> Source {
    let routing::Mirrored { upstream, canonical, remote } = mirrored;
    let mirror = Arc::clone(&mirrors[upstream]);
    Source { mirror, canonical: canonical.clone(), remote: remote.clone(), caller: None }
}

/// Upstreams whose content is not for everyone.
fn guarded(mirrors: &HashMap<Host, Arc<Mirror>>) -> Vec<Host> {
    let guarded = mirrors.values().filter(|mirror| mirror.policy().visibility != Visibility::Everyone);
    guarded.map(|mirror| mirror.host().clone()).collect()
}

fn is_guarded(guarded: &[Host], name: &RepositoryName) -> bool {
    let first = name.split_first().map(|(first, _)| first);
    guarded.iter().any(|host| Some(host.as_str()) == first)
}

/// The names under which pushed content would answer. What an upstream guards is not reached by a spelling that means
/// another one, which does not guard it.
fn private_names<'a>(route: &'a routing::Route, guarded: &'a [Host]) -> impl Iterator<Item = &'a RepositoryName> {
    route.private.iter().filter(move |name| {
        let is_elsewhere = route.mirrored.as_ref().is_some_and(|mirrored| {
            let first = name.split_first().map(|(first, _)| first);
            first != Some(mirrored.upstream.as_str()) && is_guarded(guarded, name)
        });
        !is_elsewhere
    })
}

fn route(names: &Names, target: &Target) -> Result<routing::Route, Error> {
    names.route(target).map_err(|unroutable| unroutable_to(&target.name, &unroutable))
}

fn unroutable_to(name: &RepositoryName, unroutable: &routing::Unroutable) -> Error {
    let reason = unroutable.to_string();
    match unroutable {
        routing::Unroutable::TooLong { .. } => Error::NameInvalid { reason },
        _ => Error::NameUnknown { name: name.to_string(), reason },
    }
}

impl Registry {
    /// A registry over a store. Every host in `names` has a mirror.
    pub fn new(
        names: Names,
        mirrors: Vec<Arc<Mirror>>,
        depot: Arc<Depot>,
        memory: Arc<Memory>,
        options: Options,
    ) -> Self {
        let access = Access::new(&depot);
        let mirrors = mirrors.into_iter().map(|mirror| (mirror.host().clone(), mirror)).collect();
        let guarded = guarded(&mirrors);
        let fills = Arc::new(Fills::new(Arc::clone(&depot)));
        let verifier = Verifier::new(Arc::clone(&depot), Arc::clone(&memory));
        Self {
            names: Directory::new(names, &depot.metrics),
            mirrors,
            prefetch: Prefetch::new(Arc::clone(&fills)),
            fills,
            lists: Lists::new(Arc::clone(&depot), options.lists),
            sweeper: Sweeper::new(Arc::clone(&depot), Arc::clone(&memory), options.sweep),
            scrub: Scrub::new(Arc::clone(&depot), Arc::clone(&verifier), options.scrub),
            manifests: Manifests::new(depot, Arc::clone(&memory), Arc::clone(&verifier)),
            memory,
            verifier,
            proofs: Proofs::default(),
            access,
            guarded,
            uploads: Uploads::default(),
            pulls: notices::Pulls::default(),
            vouched: Cache::builder().max_capacity(VOUCHED_MAX).time_to_live(VOUCHED_FOR).build(),
            options,
        }
    }

    /// What is configured of pushes.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Garbage collection.
    pub fn sweeper(&self) -> &Sweeper {
        &self.sweeper
    }

    /// The fills under way.
    pub fn fills(&self) -> &Fills {
        &self.fills
    }

    /// The store, its ledger and its index.
    pub fn depot(&self) -> &Arc<Depot> {
        self.fills.depot()
    }

    /// The repository that a push to `target` goes to.
    pub fn home(&self, target: &Target) -> Result<RepositoryName, Error> {
        let route = &self.locate(target)?.route;
        if route.mirrored.is_none() && route.home.as_str().contains(':') {
            let reason = format!(
                "{} names a registry that is no configured upstream: push to a name without a port",
                route.home
            );
            return Err(Error::NameInvalid { reason });
        }
        if self.is_guarded(&route.home) {
            let reason =
                format!("{} shows each client what its upstream lets it see: push to another name", route.home);
            return Err(Error::NameInvalid { reason });
        }
        Ok(route.home.clone())
    }

    /// What looks whether stored blobs are what their names say.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// The check of all of them.
    pub fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    fn locate(&self, target: &Target) -> Result<Arc<Located>, Error> {
        self.names.locate(target).map_err(|unroutable| unroutable_to(&target.name, &unroutable))
    }

    /// Pushed content answers first, and alone: a name somebody pushed to is never asked of an upstream, unless the
    /// operator laid it over the upstream. What is cached of an upstream that is not for everyone is shown to nobody
    /// before the caller's own credentials have proved good for it; `probe` is what that is tried on.
    async fn place(&self, target: &Target, probe: Probe) -> Result<Place, Error> {
        let route = &self.locate(target)?.route;
        let private = self.private_name(route).await?;
        let place = match Place::of(route, private, &self.mirrors) {
            Place::Mirror(source) if self.is_guarded(&source.canonical) => {
                Place::Mirror(Box::pin(self.admit(target, source, probe)).await?)
            }
            Place::Overlay(name, source) if self.is_guarded(&source.canonical) => {
                Place::Overlay(name, Box::pin(self.admit(target, source, probe)).await?)
            }
            // Somebody pushed to it before it was guarded, or the operator closed it.
            Place::Local(name) if self.is_guarded(&name) => {
                let mirrored =
                    route.mirrored.as_ref().ok_or_else(|| Error::Unauthorized { name: target.name.clone() })?;
                Box::pin(self.admit(target, source(mirrored, &self.mirrors), probe)).await?;
                Place::Local(name)
            }
            place => place,
        };
        Ok(if target.caller.only_stored { place.without_upstream() } else { place })
    }

    /// The first name of a repository that somebody pushed to.
    async fn private_name(&self, route: &routing::Route) -> Result<Option<RepositoryName>, Error> {
        for name in private_names(route, &self.guarded) {
            if self.is_private(name).await? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// The name under which a request's repository is stored, for what concerns only what is stored.
    async fn stored_name(&self, target: &Target, probe: Probe) -> Result<RepositoryName, Error> {
        Ok(match self.place(target, probe).await? {
            Place::Local(name) | Place::Overlay(name, _) => name,
            Place::Mirror(source) => source.canonical,
        })
    }

    async fn is_private(&self, name: &RepositoryName) -> Result<bool, Error> {
        let load = async || {
            let row = self.depot().metadata.repository(name).await?;
            Ok(row.is_some_and(|row| row.private))
        };
        self.memory.is_private(name, load).await.map_err(Error::cache(name))
    }
}
