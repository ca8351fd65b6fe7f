//! One fill: a blob comes from its upstream into a staging file, is proven, and becomes a blob of the cache.
//!
//! ```text
//! GET ─ reserve ─ pour into staging (readers follow) ─ prove ─ rename ─ row and link ─ admit
//!                 └ cut: Range from the byte reached, with back-off; a byte gained resets the budget
//! ```
//! A crash anywhere leaves the staging file (continued when the blob is asked for again) or a named file without a row
//! (replaced by the next fill). Every other end goes through [`Filler::settle`], which leaves or removes the file and
//! gives back or hands on the space.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Source;
use super::error::{Error, Wrong};
use super::fills::{Depot, Start};
use super::room::Reservation;
use super::space::{Class, Holding, blocks_for};
use crate::blobs::{self, BlobWriter, Growth, Lease, PourError, Staging};
use crate::metadata::{BlobRow, Link, Provenance};
use crate::oci::Digest;
use crate::report::Chain;
use crate::upstream::{self, BlobStream, Fetch};

/// Space reserved at a time while the size of what comes is unknown.
const UNKNOWN_STEP_BYTES: u64 = 32 << 20;
/// Wait before a cut transfer is taken up again; doubled for each attempt that gained nothing.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long a fill waits for its turn; then its clients stream past the store rather than wait for other people's blobs.
const TURN_WAIT: Duration = Duration::from_secs(10);

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
}

