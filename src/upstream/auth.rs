//! From an upstream's challenge to the `Authorization` that answers it (distribution-spec's token authentication).
//!
//! ```text
//! 401 ─ challenge ─┬─ Basic  → the configured credentials
//!                  └─ Bearer → realm allowed? → token cached? → one GET realm?service=&scope= for all who wait
//! ```
//! One `Auth` has one identity, so a token's key is realm, service and scope. A token rejected before its time is
//! dropped only if it is still the cached one: of many who were rejected together one fetches anew.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use moka::ops::compute::Op;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::answer::Answer;
use super::body::Body;
use super::challenge::{self, Challenge};
use super::error::{Error, Nonsense};
use super::realm::realm_allowed;
use super::redact::SafeUrl;
use super::transport::{Ask, Transport};
use crate::oci::RepositoryName;

/// Tokens kept; each stands for one repository.
const TOKENS_MAX: u64 = 10_000;

/// Bytes in a token service's answer.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// The lifetime of a token that does not name its own (the specification's default).
const LIFETIME_DEFAULT: Duration = Duration::from_mins(1);

/// No token is believed to live longer.
const LIFETIME_MAX: Duration = Duration::from_hours(12);

/// A tenth of its lifetime, at most this, is taken off a token: it must still be good when it arrives.
const MARGIN_MAX: Duration = Duration::from_secs(30);

/// Who we are at an upstream.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: SecretString,
}

/// What goes into an `Authorization` header.
#[derive(Clone)]
pub enum Authorization {
    Basic(Arc<Credentials>),
    Bearer(Arc<Token>),
}

impl Authorization {
    pub fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic(who) => request.basic_auth(&who.username, Some(who.password.expose_secret())),
            Self::Bearer(token) => request.bearer_auth(token.secret.expose_secret()),
        }
    }
}

pub struct Token {
    secret: SecretString,
    lifetime: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: Url,
    service: Option<String>,
    scope: String,
}

pub struct Auth {
    credentials: Option<Arc<Credentials>>,
    /// The last challenge, by which the next request is authorized from the start if there is something to do it with.
    known: Mutex<Option<Challenge>>,
    tokens: Cache<TokenKey, Arc<Token>>,
    no_progress_timeout: Duration,
}

impl Auth {
    pub fn new(credentials: Option<Credentials>, no_progress_timeout: Duration) -> Self {
        let tokens = Cache::builder().max_capacity(TOKENS_MAX).expire_after(ByLifetime).build();
        Self { credentials: credentials.map(Arc::new), known: Mutex::new(None), tokens, no_progress_timeout }
    }

    /// What is at hand for a pull from this repository. Asks nobody.
    pub async fn cached(&self, repository: &RepositoryName) -> Option<Authorization> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        match known {
            Challenge::Basic => self.credentials.clone().map(Authorization::Basic),
            Challenge::Bearer { realm, service } => {
                let key = TokenKey { realm, service, scope: pull_scope(repository) };
                self.tokens.get(&key).await.map(Authorization::Bearer)
            }
        }
    }

    /// The answer to the challenge in a 401, given what the refused request carried.
    pub async fn answer(
        &self,
        transport: &Transport,
        refused: &Answer,
        repository: &RepositoryName,
        rejected: Option<&Authorization>,
    ) -> Result<Authorization, Error> {
        let request = &refused.request;
        let headers = refused.response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let authorization = match challenge.clone() {
            Some(Challenge::Bearer { realm, service }) => {
                if !realm_allowed(transport.origin(), &realm) {
                    return Err(Error::RealmRefused { request: request.clone(), realm: SafeUrl::new(&realm) });
                }
                let key = TokenKey { realm, service, scope: pull_scope(repository) };
                Authorization::Bearer(self.renewed(transport, key, rejected).await?)
            }
            Some(Challenge::Basic) if !matches!(rejected, Some(Authorization::Basic(_))) => {
                let credentials = self.credentials.clone();
                Authorization::Basic(
                    credentials.ok_or_else(|| Error::Refused { request: request.clone(), status: 401 })?,
                )
            }
            Some(Challenge::Basic) | None => return Err(Error::Refused { request: request.clone(), status: 401 }),
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
        Ok(authorization)
    }

    /// A token that is not the rejected one. Whoever waits for the same key shares one request and its error.
    async fn renewed(
        &self,
        transport: &Transport,
        key: TokenKey,
        rejected: Option<&Authorization>,
    ) -> Result<Arc<Token>, Error> {
        if let Some(Authorization::Bearer(old)) = rejected {
            let drop_if_old = |cached: Option<moka::Entry<TokenKey, Arc<Token>>>| {
                let is_old = cached.is_some_and(|entry| Arc::ptr_eq(entry.value(), old));
                ready(if is_old { Op::Remove } else { Op::Nop })
            };
            self.tokens.entry(key.clone()).and_compute_with(drop_if_old).await;
        }
        let fetch = self.fetch(transport, &key);
        self.tokens.try_get_with_by_ref(&key, fetch).await.map_err(|error| (*error).clone())
    }

    async fn fetch(&self, transport: &Transport, key: &TokenKey) -> Result<Arc<Token>, Error> {
        let mut url = key.realm.clone();
        url.query_pairs_mut()
            .extend_pairs(key.service.iter().map(|service| ("service", service)))
            .append_pair("scope", &key.scope);
        let ask = Ask { method: Method::GET, url, accept: Some("application/json".to_owned()), range: None };
        let basic = self.credentials.clone().map(Authorization::Basic);
        let answer = transport.send(&ask, basic.as_ref()).await?.succeeded(false).map_err(|error| match error {
            // That there is no token service does not mean that there is no such content.
            Error::NotFound { request } => Error::Status { request, status: 404, retry_after: None },
            other => other,
        })?;
        let request = answer.request.clone();
        let body = Body::of(answer, self.no_progress_timeout).read(TOKEN_BYTES_MAX).await?;
        let token = read_token(&body).ok_or(Error::Nonsense { request, what: Nonsense::Token })?;
        Ok(Arc::new(token))
    }
}

