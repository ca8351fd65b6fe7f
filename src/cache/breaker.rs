//! Whether an upstream that keeps failing is asked again: a pure state, one per upstream.

use std::time::Duration;

/// Failures in a row after which an upstream is left alone.
const FAILURES_MAX: u32 = 3;
/// For how long, before one request is let through to try.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// What the last answers of an upstream say about the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    failures: u32,
    /// Unix milliseconds of the last failure, or of the last request let through since.
    since_ms: i64,
}

impl Breaker {
    /// May the upstream be asked now? `Err` says after how long it may be. A request let through while the breaker is
    /// open is the probe: the others go on being kept back until it ends.
    pub fn ask(&mut self, now_ms: i64) -> Result<(), Duration> {
        self.would_let_pass(now_ms)?;
        if self.is_open() {
            self.since_ms = now_ms;
        }
        Ok(())
    }

    /// What [`Breaker::ask`] would say, without asking.
    pub fn would_let_pass(&self, now_ms: i64) -> Result<(), Duration> {
        if !self.is_open() {
            return Ok(());
        }
        let waited = Duration::from_millis(u64::try_from(now_ms.saturating_sub(self.since_ms)).unwrap_or(u64::MAX));
        if waited < PROBE_AFTER { Err(PROBE_AFTER.saturating_sub(waited)) } else { Ok(()) }
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// The upstream answered, with whatever: it is alive.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The upstream could not be reached, did not answer in time, or failed inside.
    pub fn failed(&mut self, now_ms: i64) {
        self.failures = self.failures.saturating_add(1);
        self.since_ms = now_ms;
    }

    /// Is it being left alone?
    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_open_it_and_one_probe_at_a_time_may_close_it() {
        let mut breaker = Breaker::default();
        for now_ms in [0, 1, 2] {
            assert_eq!(breaker.ask(now_ms), Ok(()));
            breaker.failed(now_ms);
        }
        assert_eq!(breaker.ask(3), Err(Duration::from_millis(9_999)));
        assert_eq!(breaker.ask(10_002), Ok(()));
        assert!(breaker.ask(10_003).is_err(), "a second probe went out beside the first");
        breaker.succeeded();
        assert_eq!(breaker.ask(10_004), Ok(()));
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut breaker = Breaker::default();
        for now_ms in 0..10 {
            breaker.failed(now_ms);
            breaker.failed(now_ms);
            breaker.succeeded();
        }
        assert!(!breaker.is_open());
    }
}
