//! One upstream as the cache sees it: its client, its policy, and whether it is being left alone.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use globset::{GlobMatcher, GlobSet};
use tracing::{info, warn};

use super::answers::{LastAnswer, LastAnswers};
use super::breaker::Breaker;
use super::error::Error;
use super::freshness::{self, Asking};
use super::lanes::{LaneLimits, Lanes};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Host, Tag};
use crate::report::Chain;
use crate::upstream::{self, Upstream};

/// For how long an upstream is not asked for parts of blobs after it sent something else: its operator may mend it.
const NO_PARTS_FOR_MS: i64 = 3_600_000;

/// How an upstream's content is to be treated.
#[derive(Clone, Debug)]
pub struct Policy {
    /// For how long a confirmed tag is answered without asking again.
    pub revalidate_after: Duration,
    /// For how long instead, if one of these fits the tag: the first that does counts.
    pub tags: Vec<(GlobMatcher, Duration)>,
    /// For how long after its confirmation a tag may be answered when the upstream fails; `None` is for ever.
    pub stale_for: Option<Duration>,
    /// How long a client with a cached answer waits for the upstream's confirmation.
    pub stale_after_wait: Duration,
    /// For how long "there is no such thing" and "you may not" are remembered.
    pub negative_ttl: Duration,
    /// Requests of the rate limit that are kept for what is not cached.
    pub rate_reserve: u64,
    /// For how long a list of tags is answered without asking again.
    pub revalidate_lists_after: Duration,
    /// Tags that never move.
    pub immutable_tags: GlobSet,
    /// Forget a tag that the upstream no longer has, rather than keep serving it.
    pub forget_on_404: bool,
    /// How often in a row a transfer is taken up again without having gained a byte.
    pub retries_max: u32,
    /// Requests at a time for one large blob.
    pub parallel: usize,
    /// How much of it one of them asks for, in bytes.
    pub piece_bytes: u64,
    /// On the transfers of blobs together.
    pub lanes: LaneLimits,
    /// Fetch what a pull will ask for before it does.
    pub prefetches: bool,
    /// Blobs fetched before they are asked for, at a time.
    pub prefetch_max: usize,
    /// Never ask.
    pub offline: bool,
    /// Who may pull what is cached of it.
    pub visibility: Visibility,
}

/// Who may pull what is cached of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Whoever may ask this registry.
    Everyone,
    /// Whose own credentials are good at the upstream.
    Passthrough {
        /// For how long credentials that were good are taken to be good.
        access_ttl: Duration,
        /// There are credentials of our own to fetch with; otherwise the caller's are used.
        has_own_credentials: bool,
    },
}

/// An upstream with its policy.
#[derive(Debug)]
pub struct Mirror {
    upstream: Upstream,
    policy: Policy,
    breaker: Mutex<Breaker>,
    lanes: Arc<Lanes>,
    /// Until when (Unix milliseconds) it is not asked for parts, because it sent something else.
    no_parts_until_ms: AtomicI64,
    /// It failed, or kept somebody waiting in vain, and did not answer since.
    is_in_trouble: AtomicBool,
    answers: LastAnswers,
    clock: Clock,
    metrics: Metrics,
}

impl Mirror {
    /// An upstream that has not been asked yet.
    pub fn new(upstream: Upstream, policy: Policy, clock: Clock, metrics: Metrics) -> Self {
        let lanes = Lanes::new(upstream.host().clone(), policy.lanes, metrics.clone());
        let (no_parts_until_ms, is_in_trouble) = (AtomicI64::new(i64::MIN), AtomicBool::new(false));
        let (breaker, answers) = (Mutex::default(), LastAnswers::default());
        Self { upstream, policy, breaker, lanes, no_parts_until_ms, is_in_trouble, answers, clock, metrics }
    }

    /// The upstream's name.
    pub fn host(&self) -> &Host {
        self.upstream.host()
    }

    /// The upstream's client, for use inside [`Mirror::ask`].
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// How its content is treated.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The way to it, for transfers of blobs.
    pub(super) fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// May parts of a blob be asked for?
    pub(super) fn sends_parts(&self) -> bool {
        self.clock.now_ms() >= self.no_parts_until_ms.load(Ordering::Relaxed)
    }

    /// It was asked for a part and sent something else.
    pub(super) fn refuses_parts(&self) {
        self.no_parts_until_ms.store(self.clock.now_ms() + NO_PARTS_FOR_MS, Ordering::Relaxed);
    }

