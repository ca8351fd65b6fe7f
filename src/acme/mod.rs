//! A certificate for the port from somebody who issues them (ACME, RFC 8555), proven on the port itself (TLS-ALPN-01, RFC 8737).
//!
//! ```text
//! loop ─ due? ─ attempt ─ account ─ order ─ proofs ─ certificate ─ store ─ Door::issued
//!          │                  └─────── kept in the store, each before the next ──┘
//!          └─ clock, end of the certificate, what the directory said, failures
//! ```
//! Nobody waits for it: the port serves what is kept while this goes on, and an attempt that fails leaves that alone. All
//! decisions on time are by the clock, asked every [`Options::look_every`]; nothing sleeps until a date. What the directory said
//! about when to come back holds over restarts too.

mod challenge;
mod directory;
mod failure;
mod kept;
mod order;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{SecretSlice, SecretString};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use crate::clock::{self, Clock};
use crate::metrics::Metrics;
use crate::report::Chain;
use crate::storage::{Issuance, Store};

pub use challenge::Proof;
pub use directory::{DOCUMENT_BYTES_MAX, Trouble};
pub use failure::Failure;
pub use order::ORDER_PATIENCE;

use directory::{RETRY_AFTER_MAX, Wire, shown};
use kept::{Kept, Pending, Shelf};
use order::Attempt;

/// The wait after the first failure; it doubles with each further one up to the longest.
const RETRY_WAIT: Duration = Duration::from_secs(15);
/// The same where directories count attempts: they allow a handful in an hour.
const RETRY_WAIT_COUNTED: Duration = Duration::from_mins(4);
const RETRY_WAIT_MAX: Duration = Duration::from_hours(1);

/// Who issues what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory. It is asked at its own origin only.
    pub directory: Url,
    /// The names of the certificate, in lower case; some.
    pub domains: BTreeSet<String>,
    /// `mailto:` URLs of whom the directory may write to.
    pub contact: Vec<String>,
    /// Authorities to believe about the directory besides those of this machine, as PEM.
    pub ca: Option<SecretString>,
    /// How long before its end a certificate is replaced; a third of its time if nobody says.
    pub renew_before: Option<Duration>,
    /// What the directory calls us, and the key it gave us.
    pub external_account: Option<(String, SecretSlice<u8>)>,
    /// How often it is looked whether there is something to do.
    pub look_every: Duration,
}

/// The port, as far as this room knows it.
pub trait Door: Send + Sync {
    /// Shows this to whoever asks for its name by ALPN `acme-tls/1`, until it is withdrawn.
    fn present(&self, proof: Proof) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
    /// Shows it no longer.
    fn withdraw(&self, name: &str);
    /// The store has another certificate.
    fn issued(&self);
    /// How it stands: why there is no new certificate, or `None` when nothing is wrong.
    fn told(&self, problem: Option<String>);
}

/// Sees to the certificate of one port.
pub struct Keeper {
    options: Options,
    shelf: Shelf,
    door: Arc<dyn Door>,
    clock: Clock,
    metrics: Metrics,
    wire: Wire,
    standing: Standing,
}

/// How it stands.
#[derive(Debug, Default)]
struct Standing {
    kept: Option<Kept>,
    /// Failures in a row.
    failures: u32,
    /// We come back then, Unix milliseconds.
    retry_ms: i64,
    /// The directory wants to be left alone until then.
    not_before_ms: i64,
}

impl Standing {
    /// A clock that was ahead when something was put off, and is right now, must not put it off until then.
    fn bound(&mut self, now_ms: i64) {
        self.retry_ms = self.retry_ms.min(now_ms.saturating_add(ms(RETRY_WAIT_MAX)));
        self.not_before_ms = self.not_before_ms.min(now_ms.saturating_add(ms(RETRY_AFTER_MAX)));
    }
}

impl Keeper {
    /// Makes its client, so that what is wrong with the settings is known at the start. Nobody is asked yet.
    pub fn new(
        options: Options,
        store: Arc<Store>,
        door: Arc<dyn Door>,
        clock: Clock,
        metrics: Metrics,
    ) -> reqwest::Result<Self> {
        let ca = options.ca.as_ref().map(secrecy::ExposeSecret::expose_secret);
        let wire = Wire::new(options.directory.clone(), ca, clock.clone())?;
        let standing = Standing::default();
        Ok(Self { options, shelf: Shelf(store), door, clock, metrics, wire, standing })
    }

