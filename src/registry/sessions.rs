//! The upload sessions of this process: who writes to each, what was digested, what space is promised.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use crate::blobs::{Lease, Suspended};
use crate::cache::space::{Class, blocks_for};
use crate::cache::{self, Reservation, Room};
use crate::metadata::{Provenance, UploadRow};
use crate::oci::UploadId;

/// How long a request waits for an earlier one of the same session, whose client may be gone without our knowing yet.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How old the index's idea of a session's last use may become.
const RECORD_TOUCH_EVERY_MS: i64 = 10 * 60 * 1000;

/// A session as this process holds it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) row: UploadRow,
    touched_ms: AtomicI64,
    /// What the index knows of `touched_ms`.
    recorded_ms: AtomicI64,
    /// Held while a request writes, and by a write under way whose request was dropped.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// The digest so far; `None` makes the commit compute it from the file.
    suspended: Mutex<Option<Suspended>>,
    /// Who opened it; of what an earlier process left nobody knows.
    owner: Option<Arc<str>>,
    /// Whether its blob will be pushed or cached content.
    class: Class,
    reservation: Mutex<Reservation>,
}

impl Session {
    pub(super) fn new(row: UploadRow, reservation: Reservation, suspended: Option<Suspended>) -> Self {
        Self {
            touched_ms: AtomicI64::new(row.touched_ms),
            recorded_ms: AtomicI64::new(row.touched_ms),
            writing: Arc::default(),
            suspended: Mutex::new(suspended),
            owner: None,
            class: reservation.class(),
            reservation: Mutex::new(reservation),
            row,
        }
    }

    /// Opened by this one.
    pub(super) fn of(mut self, owner: Option<Arc<str>>) -> Self {
        self.owner = owner;
        self
    }

    /// What its blob will be.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance::from(self.class == Class::Pushed)
    }

    /// Waits for the right to write.
    pub(super) async fn lease(&self) -> Result<Lease, Error> {
        let lock = Arc::clone(&self.writing).lock_owned();
        let held = tokio::time::timeout(BUSY_WAIT, lock).await.map_err(|_| Error::UploadBusy { id: self.row.id })?;
        Ok(Arc::new(held))
    }

    /// It is the next to expire.
    pub(super) fn abandon(&self) {
        self.touched_ms.store(i64::MIN, Ordering::Relaxed);
    }

    pub(super) fn touch(&self, now_ms: i64) {
        self.touched_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Has nobody written since then, and does nobody write now?
    pub(super) fn is_idle_since(&self, oldest_ms: i64) -> bool {
        self.touched_ms.load(Ordering::Relaxed) < oldest_ms && self.writing.try_lock().is_ok()
    }

    /// The last use, when the index's idea of it has become too old. It counts as told from then on.
    pub(super) fn unrecorded_touch(&self) -> Option<i64> {
        let touched_ms = self.touched_ms.load(Ordering::Relaxed);
        let is_due = touched_ms - self.recorded_ms.load(Ordering::Relaxed) >= RECORD_TOUCH_EVERY_MS;
        is_due.then(|| self.recorded_ms.store(touched_ms, Ordering::Relaxed)).map(|()| touched_ms)
    }

    pub(super) fn suspend(&self, suspended: Option<Suspended>) {
        *self.suspended.lock().unwrap_or_else(PoisonError::into_inner) = suspended;
    }

    pub(super) fn resume(&self) -> Option<Suspended> {
        self.suspended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn reservation(&self) -> MutexGuard<'_, Reservation> {
        self.reservation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that so many bytes of file are promised. What is promised stays with the session over dropped requests.
    pub(super) async fn promise(
        &self,
        room: &Arc<Room>,
        length_bytes: u64,
        step_bytes: u64,
    ) -> Result<(), cache::Error> {
        let missing_bytes = blocks_for(length_bytes).saturating_sub(self.reservation().bytes());
        if missing_bytes > 0 {
            if step_bytes > 0 {
                // What came before the last step is written by now: less than that is on its way.
                self.reservation().on_disk(length_bytes.saturating_sub(step_bytes));
            }
            let more = room.reserve_for(&self.row.repo, self.class, missing_bytes.max(step_bytes)).await?;
            self.reservation().absorb(more);
        }
        Ok(())
    }
}

/// A session whose name its client does not know yet. Dropped as such, because the request was, it is the next to expire.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    is_named: bool,
}

impl Opened {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session, is_named: false }
    }

    pub(super) fn named(mut self) -> Arc<Session> {
        self.is_named = true;
        Arc::clone(&self.session)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.is_named {
            self.session.abandon();
        }
    }
}

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Max {
    /// In all.
    pub(super) sessions: usize,
    /// Of one who signed in.
    pub(super) of_one: usize,
}

impl Max {
    /// For what is there already.
    pub(super) const NONE: Self = Self { sessions: usize::MAX, of_one: usize::MAX };
}

/// The sessions of this process. The index has the same ones, without what can be found again.
#[derive(Debug, Default)]
pub struct Uploads {
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
}

impl Uploads {
    pub(super) fn sessions(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counted and held in one step, so that requests at once do not pass a limit together.
    pub(super) fn hold(&self, session: Session, max: Max) -> Result<Arc<Session>, Error> {
        let session = Arc::new(session);
        let mut sessions = self.sessions();
        if sessions.len() >= max.sessions {
            return Err(Error::TooManyUploads { max: max.sessions });
        }
        if let Some(owner) = &session.owner
            && sessions.values().filter(|other| other.owner.as_ref() == Some(owner)).count() >= max.of_one
        {
            return Err(Error::TooManyUploadsOfOne { identity: Arc::clone(owner), max: max.of_one });
        }
        sessions.insert(session.row.id, Arc::clone(&session));
        Ok(session)
    }
}
