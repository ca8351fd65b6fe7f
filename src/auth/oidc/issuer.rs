//! The keys of an issuer: asked for seldom, by one at a time, at its own origin, and kept for a while when it is silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use super::Options;
use crate::auth::jwt::{KeySet, KeysInvalid, Wanted};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::outbound;
use crate::report::Chain;

/// The longest document that an issuer may answer with.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// How long it may take to be asked, both documents together: clients give up at 30 s.
const ASKED_FOR: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a key that is not known it is asked this often at most, whatever strangers write into their tokens.
const ASKED_ANEW_AFTER: Duration = Duration::from_secs(30);
/// After a failure it is left alone for so long.
const RESTS_FOR: Duration = Duration::from_secs(5);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("it cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("it took longer than {ASKED_FOR:?}")]
    Slow,
    #[error("{url} answered with status {status}; redirects are not followed")]
    Status { url: Url, status: u16 },
    #[error("{0} is longer than {DOCUMENT_BYTES_MAX} bytes")]
    Large(Url),
    #[error("{0} is no discovery document")]
    Discovery(Url),
    #[error("its discovery document says that it is another: {0}")]
    Other(String),
    #[error(
        "its discovery document leads to {0}, which is not its own origin: if that is right, configure it as `jwks_uri`"
    )]
    Elsewhere(String),
    #[error("its keys cannot be used")]
    Keys(#[source] KeysInvalid),
}

impl Trouble {
    /// For the metric.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Slow => "timed_out",
            Self::Status { .. } => "status",
            Self::Large(_) | Self::Discovery(_) | Self::Other(_) | Self::Elsewhere(_) | Self::Keys(_) => "invalid",
        }
    }
}

/// What is read of a discovery document (`OpenID` Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// What is known of the issuer's keys. Times are Unix milliseconds.
#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    /// When they came.
    came_ms: i64,
    /// When it was last asked and has answered, or not.
    asked_ms: Option<i64>,
    /// It did not answer then.
    has_failed: bool,
}

/// What to do for somebody who needs keys.
enum Step {
    Take(Arc<KeySet>),
    /// These will do while somebody else asks.
    Ask(Option<Arc<KeySet>>),
    GiveUp,
}

/// One who signs tokens.
pub(super) struct Issuer {
    name: String,
    /// Itself, as its tokens name it.
    iss: String,
    jwks_uri: Option<Url>,
    lifetime: Duration,
    kept_for: Duration,
    client: Client,
    known: Mutex<Known>,
    /// Held while it is asked: whoever waits for it takes what came.
    asking: tokio::sync::Mutex<()>,
}

