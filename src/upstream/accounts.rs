//! The accounts at one source, and which of them asks next: the first whose rate limit is not used up.
//!
//! An account that was told to stay away until some moment asks nothing before it. One that has merely used up its
//! budget is asked with only when no other has any left: heads and blobs cost nothing at Docker Hub.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::answer::{Answer, RateLimit};
use super::auth::{Auth, Rejected};
use super::budget::{Budget, Level, Meter, after};
use super::challenge;
use super::error::Error;
use super::transport::{self, Ask, Transport};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Host, RepositoryName};

/// How long an account counts as used up after a 429 that says nothing more.
const SPENT_FOR: Duration = Duration::from_mins(1);

/// One account as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Its number among all accounts of the upstream, from 0: the label of its metrics.
    pub index: usize,
    /// What it may still ask; `None` while that is not known.
    pub budget: Option<Budget>,
    /// Unix milliseconds until which the upstream told it to stay away, if it did.
    pub rests_until_ms: Option<i64>,
}

pub struct Accounts {
    host: Host,
    all: Vec<Account>,
    clock: Clock,
    metrics: Metrics,
}

struct Account {
    index: usize,
    auth: Auth,
    standing: Mutex<Standing>,
}

/// How an account stands with the source's rate limit.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    meter: Meter,
    /// Told to stay away until then.
    rests_until_ms: i64,
    /// Told that it asks too much, without a word of when that ends.
    spent_until_ms: i64,
}

/// What a standing means for the next question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Ready,
    Spent,
    Rests { until_ms: i64 },
}

impl Standing {
    fn turn(&self, now_ms: i64) -> Turn {
        if self.rests_until_ms > now_ms {
            Turn::Rests { until_ms: self.rests_until_ms }
        } else if self.spent_until_ms > now_ms || self.meter.budget(now_ms).is_some_and(|left| left.remaining == 0) {
            Turn::Spent
        } else {
            Turn::Ready
        }
    }
}

/// The account to ask with: the first that is ready, else the first that is used up. All told to stay away: until when.
fn choose(turns: impl Iterator<Item = (usize, Turn)>) -> Result<usize, i64> {
    let (mut spent, mut earliest_ms) = (None, i64::MAX);
    for (at, turn) in turns {
        match turn {
            Turn::Ready => return Ok(at),
            Turn::Spent => spent = spent.or(Some(at)),
            Turn::Rests { until_ms } => earliest_ms = earliest_ms.min(until_ms),
        }
    }
    spent.ok_or(earliest_ms)
}

impl Accounts {
    /// With one `Auth` for each, at least one; they are counted from `first_index`.
    pub fn new(host: Host, auths: Vec<Auth>, first_index: usize, clock: Clock, metrics: Metrics) -> Self {
        let account = |(at, auth)| Account { index: first_index + at, auth, standing: Mutex::default() };
        Self { host, all: auths.into_iter().enumerate().map(account).collect(), clock, metrics }
    }

    /// Asks with one account after the other until one is not told that it asks too much. The answer may have any
    /// other status.
    pub async fn ask(&self, transport: &Transport, ask: &Ask, repository: &RepositoryName) -> Result<Answer, Error> {
        let mut tried = vec![false; self.all.len()];
        let mut limited = None;
        loop {
            let now_ms = self.clock.now_ms();
            let untried = self.all.iter().enumerate().filter(|(at, _)| !tried[*at]);
            let account = match choose(untried.map(|(at, account)| (at, account.standing().turn(now_ms)))) {
                Ok(at) => {
                    tried[at] = true;
                    &self.all[at]
                }
                Err(until_ms) => {
                    let wait_ms = u64::try_from(until_ms.saturating_sub(now_ms)).unwrap_or_default();
                    let request = transport.asked(&ask.method, &ask.url);
                    let retry_after = (until_ms < i64::MAX).then_some(Duration::from_millis(wait_ms));
                    return Err(limited.unwrap_or(Error::RateLimited { request, retry_after }));
                }
            };
            let answered = account.ask(transport, ask, repository).await;
            let error = match answered {
                Ok(answer) => {
                    self.meter(account, answer.rate_limit);
                    let is_limited = answer.response.status().as_u16() == 429;
                    // What a redirect led to has its own limits, which are nobody's account.
                    if !is_limited || !answer.at_origin {
                        return Ok(answer);
                    }
                    Error::RateLimited { request: answer.request.clone(), retry_after: answer.retry_after() }
                }
                Err(error @ Error::RateLimited { .. }) => error,
                Err(error) => return Err(error),
            };
            self.rest(account, error.retry_after());
            limited = Some(error);
        }
    }

