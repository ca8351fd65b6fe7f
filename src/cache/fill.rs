//! One fill: a blob comes from its upstream into a staging file, is proven, and becomes a blob of the cache.
//!
//! ```text
//! turn ─ GET ─ reserve ─ fetch into staging (readers follow) ─ prove ─ rename ─ row and link ─ admit
//!                        └ cut: Range from the byte reached, with back-off; a byte gained resets the budget
//! ```
//! A crash anywhere leaves the staging file (continued when the blob is asked for again) or a named file without a row
//! (removed at the next start). Every other end goes through [`Filler::settle`], which leaves or removes the file and
//! gives back or hands on the space.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use super::Source;
use super::error::{Error, Wrong};
use super::fetch::Fetching;
use super::fill_turns::FillTurn;
use super::fills::{Depot, Start};
use super::flights::to_the_end;
use super::incoming::UNKNOWN_STEP_BYTES;
use super::lanes::Turn;
use super::live::Live;
use super::room::Reservation;
use super::space::{Class, Holding, blocks_for};
use crate::blobs::{self, BlobWriter, Committed, Growth, Lease, Proven, Staging};
use crate::fault;
use crate::metadata::{Link, Provenance};
use crate::oci::{Digest, RepositoryName};
use crate::report::Chain;
use crate::upstream::{self, BlobStream, Fetch, Origin};

/// How long a fill waits for its turn; then its clients stream past the store rather than wait for other people's blobs.
pub(super) const TURN_WAIT: Duration = Duration::from_secs(10);

/// How a fill ended.
enum Ended {
    Committed,
    WasThere,
    Bypass,
}

/// The fill as its own task sees it.
pub(super) struct Filler {
    pub depot: Arc<Depot>,
    pub source: Source,
    pub digest: Digest,
    /// The size that a manifest of this repository states, for upstreams that do not say.
    pub stated_bytes: Option<u64>,
    /// The turn among all fills, for one that nobody waited for when it began.
    pub turn: Option<FillTurn>,
    pub live: Arc<Live>,
    /// Who sent something of it.
    pub origins: Mutex<Vec<Origin>>,
    pub start: watch::Sender<Start>,
    pub growth: watch::Sender<Growth>,
    /// The fill's place in the table, kept until no write of it is under way any more.
    pub entry: Lease,
}

/// What a fill holds of the disk.
struct Held {
    reservation: Reservation,
    staging: Option<Staging>,
    /// The length the upstream announced.
    total_bytes: Option<u64>,
    /// What was to become a blob and did not.
    left: Left,
}

impl Filler {
    pub(super) async fn run(self) {
        let depot = Arc::clone(&self.depot);
        depot.metrics.fills_in_flight.increment(1.0);
        let reservation = Reservation::none(&depot.room, Class::Cached);
        let mut held = Held { reservation, staging: None, total_bytes: None, left: Left::default() };
        let ended = tokio::select! {
            ended = tokio::time::timeout(depot.fill_timeout, self.fill(&mut held)) => ended.unwrap_or_else(|_| {
                let host = self.source.mirror.host().clone();
                Err(Error::Slow { host, waited: depot.fill_timeout })
            }),
            () = depot.stopping.cancelled() => Err(Error::Stopped),
        };
        if matches!(ended, Err(Error::Wrong { .. })) {
            self.blame();
        }
        self.settle(held, &ended).await;
        depot.metrics.fills_in_flight.decrement(1.0);
        self.publish(ended);
    }

