//! The single-flight table of fills: one transfer per digest, however many clients ask and however they come and go.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Source;
use super::error::Error;
use super::fill::Filler;
use super::fill_turns::{FillTurn, FillTurns};
use super::flights::Role;
use super::live::{FillView, Live, Priority};
use super::mirror::Mirror;
use super::room::{Pin, Room};
use crate::blobs::{BlobReader, Blobs, Growth};
use crate::clock::Clock;
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::oci::{Digest, RepositoryName};

/// What every fill works with.
#[derive(Debug)]
pub struct Depot {
    /// The index.
    pub metadata: Metadata,
    /// The blobs.
    pub blobs: Blobs,
    /// The disk's ledger.
    pub room: Arc<Room>,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The turns of the fills: more wait.
    pub fills: Arc<FillTurns>,
    /// Tags that may be confirmed ahead of their time at once.
    pub refreshes: Arc<Semaphore>,
    /// How long one fill may take in all.
    pub fill_timeout: Duration,
    /// The server is going down: fills end, leaving what they have for the next start.
    pub stopping: CancellationToken,
}

/// How a fill begins: what a client has to know before it can be answered.
#[derive(Clone, Debug)]
pub enum Start {
    /// The upstream has not answered yet.
    Waiting,
    /// Bytes are coming, into this file.
    Ready {
        /// The staging file.
        file: Arc<File>,
        /// The blob's size, if the upstream or a manifest told.
        size_bytes: Option<u64>,
    },
    /// The blob cannot be kept: whoever wants it has to stream it past the store.
    Bypass,
    /// There is nothing to be had.
    Failed(Error),
}

/// A fill as those who wait for it see it.
#[derive(Debug)]
pub struct Fill {
    /// The blob.
    pub digest: Digest,
    /// The repository through which it is fetched: a client of another one has to prove its access first.
    pub repository: RepositoryName,
    mirror: Arc<Mirror>,
    live: Arc<Live>,
    start: watch::Receiver<Start>,
    growth: watch::Receiver<Growth>,
}

impl Fill {
    /// Waits until the fill has begun, one way or the other. Never returns `Waiting`.
    pub async fn started(&self) -> Start {
        let mut start = self.start.clone();
        let begun = start.wait_for(|start| !matches!(start, Start::Waiting)).await;
        begun.map_or(Start::Failed(Error::Stopped), |start| start.clone())
    }

    /// Waits until the fill is in line for its upstream, so that who asks then comes after it, or needs no upstream.
    pub(super) async fn in_line(&self) {
        tokio::select! {
            () = self.live.in_line() => {}
            _ = self.started() => {}
        }
    }

    /// Waits until the fill is over, so that another can take its place.
    pub async fn ended(&self) {
        let mut start = self.start.clone();
        while start.changed().await.is_ok() {}
    }

    /// A reader from the first byte on, of a fill that is `Ready`.
    pub fn reader(&self, file: Arc<File>, size_bytes: Option<u64>, pin: Pin) -> BlobReader {
        let standing = pin.standing();
        let reader = BlobReader::growing(file, size_bytes, self.growth.clone());
        reader.pinned(Arc::new((pin, self.live.reader())), standing)
    }

    /// What it looks like at this moment.
    pub fn view(&self) -> FillView {
        self.live.view(self.digest, self.repository.clone(), self.mirror.host().clone())
    }

    /// Waits for its end, and tells what it came to: the blob is in the store, or why not.
    pub(super) async fn outcome(&self) -> Result<(), Error> {
        self.ended().await;
        if self.is_committed() {
            return Ok(());
        }
        match &*self.start.borrow() {
            Start::Failed(error) => Err(error.clone()),
            Start::Bypass => Err(Error::NoRoom { bytes: self.live.total_bytes().unwrap_or(0) }),
            Start::Waiting | Start::Ready { .. } => Err(self.live.failure().unwrap_or(Error::Stopped)),
        }
    }

