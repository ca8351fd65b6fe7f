//! What changes while serving: the files of the configuration are read again every few seconds, and at once on SIGHUP. Who may
//! do what counts from then on; the rest of the configuration counts after a restart.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::access;
use crate::auth::Authority;
use crate::config::{self, Config, ServeFlags};
use crate::report::Chain;

/// How often the files are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// Watches until it is dropped. `config` is what is served with.
pub(super) async fn watch(
    flags: ServeFlags,
    config: Arc<Config>,
    authority: Arc<Authority>,
) -> anyhow::Result<Infallible> {
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let mut ticks = interval(LOOKED_AT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watched = Watched { config, trouble: None };
    loop {
        let is_asked = tokio::select! {
            _ = ticks.tick() => false,
            _ = hangup.recv() => true,
        };
        let read_with = flags.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&read_with)).await?;
        watched.take(loaded.map(|loaded| loaded.config), &authority, is_asked);
    }
}

struct Watched {
    config: Arc<Config>,
    /// What was wrong with the files when they were last read; said once.
    trouble: Option<String>,
}

impl Watched {
    fn take(&mut self, loaded: Result<Arc<Config>, config::Error>, authority: &Authority, is_asked: bool) {
        let config = match loaded {
            Ok(config) => config,
            Err(error) => {
                let trouble = Chain(&error).to_string();
                if is_asked || self.trouble.as_ref() != Some(&trouble) {
                    error!(
                        error = trouble,
                        "the configuration cannot be read again; what was read before goes on counting"
                    );
                }
                self.trouble = Some(trouble);
                return;
            }
        };
        self.trouble = None;
        if access::is_the_same(&self.config, &config) {
            if is_asked {
                info!("SIGHUP: nothing has changed in who may do what");
            }
            return;
        }
        match access::standing(&config) {
            Ok(standing) => {
                authority.replace(standing);
                info!("who may do what has changed and counts from now on");
                if is_asked && *config != *self.config {
                    warn!("whatever else has changed in the configuration counts after a restart");
                }
                self.config = config;
            }
            Err(error) => error!(error = format!("{error:#}"), "the rules of the configuration cannot be read"),
        }
    }
}
