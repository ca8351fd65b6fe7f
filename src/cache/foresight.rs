//! What the next request for a manifest would come to, without putting any question to anybody.
//!
//! The decisions are those that serve: [`decide`] for the tag, [`Mirror::would_ask`] for the upstream.

use std::time::Duration;

use super::error::Error;
use super::freshness::{Asking, Decision, Policy, TagState, decide};
use super::mirror::Mirror;
use super::revalidate::{BUDGET, OFFLINE};
use crate::oci::{Digest, Reference, Tag};

/// What is known of the manifest that is asked for.
pub struct Known<'a> {
    /// The tag's state and what it names, if it was asked for by tag and the tag is known.
    pub tag: Option<(TagState, Digest)>,
    /// The manifest's bytes are here.
    pub is_here: bool,
    /// The upstream's last no to this question, as long as it is remembered.
    pub remembered: &'a dyn Fn(&Reference) -> Option<Error>,
}

/// How a request would be answered.
#[derive(Clone, Debug)]
pub enum Next {
    /// From the cache; nobody is asked.
    Hit,
    /// The upstream is asked with one HEAD whether the tag still names the same.
    Revalidate {
        /// The cached answer is given when the upstream fails.
        may_serve_stale: bool,
        /// The client waits for it, but not long if it may be served stale.
        is_waited_for: bool,
    },
    /// The upstream is asked for the manifest.
    Fetch,
    /// From the cache, with a warning.
    Stale {
        /// Why it cannot be confirmed, in one word.
        reason: &'static str,
    },
    /// Not at all.
    Refuse(Error),
}

/// The next request for a manifest by its digest.
pub fn by_digest(mirror: &Mirror, digest: &Digest, known: &Known<'_>) -> Next {
    if known.is_here { Next::Hit } else { fetch(mirror, &Reference::Digest(*digest), known) }
}

/// The next request for a manifest by a tag.
pub fn by_tag(mirror: &Mirror, tag: &Tag, known: &Known<'_>, now_ms: i64) -> Next {
    let policy = mirror.freshness(tag, false);
    let reference = Reference::Tag(tag.clone());
    match (decide(known.tag.map(|(state, _)| state), &policy, now_ms), known.tag) {
        (Decision::Fresh, Some((_, digest))) => by_digest(mirror, &digest, known),
        (Decision::ServeStale, _) if known.is_here => Next::Stale { reason: unasked(&policy) },
        (Decision::Revalidate { may_serve_stale }, _) => {
            revalidate(mirror, &reference, known, may_serve_stale && known.is_here)
        }
        _ => fetch(mirror, &reference, known),
    }
}

/// Why a tag is served although its time is up and its upstream might be asked.
fn unasked(policy: &Policy) -> &'static str {
    if policy.asking == Asking::Never { OFFLINE } else { BUDGET }
}

fn revalidate(mirror: &Mirror, reference: &Reference, known: &Known<'_>, may_serve_stale: bool) -> Next {
    let trouble = (known.remembered)(reference).or_else(|| mirror.would_ask().err());
    match trouble {
        None => Next::Revalidate { may_serve_stale, is_waited_for: !(may_serve_stale && mirror.is_in_trouble()) },
        Some(error) if error.is_not_found() && mirror.policy().forget_on_404 => Next::Refuse(error),
        Some(error) if may_serve_stale => Next::Stale { reason: error.kind() },
        Some(error) => Next::Refuse(error),
    }
}

fn fetch(mirror: &Mirror, reference: &Reference, known: &Known<'_>) -> Next {
    match (known.remembered)(reference).or_else(|| mirror.would_ask().err()) {
        None => Next::Fetch,
        Some(error) => Next::Refuse(error),
    }
}

/// How long an upstream's tag counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Until when it is answered without asking, Unix milliseconds; `None` is for ever.
    pub fresh_until_ms: Option<i64>,
    /// Until when it is answered if the upstream fails, Unix milliseconds; `None` is for ever.
    pub stale_until_ms: Option<i64>,
    /// The key of the configuration that says so.
    pub rule: String,
}

impl Mirror {
    /// How long a tag counts, and by which rule.
    pub fn lifetime(&self, tag: &Tag, state: TagState) -> Lifetime {
        let policy = self.freshness(tag, false);
        let after =
            |time: Duration| state.checked_ms.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let pattern = self.policy().tags.iter().find(|(pattern, _)| pattern.is_match(tag.as_str()));
        let rule = match pattern {
            _ if policy.immutable => "immutable_tags".to_owned(),
            Some((pattern, _)) => format!("tags: {}", pattern.glob().glob()),
            None => "revalidate_after".to_owned(),
        };
        Lifetime {
            fresh_until_ms: (!policy.immutable).then(|| after(policy.revalidate_after)),
            stale_until_ms: if policy.immutable { None } else { policy.stale_for.map(after) },
            rule,
        }
    }
}
