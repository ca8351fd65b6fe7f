//! The audit log's file: opened before anything is served, and again on SIGHUP, after somebody has moved it away.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::reload::Hangups;
use crate::clock::{Clock, written};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::telemetry::{Audit, Guard};

/// The audit log, if one is configured. Who wants one gets no server without it.
pub(super) fn open(config: &Config, clock: &Clock, metrics: &Metrics) -> anyhow::Result<Option<(Audit, Guard)>> {
    let config::Audit { path, pulls, buffer_bytes } = &config.audit;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    metrics.limit("audit.buffer", *buffer_bytes);
    let buffer_bytes = usize::try_from(*buffer_bytes).unwrap_or(usize::MAX);
    let opened = Audit::open(path, *pulls, buffer_bytes, written(clock.now_ms()));
    opened.map(Some).with_context(|| format!("opening the audit log {} (audit.path)", path.display()))
}

/// Has the file opened again on each SIGHUP, until `shutdown`.
pub(super) async fn run(audit: Option<Audit>, mut hangups: Hangups, clock: Clock, shutdown: CancellationToken) {
    let Some(audit) = audit else { return };
    while shutdown.run_until_cancelled(hangups.0.recv()).await.flatten().is_some() {
        audit.reopen(written(clock.now_ms()));
    }
}