/// All that a mirror ever asks for, whatever the challenge suggests.
fn pull_scope(repository: &RepositoryName) -> String {
    format!("repository:{repository}:pull")
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number by the specification; services were seen to send others.
    expires_in: Option<serde_json::Value>,
}

/// Reads `token` or `access_token`, and `expires_in` seconds less a margin.
fn read_token(body: &[u8]) -> Option<Token> {
    let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
    let fits = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let secret = SecretString::from(answer.token.filter(fits).or(answer.access_token.filter(fits))?);
    let seconds = answer.expires_in.and_then(|value| value.as_f64()).filter(|seconds| *seconds > 0.0);
    // Cut down before it becomes a `Duration`, which would not hold every number JSON can write.
    let stated = seconds.map(|seconds| Duration::from_secs_f64(seconds.min(LIFETIME_MAX.as_secs_f64())));
    let lifetime = stated.unwrap_or(LIFETIME_DEFAULT);
    Some(Token { secret, lifetime: lifetime.saturating_sub((lifetime / 10).min(MARGIN_MAX)) })
}

/// Tokens live as long as each says.
struct ByLifetime;

impl Expiry<TokenKey, Arc<Token>> for ByLifetime {
    fn expire_after_create(&self, _: &TokenKey, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &TokenKey,
        token: &Arc<Token>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.lifetime)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> Option<(String, Duration)> {
        read_token(body.as_bytes()).map(|token| (token.secret.expose_secret().to_owned(), token.lifetime))
    }

    #[test]
    fn both_names_of_the_token_are_read_and_a_margin_is_taken_off() {
        let seconds = |n| Duration::from_secs(n);
        assert_eq!(read(r#"{"token":"a","expires_in":300}"#), Some(("a".to_owned(), seconds(270))));
        assert_eq!(read(r#"{"access_token":"b"}"#), Some(("b".to_owned(), seconds(54))));
        assert_eq!(read(r#"{"token":"","access_token":"b","expires_in":"x"}"#), Some(("b".to_owned(), seconds(54))));
        assert_eq!(
            read(r#"{"token":"a","expires_in":1e300}"#),
            Some(("a".to_owned(), LIFETIME_MAX.saturating_sub(MARGIN_MAX)))
        );
        assert_eq!(read(r#"{"token":"a","expires_in":-5}"#), Some(("a".to_owned(), seconds(54))));
    }

    #[test]
    fn answers_without_a_usable_token_are_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"token":null}"#,
            r#"{"token":""}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":1}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }

    #[test]
    fn credentials_do_not_print_their_password() {
        let credentials = Credentials { username: "me".to_owned(), password: "hunter2".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_answer_of_a_token_service_panics(value in "\\PC{0,40}", seconds: f64) {
            let _ = read(&value);
            let _ = read(&format!("{{\"token\":\"t\",\"expires_in\":{seconds:?}}}"));
        }
    }
}
