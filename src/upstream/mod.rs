//! A client of one upstream registry: manifests, blobs and tags, with its sources, authentication, redirects and retries.
//!
//! ```text
//! operation ─ retry ─ sources ─ accounts ─ authorize ─ transport ─ (redirects) ─ answer ─ body
//!               │        │          │          └ 401: challenge → token or credentials
//!               │        │          └ 429: the next account, or none before Retry-After
//!               │        └ whatever fails: the next source
//!               └ transient failures, within `retries` and `answer_timeout`
//! ```
//! Invariants: nothing is verified here, that is the cache's part, but lengths and ranges are as announced or the answer
//! is an error; credentials go to the source they are for and to token services of its domain and nowhere else, nor into
//! an error or a log; every operation may be dropped at any time and leaves nothing running.

mod accounts;
mod answer;
mod auth;
mod body;
mod budget;
mod challenge;
mod clients;
mod credentials;
mod docker_config;
mod error;
mod health;
mod link;
mod options;
mod outside;
mod realm;
mod redact;
mod redirect;
mod referrers;
mod retry;
mod sources;
mod tags;
mod token;
mod transport;
mod turns;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use tokio::time::Instant;

pub use accounts::AccountState;
/// For the fuzz targets, which read what a stranger may answer.
#[doc(hidden)]
pub use answer::{Part, RateLimit, retry_after};
pub use body::BlobStream;
pub use budget::Budget;
#[doc(hidden)]
pub use challenge::{Challenge, parse as parse_challenge};
pub use clients::Clients;
pub use credentials::{Account, Credentials, Programs};
/// For the fuzz targets, as what else a program or a file of others may say.
#[doc(hidden)]
pub use docker_config::{
    Found, is_program_name, look_up as look_up_in_docker_config, read_answer as read_program_answer,
};
pub use error::{Asked, Error, Nonsense, Wait};
pub use options::{Options, Route, SourceOptions, Tls};
/// What a file with a secret says now.
pub use outside::read as read_secret;
pub use redact::SafeUrl;
#[doc(hidden)]
pub use redirect::target as redirect_target;
pub use referrers::ReferrersPage;
pub use sources::{Origin, SourceState};
pub use tags::TagPage;
#[doc(hidden)]
pub use tags::read as read_tag_page;
#[doc(hidden)]
pub use token::read as read_token;
pub use transport::Kind;

use crate::metrics::Metrics;
use crate::oci::{Digest, Host, ManifestKind, MediaType, Reference, RepositoryName};
use answer::Answer;
use body::Body;
use sources::{Question, Source, Sources};

/// One registry to fetch from. Clones share connections, tokens and rate limits.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    options: Options,
    sources: Sources,
}

/// What an upstream says of a manifest without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Length`.
    pub size_bytes: Option<u64>,
}

