//! One fill: a blob comes from its upstream into a staging file, is proven, and becomes a blob of the cache.
//!
//! ```text
//! reserve ─ GET ─ pour into staging (readers follow) ─ prove ─ rename ─ row and link ─ admit
//!                 └ cut: Range from the byte reached, with back-off; a byte gained resets the budget
//! ```
//! A crash anywhere leaves the staging file (continued when the blob is asked for again) or a named file without a row
//! (replaced by the next fill).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Source;
use super::error::{Error, Wrong};
use super::fills::{Depot, Start};
use super::room::Reservation;
use super::space::{Holding, blocks_for};
use crate::blobs::{self, BlobWriter, Growth, PourError, Staging};
use crate::metadata::Provenance;
use crate::oci::Digest;
use crate::report::Chain;
use crate::upstream::{self, BlobStream, Fetch};

/// Space reserved at a time while the size of what comes is unknown.
const UNKNOWN_STEP_BYTES: u64 = 32 << 20;
/// Wait before a cut transfer is taken up again; doubled for each attempt that gained nothing.
const BACKOFF: Duration = Duration::from_millis(100);

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
    pub stated_bytes: Option<u64>,
    pub start: watch::Sender<Start>,
    pub growth: watch::Sender<Growth>,
}

/// Why pouring stopped.
enum Trouble {
    Upstream(upstream::Error),
    Other(Error),
}

/// A fill with its file and its promise of space.
struct Intake {
    staging: Staging,
    reservation: Reservation,
    total_bytes: Option<u64>,
}