    /// Until `shutdown`. Whoever `insists` has a failed attempt repeated at once, unless the directory has said when to come.
    pub async fn run(mut self, insists: Arc<Notify>, shutdown: CancellationToken) {
        let looking = async {
            self.recall().await;
            loop {
                self.standing.bound(self.clock.now_ms());
                let next_ms = self.next_ms();
                if self.clock.now_ms() >= next_ms {
                    self.attempt().await;
                    continue;
                }
                self.metrics.acme_next(next_ms / 1000);
                tokio::select! {
                    () = tokio::time::sleep(self.options.look_every) => {}
                    () = insists.notified() => self.insist(),
                }
            }
        };
        // What an attempt has begun is kept, and goes on after the next start.
        let _: Option<()> = shutdown.run_until_cancelled(looking).await;
    }

    /// What we wait for of our own accord is over.
    fn insist(&mut self) {
        self.standing.retry_ms = 0;
    }

    async fn recall(&mut self) {
        let kept = self.shelf.certificate().await.map_err(Failure::from);
        let pending = order::pending(&self.shelf, &self.options).await;
        match (kept, pending) {
            (Ok(kept), Ok(pending)) => {
                (self.standing.kept, self.standing.not_before_ms) = (kept, pending.not_before_ms);
                if pending.not_before_ms > self.clock.now_ms() {
                    let until = clock::written(pending.not_before_ms);
                    self.door.told(Some(format!("the directory wants to be left alone until {until}")));
                }
            }
            (Err(failure), _) | (_, Err(failure)) => {
                error!(error = %Chain(&failure), "what ACME has kept cannot be read, so that it is asked for anew");
            }
        }
    }

    /// When there is a reason to ask for a certificate, and none not to.
    fn next_ms(&self) -> i64 {
        self.wanted_ms().max(self.standing.retry_ms).max(self.standing.not_before_ms)
    }

    /// When the next certificate is wanted: at once if there is none, or one of somebody else or for other names.
    fn wanted_ms(&self) -> i64 {
        let is_ours = |kept: &&Kept| {
            kept.directory == self.options.directory.as_str() && self.options.domains.is_subset(&kept.names)
        };
        let kept = self.standing.kept.as_ref().filter(is_ours);
        kept.map_or(i64::MIN, |kept| kept.renews_ms(self.options.renew_before))
    }

    async fn attempt(&mut self) {
        let Self { options, shelf, door, clock, wire, .. } = &*self;
        let attempt = Attempt { options, shelf, door, clock, wire };
        match attempt.run().await {
            Ok(kept) => self.succeeded(kept),
            Err(failure) => self.failed(&failure).await,
        }
    }

    fn succeeded(&mut self, kept: Kept) {
        let ends = clock::written(kept.not_after_s.saturating_mul(1000));
        info!(directory = %self.options.directory, domains = self.names(), ends, "a certificate was issued");
        // A certificate that is due the moment it comes must not have us ask without end.
        let now_ms = self.clock.now_ms();
        let left_ms = kept.not_after_s.saturating_mul(1000).saturating_sub(now_ms);
        let retry_ms = now_ms.saturating_add((left_ms / 4).clamp(ms(RETRY_WAIT), ms(RETRY_WAIT_MAX)));
        self.standing = Standing { kept: Some(kept), retry_ms, ..Standing::default() };
        self.door.issued();
        self.door.told(None);
        self.metrics.acme_attempt("issued");
    }

