//! Lists of upstreams: the tags of a repository, and what is attached to a manifest. Asked for once however many want one,
//! kept whole over restarts, answered from while they are fresh, and when the upstream fails.
//!
//! An outage is never an empty list: a list that could not be confirmed carries the reason, and whoever would answer with
//! nothing because of it has to answer with that reason instead. An empty list of referrers is therefore only remembered
//! briefly, like any other absence, and never kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::belief::Beliefs;
use super::error::{Error, Wrong};
use super::fills::Depot;
use super::flights::{Flights, Role};
use super::freshness::{Asking, Decision, Policy, TagState, decide};
use super::manifests::fetched_by;
use super::outcome::Outcome;
use super::revalidate::INSISTING_WAIT;
use super::{HEADERS_WITHIN, Mirror, Source};
use crate::oci::{Algorithm, Digest, Reference, Referrer, RepositoryName, Tag};
use crate::report::Chain;
use crate::upstream;

/// Tags asked for in one page.
const TAGS_PER_PAGE: usize = 1000;
/// Pages followed for one list.
const PAGES_MAX: usize = 1000;
/// Absences remembered at most.
const NEGATIVES_MAX: u64 = 10_000;
/// How long a client waits for a whole list of tags before it is given the one page that it asked for.
const WHOLE_WITHIN: Duration = Duration::from_secs(5);

/// The bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct ListLimits {
    /// Entries of one list; a longer one is not kept.
    pub entries_max: usize,
    /// Bytes of all lists; those that were longest not confirmed go first.
    pub bytes_max: u64,
}

/// A list and how it was come by.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The entries, in bytewise order, each once.
    pub entries: Vec<T>,
    /// False for a list that is too long to be kept: `entries` is empty, and the upstream has to be asked page by page.
    pub is_whole: bool,
    /// How it was come by.
    pub outcome: Outcome,
    /// Why it could not be confirmed although it should have been.
    pub trouble: Option<Error>,
}

/// A list as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<T> {
    is_whole: bool,
    entries: Vec<T>,
}

type Key = (RepositoryName, Option<Digest>);
type Answer<T> = Result<Arc<Kept<T>>, Error>;
type Question<T> = BoxFuture<'static, Result<Kept<T>, Error>>;

/// The lists of upstreams.
pub struct Lists {
    depot: Arc<Depot>,
    limits: ListLimits,
    tags: Flights<Key, Answer<String>>,
    referrers: Flights<Key, Answer<Referrer>>,
    /// That there is nothing, or an error that says so.
    negatives: Beliefs<Key, Option<Error>>,
}

impl Lists {
    /// Over what is in the index.
    pub fn new(depot: Arc<Depot>, limits: ListLimits) -> Arc<Self> {
        depot.metrics.limit("list_entries_max", limits.entries_max as u64);
        depot.metrics.limit("lists_max_bytes", limits.bytes_max);
        let negatives = Beliefs::new(depot.clock.clone(), NEGATIVES_MAX);
        Arc::new(Self { depot, limits, tags: Flights::default(), referrers: Flights::default(), negatives })
    }

    /// The tags of an upstream's repository. With `confirm_now` the upstream is asked, however fresh they are.
    pub async fn tags(self: &Arc<Self>, source: &Source, confirm_now: bool) -> Result<Listed<String>, Error> {
        let key = (source.canonical.clone(), None);
        let policy = freshness(&source.mirror, source.mirror.policy().revalidate_lists_after, confirm_now);
        let question = ask_tags(source.clone(), self.limits.entries_max).boxed();
        self.answer(&self.tags, source, key, policy, WHOLE_WITHIN, question).await
    }

    /// What is attached to a manifest of an upstream's repository.
    pub async fn referrers(
        self: &Arc<Self>,
        source: &Source,
        subject: &Digest,
        confirm_now: bool,
    ) -> Result<Listed<Referrer>, Error> {
        let key = (source.canonical.clone(), Some(*subject));
        let policy = freshness(&source.mirror, source.mirror.policy().revalidate_after, confirm_now);
        let question = ask_referrers(source.clone(), *subject, self.limits.entries_max).boxed();
        self.answer(&self.referrers, source, key, policy, HEADERS_WITHIN, question).await
    }

