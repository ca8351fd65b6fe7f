//! What becomes of a blob or a manifest under review: pure.

use super::super::BlobState;
use super::{BlobReview, ManifestReview};

/// The moment of a review, and how long what was used stays untouched.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now.
    pub now_ms: i64,
    /// What was pushed, linked or read so recently stays, whoever needs it: somebody may be about to name it.
    pub grace_ms: i64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is needed.
    Keep,
    /// Nothing now: it was used a moment ago, or is held.
    Later {
        /// When to look again.
        due_ms: i64,
    },
    /// Its bytes stay; links that nobody needs go, and what a push no longer needs stops counting as pushed there.
    Trim,
    /// No push needs it any more, but the cache has a use for it: it may be evicted from now on.
    Demote,
    /// Nobody needs it: its bytes go.
    Delete,
    /// Nobody needs it and it has no bytes: its row goes.
    Forget,
}

impl Decision {
    /// The word in lists, metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Later { .. } => "later",
            Self::Trim => "trim",
            Self::Demote => "demote",
            Self::Delete => "delete",
            Self::Forget => "forget",
        }
    }
}

impl BlobReview {
    /// What becomes of the blob.
    pub fn decide(&self, at: Moment) -> Decision {
        let links_left = self.links - self.unneeded_links;
        let is_garbage = links_left == 0 && !(self.row.state == BlobState::Absent && self.is_named);
        let is_changed = self.unneeded_links > 0 || self.mislabelled_links > 0 || self.has_lost_manifests;
        let is_demoted = self.row.pushed && self.pushed_links == 0;
        if !(is_garbage || is_changed || is_demoted) {
            return Decision::Keep;
        }
        let unused_from_ms = self.row.accessed_ms.saturating_add(at.grace_ms);
        if unused_from_ms > at.now_ms {
            return Decision::Later { due_ms: unused_from_ms };
        }
        // Layers of an image on its way wait for its manifest, which comes last.
        if self.is_uploading || self.row.state == BlobState::Deleting {
            return Decision::Later { due_ms: at.now_ms.saturating_add(at.grace_ms) };
        }
        match (links_left, self.row.state) {
            (0, BlobState::Present) => Decision::Delete,
            (0, _) if !self.is_named => Decision::Forget,
            (1.., BlobState::Present) if is_demoted => Decision::Demote,
            _ => Decision::Trim,
        }
    }
}

impl ManifestReview {
    /// What becomes of the manifest: it lives while a tag or an index names it, or its subject lives.
    pub fn decide(&self, at: Moment) -> Decision {
        if self.held_by.is_some() {
            return Decision::Keep;
        }
        let unused_from_ms = self.accessed_ms.saturating_add(at.grace_ms);
        if unused_from_ms > at.now_ms { Decision::Later { due_ms: unused_from_ms } } else { Decision::Delete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::BlobRow;
    use crate::oci::{Algorithm, Digest};

    const AT: Moment = Moment { now_ms: 1000, grace_ms: 100 };

    fn review(state: BlobState, pushed: bool, links: i64, unneeded_links: i64, pushed_links: i64) -> BlobReview {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let row =
            BlobRow { digest, size_bytes: 1, stored_bytes: 4096, state, pushed, is_manifest: false, accessed_ms: 900 };
        BlobReview {
            id: 1,
            row,
            links,
            unneeded_links,
            pushed_links,
            mislabelled_links: 0,
            is_named: false,
            has_lost_manifests: false,
            is_uploading: false,
        }
    }

    #[test]
    fn a_blob_goes_when_no_repository_needs_it_and_is_kept_where_one_does() {
        use BlobState::{Absent, Deleting, Present};
        let later = Decision::Later { due_ms: 1100 };
        for (state, pushed, links, unneeded, by_pushes, decision) in [
            (Present, true, 2, 0, 2, Decision::Keep),
            (Present, false, 2, 0, 0, Decision::Keep),
            (Present, true, 2, 1, 1, Decision::Trim),
            (Present, true, 2, 1, 0, Decision::Demote),
            (Present, true, 2, 0, 0, Decision::Demote),
            (Present, true, 2, 2, 0, Decision::Delete),
            (Present, false, 0, 0, 0, Decision::Delete),
            (Absent, false, 0, 0, 0, Decision::Forget),
            (Absent, false, 1, 1, 0, Decision::Forget),
            (Absent, false, 1, 0, 0, Decision::Keep),
            (Absent, true, 1, 0, 0, Decision::Trim),
            (Deleting, true, 0, 0, 0, later),
        ] {
            let review = review(state, pushed, links, unneeded, by_pushes);
            assert_eq!(review.decide(AT), decision, "{review:?}");
        }
    }

    #[test]
    fn what_was_used_within_the_grace_or_is_awaited_stays() {
        let mut garbage = review(BlobState::Present, true, 1, 1, 0);
        garbage.row.accessed_ms = 901;
        assert_eq!(garbage.decide(AT), Decision::Later { due_ms: 1001 });
        garbage.row.accessed_ms = 900;
        garbage.is_uploading = true;
        assert_eq!(garbage.decide(AT), Decision::Later { due_ms: 1100 });
    }

    #[test]
    fn an_absent_blob_that_a_manifest_names_keeps_its_row() {
        let mut named = review(BlobState::Absent, false, 0, 0, 0);
        named.is_named = true;
        assert_eq!(named.decide(AT), Decision::Keep);
        named.has_lost_manifests = true;
        assert_eq!(named.decide(AT), Decision::Trim);
    }
}
