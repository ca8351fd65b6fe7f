//! What is left of a rate limit, by what the upstream tells in the headers of its answers. Pure: time comes from outside.

use std::time::Duration;

use super::answer::RateLimit;

/// Less than this share of the limit is little.
const LOW_SHARE: u64 = 10;

/// What may still be asked of an upstream, as it told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests allowed in a window, if said.
    pub limit: Option<u64>,
    /// Requests left in it.
    pub remaining: u64,
    /// Length of the window, if said.
    pub window: Option<Duration>,
    /// Unix milliseconds by which all of it is expected back, if a window was said. Upstreams do not tell when a window
    /// began, so this counts from the first answer of it: a bound, not a date.
    pub resets_at_ms: Option<i64>,
}

/// How much is left, in the words of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Plenty,
    Low,
    Exhausted,
}

impl Budget {
    pub(super) fn level(&self) -> Level {
        match (self.remaining, self.limit) {
            (0, _) => Level::Exhausted,
            (remaining, Some(limit)) if remaining <= limit / LOW_SHARE => Level::Low,
            _ => Level::Plenty,
        }
    }
}

/// The budget of one account over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// The last answer's numbers, and when the window they belong to was first seen.
    last: Option<(RateLimit, i64)>,
}

impl Meter {
    /// Takes note of an answer's numbers. Returns the level before, if there was one, and the level now.
    pub fn note(&mut self, seen: RateLimit, now_ms: i64) -> (Option<Level>, Level) {
        let before = self.budget(now_ms);
        let since_ms = match (self.last, before) {
            // More left than before means that a window has ended in between.
            (Some((last, since_ms)), Some(_)) if seen.remaining <= last.remaining => since_ms,
            _ => now_ms,
        };
        self.last = Some((seen, since_ms));
        let level = self.budget(now_ms).map_or(Level::Plenty, |budget| budget.level());
        (before.map(|budget| budget.level()), level)
    }

    /// What is left as far as is known: nothing is before the first answer, and after the window of the last one.
    pub fn budget(&self, now_ms: i64) -> Option<Budget> {
        let (RateLimit { limit, remaining, window }, since_ms) = self.last?;
        let resets_at_ms = window.map(|window| after(since_ms, window));
        let is_over = resets_at_ms.is_some_and(|at| at <= now_ms);
        (!is_over).then_some(Budget { limit, remaining, window, resets_at_ms })
    }
}

/// The moment so long after another one.
pub fn after(since_ms: i64, wait: Duration) -> i64 {
    since_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn seen(remaining: u64) -> RateLimit {
        RateLimit { limit: Some(100), remaining, window: Some(Duration::from_hours(6)) }
    }

    #[test]
    fn a_window_counts_from_its_first_answer_until_more_is_left_again() {
        let mut meter = Meter::default();
        assert_eq!(meter.budget(0), None);
        meter.note(seen(90), HOUR_MS);
        meter.note(seen(80), 3 * HOUR_MS);
        let budget = meter.budget(3 * HOUR_MS).unwrap();
        assert_eq!((budget.remaining, budget.resets_at_ms), (80, Some(7 * HOUR_MS)));
        meter.note(seen(100), 4 * HOUR_MS);
        assert_eq!(meter.budget(4 * HOUR_MS).unwrap().resets_at_ms, Some(10 * HOUR_MS));
    }

    #[test]
    fn nothing_is_known_once_the_window_is_over() {
        let mut meter = Meter::default();
        meter.note(seen(0), 0);
        assert_eq!(meter.budget(6 * HOUR_MS - 1).unwrap().remaining, 0);
        assert_eq!(meter.budget(6 * HOUR_MS), None);
        meter.note(RateLimit { limit: None, remaining: 5, window: None }, 7 * HOUR_MS);
        assert_eq!(meter.budget(i64::MAX).unwrap().resets_at_ms, None);
    }

    #[test]
    fn a_tenth_of_the_limit_is_little_and_nothing_is_nothing() {
        let mut meter = Meter::default();
        assert_eq!(meter.note(seen(11), 0), (None, Level::Plenty));
        assert_eq!(meter.note(seen(10), 0), (Some(Level::Plenty), Level::Low));
        assert_eq!(meter.note(seen(0), 0), (Some(Level::Low), Level::Exhausted));
    }
}