    async fn answer<T: Entry>(
        self: &Arc<Self>,
        flights: &Flights<Key, Answer<T>>,
        source: &Source,
        key: Key,
        policy: Policy,
        patience: Duration,
        question: Question<T>,
    ) -> Result<Listed<T>, Error> {
        let now_ms = self.depot.clock.now_ms();
        let kept = self.find::<T>(&key).await?;
        let decision = decide(kept.as_ref().map(|(_, state)| *state), &policy, now_ms);
        let offline = || Error::Offline { host: source.mirror.host().clone() };
        let sparing = || Error::Sparing { host: source.mirror.host().clone() };
        let (wait, may_serve_stale) = match decision {
            Decision::Fresh => return Ok(listed(kept.map(|(kept, _)| kept), Outcome::Hit, None)),
            Decision::ServeStale if policy.asking == Asking::Never => return Ok(self.stale(source, kept, offline())),
            Decision::ServeStale => return Ok(self.stale(source, kept, sparing())),
            Decision::Unavailable => return Err(offline()),
            Decision::Revalidate { may_serve_stale: true } if policy.asking == Asking::Now => (INSISTING_WAIT, true),
            Decision::Revalidate { may_serve_stale: true } => (source.mirror.policy().stale_after_wait, true),
            Decision::Revalidate { may_serve_stale: false } | Decision::Fetch => (patience, false),
        };
        if policy.asking == Asking::Now {
            self.negatives.drop(&key);
        }
        if let Some(absence) = self.negatives.find(&key) {
            return match absence {
                None => Ok(listed(None, Outcome::Hit, None)),
                Some(error) if may_serve_stale => Ok(self.stale(source, kept, error)),
                Some(error) => Err(error),
            };
        }
        let flight = flights.run(key.clone(), || Arc::clone(self).refresh(source.clone(), key, policy, question));
        let (answer, role) = match tokio::time::timeout(wait, flight).await {
            Ok((answer, role)) => (answer.unwrap_or(Err(Error::Stopped)), role),
            Err(_) => (Err(Error::Slow { host: source.mirror.host().clone(), waited: wait }), Role::Followed),
        };
        match answer {
            Ok(list) if kept.is_some() => Ok(listed(Some(list), Outcome::Revalidated, None)),
            Ok(list) => Ok(listed(Some(list), fetched_by(role), None)),
            Err(error) if error.is_not_found() && source.mirror.policy().forget_on_404 => Err(error),
            Err(error) if may_serve_stale => Ok(self.stale(source, kept, error)),
            Err(error) => Err(error),
        }
    }

    fn stale<T: Entry>(&self, source: &Source, kept: Option<(Arc<Kept<T>>, TagState)>, trouble: Error) -> Listed<T> {
        self.depot.metrics.served_stale(source.mirror.host().as_str(), trouble.kind());
        listed(kept.map(|(kept, _)| kept), Outcome::Stale, Some(trouble))
    }