    /// How this tag is to be treated, for a client that insists on the upstream's word or one that does not.
    pub fn freshness(&self, tag: &Tag, confirm_now: bool) -> freshness::Policy {
        let rule = self.policy.tags.iter().find(|(pattern, _)| pattern.is_match(tag.as_str()));
        freshness::Policy {
            revalidate_after: rule.map_or(self.policy.revalidate_after, |(_, time)| *time),
            stale_for: self.policy.stale_for,
            immutable: !self.policy.immutable_tags.is_empty() && self.policy.immutable_tags.is_match(tag.as_str()),
            asking: self.asking(confirm_now),
        }
    }

    /// Whether it may be asked about what is cached, for a client that insists on its word or one that does not.
    pub fn asking(&self, confirm_now: bool) -> Asking {
        match () {
            () if self.policy.offline => Asking::Never,
            () if confirm_now => Asking::Now,
            () if self.is_sparing() => Asking::Sparing,
            () => Asking::Usual,
        }
    }

    /// Is what may still be asked kept for what is not cached?
    pub fn is_sparing(&self) -> bool {
        let remaining = self.upstream.budget().map(|budget| budget.remaining);
        remaining.is_some_and(|remaining| remaining == 0 || remaining < self.policy.rate_reserve)
    }

    /// Did it fail or keep somebody waiting, and has not answered since? Then nobody with a cached answer waits again.
    pub fn is_in_trouble(&self) -> bool {
        self.is_in_trouble.load(Ordering::Relaxed)
    }

    /// A client with a cached answer waited for it in vain.
    pub fn kept_waiting(&self) {
        self.is_in_trouble.store(true, Ordering::Relaxed);
    }

    /// Puts a question to the upstream, unless it is being left alone, and keeps count of how it answers.
    pub async fn ask<T>(
        &self,
        operation: &'static str,
        question: impl Future<Output = Result<T, upstream::Error>>,
    ) -> Result<T, Error> {
        self.let_pass(Breaker::ask)?;
        let host = self.host();
        let started = Instant::now();
        let answer = question.await;
        let (result, took) = (answer.as_ref().err().map_or("ok", upstream::Error::kind), started.elapsed());
        self.metrics.upstream_asked(host.as_str(), operation, result, took);
        self.answers.note(LastAnswer { at_ms: self.clock.now_ms(), operation, result, took });
        self.note(answer.as_ref().err());
        answer.map_err(|source| {
            if !source.is_not_found() {
                warn!(upstream = %host, operation, kind = source.kind(), error = %Chain(&source), "the upstream failed");
            }
            Error::Upstream { host: host.clone(), source }
        })
    }

    /// What [`Mirror::ask`] would answer without asking, if it would.
    pub fn would_ask(&self) -> Result<(), Error> {
        self.let_pass(|breaker, now_ms| breaker.would_let_pass(now_ms))
    }

    fn let_pass(&self, breaker: impl FnOnce(&mut Breaker, i64) -> Result<(), Duration>) -> Result<(), Error> {
        if self.policy.offline {
            return Err(Error::Offline { host: self.host().clone() });
        }
        let passed = breaker(&mut self.breaker(), self.clock.now_ms());
        passed.map_err(|retry_after| Error::Resting { host: self.host().clone(), retry_after })
    }

    /// The last answers, the newest first.
    pub fn last_answers(&self) -> Vec<LastAnswer> {
        self.answers.list()
    }

    /// Failures in a row, up to now.
    pub fn failures(&self) -> u32 {
        self.breaker().failures()
    }

    /// Only what says that the upstream itself is in trouble counts: a 404 or a 401 is an answer of a healthy one.
    fn note(&self, error: Option<&upstream::Error>) {
        let mut breaker = self.breaker();
        let was_open = breaker.is_open();
        let failed = error.is_some_and(upstream::Error::is_transient);
        self.is_in_trouble.store(failed, Ordering::Relaxed);
        if failed {
            breaker.failed(self.clock.now_ms());
        } else {
            breaker.succeeded();
        }
        match (was_open, breaker.is_open()) {
            (false, true) => warn!(upstream = %self.host(), "the upstream keeps failing and is left alone for a while"),
            (true, false) => info!(upstream = %self.host(), "the upstream answers again"),
            _ => {}
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
