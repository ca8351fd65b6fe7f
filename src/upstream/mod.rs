//! A client of one upstream registry: manifests, blobs and tags, with its authentication, redirects and retries.
//!
//! ```text
//! operation ─ retry ─ authorize ─ transport ─ (redirects) ─ answer ─ body
//!               │         └ 401: challenge → token or credentials, once
//!               └ transient failures, within `retries` and `answer_timeout`
//! ```
//! Invariants: nothing is verified here, that is the cache's part, but lengths and ranges are as announced or the answer
//! is an error; credentials go to the upstream's origin and to token services of its domain and nowhere else, nor into
//! an error or a log; every operation may be dropped at any time and leaves nothing running.

mod answer;
mod auth;
mod body;
mod budget;
mod challenge;
mod clients;
mod error;
mod link;
mod options;
mod realm;
mod redact;
mod redirect;
mod referrers;
mod retry;
mod tags;
mod transport;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use tokio::time::Instant;
use url::Url;

pub use auth::Credentials;
pub use body::BlobStream;
pub use budget::Budget;
/// For the fuzz targets, which read what a stranger may answer.
#[doc(hidden)]
pub use challenge::{Challenge, parse as parse_challenge};
pub use error::{Asked, Error, Nonsense, Wait};
pub use options::Options;
pub use redact::SafeUrl;
pub use referrers::ReferrersPage;
pub use tags::TagPage;

use crate::metrics::Metrics;
use crate::oci::{Digest, Host, ManifestKind, MediaType, Reference, RepositoryName};
use answer::Answer;
use auth::Auth;
use body::Body;
use transport::{Ask, Transport};

/// One registry to fetch from. Clones share connections, tokens and the rate limit.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    options: Options,
    transport: Transport,
    auth: Auth,
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
        let transport = Transport::new(&options)?;
        let auth = Auth::new(options.credentials.clone(), options.no_progress_timeout);
        Ok(Self(Arc::new(Inner { options, transport, auth })))
    }

    /// The same upstream as somebody else sees it: with these credentials instead of ours, and nothing in common but the
    /// settings, so that neither tokens nor rate limits are mixed up.
    pub fn with_credentials(&self, credentials: Credentials) -> Result<Self, Error> {
        let credentials = Some(credentials);
        Self::new(Options { credentials, metrics: Metrics::new(), ..self.0.options.clone() })
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
        let ask = self.ask_manifest(Method::HEAD, repository, reference);
        self.retrying(&ask, || async {
            let answer = self.ask(&ask, repository).await?;
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
        let ask = self.ask_manifest(Method::GET, repository, reference);
        self.retrying(&ask, || async {
            let answer = self.ask(&ask, repository).await?;
            let (content_type, claimed, request) =
                (answer.content_type(), answer.content_digest(), answer.request.clone());
            refuse_html(&request, content_type.as_deref(), b"")?;
            let bytes = self.read(answer).await?;
            refuse_html(&request, None, &bytes)?;
            Ok(FetchedManifest { bytes, content_type, claimed })
        })
        .await
    }

    /// Asks whether a blob is there and how long it is.
    pub async fn head_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobHead, Error> {
        let ask = Ask {
            method: Method::HEAD,
            url: self.url(repository, &format!("blobs/{digest}")),
            accept: None,
            range: None,
        };
        self.retrying(&ask, || async {
            let answer = self.ask(&ask, repository).await?;
            Ok(BlobHead { size_bytes: answer.length_bytes() })
        })
        .await
    }

    /// Begins to fetch a blob; retried until the head of an answer has come. Whoever reads the stream to a cut asks
    /// again from there.
    pub async fn fetch_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        part: Fetch,
    ) -> Result<BlobStream, Error> {
        let part = if part == Fetch::From(0) { Fetch::Whole } else { part };
        let range = match part {
            Fetch::Whole => None,
            Fetch::From(first) => Some(format!("bytes={first}-")),
            Fetch::Between { first, last } => Some(format!("bytes={first}-{last}")),
        };
        let ask =
            Ask { method: Method::GET, url: self.url(repository, &format!("blobs/{digest}")), accept: None, range };
        self.retrying(&ask, || async {
            let answer = self.ask(&ask, repository).await?;
            BlobStream::open(answer, part, self.0.options.no_progress_timeout)
        })
        .await
    }

    /// What may still be asked, of all accounts together; `None` while that is not known.
    pub fn budget(&self) -> Option<Budget> {
        self.0.transport.budget()
    }

    fn ask_manifest(&self, method: Method, repository: &RepositoryName, reference: &Reference) -> Ask {
        let accept = ManifestKind::ALL.map(ManifestKind::media_type).join(", ");
        Ask { method, url: self.url(repository, &format!("manifests/{reference}")), accept: Some(accept), range: None }
    }

    fn url(&self, repository: &RepositoryName, rest: &str) -> Url {
        let mut url = self.0.options.url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/{repository}/{rest}"));
        if self.0.options.send_ns {
            url.query_pairs_mut().append_pair("ns", self.host().as_str());
        }
        url
    }

    fn url_with(&self, repository: &RepositoryName, rest: &str, query: &str) -> Url {
        let mut url = self.url(repository, rest);
        // A mirror's own `Link` names the registry already.
        let own = url.query().map(str::to_owned);
        let given = query.split('&').filter(|pair| own.is_none() || !pair.starts_with("ns="));
        let pairs: Vec<&str> = given.chain(own.as_deref()).filter(|pair| !pair.is_empty()).collect();
        url.set_query(Some(&pairs.join("&")).filter(|query| !query.is_empty()).map(String::as_str));
        url
    }

    /// One attempt: authorized if there is something at hand, and after a challenge once more.
    async fn ask(&self, ask: &Ask, repository: &RepositoryName) -> Result<Answer, Error> {
        let Inner { transport, auth, .. } = &*self.0;
        let at_hand = auth.cached(repository).await;
        let first = transport.send(ask, at_hand.as_ref()).await?;
        // A challenge from where a redirect led is not the upstream's: nothing of ours is owed there.
        let is_challenge = first.response.status().as_u16() == 401 && first.at_origin;
        let answer = if is_challenge {
            let authorization = auth.answer(transport, &first, repository, at_hand.as_ref()).await?;
            transport::discard(first).await;
            transport.send(ask, Some(&authorization)).await?
        } else {
            first
        };
        answer.succeeded(ask.range.is_some())
    }

    async fn read(&self, answer: Answer) -> Result<Bytes, Error> {
        Body::of(answer, self.0.options.no_progress_timeout).read(self.0.options.manifest_bytes_max).await
    }

    /// Attempts until one succeeds, one fails for good, or the time is up.
    async fn retrying<T, F>(&self, ask: &Ask, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let options = &self.0.options;
        let policy = retry::Policy { retries: options.retries, backoff: options.retry_backoff };
        let deadline = Instant::now() + options.answer_timeout;
        let mut failures = 0;
        loop {
            let Ok(result) = tokio::time::timeout_at(deadline, attempt()).await else {
                let request = self.0.transport.asked(&ask.method, &ask.url);
                return Err(Error::TimedOut { request, what: Wait::Answer, after: options.answer_timeout });
            };
            let Err(error) = result else { return result };
            failures += 1;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Some(wait) = retry::decide(policy, &error, failures, remaining, chance()) else { return Err(error) };
            tracing::debug!(%error, failures, ?wait, "upstream failed, trying again");
            tokio::time::sleep(wait).await;
        }
    }
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