impl Issuer {
    pub fn new(options: &Options) -> reqwest::Result<Self> {
        let places = [Url::parse(&options.issuer).ok(), options.jwks_uri.clone()];
        let is_local = places.iter().flatten().all(outbound::is_loopback);
        let client = outbound::client(options.ca.as_deref(), || {
            let settings = outbound::settings().connect_timeout(CONNECT_TIMEOUT);
            Ok(if is_local { settings.no_proxy() } else { settings })
        })?;
        Ok(Self {
            name: options.name.clone(),
            iss: options.issuer.clone(),
            jwks_uri: options.jwks_uri.clone(),
            lifetime: options.keys_lifetime,
            kept_for: options.keys_kept_for,
            client,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Keys among which a token's would be, if its issuer has it; `None` while nobody can tell.
    pub async fn keys(&self, wanted: &Wanted, clock: &Clock, metrics: &Metrics) -> Option<Arc<KeySet>> {
        self.settled(|known| self.step(known, |keys| keys.has(wanted), clock.now_ms()), clock, metrics).await
    }

    /// Other keys than `these`, if there are any and it may be asked; else the same.
    pub async fn newer_keys(&self, these: &Arc<KeySet>, clock: &Clock, metrics: &Metrics) -> Option<Arc<KeySet>> {
        let is_new = |keys: &Arc<KeySet>| !Arc::ptr_eq(keys, these);
        self.settled(|known| self.step(known, is_new, clock.now_ms()), clock, metrics).await
    }

    async fn settled(&self, step: impl Fn(&Known) -> Step, clock: &Clock, metrics: &Metrics) -> Option<Arc<KeySet>> {
        let decide = || step(&self.known());
        let meanwhile = match decide() {
            Step::Take(keys) => return Some(keys),
            Step::GiveUp => return None,
            Step::Ask(meanwhile) => meanwhile,
        };
        let _asking = match (self.asking.try_lock(), meanwhile) {
            (Ok(asking), _) => asking,
            (Err(_), Some(keys)) => return Some(keys),
            (Err(_), None) => self.asking.lock().await,
        };
        match decide() {
            Step::Take(keys) => return Some(keys),
            Step::GiveUp => return None,
            Step::Ask(_) => self.ask(clock, metrics).await,
        }
        if let Step::Take(keys) = decide() { Some(keys) } else { None }
    }

    fn step(&self, known: &Known, is_wanted: impl Fn(&Arc<KeySet>) -> bool, now_ms: i64) -> Step {
        let is_within = |since_ms: i64, time: Duration| u128::from(now_ms.abs_diff(since_ms)) < time.as_millis();
        let asked_within = |time| known.asked_ms.is_some_and(|asked_ms| is_within(asked_ms, time));
        let usable = known.keys.as_ref().filter(|_| is_within(known.came_ms, self.kept_for.max(self.lifetime)));
        let Some(keys) = usable else {
            return if known.has_failed && asked_within(RESTS_FOR) { Step::GiveUp } else { Step::Ask(None) };
        };
        match (is_wanted(keys), asked_within(ASKED_ANEW_AFTER)) {
            (true, _) if is_within(known.came_ms, self.lifetime) => Step::Take(Arc::clone(keys)),
            // It has just said that there is no such key, unless it has said nothing.
            (false, true) if known.has_failed => Step::GiveUp,
            (_, true) => Step::Take(Arc::clone(keys)),
            (is_wanted, false) => Step::Ask(is_wanted.then(|| Arc::clone(keys))),
        }
    }

    async fn ask(&self, clock: &Clock, metrics: &Metrics) {
        let asked = timeout(ASKED_FOR, self.fetch()).await.unwrap_or(Err(Trouble::Slow));
        metrics.issuer_asked(&self.name, asked.as_ref().map_or_else(Trouble::kind, |_| "ok"));
        let mut known = self.known();
        known.asked_ms = Some(clock.now_ms());
        known.has_failed = asked.is_err();
        match asked {
            Ok(keys) => (known.keys, known.came_ms) = (Some(Arc::new(keys)), clock.now_ms()),
            Err(trouble) => warn!(
                provider = self.name,
                issuer = self.iss,
                error = %Chain(&trouble),
                "an issuer of tokens does not give its keys"
            ),
        }
    }

    async fn fetch(&self) -> Result<KeySet, Trouble> {
        let jwks_uri = match &self.jwks_uri {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        KeySet::of_jwks(&self.document(&jwks_uri).await?).map_err(Trouble::Keys)
    }

    async fn discover(&self) -> Result<Url, Trouble> {
        let place = format!("{}/.well-known/openid-configuration", self.iss.trim_end_matches('/'));
        let place = Url::parse(&place).map_err(|_| Trouble::Elsewhere(place))?;
        let found: Discovery =
            serde_json::from_slice(&self.document(&place).await?).map_err(|_| Trouble::Discovery(place.clone()))?;
        if found.issuer != self.iss {
            return Err(Trouble::Other(shown(&found.issuer)));
        }
        let jwks_uri = Url::parse(&found.jwks_uri).ok().filter(|url| url.origin() == place.origin());
        jwks_uri.ok_or_else(|| Trouble::Elsewhere(shown(&found.jwks_uri)))
    }

    /// What is at `url`, up to a bound.
    async fn document(&self, url: &Url) -> Result<Vec<u8>, Trouble> {
        let unreachable = |error: reqwest::Error| Trouble::Unreachable(error.without_url());
        let request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        let mut answer = request.send().await.map_err(unreachable)?;
        if answer.status().as_u16() != 200 {
            return Err(Trouble::Status { url: url.clone(), status: answer.status().as_u16() });
        }
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if document.len() + piece.len() > DOCUMENT_BYTES_MAX {
                return Err(Trouble::Large(url.clone()));
            }
            document.extend_from_slice(&piece);
        }
        Ok(document)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of somebody else's text as a line of the log should have.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}
