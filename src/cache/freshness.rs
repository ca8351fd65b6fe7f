//! When a cached tag may be answered from the cache: a pure decision, acted on elsewhere.
//!
//! Content asked for by digest is always fresh and never comes here.

use std::time::Duration;

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
    /// Nobody may be asked.
    pub offline: bool,
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
    /// Nobody may be asked, but the cached answer may be given.
    ServeStale,
    /// Nobody may be asked and nothing may be given.
    Unavailable,
}

/// Decides for a tag in the state `state` at the time `now_ms`.
pub fn decide(state: Option<TagState>, policy: &Policy, now_ms: i64) -> Decision {
    let Some(state) = state else {
        return if policy.offline { Decision::Unavailable } else { Decision::Fetch };
    };
    // A clock that went backwards makes ages negative; treat those as just confirmed rather than as ancient.
    let age_ms = u64::try_from(now_ms.saturating_sub(state.checked_ms)).unwrap_or(0);
    let is_within = |limit: Duration| u128::from(age_ms) < limit.as_millis();
    if policy.immutable || is_within(policy.revalidate_after) {
        return Decision::Fresh;
    }
    let may_serve_stale = policy.stale_for.is_none_or(is_within);
    match (policy.offline, may_serve_stale) {
        (true, true) => Decision::ServeStale,
        (true, false) => Decision::Unavailable,
        (false, may_serve_stale) => Decision::Revalidate { may_serve_stale },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn policy() -> Policy {
        Policy { revalidate_after: 10 * MINUTE, stale_for: None, immutable: false, offline: false }
    }

    fn decide_at_age(age: Duration, policy: &Policy) -> Decision {
        let now_ms = 1_000_000_000_000;
        let checked_ms = now_ms - i64::try_from(age.as_millis()).unwrap();
        decide(Some(TagState { checked_ms }), policy, now_ms)
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
        let offline = Policy { offline: true, ..policy };
        assert_eq!(decide_at_age(59 * MINUTE, &offline), Decision::ServeStale);
        assert_eq!(decide_at_age(60 * MINUTE, &offline), Decision::Unavailable);
    }

    proptest! {
        #[test]
        fn offline_never_asks(age_ms in 0i64..i64::MAX, known: bool, stale_s in prop::option::of(0u64..1_000_000), immutable: bool) {
            let policy = Policy { stale_for: stale_s.map(Duration::from_secs), immutable, offline: true, ..policy() };
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