impl Filler {
    pub(super) async fn run(self) {
        let depot = Arc::clone(&self.depot);
        depot.metrics.fills_in_flight.increment(1.0);
        let reservation = Reservation::none(&depot.room, Class::Cached);
        let mut held = Held { reservation, staging: None, total_bytes: None };
        let ended = tokio::select! {
            ended = tokio::time::timeout(depot.fill_timeout, self.fill(&mut held)) => ended.unwrap_or_else(|_| {
                let host = self.source.mirror.host().clone();
                Err(Error::Slow { host, waited: depot.fill_timeout })
            }),
            () = depot.stopping.cancelled() => Err(Error::Stopped),
        };
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
        let Ok(turn) = tokio::time::timeout(TURN_WAIT, self.depot.fills.acquire()).await else {
            return Ok(self.bypass());
        };
        let _turn = turn.map_err(|_| Error::Stopped)?;
        if self.is_there_already().await? {
            return Ok(Ended::WasThere);
        }
        let from = self.adopt_partial(held).await?;
        let stream = match self.open(from).await {
            Err(Error::Upstream { source: upstream::Error::RangeUnsatisfiable { .. }, .. }) => {
                // The file holds as much as the blob has, or more.
                if self.commit_partial(held).await? {
                    return Ok(Ended::Committed);
                }
                self.open(0).await?
            }
            opened => opened?,
        };
        held.total_bytes = stream.total_bytes.or(self.stated_bytes);
        if let Some(wrong) = Wrong::announced(held.total_bytes, &self.digest) {
            return Err(self.wrong(wrong));
        }
        match self.make_room(held).await {
            Ok(()) => {}
            Err(Error::NoRoom { .. }) => return Ok(self.bypass()),
            Err(Error::Blobs(error)) if error.is_no_space() => return Ok(self.bypass()),
            Err(error) => return Err(error),
        }
        self.take_in(held, stream).await
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
            let now_ms = depot.clock.now_ms();
            depot.metadata.link_blob(&self.source.canonical, &self.digest, Provenance::Cached, now_ms).await?;
        }
        self.growth.send_replace(Growth::Verified { size_bytes: row.size_bytes });
        self.start.send_replace(Start::Ready { file: reader.file, size_bytes: Some(row.size_bytes) });
        Ok(true)
    }

    /// Takes over what an earlier fill left. Returns how many bytes that is.
    async fn adopt_partial(&self, held: &mut Held) -> Result<u64, Error> {
        let _named = self.depot.room.naming(&self.digest).await;
        held.reservation = self.depot.room.adopt_partial(self.digest);
        if held.reservation.bytes() == 0 {
            return Ok(0);
        }
        let staging = self.depot.blobs.stage_fill(self.digest).await?;
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

    async fn open(&self, from: u64) -> Result<BlobStream, Error> {
        let fetch = if from == 0 { Fetch::Whole } else { Fetch::From(from) };
        let mirror = &self.source.mirror;
        mirror.ask("fetch_blob", self.source.upstream().fetch_blob(&self.source.remote, &self.digest, fetch)).await
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
        let staging = held.staging.insert(staging);
        Ok(staging.preallocate(held.total_bytes.unwrap_or(0)).await?)
    }

    async fn take_in(&self, held: &mut Held, stream: BlobStream) -> Result<Ended, Error> {
        let Some(staging) = held.staging.clone() else { return Err(Error::Stopped) };
        let file = staging.file();
        let mut writer = BlobWriter::continue_from(staging, &self.digest, Arc::clone(&self.entry)).await?;
        writer.announce(self.growth.clone(), held.total_bytes);
        self.start.send_replace(Start::Ready { file, size_bytes: held.total_bytes });
        self.pour_to_the_end(&mut writer, held, stream).await?;
        self.commit(held, writer).await?;
        Ok(Ended::Committed)
    }

    /// Takes the body in, going on after a cut where it stopped.
    async fn pour_to_the_end(&self, writer: &mut BlobWriter, held: &mut Held, stream: BlobStream) -> Result<(), Error> {
        let mut next = Some(stream);
        let mut fruitless = 0;
        loop {
            let before = writer.length_bytes();
            let body = match next.take() {
                Some(body) => Ok(body),
                None => self.open(before).await,
            };
            let poured = match body {
                Ok(body) => self.pour(writer, held, body).await,
                Err(error) => Err(error),
            };
            let Err(error) = poured else { return Ok(()) };
            fruitless = if writer.length_bytes() > before { 0 } else { fruitless + 1 };
            if !error.is_passing() || fruitless > self.source.mirror.policy().retries_max {
                return Err(error);
            }
            let (upstream, at) = (self.source.mirror.host(), writer.length_bytes());
            info!(%upstream, digest = %self.digest, at, error = %Chain(&error), "a fill was cut and goes on");
            let resting = if let Error::Resting { retry_after, .. } = error { retry_after } else { Duration::ZERO };
            tokio::time::sleep(resting.max(BACKOFF * 2u32.pow(fruitless.min(6)))).await;
        }
    }

    async fn pour(&self, writer: &mut BlobWriter, held: &mut Held, stream: BlobStream) -> Result<(), Error> {
        let position = writer.length_bytes();
        let total_bytes = held.total_bytes;
        let incoming = Incoming { skip: position.saturating_sub(stream.start), position, stream, filler: self, held };
        let source = stream::try_unfold(incoming, Incoming::next);
        match writer.pour(pin!(source)).await {
            // A client that was promised a length must not get less of it as if it were all.
            Ok(()) => match total_bytes.filter(|total| writer.length_bytes() < *total) {
                Some(announced_bytes) => Err(self.wrong(Wrong::TooShort { announced_bytes })),
                None => Ok(()),
            },
            Err(PourError::Source(error)) => Err(error),
            Err(PourError::Write(error)) => Err(error.into()),
        }
    }

    fn wrong(&self, how: Wrong) -> Error {
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
        let _named = depot.room.naming(&self.digest).await;
        let committed = proven.name().await?;
        let now_ms = depot.clock.now_ms();
        let (size_bytes, stored_bytes) = (committed.size_bytes, committed.stored_bytes);
        let repository = &self.source.canonical;
        let recorded = depot
            .metadata
            .commit_blob(repository, &self.digest, size_bytes, stored_bytes, Provenance::Cached, now_ms)
            .await;
        let change = match recorded {
            Ok(change) => change,
            Err(error) => {
                self.remove_unrecorded().await;
                return Err(error.into());
            }
        };
        held.staging = None;
        let after = Holding { stored_bytes, pushed: change.after.pushed };
        held.reservation.split_off().admit(change.before.as_ref().and_then(Holding::of), after);
        Ok(())
    }

    /// Bytes without a row take space that nobody counts, but the row may be there: a push's, or this one's after all.
    async fn remove_unrecorded(&self) {
        let row = self.depot.metadata.find_blob(&self.digest).await;
        if let Ok(row) = row
            && !row.as_ref().is_some_and(BlobRow::is_present)
            && let Err(error) = self.depot.blobs.remove(self.digest).await
        {
            warn!(digest = %self.digest, error = %Chain(&error), "removing an unrecorded blob failed");
        }
    }

    /// What a fill that did not become a blob leaves: bytes worth continuing with, or nothing.
    async fn settle(&self, held: Held, ended: &Result<Ended, Error>) {
        let Held { reservation, staging: Some(staging), .. } = held else { return };
        // What is left of the file is measured next: no write may be under way then.
        while Arc::strong_count(&self.entry) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is wrong already does not get right by being continued, and what has no room blocks room.
        let is_worth_keeping = match ended {
            Ok(_) | Err(Error::Wrong { .. } | Error::NoRoom { .. }) => false,
            Err(_) => staging.measured_length_bytes().await.is_ok_and(|length| length > 0),
        };
        let _named = self.depot.room.naming(&self.digest).await;
        if is_worth_keeping {
            let stored_bytes = staging.allocated_bytes().await.unwrap_or(reservation.bytes());
            reservation.leave_partial(self.digest, stored_bytes);
        } else if let Err(error) = staging.remove().await {
            warn!(digest = %self.digest, error = %Chain(&error), "removing the file of a fill failed");
        }
    }
}

/// A body on its way in: what is there already is skipped, what is too much is refused, space is promised first.
struct Incoming<'a> {
    stream: BlobStream,
    skip: u64,
    position: u64,
    filler: &'a Filler,
    held: &'a mut Held,
}

impl Incoming<'_> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let host = self.filler.source.mirror.host();
        loop {
            let received = self.stream.next().await;
            let received = received.map_err(|source| Error::Upstream { host: host.clone(), source })?;
            let Some(mut chunk) = received else { return Ok(None) };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            bytes::Buf::advance(&mut chunk, skipped);
            if chunk.is_empty() {
                continue;
            }
            self.position += chunk.len() as u64;
            self.make_sure_of_room().await?;
            self.filler.depot.metrics.fill_bytes.increment(chunk.len() as u64);
            return Ok(Some((chunk, self)));
        }
    }

    async fn make_sure_of_room(&mut self) -> Result<(), Error> {
        match self.held.total_bytes {
            Some(announced_bytes) if self.position > announced_bytes => {
                Err(self.filler.wrong(Wrong::TooLong { announced_bytes }))
            }
            Some(_) => Ok(()),
            None => {
                while blocks_for(self.position) > self.held.reservation.bytes() {
                    self.held.reservation.grow(UNKNOWN_STEP_BYTES).await?;
                }
                Ok(())
            }
        }
    }
}
