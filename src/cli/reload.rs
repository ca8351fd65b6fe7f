//! The files of the port's certificate: read in the beginning, and again when they change or on SIGHUP. With `acme` it is one file
//! in the store, which need not be there yet.
//!
//! What they hold is taken as a whole or not at all. Certificate and key are two files, so for a moment they may be of two
//! pairs: that is noticed, said once, and tried again at the next look.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::issuing::Bells;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::http::tls::{ClientCertificates, Left, Material, Tls, TlsOptions};
use crate::metrics::Metrics;
use crate::storage::Issuance;

/// How often a certificate that ends soon is spoken of.
const WARN_EVERY_MS: i64 = 24 * 3600 * 1000;

/// How often the end of a certificate is looked at where nobody looks at its files.
pub(super) const NO_LOOK_EVERY: Duration = Duration::from_mins(10);

/// Where the material is.
#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// We have them issued and put them there ourselves.
    are_issued: bool,
}

/// TLS and the files it came from.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What handshakes are made with.
    pub tls: Arc<Tls>,
    files: Files,
    every: Duration,
    stamps: Vec<Stamp>,
}

/// By what a change of a file is noticed: modification in nanoseconds, inode, length. Links are followed, because mounted
/// secrets are changed by pointing a link elsewhere.
type Stamp = Option<(i64, i64, u64, u64)>;

/// SIGHUP, which would end the process if nobody listened.
#[derive(Debug)]
pub struct Hangups(pub(super) Signal);

impl Hangups {
    /// From now on.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }
}

impl Watched {
    /// What is configured, if it is TLS.
    pub fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<Self>> {
        let configured = &config.http.tls;
        let client_ca = configured.client_ca.clone();
        let files = match (&configured.certificate, &configured.key, &configured.acme) {
            (Some(certificate), Some(key), _) => {
                Files { certificate: certificate.clone(), key: key.clone(), client_ca, are_issued: false }
            }
            (_, _, Some(_)) => {
                // One file, so that a crash cannot leave half of a pair.
                let both = Issuance::Certificate.path(&config.storage.path);
                Files { certificate: both.clone(), key: both, client_ca, are_issued: true }
            }
            _ => return Ok(None),
        };
        let options = TlsOptions {
            client_certificates: match configured.client_certificates {
                config::ClientCertificates::None => ClientCertificates::None,
                config::ClientCertificates::Request => ClientCertificates::Request,
                config::ClientCertificates::Require => ClientCertificates::Require,
            },
            only_tls_1_3: configured.min_version == config::TlsVersion::V1_3,
            handshake_timeout: configured.handshake_timeout,
            handshakes_max: configured.handshakes_max,
        };
        let stamps = files.stamps();
        let every = configured.reload_every;
        let served = |options| -> anyhow::Result<Tls> {
            Tls::new(&files.read()?, options, metrics.clone()).context("serving TLS (http.tls)")
        };
        let tls = match files.are_issued {
            false => served(options)?,
            true if stamps.first() == Some(&None) => Tls::unissued(options, metrics.clone()),
            true => served(options.clone()).unwrap_or_else(|error| {
                error!(error = format!("{error:#}"), "the kept certificate cannot be served");
                let tls = Tls::unissued(options, metrics.clone());
                // It is tried again, and shown until it succeeds.
                tls.keep(format!("{error:#}"));
                tls
            }),
        };
        Ok(Some(Self { tls: Arc::new(tls), files, every, stamps }))
    }

    /// Reads the files if they have changed, if what they held was not usable, or if somebody insists.
    fn look(&mut self, insists: bool) {
        let stamps = self.files.stamps();
        let problem = self.tls.status().problem;
        if !insists && problem.is_none() && stamps == self.stamps {
            return;
        }
        let is_missing = stamps.first() == Some(&None);
        self.stamps = stamps;
        if self.files.are_issued && is_missing {
            return;
        }
        let replaced = self.files.read().and_then(|material| Ok(self.tls.replace(&material)?));
        match replaced {
            Ok(validity) => {
                info!(certificate = %self.files.certificate.display(), not_after_s = validity.not_after_s,
                      "new connections get the certificate that was read anew");
            }
            Err(error) => {
                let said = format!("{error:#}");
                if insists || problem.as_ref() != Some(&said) {
                    error!(error = %said, "the certificate cannot be replaced, the one before it stays in use");
                    self.tls.keep(said);
                }
            }
        }
    }
}

impl Files {
    fn stamps(&self) -> Vec<Stamp> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        all.into_iter().flatten().map(|file| stamp(file)).collect()
    }

    fn read(&self) -> anyhow::Result<Material> {
        Ok(Material {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?.into(),
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates change while the registry serves; this is where they are read"
)]
fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates change while the registry serves; this is where that is seen"
)]
fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.len()))
}

/// Looks after the certificate until `shutdown`.
pub async fn run(
    watched: Option<Watched>,
    bells: Bells,
    mut hangups: Hangups,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut watched = watched;
    let mut warned_ms = i64::MIN;
    loop {
        if let Some(watched) = &watched {
            warned_ms = warn_of_the_end(watched, clock.now_ms(), warned_ms);
        }
        let every = watched.as_ref().map(|watched| watched.every).filter(|every| !every.is_zero());
        // The end of a certificate is looked at all the same.
        let pause = tokio::time::sleep(every.unwrap_or(NO_LOOK_EVERY));
        let (looks, insists) = tokio::select! {
            () = shutdown.cancelled() => return,
            _ = hangups.0.recv() => {
                info!("SIGHUP: reading again what can change while serving");
                bells.insists.notify_one();
                (true, true)
            }
            () = bells.issued.notified() => (true, false),
            () = pause => (every.is_some(), false),
        };
        if !looks {
            continue;
        }
        if let Some(mut looking) = watched.take() {
            let looked = tokio::task::spawn_blocking(move || {
                looking.look(insists);
                looking
            });
            watched = Some(looked.await.expect("looking does not panic"));
        }
    }
}

/// Says that the certificate ends soon, once a day. Returns when that was last said.
fn warn_of_the_end(watched: &Watched, now_ms: i64, warned_ms: i64) -> i64 {
    let status = watched.tls.status();
    let Some(validity) = status.validity.filter(|_| now_ms.saturating_sub(warned_ms) >= WARN_EVERY_MS) else {
        return warned_ms;
    };
    let see_to_it = match (watched.files.are_issued, status.unissued.as_ref().or(status.problem.as_ref())) {
        (false, _) => "replace its files".to_owned(),
        (true, Some(why)) => format!("there is no other: {why}"),
        // It is being asked for just now, and says itself when that fails.
        (true, None) => return warned_ms,
    };
    match validity.left(now_ms / 1000) {
        Left::Enough => return warned_ms,
        Left::Little(left) => {
            warn!("the certificate of http.tls ends in {}: {see_to_it}", humantime::format_duration(left));
        }
        Left::Nothing => error!("the certificate of http.tls has ended and clients refuse it: {see_to_it}"),
    }
    now_ms
}
