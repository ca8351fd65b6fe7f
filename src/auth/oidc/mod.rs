//! Jobs that sign in by the token which their CI or cluster gives them (`OpenID` Connect): no secret of theirs is stored anywhere.
//!
//! ```text
//! token ─ iss ─ Provider ─ the issuer's keys ─ signature ─ aud, times ─ claims ─ oidc:PROVIDER:SUBJECT
//!                              └─ issuer.rs: asked seldom, kept for a while, at its own origin only
//! ```
//! A subject means something together with its issuer only, so the provider's name is part of the identity.

mod issuer;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use globset::GlobSet;
use secrecy::SecretString;
use serde_json::Value;
use url::Url;

use super::Refusal;
use super::jwt::{self, Claims, Fault};
use super::secret::digest_of;
use crate::clock::Clock;
use crate::metrics::Metrics;

pub use issuer::DOCUMENT_BYTES_MAX;
use issuer::Issuer;

/// What is configured of a provider.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it is called here.
    pub name: String,
    /// What its tokens have as `iss`, and where it is asked.
    pub issuer: String,
    /// What its tokens must have in `aud`.
    pub audience: String,
    /// Where its keys are, if it is not asked for that.
    pub jwks_uri: Option<Url>,
    /// What its tokens must claim.
    pub claims: Vec<(String, GlobSet)>,
    /// The claim that becomes the subject.
    pub identity: String,
    /// Authorities to believe besides those of this machine, as PEM.
    pub ca: Option<String>,
    /// How long its keys count without being asked for again.
    pub keys_lifetime: Duration,
    /// How long they count while it cannot be asked.
    pub keys_kept_for: Duration,
    /// All of this as text: where it is the same, so is the provider.
    pub written: String,
}

/// Somebody whose tokens are believed.
pub struct Provider {
    options: Options,
    issuer: Issuer,
    mark: String,
}

/// Who a token says has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The subject, of this provider alone.
    pub subject: String,
    /// When its token ends, Unix milliseconds.
    pub expires_ms: i64,
}

impl Provider {
    /// A provider, of which nothing is asked yet.
    pub fn new(options: Options) -> reqwest::Result<Self> {
        let written = SecretString::from(options.written.as_str());
        let mark = BASE64_URL_SAFE_NO_PAD.encode(digest_of(&written));
        Ok(Self { issuer: Issuer::new(&options)?, options, mark })
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// What says in a token of ours that it was issued under these very settings.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whose this token is.
    pub async fn admit(&self, token: &str, clock: &Clock, metrics: &Metrics) -> Result<Job, Refusal> {
        let refused = |fault| Refusal::Foreign { of: format!("auth.oidc.{}", self.options.name), fault };
        let wanted = jwt::wanted(token).map_err(refused)?;
        let keys = self.issuer.keys(&wanted, clock, metrics).await.ok_or_else(|| self.is_silent())?;
        let claims = match jwt::verified(token, &wanted, &keys) {
            // It names no key, and may be signed by one that is new.
            Err(Fault::Key) if keys.has(&wanted) => {
                let newer = self.issuer.newer_keys(&keys, clock, metrics).await.ok_or_else(|| self.is_silent())?;
                jwt::verified(token, &wanted, &newer)
            }
            verified => verified,
        };
        self.job(&claims.map_err(refused)?, clock.now_ms()).map_err(refused)
    }

    fn job(&self, claims: &Claims, now_ms: i64) -> Result<Job, Fault> {
        let Options { issuer, audience, claims: required, identity, .. } = &self.options;
        let expires_ms = jwt::check(claims, issuer, audience, now_ms)?;
        for (claim, patterns) in required {
            if !text_of(claims.get(claim)).is_some_and(|value| patterns.is_match(value)) {
                return Err(Fault::Claim { claim: claim.clone() });
            }
        }
        let subject = jwt::subject(claims, identity)?.ok_or_else(|| Fault::Claim { claim: identity.clone() })?;
        Ok(Job { subject: subject.to_owned(), expires_ms })
    }

    fn is_silent(&self) -> Refusal {
        Refusal::IssuerSilent { provider: self.options.name.clone(), issuer: self.options.issuer.clone() }
    }
}

/// A claim that is a text, a number, true or false, as a pattern sees it.
fn text_of(claim: Option<&Value>) -> Option<String> {
    match claim? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

/// All providers, by name.
#[derive(Clone, Debug, Default)]
pub struct Providers(Vec<Arc<Provider>>);

impl Providers {
    /// These.
    pub fn new(providers: impl IntoIterator<Item = Provider>) -> Self {
        Self(providers.into_iter().map(Arc::new).collect())
    }

    /// Are there none?
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Provider>> {
        self.0.iter().find(|provider| provider.name() == name)
    }

    /// Those whose tokens have this `iss`.
    pub(super) fn of_issuer<'a>(&'a self, issuer: &'a str) -> impl Iterator<Item = &'a Arc<Provider>> {
        self.0.iter().filter(move |provider| provider.options.issuer == issuer)
    }

    /// Goes on with the providers of `before` that are configured as they were: the keys that they have count on.
    pub(super) fn inherit(&mut self, before: &Self) {
        for provider in &mut self.0 {
            let same = before.find(provider.name()).filter(|one| one.options.written == provider.options.written);
            if let Some(same) = same {
                *provider = Arc::clone(same);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: &str, written: &str) -> Provider {
        Provider::new(Options {
            name: name.to_owned(),
            issuer: "https://issuer.example".to_owned(),
            audience: "registry".to_owned(),
            jwks_uri: None,
            claims: Vec::new(),
            identity: "sub".to_owned(),
            ca: None,
            keys_lifetime: Duration::from_hours(1),
            keys_kept_for: Duration::from_hours(24),
            written: written.to_owned(),
        })
        .unwrap()
    }

    #[test]
    fn a_provider_that_is_configured_as_it_was_keeps_its_keys() {
        let before = Providers::new([provider("one", "a"), provider("two", "a"), provider("gone", "a")]);
        let mut after = Providers::new([provider("one", "a"), provider("two", "b"), provider("new", "a")]);
        after.inherit(&before);
        let is_kept =
            |name: &str| before.find(name).zip(after.find(name)).is_some_and(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(["one", "two", "gone", "new"].map(is_kept), [true, false, false, false]);
        assert_ne!(before.find("two").unwrap().mark(), after.find("two").unwrap().mark());
    }
}
