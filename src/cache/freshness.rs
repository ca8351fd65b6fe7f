//! When a cached tag may be answered from the cache: a pure decision, acted on elsewhere.
//!
//! Content asked for by digest is always fresh and never comes here.

use std::time::Duration;

/// The last fifth of a tag's time is when it is confirmed ahead, if it is in demand.
const LAST_PART: u32 = 5;

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagState {
    /// When the upstream last confirmed it, Unix milliseconds.
    pub checked_ms: i64,
}

/// How an upstream's tags are to be treated.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// For how long a confirmed tag is answered without asking again.
    pub revalidate_after: Duration,
    /// For how long after its confirmation a tag may be answered when the upstream fails; `None` is for ever.
    pub stale_for: Option<Duration>,
    /// The tag's pattern says that it never moves.
    pub immutable: bool,
    /// Whether the upstream may be asked.
    pub asking: Asking,
}

/// Whether an upstream may be asked about what is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// When the tag's time is up.
    Usual,
    /// The client wants the upstream's word on it now.
    Now,
    /// Only for what must not be served without: what may still be asked is kept for what is not cached.
    Sparing,
    /// Nobody may be asked for anything.
    Never,
}

/// What to do with a request for a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer from the cache.
    Fresh,
    /// Ask the upstream whether the cached digest still holds; `may_serve_stale` says what to do if it does not answer.
    Revalidate {
        /// The cached answer may be given when the upstream fails.
        may_serve_stale: bool,
    },
    /// Nothing is cached: fetch.
    Fetch,
    /// Nobody may or should be asked, but the cached answer may be given.
    ServeStale,
    /// Nobody may be asked and nothing may be given.
    Unavailable,
}

/// Decides for a tag in the state `state` at the time `now_ms`.
pub fn decide(state: Option<TagState>, policy: &Policy, now_ms: i64) -> Decision {
    let Some(state) = state else {
        return if policy.asking == Asking::Never { Decision::Unavailable } else { Decision::Fetch };
    };
    let is_within = |limit: Duration| state.age(now_ms) < limit;
    let is_fresh = policy.immutable || is_within(policy.revalidate_after);
    if is_fresh && policy.asking != Asking::Now {
        return Decision::Fresh;
    }
    let may_serve_stale = is_fresh || policy.stale_for.is_none_or(is_within);
    match (policy.asking, may_serve_stale) {
        (Asking::Never | Asking::Sparing, true) => Decision::ServeStale,
        (Asking::Never, false) => Decision::Unavailable,
        (_, may_serve_stale) => Decision::Revalidate { may_serve_stale },
    }
}

/// Is a fresh tag's time nearly up, so that it is worth confirming before, if it is in demand?
pub fn ends_soon(state: TagState, policy: &Policy, now_ms: i64) -> bool {
    let may_ask = !policy.immutable && policy.asking == Asking::Usual;
    let left = policy.revalidate_after.saturating_sub(state.age(now_ms));
    may_ask && !left.is_zero() && left <= policy.revalidate_after / LAST_PART
}