    /// Did it end with the blob in the store?
    fn is_committed(&self) -> bool {
        matches!(*self.growth.borrow(), Growth::Verified { .. })
    }

    /// How many bytes readers may have by now; `None` if there will be no more because it failed.
    pub fn servable_bytes(&self) -> Option<u64> {
        match &*self.growth.borrow() {
            Growth::Filling { servable_bytes } => Some(*servable_bytes),
            Growth::Verified { size_bytes } => Some(*size_bytes),
            Growth::Failed(_) => None,
        }
    }
}

type Table = Arc<Mutex<HashMap<Digest, Arc<Fill>>>>;

/// The fills under way.
#[derive(Debug)]
pub struct Fills {
    table: Table,
    depot: Arc<Depot>,
    running: TaskTracker,
}

impl Fills {
    /// None under way.
    pub fn new(depot: Arc<Depot>) -> Self {
        Self { table: Arc::default(), depot, running: TaskTracker::new() }
    }

    /// What the fills work with.
    pub fn depot(&self) -> &Arc<Depot> {
        &self.depot
    }

    /// The fill of a blob under way, if there is one.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Fill>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Are none under way?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fills under way as they look at this moment, the longest running first.
    pub fn list(&self) -> Vec<FillView> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<FillView> = table.values().map(|fill| fill.view()).collect();
        drop(table);
        views.sort_unstable_by_key(|view| (view.started_ms, view.digest));
        views
    }

    /// Joins the fill of a blob, starting one if there is none. It runs on the server's account from then on.
    pub fn join(&self, source: &Source, digest: Digest, stated_bytes: Option<u64>) -> (Arc<Fill>, Role) {
        let (fill, role) = self.find_or_start(source, digest, stated_bytes, Priority::Client, None);
        if role == Role::Followed && fill.live.raise() {
            fill.mirror.lanes().raise(fill.live.who);
        }
        (fill, role)
    }

    /// As [`Fills::join`], for nobody yet: a turn that no client wants has to be there first.
    pub(super) fn prefetch(
        &self,
        source: &Source,
        digest: Digest,
        stated_bytes: Option<u64>,
        turn: FillTurn,
    ) -> (Arc<Fill>, Role) {
        self.find_or_start(source, digest, stated_bytes, Priority::Prefetch, Some(turn))
    }

    /// Runs a job beside the fills, until they are stopped.
    pub(super) fn beside(&self, job: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.depot.stopping.clone();
        self.running.spawn(async move { stopping.run_until_cancelled(job).await });
    }

    fn find_or_start(
        &self,
        source: &Source,
        digest: Digest,
        stated_bytes: Option<u64>,
        priority: Priority,
        turn: Option<FillTurn>,
    ) -> (Arc<Fill>, Role) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = table.get(&digest) {
            return (Arc::clone(fill), Role::Followed);
        }
        let (start, start_heard) = watch::channel(Start::Waiting);
        let (growth, growth_heard) = watch::channel(Growth::Filling { servable_bytes: 0 });
        let live = Live::new(self.depot.clock.now_ms(), priority);
        let fill = Arc::new(Fill {
            digest,
            repository: source.canonical.clone(),
            mirror: Arc::clone(&source.mirror),
            live: Arc::clone(&live),
            start: start_heard,
            growth: growth_heard,
        });
        table.insert(digest, Arc::clone(&fill));
        drop(table);
        let entry = Arc::new(Entry { table: Arc::clone(&self.table), digest });
        let (depot, source) = (Arc::clone(&self.depot), source.clone());
        let origins = Mutex::default();
        let filler = Filler { depot, source, digest, stated_bytes, turn, live, origins, start, growth, entry };
        // The fill belongs to the server, not to the client that asked first.
        self.running.spawn(filler.run());
        (fill, Role::Led)
    }

    /// Ends the fills under way, each leaving what it has, and waits for them.
    pub async fn stop(&self) {
        self.depot.stopping.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

/// Takes the fill off the table when it ends, however it ends. By then the index says whether the blob is there.
struct Entry {
    table: Table,
    digest: Digest,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}
