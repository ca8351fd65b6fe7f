//! The bytes of a fill on their way into its file: one stream, and for a large blob further ones for pieces of it.
//!
//! ```text
//! GET (whole) ──► lead ─────────────► boundary       every stream: turn ─ open ─ pour ─ end, cut or error
//!                  └ probe: Range ─ 206 ─► piece ─► piece …
//! ```
//! The first request is an ordinary one, so that an upstream that sends no parts costs nothing. Others join it when there is
//! enough left for two, the digest keeps up (if it does not, the network is not what is waited for), and there are turns to be
//! had. The first of them is a probe: only when it is answered with the very part it asked for is the lead told to stop where
//! that begins. Any other answer leaves the lead alone with the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tracing::{debug, info};

use super::error::Error;
use super::fill::Filler;
use super::incoming::{Stop, pour};
use super::lanes::Turn;
use super::plan::Plan;
use super::room::Reservation;
use super::space::blocks_for;
use crate::blobs::Intake;
use crate::report::Chain;
use crate::upstream::{self, BlobStream, Fetch};

/// Wait before a cut transfer is taken up again; doubled for each attempt that gained nothing.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest `Retry-After` that is waited for while clients follow.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// A part of the blob that one stream is to bring.
#[derive(Debug)]
pub(super) struct Claim {
    pub start: u64,
    position: AtomicU64,
    end: AtomicU64,
}

impl Claim {
    fn new(part: &std::ops::Range<u64>) -> Arc<Self> {
        Arc::new(Self { start: part.start, position: AtomicU64::new(part.start), end: AtomicU64::new(part.end) })
    }

    /// Offset after the last byte that came.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// So far has it come.
    pub fn came_to(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    /// Offset at which it ends; nearer than it was if another has the rest.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

/// What a stream has come to.
enum Step {
    /// The head of an answer, or none.
    Opened { claim: Arc<Claim>, is_probe: bool, opened: Result<(BlobStream, Turn), Error> },
    /// The end of a body.
    Poured { claim: Arc<Claim>, poured: Result<Stop, Error> },
}

/// The answer without which no further stream is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// That to the one stream there is.
    Lead,
    /// That to the first request for a part beside it.
    Probe,
}

type Steps<'a> = FuturesUnordered<BoxFuture<'a, Step>>;

/// The streams of one fill.
pub(super) struct Fetching<'a> {
    filler: &'a Filler,
    intake: Intake,
    space: &'a Mutex<&'a mut Reservation>,
    total_bytes: Option<u64>,
    plan: Plan,
    /// The parts that are being fetched, but for a probe's.
    claims: Vec<Arc<Claim>>,
    /// Streams there may be.
    parallel: usize,
    awaited: Awaited,
    /// The upstream did not send the part that it was asked for.
    no_parts: bool,
    /// How far the file has no gap is recorded beside it.
    is_recorded: bool,
    /// Attempts in a row that gained nothing, while there was one stream.
    fruitless: u32,
    /// Before the next attempt of the one stream there is.
    pause: Duration,
}

impl<'a> Fetching<'a> {
    pub fn new(
        filler: &'a Filler,
        intake: Intake,
        space: &'a Mutex<&'a mut Reservation>,
        total_bytes: Option<u64>,
    ) -> Self {
        let policy = filler.source.mirror.policy();
        let from = intake.front_bytes();
        let left = total_bytes.map_or(0, |total| total.saturating_sub(from));
        let is_large = left >= policy.piece_bytes.saturating_mul(2) && filler.source.mirror.sends_parts();
        let parallel = if is_large { policy.parallel } else { 1 };
        // Of unknown length there is more until it ends.
        let plan = Plan::new(from, total_bytes.unwrap_or(u64::MAX), policy.piece_bytes, parallel);
        Self {
            filler,
            intake,
            space,
            total_bytes,
            plan,
            claims: Vec::new(),
            parallel,
            awaited: Awaited::Nothing,
            no_parts: false,
            is_recorded: false,
            fruitless: 0,
            pause: Duration::ZERO,
        }
    }

    /// Takes everything in that is missing, beginning with what this answer brings.
    pub async fn run(mut self, stream: BlobStream, turn: Turn) -> Result<(), Error> {
        let mut steps = Steps::new();
        if let Some(rest) = self.plan.take_rest() {
            let claim = self.claim(&rest);
            self.start_pour(&mut steps, claim, stream, turn);
        }
        let mut digest = self.intake.watch_digest();
        let mut further: Option<BoxFuture<'a, Turn>> = None;
        loop {
            if steps.is_empty() {
                let Some(rest) = self.plan.take_rest() else { return Ok(()) };
                further = None;
                let claim = self.claim(&rest);
                self.start_lead(&mut steps, claim);
            }
            let wants_more = self.wants_more();
            if wants_more && self.intake.lag_bytes() == 0 {
                let filler = self.filler;
                further.get_or_insert_with(|| Box::pin(filler.turn()));
            } else if !wants_more {
                further = None;
            }
            tokio::select! {
                Some(step) = steps.next() => self.after(&mut steps, step)?,
                turn = granted(&mut further) => {
                    further = None;
                    self.widen(&mut steps, turn).await?;
                }
                // The front has moved, and the digest may have caught up.
                _ = digest.changed(), if self.parallel > 1 => {}
            }
        }
    }