impl TagState {
    /// Where the clock went backwards, a confirmation lies in the future: by a little, the tag was just confirmed; by more than
    /// its time, nobody knows when, and it is asked for again rather than fresh until the clock has caught up.
    fn age(self, now_ms: i64) -> Duration {
        Duration::from_millis(now_ms.abs_diff(self.checked_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn policy() -> Policy {
        Policy { revalidate_after: 10 * MINUTE, stale_for: None, immutable: false, asking: Asking::Usual }
    }

    fn decide_at_age(age: Duration, policy: &Policy) -> Decision {
        let now_ms = 1_000_000_000_000;
        let checked_ms = now_ms - i64::try_from(age.as_millis()).unwrap();
        decide(Some(TagState { checked_ms }), policy, now_ms)
    }

    #[test]
    fn a_tag_confirmed_in_the_future_is_asked_for_again_if_that_is_far() {
        let (policy, now_ms) = (policy(), 1_000_000_000_000);
        let ahead = |time: Duration| TagState { checked_ms: now_ms + i64::try_from(time.as_millis()).unwrap() };
        assert_eq!(decide(Some(ahead(policy.revalidate_after / 2)), &policy, now_ms), Decision::Fresh);
        let far = ahead(policy.revalidate_after * 2);
        assert_eq!(decide(Some(far), &policy, now_ms), Decision::Revalidate { may_serve_stale: true });
    }

    #[test]
    fn a_tag_is_fresh_until_its_time_is_up() {
        assert_eq!(decide_at_age(9 * MINUTE, &policy()), Decision::Fresh);
        assert_eq!(decide_at_age(10 * MINUTE, &policy()), Decision::Revalidate { may_serve_stale: true });
        assert_eq!(decide(None, &policy(), 0), Decision::Fetch);
    }

    #[test]
    fn an_immutable_tag_is_never_asked_for_again() {
        let policy = Policy { immutable: true, ..policy() };
        assert_eq!(decide_at_age(10_000_000 * MINUTE, &policy), Decision::Fresh);
    }

    #[test]
    fn an_old_tag_is_not_served_stale_beyond_its_limit() {
        let policy = Policy { stale_for: Some(60 * MINUTE), ..policy() };
        assert_eq!(decide_at_age(59 * MINUTE, &policy), Decision::Revalidate { may_serve_stale: true });
        assert_eq!(decide_at_age(60 * MINUTE, &policy), Decision::Revalidate { may_serve_stale: false });
        let offline = Policy { asking: Asking::Never, ..policy };
        assert_eq!(decide_at_age(59 * MINUTE, &offline), Decision::ServeStale);
        assert_eq!(decide_at_age(60 * MINUTE, &offline), Decision::Unavailable);
    }

    #[test]
    fn a_budget_that_is_nearly_spent_is_not_spent_on_what_is_cached() {
        let policy = Policy { asking: Asking::Sparing, stale_for: Some(60 * MINUTE), ..policy() };
        assert_eq!(decide_at_age(9 * MINUTE, &policy), Decision::Fresh);
        assert_eq!(decide_at_age(59 * MINUTE, &policy), Decision::ServeStale);
        assert_eq!(decide_at_age(60 * MINUTE, &policy), Decision::Revalidate { may_serve_stale: false });
        assert_eq!(decide(None, &policy, 0), Decision::Fetch);
    }

    #[test]
    fn whoever_insists_has_the_upstream_asked_unless_nobody_may_be() {
        let policy = Policy { asking: Asking::Now, stale_for: Some(MINUTE), ..policy() };
        let asked = Decision::Revalidate { may_serve_stale: true };
        assert_eq!(decide_at_age(5 * MINUTE, &policy), asked, "what is fresh may be served if the upstream fails");
        assert_eq!(decide_at_age(Duration::ZERO, &Policy { immutable: true, ..policy }), asked);
        assert_eq!(decide_at_age(5 * MINUTE, &Policy { asking: Asking::Never, ..policy }), Decision::Fresh);
    }

    #[test]
    fn a_tag_ends_soon_in_the_last_fifth_of_its_time() {
        let ends_soon_at = |age: Duration, policy: &Policy| {
            ends_soon(TagState { checked_ms: 0 }, policy, i64::try_from(age.as_millis()).unwrap())
        };
        let policy = policy();
        let moment = Duration::from_millis(1);
        assert!(!ends_soon_at((8 * MINUTE).saturating_sub(moment), &policy));
        assert!(ends_soon_at(8 * MINUTE, &policy));
        assert!(ends_soon_at((10 * MINUTE).saturating_sub(moment), &policy));
        assert!(!ends_soon_at(10 * MINUTE, &policy), "its time is up");
        for never in [
            Policy { immutable: true, ..policy },
            Policy { asking: Asking::Never, ..policy },
            Policy { asking: Asking::Sparing, ..policy },
            Policy { revalidate_after: Duration::ZERO, ..policy },
        ] {
            assert!(!ends_soon_at(9 * MINUTE, &never));
        }
    }

    proptest! {
        #[test]
        fn offline_never_asks(age_ms in 0i64..i64::MAX, known: bool, stale_s in prop::option::of(0u64..1_000_000), immutable: bool) {
            let policy = Policy { stale_for: stale_s.map(Duration::from_secs), immutable, asking: Asking::Never, ..policy() };
            let decision = decide(known.then_some(TagState { checked_ms: 0 }), &policy, age_ms);
            let asks = matches!(decision, Decision::Fetch | Decision::Revalidate { .. });
            prop_assert!(!asks);
        }

        #[test]
        fn any_clock_gives_a_decision(checked_ms: i64, now_ms: i64) {
            decide(Some(TagState { checked_ms }), &policy(), now_ms);
        }
    }
}
