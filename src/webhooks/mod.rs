//! Telling receivers what happened: a queue for each in the index, one loop for each that empties it.
//!
//! ```text
//! push, delete ─ transaction ─ webhook_event ─ loop of the receiver ─ POST ─ 2xx ─ gone from the queue
//!                                                    └─ failure: wait, longer each time, and tell the same again
//! ```
//! At least once, in order: an event leaves the queue when its receiver has said that it has it, and what is behind it waits.
//! Receivers know nothing of each other. Whatever ends the loop, the queue is as the last answer left it.

mod receiver;

use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::clock::Clock;
use crate::metadata::{Error, Metadata, WaitingNotice};
use crate::metrics::Metrics;
use crate::oci::Host;
use crate::report::Chain;
use crate::upstream::{self, Route, Tls};

use receiver::{Failure, Receiver};

/// Events in one request.
const BATCH_MAX: usize = 100;
/// How often an event is told to a receiver that says that it does not want it (4xx), before it is dropped.
const REFUSALS_MAX: u32 = 5;
/// How often a queue is looked at in which nothing seems to come.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// A receiver and how it is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator calls it.
    pub name: Host,
    /// Where it is; redirects are not followed.
    pub url: Url,
    /// What requests are signed with, if they are.
    pub secret: Option<Secret>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long to wait after the first failure; it doubles with each further one.
    pub retry_wait: Duration,
    /// The longest wait.
    pub retry_wait_max: Duration,
    /// An event that could not be told for so long is dropped.
    pub expire_after: Duration,
    /// Whom to believe, and who we are.
    pub tls: Tls,
    /// The way there.
    pub route: Route,
}

/// What both sides know.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The secret.
    Written(SecretString),
    /// The file that holds it, read for each request.
    File(PathBuf),
}

/// The queue of one receiver.
struct Queue {
    options: Options,
    receiver: Receiver,
    metadata: Metadata,
    clock: Clock,
    metrics: Metrics,
}

/// All receivers.
pub struct Webhooks(Vec<Queue>);

impl Webhooks {
    /// Makes their clients, so that what is wrong with the settings is known at the start.
    pub fn new(
        all: Vec<Options>,
        metadata: &Metadata,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, upstream::Error> {
        let queue = |options: Options| {
            Ok(Queue {
                receiver: Receiver::new(&options)?,
                options,
                metadata: metadata.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
            })
        };
        Ok(Self(all.into_iter().map(queue).collect::<Result<_, _>>()?))
    }

    /// Tells them until `shutdown`. What is under way then is told again after the next start.
    pub async fn run(self, shutdown: CancellationToken) {
        let all = join_all(self.0.iter().map(Queue::run));
        // Without receivers there is nothing to wait for.
        let _ = shutdown.run_until_cancelled(all).await;
    }
}

/// How telling goes at present.
#[derive(Debug, Default)]
struct Standing {
    /// Failures in a row.
    failures: u32,
    /// Refusals in a row of what is first in the queue.
    refusals: u32,
    /// What the index had counted when it was last looked at.
    overflowed: Option<u64>,
}

impl Queue {
    async fn run(&self) {
        let mut came = self.metadata.notices_came();
        let mut standing = Standing::default();
        loop {
            came.borrow_and_update();
            match self.tell_next(&mut standing).await {
                Ok(Next::Now) => {}
                Ok(Next::After(wait)) => tokio::time::sleep(wait).await,
                Ok(Next::WhenMoreCame) => {
                    // Whether something came or not, the queue is looked at.
                    let _ = tokio::time::timeout(LOOK_EVERY, came.changed()).await;
                }
                Err(error) => {
                    warn!(webhook = self.options.name.as_str(), error = %Chain(&error), "the queue of a webhook cannot be read");
                    tokio::time::sleep(self.options.retry_wait_max).await;
                }
            }
        }
    }

