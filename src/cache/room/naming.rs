//! The locks that keep the naming of a blob and its removal apart.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tokio::sync::{Mutex, MutexGuard};

use crate::oci::Digest;

/// How many locks there are; more only makes waiting for a stranger rarer.
const LOCKS: usize = 64;

/// Held from a rename to the row that makes it visible, and from a `deleting` row to the bytes' removal, so that a removal never
/// takes the file that a commit has just put in the removed one's place.
#[derive(Debug)]
pub(super) struct Naming(Vec<Mutex<()>>);

impl Naming {
    pub(super) fn new() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }

    /// Waits for a blob's lock.
    pub(super) async fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.0[Self::slot(digest)].lock().await
    }

    /// The lock of a slot, unless somebody has it.
    pub(super) fn try_lock_slot(&self, slot: usize) -> Option<MutexGuard<'_, ()>> {
        self.0[slot].try_lock().ok()
    }

    /// Which of the locks is a blob's.
    pub(super) fn slot(digest: &Digest) -> usize {
        let mut hasher = DefaultHasher::new();
        digest.hash(&mut hasher);
        usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0)
    }
}