impl Filler {
    pub(super) async fn run(self) {
        let metrics = &self.depot.metrics;
        metrics.fills_in_flight.increment(1.0);
        let ended = self.fill().await;
        metrics.fills_in_flight.decrement(1.0);
        let result = match &ended {
            Ok(Ended::Committed) => "committed",
            Ok(Ended::WasThere) => "was_there",
            Ok(Ended::Bypass) => "bypass",
            Err(error) => error.kind(),
        };
        let host = self.source.mirror.host();
        metrics.fill_ended(host.as_str(), result);
        if let Err(error) = ended {
            if !error.is_not_found() {
                let repository = &self.source.canonical;
                warn!(upstream = %host, %repository, digest = %self.digest, error = %Chain(&error), "a fill failed");
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
    }

    async fn fill(&self) -> Result<Ended, Error> {
        let _turn = self.depot.fills.acquire().await.map_err(|_| Error::Stopped)?;
        if self.is_there_already().await? {
            return Ok(Ended::WasThere);
        }
        let mut intake = self.stage().await?;
        let result = match self.take_in(&mut intake).await {
            Ok(writer) => self.commit(writer, &mut intake.reservation).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(Ended::Committed),
            Err(error) => {
                self.leave(intake, &error).await?;
                let may_bypass =
                    matches!(error, Error::NoRoom { .. }) && matches!(*self.start.borrow(), Start::Waiting);
                if !may_bypass {
                    return Err(error);
                }
                self.start.send_replace(Start::Bypass);
                Ok(Ended::Bypass)
            }
        }
    }

    /// The staging file with what an earlier fill left in it, and the space that takes.
    async fn stage(&self) -> Result<Intake, Error> {
        let blobs = &self.depot.blobs;
        let reservation = self.depot.room.adopt_partial(self.digest);
        let mut staging = blobs.stage_fill(self.digest).await?;
        // A file that holds more than the blob has is wrong; what is wrong with it is not worth a guess.
        if self.stated_bytes.is_some_and(|stated| staging.length_bytes() > stated) {
            blobs.remove_fill(self.digest).await?;
            staging = blobs.stage_fill(self.digest).await?;
        }
        Ok(Intake { staging, reservation, total_bytes: None })
    }

    /// Somebody else's fill may have ended between the question that led here and this one's start.
    async fn is_there_already(&self) -> Result<bool, Error> {
        let depot = &self.depot;
        let Some(row) = depot.metadata.find_blob(&self.digest).await?.filter(|row| row.is_present()) else {
            return Ok(false);
        };
        let Some(reader) = depot.blobs.open(self.digest, row.size_bytes).await? else { return Ok(false) };
        // Access through this repository is proven by its upstream, as for any blob that is stored but not linked.
        self.source.prove(&self.digest).await?;
        let now_ms = depot.clock.now_ms();
        depot.metadata.link_blob(&self.source.canonical, &self.digest, Provenance::Cached, now_ms).await?;
        self.growth.send_replace(Growth::Verified { size_bytes: row.size_bytes });
        self.start.send_replace(Start::Ready { file: reader.file, size_bytes: Some(row.size_bytes) });
        Ok(true)
    }

    async fn open(&self, from: u64) -> Result<BlobStream, Error> {
        let fetch = if from == 0 { Fetch::Whole } else { Fetch::From(from) };
        let mirror = &self.source.mirror;
        mirror.ask("fetch_blob", mirror.upstream().fetch_blob(&self.source.remote, &self.digest, fetch)).await
    }

    /// The body, from where the staging file ends. A file that cannot be gone on from is begun anew.
    async fn open_for(&self, intake: &mut Intake) -> Result<BlobStream, Error> {
        match self.open(intake.staging.length_bytes()).await {
            Err(Error::Upstream { source: upstream::Error::RangeUnsatisfiable { .. }, .. }) => {
                let blobs = &self.depot.blobs;
                blobs.remove_fill(self.digest).await?;
                intake.staging = blobs.stage_fill(self.digest).await?;
                self.open(0).await
            }
            opened => opened,
        }
    }

    /// Takes everything in that the upstream has; what it is worth is for the commit to find out.
    async fn take_in(&self, intake: &mut Intake) -> Result<BlobWriter, Error> {
        let stream = self.open_for(intake).await?;
        intake.total_bytes = stream.total_bytes.or(self.stated_bytes);
        if let Some(wrong) = Wrong::announced(intake.total_bytes, &self.digest) {
            return Err(self.wrong(wrong));
        }
        let wanted_bytes = intake.total_bytes.map_or(UNKNOWN_STEP_BYTES, blocks_for);
        intake.reservation.grow(wanted_bytes.saturating_sub(intake.reservation.bytes())).await?;
        let preallocated = intake.staging.preallocate(intake.total_bytes.unwrap_or(0)).await;
        preallocated.map_err(|error| match error {
            error if error.is_no_space() => Error::NoRoom { bytes: wanted_bytes },
            error => error.into(),
        })?;
        let mut writer = BlobWriter::continue_from(intake.staging.clone(), &self.digest, Arc::new(())).await?;
        writer.announce(self.growth.clone(), intake.total_bytes);
        self.start.send_replace(Start::Ready { file: intake.staging.file(), size_bytes: intake.total_bytes });
        let waited = self.depot.fill_timeout;
        let poured = tokio::time::timeout(waited, self.pour_to_the_end(&mut writer, intake, stream)).await;
        let poured = poured.unwrap_or_else(|_| Err(Error::Slow { host: self.source.mirror.host().clone(), waited }));
        // What is left of the file is measured next: no write may be under way then.
        let settled = writer.settle().await;
        poured?;
        settled?;
        Ok(writer)
    }

    /// Takes the body in, going on after a cut where it stopped.
    async fn pour_to_the_end(
        &self,
        writer: &mut BlobWriter,
        intake: &mut Intake,
        mut stream: BlobStream,
    ) -> Result<(), Error> {
        let mut fruitless = 0;
        loop {
            let before = writer.length_bytes();
            let result = self.pour(writer, intake, stream).await;
            let error = match result {
                Ok(()) => return Ok(()),
                Err(Trouble::Other(error)) => return Err(error),
                Err(Trouble::Upstream(error)) => error,
            };
            fruitless = if writer.length_bytes() > before { 0 } else { fruitless + 1 };
            let host = self.source.mirror.host().clone();
            if !error.is_transient() || fruitless > self.source.mirror.policy().retries_max {
                return Err(Error::Upstream { host, source: error });
            }
            let at = writer.length_bytes();
            info!(upstream = %host, digest = %self.digest, at, error = %Chain(&error), "a fill was cut and goes on");
            tokio::time::sleep(BACKOFF * 2u32.pow(fruitless.min(6))).await;
            stream = match self.open(at).await {
                Ok(stream) => stream,
                Err(error) => return Err(error),
            };
        }
    }

    async fn pour(&self, writer: &mut BlobWriter, intake: &mut Intake, stream: BlobStream) -> Result<(), Trouble> {
        let position = writer.length_bytes();
        let total_bytes = intake.total_bytes;
        let incoming = Incoming { skip: position.saturating_sub(stream.start), position, stream, filler: self, intake };
        let source = stream::try_unfold(incoming, Incoming::next);
        match writer.pour(pin!(source)).await {
            Ok(()) if total_bytes.is_some_and(|total| writer.length_bytes() < total) => {
                Err(Trouble::Other(self.wrong_length(total_bytes.unwrap_or(0))))
            }
            Ok(()) => Ok(()),
            Err(PourError::Source(trouble)) => Err(trouble),
            Err(PourError::Write(error)) => Err(Trouble::Other(error.into())),
        }
    }

    /// The upstream ended the body in good order before the announced length: the digest will not fit either, and a
    /// client that was promised a length must not get less of it as if it were all.
    fn wrong_length(&self, announced_bytes: u64) -> Error {
        self.wrong(Wrong::TooShort { announced_bytes })
    }

    fn wrong(&self, how: Wrong) -> Error {
        Error::Wrong {
            host: self.source.mirror.host().clone(),
            asked: format!("blob {} of {}", self.digest, self.source.remote),
            source: Arc::new(how),
        }
    }

    async fn commit(&self, writer: BlobWriter, reservation: &mut Reservation) -> Result<(), Error> {
        let depot = &self.depot;
        let _named = depot.room.naming(&self.digest).await;
        let committed = match writer.commit(self.digest).await {
            Ok(committed) => committed,
            Err(blobs::Error::Mismatch { actual, .. }) => return Err(self.wrong(Wrong::Digest { actual })),
            Err(error) => return Err(error.into()),
        };
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
                // Without a row the bytes would take space that nobody counts.
                depot.blobs.remove(self.digest).await?;
                return Err(error.into());
            }
        };
        reservation
            .split_off()
            .admit(change.before.as_ref().and_then(Holding::of), Holding { stored_bytes, pushed: change.after.pushed });
        Ok(())
    }

