//! Every stored blob is read through now and then, in the order of digests, beside the requests and slower than a disk.
//!
//! The position is written to the index at most once in half a minute: a crash has that much checked again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::fills::Depot;
use super::{Error, Verified, Verifier};
use crate::blobs::ReadRate;
use crate::metadata::{LossRow, ScrubRow};

/// Blobs that one look at the index yields.
const PAGE: usize = 256;
/// How often the position is written.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// Lost blobs that are listed.
const LOSSES_MAX: usize = 1000;

/// What is configured of it.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// From the beginning of one pass to that of the next.
    pub every: Duration,
    /// How fast it reads; 0 for not at all.
    pub bytes_per_second_max: u64,
}

/// How it stands.
#[derive(Clone, Debug)]
pub struct ScrubView {
    /// The pass under way, or the last one.
    pub pass: Option<ScrubRow>,
    /// When the next one begins, Unix milliseconds; `None` while one is under way, or if it is switched off.
    pub next_ms: Option<i64>,
    /// Is it switched on?
    pub is_on: bool,
    /// What is wrong with the index's own file.
    pub index_problems: Vec<String>,
    /// Pushed blobs whose bytes are lost, and that some repository links.
    pub lost_blobs: u64,
    /// The latest found of them.
    pub lost: Vec<LossRow>,
}

/// The scrub of one server.
#[derive(Debug)]
pub struct Scrub {
    depot: Arc<Depot>,
    verifier: Arc<Verifier>,
    options: ScrubOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the index was last told, or will be.
    pass: Option<ScrubRow>,
    index_problems: Vec<String>,
    kept: Option<Instant>,
}

impl Scrub {
    /// Over what is in the store.
    pub fn new(depot: Arc<Depot>, verifier: Arc<Verifier>, options: ScrubOptions) -> Self {
        Self { depot, verifier, options, state: Mutex::default() }
    }

    /// How fast it may read; `None` if it is switched off.
    pub fn rate(&self) -> Option<ReadRate> {
        let max = self.options.bytes_per_second_max;
        (max > 0).then(|| ReadRate::new(max))
    }

    /// Goes on with the pass under way by some blobs, or begins one if it is time. False if there is nothing to do now. May
    /// be cancelled: what was found is dealt with all the same, and the rest is checked again.
    pub async fn advance(&self, rate: &mut ReadRate) -> Result<bool, Error> {
        let Some(mut pass) = self.due().await? else { return Ok(false) };
        let page = self.depot.metadata.list_present(pass.position.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        for (digest, size_bytes) in page {
            let verified = self.verifier.verify(digest, rate).await?;
            pass.position = Some(digest);
            if verified != Verified::Absent {
                pass.checked_blobs += 1;
                pass.checked_bytes += size_bytes;
                self.depot.metrics.scrubbed_blobs.increment(1);
                self.depot.metrics.scrubbed_bytes.increment(size_bytes);
            }
            pass.damaged_blobs += u64::from(matches!(verified, Verified::SetAside { .. }));
            self.state().pass = Some(pass);
            self.keep_now_and_then().await?;
        }
        if is_last {
            self.end(pass).await?;
        }
        Ok(true)
    }

    /// Writes the position down.
    pub async fn keep(&self) -> Result<(), Error> {
        let pass = {
            let mut state = self.state();
            state.kept = Some(Instant::now());
            state.pass
        };
        match pass {
            Some(pass) => Ok(self.depot.metadata.put_scrub(pass).await?),
            None => Ok(()),
        }
    }

    /// How it stands.
    pub async fn view(&self) -> Result<ScrubView, Error> {
        let metadata = &self.depot.metadata;
        let (pass, index_problems) = {
            let state = self.state();
            (state.pass, state.index_problems.clone())
        };
        let pass = match pass {
            Some(pass) => Some(pass),
            None => metadata.scrub().await?,
        };
        let is_on = self.options.bytes_per_second_max > 0;
        let ended = pass.filter(|pass| pass.ended_ms.is_some());
        Ok(ScrubView {
            pass,
            next_ms: ended.filter(|_| is_on).map(|pass| pass.started_ms.saturating_add(self.every_ms())),
            is_on,
            index_problems,
            lost_blobs: metadata.count_losses().await?,
            lost: metadata.list_losses(LOSSES_MAX).await?,
        })
    }

    /// The pass to go on with. A clock that was set back does not put the next one off.
    async fn due(&self) -> Result<Option<ScrubRow>, Error> {
        let known = self.state().pass;
        let pass = match known {
            Some(pass) => Some(pass),
            None => self.depot.metadata.scrub().await?,
        };
        let now_ms = self.depot.clock.now_ms();
        match pass {
            Some(pass) if pass.ended_ms.is_none() => return Ok(Some(pass)),
            Some(pass) if (pass.started_ms..pass.started_ms.saturating_add(self.every_ms())).contains(&now_ms) => {
                return Ok(None);
            }
            _ => {}
        }
        let index_problems = self.depot.metadata.problems().await?;
        for problem in &index_problems {
            error!(problem, "the index is damaged: stop the server and run `entrepot scrub --repair`");
        }
        let pass = ScrubRow { started_ms: now_ms, ..ScrubRow::default() };
        *self.state() = State { pass: Some(pass), index_problems, kept: None };
        Ok(Some(pass))
    }

    async fn end(&self, pass: ScrubRow) -> Result<(), Error> {
        let pass = ScrubRow { position: None, ended_ms: Some(self.depot.clock.now_ms()), ..pass };
        self.state().pass = Some(pass);
        let (blobs, bytes, damaged) = (pass.checked_blobs, pass.checked_bytes, pass.damaged_blobs);
        info!(blobs, bytes, damaged, "every stored blob was compared with its digest");
        self.keep().await
    }

    async fn keep_now_and_then(&self) -> Result<(), Error> {
        let is_due = self.state().kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY);
        if is_due { self.keep().await } else { Ok(()) }
    }

    fn every_ms(&self) -> i64 {
        i64::try_from(self.options.every.as_millis()).unwrap_or(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
