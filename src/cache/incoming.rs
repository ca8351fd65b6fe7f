//! A body on its way into the file of a fill: what is there already is skipped, what is too much is refused, space is promised
//! first, and the upstream's pace is kept.

use std::pin::pin;

use bytes::Bytes;
use futures::stream;
use tokio::sync::Mutex;

use super::error::{Error, Wrong};
use super::fetch::Claim;
use super::fill::Filler;
use super::lanes::Turn;
use super::live::PieceUnderWay;
use super::room::Reservation;
use super::space::blocks_for;
use crate::blobs::{Intake, PourError};
use crate::upstream::BlobStream;

/// Space reserved at a time while the size of what comes is unknown.
pub(super) const UNKNOWN_STEP_BYTES: u64 = 32 << 20;

/// Why a body is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It ended, or what follows is another's.
    Ended,
    /// Others wait for their turn.
    Yielded,
}

/// Pours a body into its part of the file. What came is in the file when it returns, whatever it returns.
pub(super) async fn pour(
    filler: &Filler,
    intake: &Intake,
    space: &Mutex<&mut Reservation>,
    total_bytes: Option<u64>,
    claim: &Claim,
    stream: BlobStream,
    turn: &Turn,
) -> Result<Stop, Error> {
    let mut stop = Stop::Ended;
    let incoming = Incoming {
        skip: claim.start.saturating_sub(stream.start),
        position: claim.start,
        stream,
        filler,
        space,
        total_bytes,
        claim,
        turn,
        stop: &mut stop,
        _piece: filler.live.piece(),
    };
    let mut inlet = intake.inlet(claim.start);
    let poured = inlet.pour(pin!(stream::try_unfold(incoming, Incoming::next))).await;
    claim.came_to(inlet.end());
    match poured {
        // A client that was promised a length must not get less of it as if it were all.
        Ok(()) => match total_bytes {
            Some(announced_bytes) if stop == Stop::Ended && inlet.end() < claim.end() => {
                Err(filler.wrong(Wrong::TooShort { announced_bytes }))
            }
            _ => Ok(stop),
        },
        Err(PourError::Source(error)) => Err(error),
        Err(PourError::Write(error)) => Err(error.into()),
    }
}

struct Incoming<'a, 'r> {
    stream: BlobStream,
    skip: u64,
    position: u64,
    filler: &'a Filler,
    space: &'a Mutex<&'r mut Reservation>,
    total_bytes: Option<u64>,
    claim: &'a Claim,
    turn: &'a Turn,
    stop: &'a mut Stop,
    _piece: PieceUnderWay,
}

impl Incoming<'_, '_> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let mirror = &self.filler.source.mirror;
        loop {
            let end = self.claim.end();
            // What has the blob's end is read to its own, to see whether there is too much.
            let is_done = self.position >= end && self.total_bytes.is_some_and(|total| end < total);
            if is_done || *self.stop == Stop::Yielded {
                return Ok(None);
            }
            let received = self.stream.next().await;
            let received = received.map_err(|source| Error::Upstream { host: mirror.host().clone(), source })?;
            let Some(mut chunk) = received else { return Ok(None) };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            bytes::Buf::advance(&mut chunk, skipped);
            self.cut(&mut chunk)?;
            if chunk.is_empty() {
                continue;
            }
            mirror.lanes().pass(self.filler.live.who, self.filler.live.priority(), chunk.len() as u64).await;
            // Meanwhile another stream may have got the rest: bytes that both write are digested as one has them and served
            // as the other has.
            self.cut(&mut chunk)?;
            if chunk.is_empty() {
                continue;
            }
            let received_bytes = chunk.len() as u64;
            let before = self.position;
            self.position += received_bytes;
            self.claim.came_to(self.position);
            self.make_sure_of_room().await?;
            self.filler.depot.metrics.fill_bytes.increment(received_bytes);
            self.filler.live.received(received_bytes);
            if self.yields(before) {
                *self.stop = Stop::Yielded;
            }
            return Ok(Some((chunk, self)));
        }
    }

    /// What lies beyond the claim is another's; what lies beyond the blob should not be there.
    fn cut(&self, chunk: &mut Bytes) -> Result<(), Error> {
        let end = self.claim.end();
        let room = usize::try_from(end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        if chunk.len() > room {
            if let Some(announced_bytes) = self.total_bytes.filter(|total| *total == end) {
                return Err(self.filler.wrong(Wrong::TooLong { announced_bytes }));
            }
            chunk.truncate(room);
        }
        Ok(())
    }

    /// At the end of each piece a long stream looks whether others have waited long enough.
    fn yields(&self, before: u64) -> bool {
        let mirror = &self.filler.source.mirror;
        let piece_bytes = mirror.policy().piece_bytes;
        let is_at_boundary = before / piece_bytes != self.position / piece_bytes && self.position < self.claim.end();
        is_at_boundary
            && self.total_bytes.is_some()
            && mirror.sends_parts()
            && self.turn.is_wanted(self.filler.live.priority())
    }

    async fn make_sure_of_room(&self) -> Result<(), Error> {
        if self.total_bytes.is_none() {
            let mut space = self.space.lock().await;
            while blocks_for(self.position) > space.bytes() {
                // What came before the last step is written by now: less than that is on its way.
                space.on_disk(self.position.saturating_sub(UNKNOWN_STEP_BYTES));
                space.grow(UNKNOWN_STEP_BYTES).await?;
            }
        }
        Ok(())
    }
}
