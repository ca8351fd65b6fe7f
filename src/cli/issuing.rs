//! From `http.tls.acme` to who sees to the port's certificate, and how that one and the port know each other.

use std::error::Error;
use std::sync::Arc;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;
use tracing::info;

use super::reload::NO_LOOK_EVERY;
use crate::acme::{Door, Keeper, Options, Proof};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::http::Tls;
use crate::metrics::Metrics;
use crate::storage::Store;

/// What those who see to the certificate tell each other.
#[derive(Debug, Default)]
pub struct Bells {
    /// The store has another certificate.
    pub issued: Arc<Notify>,
    /// Somebody insists on one.
    pub insists: Arc<Notify>,
}

/// The port's side.
struct Port {
    tls: Arc<Tls>,
    issued: Arc<Notify>,
}

impl Door for Port {
    fn present(&self, proof: Proof) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.tls.challenges().present(proof.name, proof.certificate, proof.key)?)
    }

    fn withdraw(&self, name: &str) {
        self.tls.challenges().withdraw(name);
    }

    fn issued(&self) {
        self.issued.notify_one();
    }

    fn told(&self, problem: Option<String>) {
        self.tls.note_issuance(problem);
    }
}

/// Who sees to the certificate, if that is configured.
pub(super) fn keeper(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    store: &Arc<Store>,
    bells: &Bells,
    clock: &Clock,
    metrics: &Metrics,
) -> anyhow::Result<Option<Keeper>> {
    let (Some(acme), Some(tls)) = (&config.http.tls.acme, tls) else { return Ok(None) };
    let options = options(acme, &config.http.tls)?;
    info!(directory = %options.directory, domains = acme.domains.join(" "), "the certificate comes by ACME");
    let door = Arc::new(Port { tls: Arc::clone(tls), issued: Arc::clone(&bells.issued) });
    let keeper = Keeper::new(options, Arc::clone(store), door, clock.clone(), metrics.clone());
    keeper.map(Some).context("making the client of http.tls.acme.directory")
}

fn options(acme: &config::Acme, tls: &config::ServerTls) -> anyhow::Result<Options> {
    let external = acme.external_account.as_ref().and_then(|account| Some((account.key_id.clone(), account.key()?)));
    Ok(Options {
        directory: acme.directory.parse().context("http.tls.acme.directory is no URL")?,
        domains: acme.domains.iter().cloned().collect(),
        contact: acme.contact.clone(),
        ca: acme.ca.as_ref().map(|ca| ca.text.expose_secret().into()),
        renew_before: acme.renew_before,
        external_account: external,
        look_every: if tls.reload_every.is_zero() { NO_LOOK_EVERY } else { tls.reload_every.min(NO_LOOK_EVERY) },
    })
}
