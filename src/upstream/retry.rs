//! Which failures are worth another attempt, and how long to wait before it. Pure: time and chance come from outside.

use std::time::Duration;

use super::error::Error;

/// A longer `Retry-After` is the caller's business: no client of ours waits that long for response headers.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// An attempt that would get less time than this is not begun.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);

/// How often and how fast to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts after the first.
    pub retries: u32,
    /// The longest wait before the first retry; it doubles with each further one.
    pub backoff: Duration,
}

/// How long to wait before the next attempt, or `None` to give up.
///
/// `failures` counts the attempts that failed so far (at least one), `remaining` is the time left for the operation and
/// `chance` lies in 0..=255. A short `Retry-After` lengthens the wait; a longer one ends it on 429 and is otherwise left
/// to the caller, because one transient failure is always tried again.
pub fn decide(policy: Policy, error: &Error, failures: u32, remaining: Duration, chance: u8) -> Option<Duration> {
    let retry_after = error.retry_after().filter(|wait| *wait <= RETRY_AFTER_MAX);
    let rate_limited_briefly = matches!(error, Error::RateLimited { .. }) && retry_after.is_some();
    if failures > policy.retries || !(error.is_transient() || rate_limited_briefly) {
        return None;
    }
    let wait = backoff(policy.backoff, failures, chance).max(retry_after.unwrap_or_default());
    (wait + ATTEMPT_MIN <= remaining).then_some(wait)
}

/// Doubles with every failure; the jitter takes away up to half, so that callers who failed together do not return together.
fn backoff(first: Duration, failures: u32, chance: u8) -> Duration {
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(10));
    full / 2 + (full / 2) * u32::from(chance) / 255
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::Method;

    use super::*;
    use crate::upstream::error::{Asked, Nonsense, Wait};
    use crate::upstream::redact::SafeUrl;

    const POLICY: Policy = Policy { retries: 3, backoff: Duration::from_millis(200) };
    const LONG: Duration = Duration::from_secs(20);

    fn asked() -> Asked {
        let url = SafeUrl::new(&url::Url::parse("https://a.example/").unwrap());
        Asked { host: "a.example".parse().unwrap(), method: Method::GET, url }
    }

    fn status(status: u16, retry_after: Option<Duration>) -> Error {
        Error::Status { request: asked(), status, retry_after }
    }

    fn rate_limited(seconds: Option<u64>) -> Error {
        Error::RateLimited { request: asked(), retry_after: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn transient_failures_are_retried_and_others_are_not() {
        let retried = |error: &Error| decide(POLICY, error, 1, LONG, 0).is_some();
        for code in [408, 500, 502, 503, 504] {
            assert!(retried(&status(code, None)), "{code}");
        }
        for code in [400, 405, 410, 418, 501, 505] {
            assert!(!retried(&status(code, None)), "{code}");
        }
        assert!(retried(&Error::Cut { request: asked(), at: 7, source: None }));
        assert!(retried(&Error::TimedOut { request: asked(), what: Wait::FirstByte, after: LONG }));
        assert!(!retried(&Error::NotFound { request: asked() }));
        assert!(!retried(&Error::Refused { request: asked(), status: 401 }));
        assert!(!retried(&Error::Nonsense { request: asked(), what: Nonsense::Html }));
    }

    #[test]
    fn a_rate_limit_is_retried_only_when_it_ends_within_a_second() {
        let wait = |error: &Error| decide(POLICY, error, 1, LONG, 0);
        assert_eq!(wait(&rate_limited(None)), None);
        assert_eq!(wait(&rate_limited(Some(2))), None);
        assert_eq!(wait(&rate_limited(Some(1))), Some(Duration::from_secs(1)));
        assert_eq!(wait(&rate_limited(Some(0))), Some(Duration::from_millis(100)));
    }

    #[test]
    fn an_outage_is_retried_on_our_own_schedule_when_it_announces_a_long_one() {
        let error = status(503, Some(Duration::from_secs(30)));
        assert_eq!(decide(POLICY, &error, 1, LONG, 255), Some(Duration::from_millis(200)));
    }

    #[test]
    fn waits_double_and_end_with_the_retries() {
        let waits = |chance| (1..=4).map(|n| decide(POLICY, &status(503, None), n, LONG, chance)).collect::<Vec<_>>();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(waits(255), [ms(200), ms(400), ms(800), None]);
        assert_eq!(waits(0), [ms(100), ms(200), ms(400), None]);
    }

    #[test]
    fn nothing_is_begun_that_cannot_end_in_time() {
        let error = status(503, None);
        assert_eq!(decide(POLICY, &error, 1, Duration::from_millis(199), 0), None);
        assert!(decide(POLICY, &error, 1, Duration::from_millis(200), 0).is_some());
    }

    proptest! {
        #[test]
        fn a_wait_never_passes_the_time_that_is_left(failures in 1u32.., retries: u32, chance: u8, left_ms in 0u64..100_000) {
            let left = Duration::from_millis(left_ms);
            let policy = Policy { retries, ..POLICY };
            if let Some(wait) = decide(policy, &status(500, None), failures, left, chance) {
                prop_assert!(wait < left && failures <= retries);
            }
        }
    }
}