    /// Keeps what came so far for a later fill, if one can go on from there: what is wrong already does not get right by
    /// being continued, and what has no room now would only be evicted.
    async fn leave(&self, intake: Intake, error: &Error) -> Result<(), Error> {
        let blobs = &self.depot.blobs;
        let is_worthless = matches!(error, Error::Wrong { .. } | Error::NoRoom { .. });
        // Opened anew, because only that tells how long the file is by now.
        let staging = blobs.stage_fill(self.digest).await?;
        if is_worthless || staging.length_bytes() == 0 {
            blobs.remove_fill(self.digest).await?;
            return Ok(());
        }
        let stored_bytes = staging.allocated_bytes().await.unwrap_or(intake.reservation.bytes());
        intake.reservation.leave_partial(self.digest, stored_bytes);
        Ok(())
    }
}

/// A body on its way in: what is there already is skipped, what is too much is refused, space is promised first.
struct Incoming<'a> {
    stream: BlobStream,
    skip: u64,
    position: u64,
    filler: &'a Filler,
    intake: &'a mut Intake,
}

impl Incoming<'_> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Trouble> {
        loop {
            let Some(mut chunk) = self.stream.next().await.map_err(Trouble::Upstream)? else { return Ok(None) };
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

    async fn make_sure_of_room(&mut self) -> Result<(), Trouble> {
        match self.intake.total_bytes {
            Some(announced_bytes) if self.position > announced_bytes => {
                Err(Trouble::Other(self.filler.wrong(Wrong::TooLong { announced_bytes })))
            }
            Some(_) => Ok(()),
            None => {
                while blocks_for(self.position) > self.intake.reservation.bytes() {
                    self.intake.reservation.grow(UNKNOWN_STEP_BYTES).await.map_err(Trouble::Other)?;
                }
                Ok(())
            }
        }
    }
}