    /// Puts the question, unless another's answer has come since this one's asker looked, and keeps the answer.
    async fn refresh<T: Entry>(
        self: Arc<Self>,
        source: Source,
        key: Key,
        policy: Policy,
        question: Question<T>,
    ) -> Answer<T> {
        if policy.asking != Asking::Now
            && let Some((kept, state)) = self.find::<T>(&key).await?
            && decide(Some(state), &policy, self.depot.clock.now_ms()) == Decision::Fresh
        {
            return Ok(kept);
        }
        let answer = question.await;
        let absence = match &answer {
            Ok(list) if list.entries.is_empty() && list.is_whole && key.1.is_some() => Some(None),
            Err(error) if error.is_not_found() => Some(Some(error.clone())),
            _ => None,
        };
        if let Some(absence) = absence {
            let is_gone = absence.is_none() || source.mirror.policy().forget_on_404;
            self.negatives.hold(key.clone(), absence, source.mirror.policy().negative_ttl);
            if is_gone {
                self.depot.metadata.delete_list(&key.0, key.1.as_ref()).await?;
            }
            return answer.map(Arc::new);
        }
        let list = answer?;
        if !list.is_whole {
            self.depot.metrics.list_too_long(source.mirror.host().as_str());
            warn!(repository = %key.0, entries_max = self.limits.entries_max, "a list is too long to be kept");
        }
        self.keep(&key, &list).await;
        Ok(Arc::new(list))
    }

    /// What cannot be kept is answered all the same.
    async fn keep<T: Entry>(&self, key: &Key, list: &Kept<T>) {
        let body = serde_json::to_vec(list).expect("a list is plain JSON");
        let (metadata, bytes_max) = (&self.depot.metadata, self.limits.bytes_max);
        match metadata.put_list(&key.0, key.1.as_ref(), body, self.depot.clock.now_ms(), bytes_max).await {
            Ok(bytes) => self.depot.metrics.lists_bytes(bytes),
            Err(error) => warn!(repository = %key.0, error = %Chain(&error), "a list could not be kept"),
        }
    }

    async fn find<T: Entry>(&self, key: &Key) -> Result<Option<(Arc<Kept<T>>, TagState)>, Error> {
        let Some(row) = self.depot.metadata.find_list(&key.0, key.1.as_ref()).await? else { return Ok(None) };
        // What cannot be read was written by another release or damaged: it is asked for again.
        let kept = serde_json::from_slice(&row.body).ok();
        Ok(kept.map(|kept| (Arc::new(kept), TagState { checked_ms: row.checked_ms })))
    }
}

/// What lists are made of.
trait Entry: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl Entry for String {}
impl Entry for Referrer {}

fn freshness(mirror: &Mirror, revalidate_after: Duration, confirm_now: bool) -> Policy {
    let (policy, asking) = (mirror.policy(), mirror.asking(confirm_now));
    Policy { revalidate_after, stale_for: policy.stale_for, immutable: false, asking }
}

fn listed<T: Clone>(kept: Option<Arc<Kept<T>>>, outcome: Outcome, trouble: Option<Error>) -> Listed<T> {
    let Some(kept) = kept else { return Listed { entries: Vec::new(), is_whole: true, outcome, trouble } };
    let is_whole = kept.is_whole;
    let entries = Arc::try_unwrap(kept).map_or_else(|kept| kept.entries.clone(), |kept| kept.entries);
    Listed { entries, is_whole, outcome, trouble }
}

/// A list that grows page by page within its bound.
struct Gathering<T> {
    entries: Vec<T>,
    entries_max: usize,
    visited: HashSet<String>,
}

/// What to do after a page.
enum Next {
    Page(String),
    End,
    TooLong,
}

impl<T> Gathering<T> {
    fn new(entries_max: usize) -> Self {
        Self { entries: Vec::new(), entries_max, visited: HashSet::new() }
    }

    fn add(
        &mut self,
        page: impl IntoIterator<Item = T>,
        next: Option<String>,
        source: &Source,
        what: &str,
    ) -> Result<Next, Error> {
        self.entries.extend(page);
        let Some(next) = next else {
            return Ok(if self.entries.len() > self.entries_max { Next::TooLong } else { Next::End });
        };
        if self.entries.len() > self.entries_max || self.visited.len() >= PAGES_MAX {
            return Ok(Next::TooLong);
        }
        if !self.visited.insert(next.clone()) {
            return Err(wrong(source, what, Wrong::Endless));
        }
        Ok(Next::Page(next))
    }
}

