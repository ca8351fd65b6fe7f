//! What a running fill tells of itself: figures that its own task moves and anybody may read meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::Error;
use super::lanes::new_who;
use super::turns::Who;
use crate::oci::{Digest, Host, RepositoryName};

/// For whom a transfer is. What is waited for goes before what is only expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// For nobody yet.
    Prefetch,
    /// For a client that waits.
    Client,
}

impl Priority {
    /// The word in metrics and lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefetch => "prefetch",
            Self::Client => "client",
        }
    }
}

/// A fill under way, at one moment.
#[derive(Clone, Debug)]
pub struct FillView {
    /// The blob.
    pub digest: Digest,
    /// The repository through which it is fetched, by its canonical name.
    pub repository: RepositoryName,
    /// The upstream.
    pub upstream: Host,
    /// Where at the upstream the bytes come from.
    pub source: String,
    /// Bytes of the blob that are here, an earlier fill's included.
    pub received_bytes: u64,
    /// Length of the blob, once somebody has told.
    pub total_bytes: Option<u64>,
    /// Bytes received per second, of the last seconds.
    pub bytes_per_second: u64,
    /// Bodies that follow it.
    pub readers: usize,
    /// When it began, Unix milliseconds.
    pub started_ms: i64,
    /// For whom it is.
    pub priority: Priority,
    /// Requests to the upstream whose answers are being read; none while it waits.
    pub pieces: usize,
}

/// The figures of one fill.
#[derive(Debug)]
pub(super) struct Live {
    /// Tells its transfers from those of other fills.
    pub who: Who,
    pub started_ms: i64,
    is_wanted: AtomicBool,
    /// Told when it is in line for its upstream.
    in_line: watch::Sender<bool>,
    received_bytes: AtomicU64,
    total_bytes: OnceLock<u64>,
    pieces: AtomicUsize,
    rate: Mutex<Rate>,
    failure: OnceLock<Error>,
    /// A clone for every reader.
    readers: Arc<()>,
}

impl Live {
    pub fn new(started_ms: i64, priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            who: new_who(),
            started_ms,
            is_wanted: AtomicBool::new(priority == Priority::Client),
            in_line: watch::Sender::new(false),
            received_bytes: AtomicU64::new(0),
            total_bytes: OnceLock::new(),
            pieces: AtomicUsize::new(0),
            rate: Mutex::new(Rate::new(Instant::now())),
            failure: OnceLock::new(),
            readers: Arc::default(),
        })
    }

    pub fn priority(&self) -> Priority {
        if self.is_wanted.load(Ordering::Relaxed) { Priority::Client } else { Priority::Prefetch }
    }

    /// A client waits for it from now on. Returns whether that is news.
    pub fn raise(&self) -> bool {
        !self.is_wanted.swap(true, Ordering::Relaxed)
    }

    /// It is in line for its upstream.
    pub fn lined_up(&self) {
        self.in_line.send_replace(true);
    }

    /// Waits until it is in line for its upstream, for ever if it never is.
    pub async fn in_line(&self) {
        // The sender is here, so there is no error.
        let _ = self.in_line.subscribe().wait_for(|in_line| *in_line).await;
    }

    /// So many bytes were here before the first came.
    pub fn goes_on_from(&self, bytes: u64) {
        self.received_bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).add(Instant::now(), bytes);
    }

    pub fn announced(&self, total_bytes: Option<u64>) {
        if let Some(total_bytes) = total_bytes {
            self.total_bytes.get_or_init(|| total_bytes);
        }
    }

    /// Length of the blob, once somebody has told.
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes.get().copied()
    }

    /// It ended without the blob.
    pub fn failed(&self, error: &Error) {
        self.failure.get_or_init(|| error.clone());
    }

    /// Why it ended without the blob, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// An answer is being read for as long as what this returns lives.
    pub fn piece(self: &Arc<Self>) -> PieceUnderWay {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        PieceUnderWay(Arc::clone(self))
    }

    /// A body follows for as long as what this returns lives.
    pub fn reader(&self) -> Arc<()> {
        Arc::clone(&self.readers)
    }

    pub fn view(&self, digest: Digest, repository: RepositoryName, upstream: Host) -> FillView {
        FillView {
            digest,
            repository,
            source: upstream.to_string(),
            upstream,
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes(),
            bytes_per_second: self.rate.lock().unwrap_or_else(PoisonError::into_inner).at(Instant::now()),
            readers: Arc::strong_count(&self.readers) - 1,
            started_ms: self.started_ms,
            priority: self.priority(),
            pieces: self.pieces.load(Ordering::Relaxed),
        }
    }
}

/// Counts an answer while it is read.
#[derive(Debug)]
pub(super) struct PieceUnderWay(Arc<Live>);

impl Drop for PieceUnderWay {
    fn drop(&mut self) {
        self.0.pieces.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes per second over the last one or two windows.
#[derive(Debug)]
struct Rate {
    since: Instant,
    bytes: u64,
    last: u64,
}

impl Rate {
    const WINDOW: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, last: 0 }
    }

    fn add(&mut self, now: Instant, bytes: u64) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= Self::WINDOW {
            self.last = per_second(self.bytes, passed);
            (self.since, self.bytes) = (now, 0);
        }
        self.bytes += bytes;
    }

    fn at(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.since);
        if passed >= Self::WINDOW || self.last == 0 { per_second(self.bytes, passed) } else { self.last }
    }
}

fn per_second(bytes: u64, passed: Duration) -> u64 {
    let passed_us = passed.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / passed_us).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = Rate::new(start);
        rate.add(at(100), 500);
        assert_eq!(rate.at(at(500)), 1000, "the first second counts as far as it has come");
        rate.add(at(1000), 300);
        assert_eq!(rate.at(at(1500)), 500);
        rate.add(at(2000), 0);
        assert_eq!(rate.at(at(2000)), 300);
        assert_eq!(rate.at(at(60_000)), 0, "what stands still has no rate");
    }
}