/// A manifest as it came. Not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The bytes.
    pub bytes: Bytes,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`: what the upstream says the bytes are.
    pub claimed: Option<Digest>,
    /// Who sent it.
    pub origin: Origin,
}

/// What an upstream says of a blob without sending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// `Content-Length`.
    pub size_bytes: Option<u64>,
}

/// Which part of a blob to fetch. Offsets are in bytes; first and last are both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// All of it.
    Whole,
    /// From an offset to the end; from 0 it is the same as `Whole`.
    From(u64),
    /// A piece of it, shorter if the blob ends before `last`.
    Between {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.host())
    }
}

impl Upstream {
    /// Makes the client; asks nobody.
    pub fn new(options: Options) -> Result<Self, Error> {
        let options = options.checked()?;
        let sources = Sources::new(&options)?;
        Ok(Self(Arc::new(Inner { options, sources })))
    }

    /// The same upstream as somebody else sees it: with these credentials instead of ours, and nothing in common but the
    /// settings, so that neither tokens nor rate limits are mixed up. Of several sources only the upstream's own is asked
    /// (one of its domain, or else the first): what somebody proves to a registry is not for its mirrors.
    pub fn with_credentials(&self, credentials: Credentials) -> Result<Self, Error> {
        let mut options = self.0.options.clone();
        let is_own = |source: &SourceOptions| realm::is_same_domain(source.url.host_str(), self.host());
        let own = options.sources.iter().find(|source| is_own(source)).unwrap_or(&options.sources[0]);
        options.sources = vec![SourceOptions { url: own.url.clone(), accounts: vec![Account::Fixed(credentials)] }];
        options.metrics = Metrics::new();
        Self::new(options)
    }

    /// What the operator calls this upstream.
    pub fn host(&self) -> &Host {
        &self.0.options.host
    }

    /// Asks for a manifest's head. `repository` is the name on the upstream's side, here and below.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, Error> {
        let question = about_manifest(Method::HEAD, repository, reference);
        let question = &question;
        self.retrying(question, |source| async move {
            let answer = source.ask(question).await?;
            let content_type = answer.content_type();
            refuse_html(&answer.request, content_type.as_deref(), b"")?;
            Ok(ManifestHead { digest: answer.content_digest(), content_type, size_bytes: answer.length_bytes() })
        })
        .await
    }

    /// Fetches a manifest, whole and not longer than `manifest_bytes_max`.
    pub async fn fetch_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        let question = about_manifest(Method::GET, repository, reference);
        let question = &question;
        self.retrying(question, |source| async move {
            let answer = source.ask(question).await?;
            let (content_type, claimed, request) =
                (answer.content_type(), answer.content_digest(), answer.request.clone());
            refuse_html(&request, content_type.as_deref(), b"")?;
            let bytes = self.read(answer).await?;
            refuse_html(&request, None, &bytes)?;
            Ok(FetchedManifest { bytes, content_type, claimed, origin: Origin(source) })
        })
        .await
    }

    /// Asks whether a blob is there and how long it is.
    pub async fn head_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobHead, Error> {
        let question = about_blob(Method::HEAD, Kind::Metadata, repository, digest);
        let question = &question;
        self.retrying(question, |source| async move {
            let answer = source.ask(question).await?;
            Ok(BlobHead { size_bytes: answer.length_bytes() })
        })
        .await
    }

    /// Begins to fetch a blob; retried until the head of an answer has come. Whoever reads the stream to a cut asks
    /// again from there, and another source answers if there is one.
    pub async fn fetch_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        part: Fetch,
    ) -> Result<BlobStream, Error> {
        let part = if part == Fetch::From(0) { Fetch::Whole } else { part };
        let mut question = about_blob(Method::GET, Kind::Blob, repository, digest);
        question.range = match part {
            Fetch::Whole => None,
            Fetch::From(first) => Some(format!("bytes={first}-")),
            Fetch::Between { first, last } => Some(format!("bytes={first}-{last}")),
        };
        let question = &question;
        self.retrying(question, |source| async move {
            let answer = source.ask(question).await?;
            BlobStream::open(answer, part, self.0.options.no_progress_timeout, source)
        })
        .await
    }

    /// What may still be asked, of all accounts together; `None` while that of one of them is not known.
    pub fn budget(&self) -> Option<Budget> {
        self.0.sources.budgets().reduce(|one, other| Some(one?.and(other?))).flatten()
    }

    /// How many sources it has.
    pub fn n_sources(&self) -> usize {
        self.0.sources.len()
    }

    /// Every source with its accounts, as they stand now, in the order of the configuration.
    pub fn sources(&self) -> Vec<SourceState> {
        self.0.sources.states()
    }

    async fn read(&self, answer: Answer) -> Result<Bytes, Error> {
        Body::of(answer, self.0.options.no_progress_timeout).read(self.0.options.manifest_bytes_max).await
    }

    /// Attempts until one succeeds, one fails for good, or the time is up. An attempt asks one source after the other.
    async fn retrying<T, F>(&self, question: &Question<'_>, attempt: impl Fn(Arc<Source>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Inner { options, sources } = &*self.0;
        let policy = retry::Policy { retries: options.retries, backoff: options.retry_backoff };
        let deadline = Instant::now() + options.answer_timeout;
        let mut failures = 0;
        // Who has said no for good is not asked again while the others are retried.
        let (mut definite, mut refusal): (Vec<SafeUrl>, Option<Error>) = (Vec::new(), None);
        loop {
            let mut order = sources.in_order();
            order.retain(|source| !definite.contains(source.url()));
            let mut worst = refusal.clone();
            for (at, source) in order.iter().enumerate() {
                let share = fair_share(deadline, order.len() - at);
                // On the heap: all that a request may go through makes it large, and many futures hold this one.
                let asking = Box::pin(attempt(Arc::clone(source)));
                let result = tokio::time::timeout(share, asking).await.unwrap_or_else(|_| {
                    let after = if order.len() == 1 { options.answer_timeout } else { share };
                    Err(Error::TimedOut { request: source.asked(question), what: Wait::Answer, after })
                });
                let error = match result {
                    Ok(value) => {
                        source.answered();
                        return Ok(value);
                    }
                    Err(error @ Error::RangeUnsatisfiable { .. }) => return Err(error),
                    Err(error) => error,
                };
                source.failed(&error);
                if error.is_definite() {
                    definite.push(source.url().clone());
                    refusal = Some(more_telling(refusal, error.clone()));
                }
                if let Some(next) = order.get(at + 1) {
                    tracing::debug!(%error, next = %next.url(), "a source gave no answer, asking the next");
                }
                worst = Some(more_telling(worst, error));
            }
            let Some(error) = worst else { return Err(Error::NoSource { host: options.host.clone() }) };
            failures += 1;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Some(wait) = retry::decide(policy, &error, failures, remaining, chance()) else { return Err(error) };
            tracing::debug!(%error, failures, ?wait, "upstream failed, trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

/// How long one of so many sources may take, so that each of them gets its chance before the deadline.
fn fair_share(deadline: Instant, n_sources: usize) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / u32::try_from(n_sources).unwrap_or(u32::MAX)
}

fn more_telling(so_far: Option<Error>, error: Error) -> Error {
    match so_far {
        Some(so_far) => so_far.or_more_telling(error),
        None => error,
    }
}

fn about_manifest<'a>(method: Method, repository: &'a RepositoryName, reference: &Reference) -> Question<'a> {
    let mut question = Question::new(method, Kind::Metadata, repository, format!("manifests/{reference}"));
    question.accept = Some(ManifestKind::ALL.map(ManifestKind::media_type).join(", "));
    question
}

fn about_blob<'a>(method: Method, kind: Kind, repository: &'a RepositoryName, digest: &Digest) -> Question<'a> {
    Question::new(method, kind, repository, format!("blobs/{digest}"))
}

/// A web page where a manifest belongs is told apart from a manifest that is wrong: it says who to ask.
fn refuse_html(request: &Asked, content_type: Option<&str>, bytes: &[u8]) -> Result<(), Error> {
    let says_so = content_type.is_some_and(|given| MediaType::new(given).as_str() == "text/html");
    if says_so || bytes.trim_ascii_start().starts_with(b"<") {
        return Err(Error::Nonsense { request: request.clone(), what: Nonsense::Html });
    }
    Ok(())
}

/// The jitter of a wait; the keys of the standard library's hasher are random enough for that.
fn chance() -> u8 {
    RandomState::new().build_hasher().finish().to_le_bytes()[0]
}