async fn ask_tags(source: Source, entries_max: usize) -> Result<Kept<String>, Error> {
    let (mirror, upstream) = (&source.mirror, source.upstream());
    let mut gathering = Gathering::new(entries_max);
    let mut page = mirror.ask("list_tags", upstream.list_tags(&source.remote, Some(TAGS_PER_PAGE), None)).await?;
    loop {
        let tags = page.tags.iter().map(ToString::to_string);
        match gathering.add(tags, page.next_query.take(), &source, "tags")? {
            Next::Page(next) => {
                let more = mirror.ask("list_tags", upstream.list_more_tags(&source.remote, &next)).await;
                page = more.map_err(|error| not_absent(error, &source, "tags"))?;
            }
            Next::End => break,
            Next::TooLong => return Ok(Kept { is_whole: false, entries: Vec::new() }),
        }
    }
    let mut entries = gathering.entries;
    entries.sort_unstable();
    entries.dedup();
    Ok(Kept { is_whole: true, entries })
}

async fn ask_referrers(source: Source, subject: Digest, entries_max: usize) -> Result<Kept<Referrer>, Error> {
    let (mirror, upstream) = (&source.mirror, source.upstream());
    let mut gathering = Gathering::new(entries_max);
    let mut next: Option<String> = None;
    loop {
        let question = upstream.list_referrers(&source.remote, &subject, next.as_deref());
        let page = match mirror.ask("list_referrers", question).await {
            Err(error) if next.is_none() && says_there_is_no_api(&error) => {
                return ask_by_tag_schema(&source, &subject).await;
            }
            Err(error) if next.is_some() => return Err(not_absent(error, &source, "referrers")),
            answer => answer?,
        };
        match gathering.add(page.referrers, page.next, &source, "referrers")? {
            Next::Page(query) => next = Some(query),
            Next::End => return Ok(in_order(gathering.entries)),
            Next::TooLong => return Err(wrong(&source, "referrers", Wrong::TooMany { max: entries_max })),
        }
    }
}

/// A later page that is not found does not say that there is no list.
fn not_absent(error: Error, source: &Source, what: &str) -> Error {
    if error.is_not_found() { wrong(source, what, Wrong::Incomplete) } else { error }
}

fn says_there_is_no_api(error: &Error) -> bool {
    matches!(error, Error::Upstream { source, .. } if source.is_not_found() || source.is_unsupported())
}

/// Where there is no API, an index under a tag made of the subject's digest lists its referrers; no such tag, no referrers.
async fn ask_by_tag_schema(source: &Source, subject: &Digest) -> Result<Kept<Referrer>, Error> {
    let tag = Reference::Tag(Tag::of_referrers(subject));
    let upstream = source.upstream();
    let fetched = source.mirror.ask("fetch_manifest", upstream.fetch_manifest(&source.remote, &tag)).await;
    let fetched: upstream::FetchedManifest = match fetched {
        Err(error) if error.is_not_found() => return Ok(Kept { is_whole: true, entries: Vec::new() }),
        answer => answer?,
    };
    let algorithm = fetched.claimed.map_or(Algorithm::Sha256, |claimed| claimed.algorithm());
    let actual = Digest::of(algorithm, &fetched.bytes);
    if fetched.claimed.is_some_and(|claimed| claimed != actual) {
        return Err(wrong(source, "referrers", Wrong::Digest { actual }));
    }
    let entries = Referrer::read_index(&fetched.bytes);
    Ok(in_order(entries.ok_or_else(|| wrong(source, "referrers", Wrong::NoIndex))?))
}

fn in_order(mut entries: Vec<Referrer>) -> Kept<Referrer> {
    entries.sort_by_key(|entry| entry.digest);
    entries.dedup_by_key(|entry| entry.digest);
    Kept { is_whole: true, entries }
}

fn wrong(source: &Source, what: &str, how: Wrong) -> Error {
    let asked = format!("the list of {what} of {}", source.remote);
    Error::Wrong { host: source.mirror.host().clone(), asked, source: Arc::new(how) }
}

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lists")
    }
}