    /// Tells everybody who still waits how it ended.
    fn publish(&self, ended: Result<Ended, Error>) {
        let result = match &ended {
            Ok(Ended::Committed) => "committed",
            Ok(Ended::WasThere) => "was_there",
            Ok(Ended::Bypass) => "bypass",
            Err(error) => error.kind(),
        };
        self.depot.metrics.fill_ended(self.source.mirror.host().as_str(), result);
        let Err(error) = ended else { return };
        self.live.failed(&error);
        let (upstream, repository, digest) = (self.source.mirror.host(), &self.source.canonical, &self.digest);
        match &error {
            // The mirror has said so where it was asked.
            Error::Upstream { .. } | Error::Resting { .. } | Error::Offline { .. } | Error::Stopped => {
                debug!(%upstream, %repository, %digest, error = %Chain(&error), "a fill ended early");
            }
            _ => warn!(%upstream, %repository, %digest, error = %Chain(&error), "a fill failed"),
        }
        self.growth.send_if_modified(|growth| {
            let open = !matches!(growth, Growth::Verified { .. });
            if open {
                *growth = Growth::Failed(Chain(&error).to_string().into());
            }
            open
        });
        self.start.send_if_modified(|start| {
            let waiting = matches!(start, Start::Waiting);
            if waiting {
                *start = Start::Failed(error);
            }
            waiting
        });
    }

    async fn fill(&self, held: &mut Held) -> Result<Ended, Error> {
        let own_turn = if self.turn.is_some() { None } else { self.depot.fills.for_client(TURN_WAIT).await? };
        if self.turn.as_ref().or(own_turn.as_ref()).is_none() {
            return Ok(self.bypass());
        }
        if self.is_there_already().await? {
            return Ok(Ended::WasThere);
        }
        let from = self.adopt_partial(held).await?;
        let turn = self.turn().await;
        let stream = match self.open(Fetch::From(from)).await {
            Err(Error::Upstream { source: upstream::Error::RangeUnsatisfiable { .. }, .. }) => {
                // The file holds as much as the blob has, or more.
                if self.commit_partial(held).await? {
                    return Ok(Ended::Committed);
                }
                self.live.goes_on_from(0);
                self.open(Fetch::Whole).await?
            }
            opened => opened?,
        };
        held.total_bytes = stream.total_bytes.or(self.stated_bytes);
        self.live.announced(held.total_bytes);
        if let Some(wrong) = Wrong::announced(held.total_bytes, &self.digest) {
            return Err(self.wrong(wrong));
        }
        match self.make_room(held).await {
            Ok(()) => {}
            Err(Error::NoRoom { .. } | Error::OverQuota { .. }) => return Ok(self.bypass()),
            // A disk that is full, or that takes nothing at all, fails no pull.
            Err(Error::Blobs(error)) => {
                warn!(digest = %self.digest, error = %Chain(&error), "a fill streams past the store");
                return Ok(self.bypass());
            }
            Err(error) => return Err(error),
        }
        self.take_in(held, stream, turn).await
    }

    /// Somebody else's fill may have ended between the question that led here and this one's start.
    async fn is_there_already(&self) -> Result<bool, Error> {
        let depot = &self.depot;
        let link = depot.metadata.find_link(&self.source.canonical, &self.digest).await?;
        let (Link::Linked(row) | Link::Unlinked(row)) = &link else { return Ok(false) };
        if !row.is_present() {
            return Ok(false);
        }
        let Ok(Some(reader)) = depot.blobs.open(self.digest, row.size_bytes).await else { return Ok(false) };
        if matches!(link, Link::Unlinked(_)) {
            // Access through this repository is proven by its upstream, as for any blob that is stored but not linked.
            self.source.prove(&self.digest).await?;
            let (depot, repository, digest) = (Arc::clone(depot), self.source.canonical.clone(), self.digest);
            let linked = to_the_end(async move { depot.link_pulled(&repository, &digest).await }).await;
            linked.unwrap_or(Err(Error::Stopped))?;
        }
        self.growth.send_replace(Growth::Verified { size_bytes: row.size_bytes });
        self.start.send_replace(Start::Ready { file: reader.file, size_bytes: Some(row.size_bytes) });
        Ok(true)
    }