    async fn failed(&mut self, failure: &Failure) {
        self.standing.failures = self.standing.failures.saturating_add(1);
        let (now_ms, chance) = (self.clock.now_ms(), uuid::Uuid::new_v4().as_bytes()[0]);
        let wait = wait_after(failure.counts_against_us(), self.standing.failures, chance);
        self.standing.retry_ms = now_ms.saturating_add(ms(wait));
        let told =
            self.wire.retry_after().filter(|_| matches!(failure, Failure::Refused { .. } | Failure::Directory(_)));
        if let Some(told) = told {
            self.standing.not_before_ms = now_ms.saturating_add(ms(told));
            self.note_rest().await;
        }
        let next = clock::written(self.next_ms());
        let (said, advice) = (shown(&Chain(failure).to_string()), failure.advice());
        warn!(directory = %self.options.directory, domains = self.names(), error = said, advice, next,
              "no certificate was issued");
        self.door.told(Some(format!("{said}; {advice} (next attempt: {next})")));
        // Whoever sees it counted may move the clock.
        self.metrics.acme_attempt(failure.kind());
    }

    /// Keeps what the directory said about when to come back.
    async fn note_rest(&self) {
        let noted = async {
            let pending = order::pending(&self.shelf, &self.options).await?;
            let record = Pending {
                directory: self.options.directory.to_string(),
                domains: self.options.domains.clone(),
                not_before_ms: self.standing.not_before_ms,
                order: pending.order,
            };
            self.shelf.keep(Issuance::Order, &record).await.map_err(Failure::from)
        };
        if let Err(failure) = noted.await {
            warn!(error = %Chain(&failure), "how long the directory wants to be left alone is forgotten at the next start");
        }
    }

    fn names(&self) -> String {
        self.options.domains.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("options", &self.options)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

/// Doubles with every failure up to the longest; the jitter takes away up to half, so that servers which failed together do not
/// come back together. `chance` lies in 0..=255.
fn wait_after(counts: bool, failures: u32, chance: u8) -> Duration {
    let first = if counts { RETRY_WAIT_COUNTED } else { RETRY_WAIT };
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(RETRY_WAIT_MAX);
    full / 2 + (full / 2) * u32::from(chance) / 255
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Door for Nobody {
        fn present(&self, _: Proof) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }

        fn withdraw(&self, _: &str) {}

        fn issued(&self) {}

        fn told(&self, _: Option<String>) {}
    }

    #[test]
    fn nobody_can_insist_while_the_directory_wants_to_be_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store"), true).unwrap());
        let options = Options {
            directory: "https://acme.example.com/directory".parse().unwrap(),
            domains: BTreeSet::from(["registry.example.com".to_owned()]),
            contact: Vec::new(),
            ca: None,
            renew_before: None,
            external_account: None,
            look_every: Duration::from_secs(1),
        };
        let mut keeper = Keeper::new(options, store, Arc::new(Nobody), Clock::manual(), Metrics::new()).unwrap();
        assert_eq!(keeper.next_ms(), 0, "there is no certificate");
        (keeper.standing.retry_ms, keeper.standing.not_before_ms) = (7_000, 5_000);
        assert_eq!(keeper.next_ms(), 7_000);
        keeper.insist();
        assert_eq!(keeper.next_ms(), 5_000);
    }

    #[test]
    fn a_clock_that_was_ahead_puts_nothing_off_until_then() {
        let (day_ms, now_ms) = (24 * 3_600_000, 1_000_000);
        let mut standing = Standing { retry_ms: 30 * day_ms, not_before_ms: 30 * day_ms, ..Standing::default() };
        standing.bound(now_ms);
        assert_eq!((standing.retry_ms, standing.not_before_ms), (now_ms + 3_600_000, now_ms + 7 * day_ms));
        standing.bound(now_ms + 5);
        assert_eq!((standing.retry_ms, standing.not_before_ms), (now_ms + 3_600_000, now_ms + 7 * day_ms));
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_is_longer_where_attempts_are_counted() {
        let waits = [1, 2, 3, 8, 9, 500].map(|failures| wait_after(false, failures, 255).as_secs());
        assert_eq!(waits, [15, 30, 60, 1920, 3600, 3600]);
        let counted = [1, 2, 4, 5].map(|failures| wait_after(true, failures, 255).as_secs());
        assert_eq!(counted, [240, 480, 1920, 3600]);
        assert_eq!(wait_after(true, 1, 0), Duration::from_mins(2));
        // Whatever chance says: five failures that are counted take an hour.
        let least: Duration = (1..=5).map(|failures| wait_after(true, failures, 0)).sum();
        assert!(least >= Duration::from_hours(1), "{least:?}");
    }
}