    async fn tell_next(&self, standing: &mut Standing) -> Result<Next, Error> {
        let name = self.options.name.as_str();
        self.expire().await?;
        self.note_overflow(standing).await?;
        // Of several events that are refused together, the first may be the only one that is not wanted.
        let limit = if standing.refusals > 0 { 1 } else { BATCH_MAX };
        let waiting = self.metadata.waiting_notices(name, limit).await?;
        let Some(last) = waiting.last() else { return Ok(Next::WhenMoreCame) };
        match self.receiver.tell(&self.options, &waiting, self.clock.now_ms()).await {
            Ok(()) => {
                self.metadata.forget_notices(name, last.id).await?;
                self.metrics.webhook_events(name, "delivered", waiting.len() as u64);
                if standing.failures > 0 {
                    info!(webhook = name, failures = standing.failures, "a webhook takes events again");
                }
                *standing = Standing { overflowed: standing.overflowed, ..Standing::default() };
                Ok(Next::Now)
            }
            Err(failure) => self.failed(standing, &failure, &waiting).await,
        }
    }

    async fn failed(
        &self,
        standing: &mut Standing,
        failure: &Failure,
        waiting: &[WaitingNotice],
    ) -> Result<Next, Error> {
        let name = self.options.name.as_str();
        self.metrics.webhook_failed(name);
        standing.failures += 1;
        standing.refusals = if failure.is_refusal() { standing.refusals + 1 } else { 0 };
        if standing.failures == 1 {
            warn!(webhook = name, error = %Chain(failure), "a webhook could not be told and will be tried again");
        }
        if let ([first], true) = (waiting, standing.refusals >= REFUSALS_MAX) {
            warn!(webhook = name, error = %Chain(failure), "a webhook does not want an event, which is dropped");
            let dropped = self.metadata.forget_notices(name, first.id).await?;
            self.metrics.webhook_events(name, "refused", dropped);
            *standing = Standing { overflowed: standing.overflowed, ..Standing::default() };
            return Ok(Next::Now);
        }
        let chance = uuid::Uuid::new_v4().as_bytes()[0];
        Ok(Next::After(wait_after(&self.options, standing.failures, chance)))
    }

    async fn expire(&self) -> Result<(), Error> {
        let name = self.options.name.as_str();
        let age_ms = i64::try_from(self.options.expire_after.as_millis()).unwrap_or(i64::MAX);
        let dropped = self.metadata.forget_old_notices(name, self.clock.now_ms().saturating_sub(age_ms)).await?;
        if dropped > 0 {
            warn!(webhook = name, events = dropped, "events could not be told to a webhook in time and are dropped");
            self.metrics.webhook_events(name, "expired", dropped);
        }
        Ok(())
    }

    async fn note_overflow(&self, standing: &mut Standing) -> Result<(), Error> {
        let counts = self.metadata.notice_counts().await?;
        let Some(counts) = counts.into_iter().find(|counts| counts.name == self.options.name.as_str()) else {
            return Ok(());
        };
        let dropped = standing.overflowed.map_or(0, |before| counts.overflowed.0.saturating_sub(before));
        if dropped > 0 {
            let name = self.options.name.as_str();
            warn!(webhook = name, events = dropped, "the queue of a webhook is full: its oldest events are dropped");
        }
        standing.overflowed = Some(counts.overflowed.0);
        Ok(())
    }
}

/// When to go on.
enum Next {
    Now,
    After(Duration),
    WhenMoreCame,
}

/// Doubles with every failure up to the longest; the jitter takes away up to half, so that servers which lost a receiver
/// together do not return together. `chance` lies in 0..=255.
fn wait_after(options: &Options, failures: u32, chance: u8) -> Duration {
    let doubled = options.retry_wait.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let full = doubled.min(options.retry_wait_max);
    full / 2 + (full / 2) * u32::from(chance) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_chance_takes_away_up_to_half() {
        let options = Options {
            name: "ci".parse().unwrap(),
            url: "http://localhost".parse().unwrap(),
            secret: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            retry_wait: Duration::from_secs(1),
            retry_wait_max: Duration::from_mins(5),
            expire_after: Duration::from_hours(72),
            tls: Tls::default(),
            route: Route::default(),
        };
        let waits = [1, 2, 3, 9, 10, 500].map(|failures| wait_after(&options, failures, 255).as_secs());
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
        assert_eq!(wait_after(&options, 3, 0), Duration::from_secs(2));
    }
}