    pub fn states(&self) -> impl Iterator<Item = AccountState> {
        let now_ms = self.clock.now_ms();
        self.all.iter().map(move |account| {
            let standing = account.standing();
            let rests_until_ms = Some(standing.rests_until_ms).filter(|until_ms| *until_ms > now_ms);
            AccountState { index: account.index, budget: standing.meter.budget(now_ms), rests_until_ms }
        })
    }

    /// Takes note of what an answer says is left, and tells when that becomes little.
    fn meter(&self, account: &Account, seen: Option<RateLimit>) {
        let Some(seen) = seen else { return };
        let (upstream, index, remaining, limit) = (&self.host, account.index, seen.remaining, seen.limit);
        self.metrics.rate_limit(upstream.as_str(), index, remaining, limit);
        let noted = account.standing().meter.note(seen, self.clock.now_ms());
        match noted {
            (before, Level::Exhausted) if before != Some(Level::Exhausted) => {
                warn!(%upstream, account = index, limit, "the rate limit is used up");
            }
            (None | Some(Level::Plenty), Level::Low) => {
                warn!(%upstream, account = index, remaining, limit, "little is left of the rate limit");
            }
            (Some(Level::Low | Level::Exhausted), Level::Plenty) => {
                info!(%upstream, account = index, remaining, limit, "the rate limit has room again");
            }
            _ => {}
        }
    }

    /// A 429 came.
    fn rest(&self, account: &Account, retry_after: Option<Duration>) {
        let now_ms = self.clock.now_ms();
        let mut standing = account.standing();
        match retry_after {
            Some(wait) => standing.rests_until_ms = standing.rests_until_ms.max(after(now_ms, wait)),
            None => standing.spent_until_ms = after(now_ms, SPENT_FOR),
        }
        drop(standing);
        warn!(upstream = %self.host, account = account.index, ?retry_after, "the upstream says that we ask too much");
    }
}

impl Account {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request: authorized if there is something at hand, and once more after a challenge; and once more still when
    /// the credentials turn out to have been rotated.
    async fn ask(&self, transport: &Transport, ask: &Ask, repository: &RepositoryName) -> Result<Answer, Error> {
        const CHALLENGES_MAX: usize = 2;
        let mut authorization = self.auth.at_hand(transport, repository).await?;
        for answered in 0.. {
            let answer = transport.send(ask, authorization.as_ref()).await?;
            // A challenge from where a redirect led is not the source's: nothing of ours is owed there.
            let is_challenge = answer.response.status().as_u16() == 401 && answer.at_origin;
            if !is_challenge || answered == CHALLENGES_MAX {
                return Ok(answer);
            }
            let challenge = challenge::of(answer.response.headers());
            let request = answer.request.clone();
            // Its turn ends here: the token service is asked next.
            transport::discard(answer).await;
            let rejected =
                Rejected { request: &request, authorization: authorization.as_ref(), is_fresh: answered > 0 };
            authorization = Some(self.auth.answer(transport, challenge, repository, rejected).await?);
        }
        unreachable!("the loop ends by returning")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(turns: &[Turn]) -> Result<usize, i64> {
        choose(turns.iter().copied().enumerate())
    }

    #[test]
    fn the_first_account_with_a_budget_asks() {
        let rests = Turn::Rests { until_ms: 9 };
        assert_eq!(chosen(&[Turn::Ready, Turn::Ready]), Ok(0));
        assert_eq!(chosen(&[Turn::Spent, rests, Turn::Ready]), Ok(2));
        assert_eq!(chosen(&[rests, Turn::Spent, Turn::Spent]), Ok(1));
    }

    #[test]
    fn nobody_asks_before_the_earliest_may() {
        assert_eq!(chosen(&[Turn::Rests { until_ms: 9 }, Turn::Rests { until_ms: 7 }]), Err(7));
        assert_eq!(chosen(&[]), Err(i64::MAX));
    }

    #[test]
    fn a_standing_recovers_when_its_time_has_come() {
        let seen = RateLimit { limit: Some(100), remaining: 0, window: Some(Duration::from_secs(10)) };
        let mut standing = Standing { rests_until_ms: 5_000, ..Standing::default() };
        standing.meter.note(seen, 0);
        assert_eq!(standing.turn(4_999), Turn::Rests { until_ms: 5_000 });
        assert_eq!(standing.turn(5_000), Turn::Spent);
        assert_eq!(standing.turn(10_000), Turn::Ready);
        standing.spent_until_ms = 20_000;
        assert_eq!(standing.turn(19_999), Turn::Spent);
        assert_eq!(standing.turn(20_000), Turn::Ready);
    }
}
