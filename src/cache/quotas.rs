//! Quotas: how much the repositories that a pattern matches may hold together. Pure but for its lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use globset::GlobMatcher;

use crate::oci::RepositoryName;

/// A bound on what some repositories hold.
#[derive(Clone, Debug)]
pub struct Quota {
    /// How the configuration calls it.
    pub name: String,
    /// Whose content it bounds.
    pub repositories: GlobMatcher,
    /// The bound, in bytes.
    pub max_bytes: u64,
}

/// The quotas of the configuration, and what is promised under each.
#[derive(Debug)]
pub struct Quotas {
    all: Vec<Quota>,
    promised: Mutex<Vec<Promised>>,
}

/// What is promised under one quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Promised {
    bytes: u64,
    /// How often a promise ended: what was read of the index before one did may not count what it became.
    ended: u64,
}

/// What comes of asking for a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is given.
    Granted,
    /// The index has to be read again: a promise ended meanwhile.
    Again,
    /// So many bytes too many.
    Over {
        /// How many.
        bytes: u64,
    },
}

impl Quotas {
    /// In the order of the configuration: the first that matches a repository counts.
    pub fn new(all: Vec<Quota>) -> Self {
        let promised = Mutex::new(vec![Promised::default(); all.len()]);
        Self { all, promised }
    }

    /// Every quota.
    pub fn all(&self) -> &[Quota] {
        &self.all
    }

    /// The quota that a repository is under.
    pub fn of(&self, repo: &RepositoryName) -> Option<usize> {
        self.all.iter().position(|quota| quota.repositories.is_match(repo.as_str()))
    }

    /// What tells whether a promise has ended since.
    pub fn epoch(&self, quota: usize) -> u64 {
        self.promised()[quota].ended
    }

    /// What is promised and not held yet, in bytes.
    pub fn promised_bytes(&self, quota: usize) -> u64 {
        self.promised()[quota].bytes
    }

    /// Promises `bytes`, the repositories holding `held_bytes` as the index said after `epoch` was asked for.
    pub fn promise(&self, quota: usize, bytes: u64, held_bytes: u64, epoch: u64) -> Answer {
        let mut promised = self.promised();
        let promised = &mut promised[quota];
        if promised.ended != epoch {
            return Answer::Again;
        }
        let wanted = held_bytes.saturating_add(promised.bytes).saturating_add(bytes);
        match wanted.saturating_sub(self.all[quota].max_bytes) {
            0 => {
                promised.bytes += bytes;
                Answer::Granted
            }
            bytes => Answer::Over { bytes },
        }
    }

    /// Counts what is taken already, whatever the bound says.
    pub fn adopt(&self, quota: usize, bytes: u64) {
        self.promised()[quota].bytes += bytes;
    }

    /// A promise ends: the index counts what became of it.
    pub fn end(&self, quota: usize, bytes: u64) {
        let mut promised = self.promised();
        let promised = &mut promised[quota];
        debug_assert!(promised.bytes >= bytes, "a quota gives back {bytes} bytes of {}", promised.bytes);
        promised.bytes = promised.bytes.saturating_sub(bytes);
        promised.ended += 1;
    }

    fn promised(&self) -> MutexGuard<'_, Vec<Promised>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quotas(max_bytes: u64) -> Quotas {
        let matcher = |glob: &str| globset::Glob::new(glob).unwrap().compile_matcher();
        let quota = |name: &str| Quota { name: name.to_owned(), repositories: matcher(name), max_bytes };
        Quotas::new(vec![quota("team/a*"), quota("team/*")])
    }

    #[test]
    fn the_first_quota_that_matches_counts() {
        let quotas = quotas(100);
        for (name, quota) in [("team/app", Some(0)), ("team/base", Some(1)), ("other", None)] {
            assert_eq!(quotas.of(&name.parse().unwrap()), quota, "{name}");
        }
    }

    #[test]
    fn what_was_read_before_a_promise_ended_is_read_again() {
        let quotas = quotas(100);
        let epoch = quotas.epoch(0);
        assert_eq!(quotas.promise(0, 60, 0, epoch), Answer::Granted);
        assert_eq!(quotas.promise(0, 41, 0, epoch), Answer::Over { bytes: 1 });
        quotas.end(0, 60);
        assert_eq!(
            quotas.promise(0, 41, 0, epoch),
            Answer::Again,
            "the 60 bytes are held now, and were not when it was read"
        );
        assert_eq!(quotas.promise(0, 41, 60, quotas.epoch(0)), Answer::Over { bytes: 1 });
        assert_eq!(quotas.promise(1, 100, 0, quotas.epoch(1)), Answer::Granted, "each has its own bound");
    }

    proptest! {
        /// A naive model: what is held and what is promised, with reads of the index as stale as they may be.
        #[test]
        fn held_and_promised_never_pass_the_bound(steps in prop::collection::vec((0u8..4, 0u64..60), 0..200)) {
            let quotas = quotas(100);
            let (mut held, mut promised, mut read) = (0u64, Vec::new(), (0, 0));
            for (step, bytes) in steps {
                match step {
                    0 => read = (quotas.epoch(0), held),
                    1 => if quotas.promise(0, bytes, read.1, read.0) == Answer::Granted { promised.push(bytes); },
                    // The index counts it first, then the promise ends.
                    2 => if let Some(bytes) = promised.pop() { held += bytes; quotas.end(0, bytes); },
                    _ => held -= held.min(bytes),
                }
                prop_assert!(held + promised.iter().sum::<u64>() <= 100);
                prop_assert_eq!(quotas.promised_bytes(0), promised.iter().sum::<u64>());
            }
        }
    }
}