    /// Is there something for another stream to do?
    fn wants_more(&self) -> bool {
        if self.awaited != Awaited::Nothing || self.claims.len() >= self.parallel {
            return false;
        }
        self.plan.has_piece(self.intake.front_bytes()) || self.splittable().is_some()
    }

    /// Where the one stream there is could leave the rest to another.
    fn splittable(&self) -> Option<u64> {
        let [lead] = &self.claims[..] else { return None };
        self.plan.boundary(lead.position(), lead.end())
    }

    /// Asks for another part, with the turn that has come for it.
    async fn widen(&mut self, steps: &mut Steps<'a>, turn: Turn) -> Result<(), Error> {
        if !self.wants_more() {
            return Ok(());
        }
        if !self.is_recorded {
            // The record takes a block, as every file does.
            if let Err(error) = self.space.lock().await.grow(blocks_for(0)).await {
                self.narrow(&error);
                return Ok(());
            }
            self.intake.begin_ahead().await?;
            self.is_recorded = true;
        }
        let piece = self.plan.take_piece(self.intake.front_bytes());
        let is_probe = piece.is_none();
        let part = piece.or_else(|| {
            let boundary = self.splittable()?;
            Some(self.plan.piece_at(boundary, self.claims.first()?.end()))
        });
        let Some(part) = part else { return Ok(()) };
        let claim = if is_probe { Claim::new(&part) } else { self.claim(&part) };
        if is_probe {
            self.awaited = Awaited::Probe;
        }
        let (filler, fetch) = (self.filler, self.fetch_of(&claim));
        steps.push(Box::pin(async move {
            let opened = filler.open(fetch).await.map(|stream| (stream, turn));
            Step::Opened { claim, is_probe, opened }
        }));
        Ok(())
    }