    /// Takes over what an earlier fill left. Returns how many bytes that is.
    async fn adopt_partial(&self, held: &mut Held) -> Result<u64, Error> {
        let _named = self.depot.room.naming(&self.digest).await;
        held.reservation = self.depot.room.adopt_partial(self.digest).charged_to(&self.source.canonical);
        if held.reservation.bytes() == 0 {
            return Ok(0);
        }
        let staging = self.depot.blobs.stage_fill(self.digest).await?;
        self.live.goes_on_from(staging.length_bytes());
        Ok(held.staging.insert(staging).length_bytes())
    }

    /// Makes the partial file the blob, if it is; if not, it is gone.
    async fn commit_partial(&self, held: &mut Held) -> Result<bool, Error> {
        let Some(staging) = held.staging.take() else { return Ok(false) };
        let (file, size_bytes) = (staging.file(), staging.length_bytes());
        let writer = BlobWriter::continue_from(staging, &self.digest, Arc::clone(&self.entry)).await?;
        match self.commit(held, writer).await {
            Ok(()) => {
                self.growth.send_replace(Growth::Verified { size_bytes });
                self.start.send_replace(Start::Ready { file, size_bytes: Some(size_bytes) });
                Ok(true)
            }
            Err(Error::Wrong { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn open(&self, fetch: Fetch) -> Result<BlobStream, Error> {
        let mirror = &self.source.mirror;
        let question = self.source.upstream().fetch_blob(&self.source.remote, &self.digest, fetch);
        let stream = mirror.ask("fetch_blob", question).await?;
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if !origins.contains(&stream.origin()) {
            origins.push(stream.origin());
        }
        drop(origins);
        Ok(stream)
    }

    /// What came is not the blob. If several sent of it nobody knows whose part is wrong: all of them are asked last.
    fn blame(&self) {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Origin::sent_wrong);
    }

    /// Waits until the upstream may be asked for this fill.
    pub(super) async fn turn(&self) -> Turn {
        let (lanes, who, priority) = (self.source.mirror.lanes(), self.live.who, self.live.priority());
        let turn = lanes.turn(who, priority);
        // A client that came after the look at the priority and before the place in the line found nothing to raise.
        if self.live.priority() > priority {
            lanes.raise(who);
        }
        self.live.lined_up();
        turn.await
    }

    fn bypass(&self) -> Ended {
        self.start.send_replace(Start::Bypass);
        Ended::Bypass
    }

    /// Reserves what is still missing and takes the disk blocks.
    async fn make_room(&self, held: &mut Held) -> Result<(), Error> {
        let wanted_bytes = held.total_bytes.map_or(UNKNOWN_STEP_BYTES, blocks_for);
        let missing_bytes = wanted_bytes.saturating_sub(held.reservation.bytes());
        held.reservation.grow(missing_bytes).await?;
        let staging = match held.staging.take() {
            Some(staging) => staging,
            None => self.depot.blobs.stage_fill(self.digest).await?,
        };
        fault::point("fill: file made");
        let staging = held.staging.insert(staging);
        if let Some(total_bytes) = held.total_bytes
            && staging.preallocate(total_bytes).await?
        {
            held.reservation.on_disk(u64::MAX);
        }
        Ok(())
    }

    async fn take_in(&self, held: &mut Held, stream: BlobStream, turn: Turn) -> Result<Ended, Error> {
        let Some(staging) = held.staging.clone() else { return Err(Error::Stopped) };
        let file = staging.file();
        let mut writer = BlobWriter::continue_from(staging, &self.digest, Arc::clone(&self.entry)).await?;
        writer.announce(self.growth.clone(), held.total_bytes);
        self.start.send_replace(Start::Ready { file, size_bytes: held.total_bytes });
        let space = tokio::sync::Mutex::new(&mut held.reservation);
        let fetching = Fetching::new(self, writer.intake(), &space, held.total_bytes);
        writer.along(fetching.run(stream, turn)).await??;
        self.commit(held, writer).await?;
        Ok(Ended::Committed)
    }

    pub(super) fn wrong(&self, how: Wrong) -> Error {
        Error::Wrong {
            host: self.source.mirror.host().clone(),
            asked: format!("blob {} of {}", self.digest, self.source.remote),
            source: Arc::new(how),
        }
    }

    async fn commit(&self, held: &mut Held, writer: BlobWriter) -> Result<(), Error> {
        let depot = &self.depot;
        let proven = match writer.prove(self.digest).await {
            Ok(proven) => proven,
            Err(blobs::Error::Mismatch { actual, .. }) => return Err(self.wrong(Wrong::Digest { actual })),
            Err(error) => return Err(error.into()),
        };
        // From here on the file is not this fill's to settle: what the time limit ends is the waiting alone.
        let landing = Landing {
            depot: Arc::clone(depot),
            repository: self.source.canonical.clone(),
            digest: self.digest,
            file: (held.staging.take(), held.reservation.split_off()),
            left: Arc::clone(&held.left),
            _entry: Arc::clone(&self.entry),
        };
        to_the_end(landing.land(proven)).await.unwrap_or(Err(Error::Stopped))
    }

    /// What a fill that did not become a blob leaves: bytes worth continuing with, or nothing.
    async fn settle(&self, held: Held, ended: &Result<Ended, Error>) {
        // What is left of the file is measured next: no write may be under way then, nor its naming.
        while Arc::strong_count(&self.entry) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let left = held.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (staging, reservation) = left.unwrap_or((held.staging, held.reservation));
        let Some(staging) = staging else { return };
        // What is wrong already does not get right by being continued, and what has no room blocks room.
        let is_worth_keeping = match ended {
            Ok(_) | Err(Error::Wrong { .. } | Error::NoRoom { .. } | Error::OverQuota { .. }) => false,
            Err(_) => staging.settle().await.is_ok_and(|length| length > 0),
        };
        let _named = self.depot.room.naming(&self.digest).await;
        if !is_worth_keeping {
            match staging.remove().await {
                Ok(()) => return,
                Err(error) => warn!(digest = %self.digest, error = %Chain(&error), "removing a fill's file failed"),
            }
        }
        // What cannot be removed counts too.
        let stored_bytes = staging.allocated_bytes().await.unwrap_or(reservation.bytes());
        reservation.leave_partial(self.digest, stored_bytes);
        fault::point("fill: left to be continued");
    }
}

/// Proven bytes on the way to being a blob: file, row and ledger change together, whoever stops waiting for it.
struct Landing {
    depot: Arc<Depot>,
    repository: RepositoryName,
    digest: Digest,
    file: (Option<Staging>, Reservation),
    /// Where the fill finds the file again if it has not become a blob.
    left: Left,
    /// The fill's place in the table, so that the fill does not end before this.
    _entry: Lease,
}

type Left = Arc<Mutex<Option<(Option<Staging>, Reservation)>>>;

impl Landing {
    async fn land(self, proven: Proven) -> Result<(), Error> {
        let Self { depot, repository, digest, file: (staging, mut reservation), left, _entry } = self;
        let now_ms = depot.clock.now_ms();
        let naming = async {
            let Committed { size_bytes, stored_bytes } = proven.name().await?;
            let cached = Provenance::Cached;
            let recorded = depot.metadata.commit_blob(&repository, &digest, size_bytes, stored_bytes, cached, now_ms);
            let change = recorded.await?;
            fault::point("fill: recorded");
            let after = Holding::of_present(stored_bytes, change.after.pushed);
            reservation.split_off().admit(change.before.as_ref().and_then(Holding::of), after);
            Ok::<_, Error>(())
        };
        let named = depot.room.name(&digest, naming).await;
        if named.is_err() {
            *left.lock().unwrap_or_else(PoisonError::into_inner) = Some((staging, reservation));
        }
        named
    }
}
