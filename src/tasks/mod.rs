//! What runs beside the requests: each job as a function that does it once, and the loop that repeats them all.

pub mod check;
pub mod retention;
pub mod scrub;
pub mod sweep;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::registry::Registry;
use crate::report::Chain;
use crate::telemetry::Audit;

/// How often last reads are written to the index: a crash forgets this much of the order of eviction.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Reads noted beyond which they are written at once.
const TOUCHES_MAX: usize = 50_000;
/// How often the bounds and the count of noted reads are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often idle upload sessions are looked for.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// How often the jobs run whose interval is configured.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Upload sessions untouched for so long are removed.
    pub sessions_expire_after: Duration,
    /// How often the rules of retention are applied.
    pub retention_every: Duration,
}

/// Repeats every job until `shutdown`, and flushes what is noted before it returns.
pub async fn run(registry: Arc<Registry>, intervals: Intervals, audit: Option<Audit>, shutdown: CancellationToken) {
    let (mut since_flush, mut since_expiry, mut since_retention) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if let Err(error) = registry.depot().room.keep_bounds().await {
            warn!(error = %Chain(&error), "making room within the bounds failed and will be tried again");
        }
        registry.queue_pulls().await;
        since_flush += LOOK_EVERY;
        since_expiry += LOOK_EVERY;
        since_retention += LOOK_EVERY;
        if since_flush >= FLUSH_EVERY || registry.depot().room.n_touches() > TOUCHES_MAX {
            since_flush = Duration::ZERO;
            flush(&registry).await;
            if let Err(error) = registry.depot().room.finish_leftovers().await {
                warn!(error = %Chain(&error), "ending what a failure left half-done failed and will be tried again");
            }
        }
        if since_expiry >= EXPIRE_EVERY {
            since_expiry = Duration::ZERO;
            if let Err(error) = registry.expire_uploads(intervals.sessions_expire_after).await {
                warn!(error = %Chain(&error), "removing idle uploads failed and will be tried again");
            }
        }
        if since_retention >= intervals.retention_every {
            since_retention = Duration::ZERO;
            retention::run_once(&registry, audit.as_ref()).await;
        }
    }
    registry.queue_pulls().await;
    flush(&registry).await;
}

async fn flush(registry: &Registry) {
    if let Err(error) = registry.depot().room.measure_pinned().await {
        warn!(error = %Chain(&error), "measuring what is pinned failed");
    }
    if let Err(error) = registry.depot().room.report_quotas().await {
        warn!(error = %Chain(&error), "measuring the quotas failed");
    }
    registry.depot().room.report();
    if let Err(error) = registry.depot().room.flush_touches().await {
        warn!(error = %Chain(&error), "writing the times of last reads failed");
    }
}
