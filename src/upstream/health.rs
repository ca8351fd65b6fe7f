//! Whether a source is worth asking first. Pure: a state for each source, and an order among them.

use std::time::Duration;

use super::budget::after;

/// How long a source rests after its first failure; it doubles with each further one in a row.
const REST_FIRST: Duration = Duration::from_secs(1);

/// The longest rest, and the rest of a source that let somebody wait in vain: each probe of that costs a timeout.
const REST_MAX: Duration = Duration::from_secs(10);

/// How long a source is asked last that sent something else than what it was asked for.
const DISTRUST: Duration = Duration::from_mins(5);

/// What the last answers of a source say about the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    /// It sent something else than what it was asked for.
    distrusted_until_ms: i64,
    rests_until_ms: i64,
    /// Which failure of all sources its last one was.
    failed_as: u64,
}

impl Health {
    /// It answered. Was it in trouble before?
    pub fn answered(&mut self) -> bool {
        let before = *self;
        *self = Self { distrusted_until_ms: before.distrusted_until_ms, ..Self::default() };
        before.failures > 0
    }

    /// What it sent was not what it was asked for, which only its digest told. That it answers other questions well does not
    /// make this good.
    pub fn sent_wrong(&mut self, now_ms: i64, number: u64) {
        self.failed_as = number;
        self.distrusted_until_ms = after(now_ms, DISTRUST);
    }

    /// It failed, as the `number`th failure among all sources. Was it well before?
    pub fn failed(&mut self, now_ms: i64, number: u64, was_slow: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failed_as = number;
        self.rests_until_ms = after(now_ms, if was_slow { REST_MAX } else { self.rest() });
        self.failures == 1
    }

    fn rest(&self) -> Duration {
        (REST_FIRST * 2_u32.pow(self.failures.saturating_sub(1).min(10))).min(REST_MAX)
    }

    fn rests(&self, now_ms: i64) -> bool {
        (self.failures > 0 && now_ms < self.rests_until_ms) || now_ms < self.distrusted_until_ms
    }

    /// Unix milliseconds until which it is asked last.
    pub fn rests_until_ms(&self, now_ms: i64) -> Option<i64> {
        self.rests(now_ms).then_some(self.rests_until_ms.max(self.distrusted_until_ms))
    }
}

/// The order in which to ask: those that are well as they were written, then those that rest, first the one whose
/// failure is the longest ago. A source whose rest is over is asked in its old place, by one request: the others go on
/// passing it by until that has ended.
pub fn order(sources: &mut [&mut Health], now_ms: i64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|at| if sources[*at].rests(now_ms) { (1, sources[*at].failed_as) } else { (0, 0) });
    if let Some(first) = order.first().map(|at| &mut *sources[*at])
        && first.failures > 0
    {
        first.rests_until_ms = after(now_ms, first.rest().max(REST_FIRST));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(sources: &mut [Health], now_ms: i64) -> Vec<usize> {
        order(&mut sources.iter_mut().collect::<Vec<_>>(), now_ms)
    }

    #[test]
    fn a_source_that_failed_is_asked_last_until_its_rest_is_over() {
        let mut sources = [Health::default(); 3];
        assert!(sources[0].failed(0, 1, false));
        assert_eq!(ordered(&mut sources, 999), [1, 2, 0]);
        assert_eq!(ordered(&mut sources, 1_000), [0, 1, 2]);
        assert!(sources[0].answered());
        assert_eq!(ordered(&mut sources, 1_000), [0, 1, 2]);
    }

    #[test]
    fn only_one_request_probes_a_source_that_was_in_trouble() {
        let mut sources = [Health::default(); 2];
        sources[0].failed(0, 1, false);
        assert_eq!(ordered(&mut sources, 1_000), [0, 1]);
        assert_eq!(ordered(&mut sources, 1_001), [1, 0], "the probe is still out");
    }

    #[test]
    fn rests_double_up_to_ten_seconds_and_a_slow_source_rests_that_long_at_once() {
        let mut health = Health::default();
        let mut rest = |was_slow| {
            health.failed(0, 0, was_slow);
            health.rests_until_ms
        };
        assert_eq!([false; 6].map(&mut rest), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        let mut slow = Health::default();
        slow.failed(0, 0, true);
        assert_eq!(slow.rests_until_ms(9_999), Some(10_000));
        assert_eq!(slow.rests_until_ms(10_000), None);
    }

    #[test]
    fn who_sent_something_else_is_asked_last_however_well_it_answers() {
        let mut sources = [Health::default(); 2];
        sources[0].sent_wrong(0, 1);
        sources[0].answered();
        assert_eq!(ordered(&mut sources, 299_999), [1, 0]);
        assert_eq!(sources[0].rests_until_ms(1), Some(300_000));
        assert_eq!(ordered(&mut sources, 300_000), [0, 1]);
    }

    #[test]
    fn when_all_rest_the_one_that_failed_the_longest_ago_is_asked() {
        let mut sources = [Health::default(); 3];
        sources[0].failed(0, 2, false);
        sources[1].failed(0, 1, false);
        sources[2].failed(0, 3, false);
        assert_eq!(ordered(&mut sources, 0), [1, 0, 2]);
    }
}