    /// Begins the one stream there is, after a pause if the last one gained nothing.
    fn start_lead(&mut self, steps: &mut Steps<'a>, claim: Arc<Claim>) {
        self.awaited = Awaited::Lead;
        let (filler, fetch, pause) = (self.filler, self.fetch_of(&claim), std::mem::take(&mut self.pause));
        steps.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let turn = filler.turn().await;
            let opened = filler.open(fetch).await.map(|stream| (stream, turn));
            Step::Opened { claim, is_probe: false, opened }
        }));
    }

    fn start_pour(&self, steps: &mut Steps<'a>, claim: Arc<Claim>, stream: BlobStream, turn: Turn) {
        let (filler, intake, space, total_bytes) = (self.filler, self.intake.clone(), self.space, self.total_bytes);
        steps.push(Box::pin(async move {
            let poured = pour(filler, &intake, space, total_bytes, &claim, stream, &turn).await;
            Step::Poured { claim, poured }
        }));
    }

    fn after(&mut self, steps: &mut Steps<'a>, step: Step) -> Result<(), Error> {
        match step {
            Step::Opened { claim, is_probe: true, opened } => {
                self.awaited = Awaited::Nothing;
                self.after_probe(steps, claim, opened);
                Ok(())
            }
            Step::Opened { claim, is_probe: false, opened: Ok((stream, turn)) } => {
                self.awaited = Awaited::Nothing;
                // Alone it may skip what it was not asked for; beside others it has to be the part.
                if steps.is_empty() || self.is_part(&claim, &stream) {
                    self.start_pour(steps, claim, stream, turn);
                } else {
                    self.drop_claim(&claim);
                    self.refuse_parts("another part");
                }
                Ok(())
            }
            Step::Opened { claim, is_probe: false, opened: Err(error) }
            | Step::Poured { claim, poured: Err(error) } => self.after_failure(steps, &claim, error),
            Step::Poured { claim, poured: Ok(stop) } => {
                self.drop_claim(&claim);
                self.fruitless = 0;
                if stop == Stop::Ended && self.total_bytes.is_none() {
                    self.plan.take_rest();
                }
                Ok(())
            }
        }
    }

    /// The first request for a part beside the lead: if it was answered as asked, the lead ends where the part begins.
    fn after_probe(&mut self, steps: &mut Steps<'a>, claim: Arc<Claim>, opened: Result<(BlobStream, Turn), Error>) {
        match opened {
            Ok((stream, turn)) if self.is_part(&claim, &stream) => {
                let [lead] = &self.claims[..] else { return };
                let end = lead.end();
                // Faster than the answer, the lead may have passed the boundary. Then nothing is lost but the answer.
                if lead.position() <= claim.start && claim.end() <= end {
                    lead.end.store(claim.start, Ordering::Relaxed);
                    self.plan.give_back(claim.end()..end);
                    self.claims.push(Arc::clone(&claim));
                    self.start_pour(steps, claim, stream, turn);
                }
            }
            Ok(_) => self.refuse_parts("another part"),
            Err(error) if is_about_parts(&error) => self.refuse_parts(error.kind()),
            Err(error) => self.narrow(&error),
        }
    }

    /// A stream failed, before its answer or in the middle.
    fn after_failure(&mut self, steps: &Steps<'a>, claim: &Arc<Claim>, error: Error) -> Result<(), Error> {
        let (is_alone, gained) = (steps.is_empty(), claim.position() > claim.start);
        self.drop_claim(claim);
        if !matches!(error, Error::Upstream { .. } | Error::Resting { .. } | Error::Offline { .. }) {
            return Err(error);
        }
        let (upstream, at) = (self.filler.source.mirror.host(), claim.position());
        if !is_alone {
            match &error {
                error if is_about_parts(error) => self.refuse_parts(error.kind()),
                error if !gained => self.narrow(error),
                _ => debug!(%upstream, digest = %self.filler.digest, at, error = %Chain(&error), "a piece was cut"),
            }
            return Ok(());
        }
        self.fruitless = if gained { 0 } else { self.fruitless + 1 };
        let may_pass = error.is_passing() || (claim.position() > 0 && may_be_taken_back(&error));
        if !may_pass || self.fruitless > self.filler.source.mirror.policy().retries_max {
            return Err(error);
        }
        self.pause = wait_of(&error).max(BACKOFF * 2u32.pow(self.fruitless.min(6)));
        info!(%upstream, digest = %self.filler.digest, at, error = %Chain(&error), "a fill was cut and goes on");
        Ok(())
    }

    /// The upstream gives no further streams: those there are go on.
    fn narrow(&mut self, error: &Error) {
        self.parallel = self.claims.len().max(1);
        let (upstream, parallel) = (self.filler.source.mirror.host(), self.parallel);
        debug!(%upstream, digest = %self.filler.digest, parallel, error = %Chain(error), "no further stream was to be had");
    }

    /// The upstream does not send the parts it is asked for: the rest comes in one stream.
    fn refuse_parts(&mut self, sent: &'static str) {
        self.no_parts = true;
        self.parallel = 1;
        let upstream = self.filler.source.mirror.host();
        info!(%upstream, digest = %self.filler.digest, sent, "the upstream does not send the parts it is asked for");
        self.filler.source.mirror.refuses_parts();
    }

    fn is_part(&self, claim: &Claim, stream: &BlobStream) -> bool {
        stream.start == claim.start && stream.total_bytes.is_none_or(|total| Some(total) == self.total_bytes)
    }

    fn claim(&mut self, part: &std::ops::Range<u64>) -> Arc<Claim> {
        let claim = Claim::new(part);
        self.claims.push(Arc::clone(&claim));
        claim
    }

    /// A claim ended: what of it did not come is nobody's again.
    fn drop_claim(&mut self, claim: &Arc<Claim>) {
        self.claims.retain(|other| !Arc::ptr_eq(other, claim));
        self.plan.give_back(claim.position()..claim.end());
    }

    fn fetch_of(&self, claim: &Claim) -> Fetch {
        if self.no_parts {
            Fetch::Whole
        } else if claim.end() >= self.total_bytes.unwrap_or(u64::MAX) {
            Fetch::From(claim.start)
        } else {
            Fetch::Between { first: claim.start, last: claim.end() - 1 }
        }
    }
}

/// Is it a no to a part of what the upstream has begun to send? It has it, so another of its servers may say otherwise.
fn may_be_taken_back(error: &Error) -> bool {
    use upstream::Error::{NotFound, RateLimited, Refused};
    let Error::Upstream { source, .. } = error else { return false };
    matches!(source, NotFound { .. } | Refused { .. } | RateLimited { .. }) && wait_of(error) <= RETRY_AFTER_MAX
}

/// How long the upstream is to be left alone.
fn wait_of(error: &Error) -> Duration {
    match error {
        Error::Resting { retry_after, .. }
        | Error::Upstream { source: upstream::Error::RateLimited { retry_after: Some(retry_after), .. }, .. } => {
            *retry_after
        }
        _ => Duration::ZERO,
    }
}

/// Does the failure say that this upstream is no good for parts, rather than that it is in trouble?
fn is_about_parts(error: &Error) -> bool {
    let Error::Upstream { source, .. } = error else { return false };
    matches!(source, upstream::Error::Nonsense { .. } | upstream::Error::RangeUnsatisfiable { .. })
}

/// Waits for a turn that was asked for, for ever if none was.
async fn granted(turn: &mut Option<BoxFuture<'_, Turn>>) -> Turn {
    match turn {
        Some(turn) => turn.await,
        None => std::future::pending().await,
    }
}
