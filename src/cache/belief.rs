//! What was heard a moment ago and is believed for a while, in memory only: a no of an upstream, credentials that were good.

use std::hash::Hash;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Clock;

/// Answers by what was asked, each believed for a time of its own.
pub struct Beliefs<K, V> {
    clock: Clock,
    answers: Cache<K, Belief<V>>,
}

#[derive(Clone)]
struct Belief<V> {
    /// Unix milliseconds.
    since_ms: i64,
    time_ms: i64,
    answer: V,
}

impl<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Beliefs<K, V> {
    /// None yet, and never more than `answers_max`: then those that are least asked for go.
    pub fn new(clock: Clock, answers_max: u64) -> Self {
        Self { clock, answers: Cache::new(answers_max) }
    }

    /// Believes an answer from now on.
    pub fn hold(&self, key: K, answer: V, time: Duration) {
        let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.answers.insert(key, Belief { since_ms: self.clock.now_ms(), time_ms, answer });
    }

    /// The answer, while it is believed. A clock that went backwards ends that too.
    pub fn find(&self, key: &K) -> Option<V> {
        let Belief { since_ms, time_ms, answer } = self.answers.get(key)?;
        (since_ms..since_ms.saturating_add(time_ms)).contains(&self.clock.now_ms()).then_some(answer)
    }

    /// Believes it no longer.
    pub fn drop(&self, key: &K) {
        self.answers.invalidate(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn an_answer_is_believed_for_its_time_and_never_after_the_clock_was_set_back() {
        let now = Arc::new(AtomicI64::new(1_000));
        let beliefs = Beliefs::new(Clock::Manual(Arc::clone(&now)), 8);
        beliefs.hold("a", 1, Duration::from_millis(10));
        beliefs.hold("b", 2, Duration::MAX);
        for (now_ms, a, b) in
            [(1_000, Some(1), Some(2)), (1_009, Some(1), Some(2)), (1_010, None, Some(2)), (999, None, None)]
        {
            now.store(now_ms, Ordering::Relaxed);
            assert_eq!((beliefs.find(&"a"), beliefs.find(&"b")), (a, b), "at {now_ms}");
        }
        now.store(1_000, Ordering::Relaxed);
        beliefs.drop(&"b");
        assert_eq!(beliefs.find(&"b"), None);
    }
}
