//! One upstream as the cache sees it: its client, its policy, and whether it is being left alone.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use globset::GlobSet;
use tracing::{info, warn};

use super::answers::{LastAnswer, LastAnswers};
use super::breaker::Breaker;
use super::error::Error;
use super::freshness;
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
    /// For how long after its confirmation a tag may be answered when the upstream fails; `None` is for ever.
    pub stale_for: Option<Duration>,
    /// How long a client with a cached answer waits for the upstream's confirmation.
    pub stale_after_wait: Duration,
    /// For how long "there is no such thing" is remembered.
    pub negative_ttl: Duration,
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
    /// Blobs fetched before they are asked for, at a time; 0 for none.
    pub prefetch_max: usize,
    /// Never ask.
    pub offline: bool,
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
    answers: LastAnswers,
    clock: Clock,
    metrics: Metrics,
}

impl Mirror {
    /// An upstream that has not been asked yet.
    pub fn new(upstream: Upstream, policy: Policy, clock: Clock, metrics: Metrics) -> Self {
        let lanes = Lanes::new(upstream.host().clone(), policy.lanes, metrics.clone());
        let no_parts_until_ms = AtomicI64::new(i64::MIN);
        let (breaker, answers) = (Mutex::default(), LastAnswers::default());
        Self { upstream, policy, breaker, lanes, no_parts_until_ms, answers, clock, metrics }
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

    /// How this tag is to be treated.
    pub fn freshness(&self, tag: &Tag) -> freshness::Policy {
        freshness::Policy {
            revalidate_after: self.policy.revalidate_after,
            stale_for: self.policy.stale_for,
            immutable: self.policy.immutable_tags.is_match(tag.as_str()),
            offline: self.policy.offline,
        }
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
        match error {
            Some(error) if error.is_transient() => breaker.failed(self.clock.now_ms()),
            _ => breaker.succeeded(),
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
