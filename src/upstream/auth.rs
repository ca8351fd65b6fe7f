//! From a source's challenge to the `Authorization` that answers it (distribution-spec's token authentication).
//!
//! ```text
//! 401 ─ challenge ─┬─ Basic  → the account's credentials
//!                  └─ Bearer → realm allowed? → token cached? → one request to the token service for all who wait
//! ```
//! One `Auth` is one account at one source. A token rejected before its time is dropped only if it is still the cached
//! one: of many who were rejected together one fetches anew. Credentials that are refused are looked up once more where
//! they come from: they may have been rotated.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use moka::ops::compute::Op;
use reqwest::{Method, RequestBuilder};
use secrecy::ExposeSecret;
use url::Url;

use super::answer::Answer;
use super::body::Body;
use super::challenge::Challenge;
use super::credentials::{Keyring, Secret, Unavailable};
use super::error::{Asked, Error, Nonsense};
use super::realm::realm_allowed;
use super::redact::SafeUrl;
use super::token::{self, ByLifetime, Token};
use super::transport::{Ask, Kind, Transport};
use crate::oci::{Host, RepositoryName};

/// Tokens kept; each stands for one repository.
const TOKENS_MAX: u64 = 10_000;

/// Bytes in a token service's answer.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// What goes into an `Authorization` header.
#[derive(Clone)]
pub enum Authorization {
    Basic(Arc<Secret>),
    Bearer(Arc<Token>),
}

impl Authorization {
    pub fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic(secret) => match &**secret {
                Secret::Password(who) => request.basic_auth(&who.username, Some(who.password.expose_secret())),
                // Good for token services only.
                Secret::IdentityToken(_) => request,
            },
            Self::Bearer(token) => request.bearer_auth(token.secret.expose_secret()),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: Url,
    service: Option<String>,
    scope: String,
    /// A token that another user was given is not ours.
    identity: Option<String>,
}

/// What a refused request carried.
pub struct Rejected<'a> {
    pub request: &'a Asked,
    pub authorization: Option<&'a Authorization>,
    /// It had been made to answer a challenge a moment ago, so asking for the same again is pointless.
    pub is_fresh: bool,
}

impl Rejected<'_> {
    fn refused(&self) -> Error {
        Error::Refused { request: self.request.clone(), status: 401 }
    }
}

pub struct Auth {
    host: Host,
    keyring: Keyring,
    /// The last challenge, by which the next request is authorized from the start if there is something to do it with.
    known: Mutex<Option<Challenge>>,
    tokens: Cache<TokenKey, Arc<Token>>,
    realms: Arc<[String]>,
    no_progress_timeout: Duration,
}

impl Auth {
    /// `realms` are the token services that are allowed besides those of the source's own domain.
    pub fn new(host: Host, keyring: Keyring, realms: Arc<[String]>, no_progress_timeout: Duration) -> Self {
        let tokens = Cache::builder().max_capacity(TOKENS_MAX).expire_after(ByLifetime).build();
        Self { host, keyring, known: Mutex::new(None), tokens, realms, no_progress_timeout }
    }

    /// What a pull from this repository will be asked for, by the last challenge. A token that is missing or about to
    /// end is fetched; what a refused one means the challenge to come decides.
    pub async fn at_hand(
        &self,
        transport: &Transport,
        repository: &RepositoryName,
    ) -> Result<Option<Authorization>, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(known) = known else { return Ok(None) };
        let secret = self.current().await?;
        match known {
            Challenge::Basic => Ok(secret.map(Authorization::Basic)),
            Challenge::Bearer { realm, service } => {
                let key = token_key(realm, service, repository, secret.as_deref());
                match self.token(transport, key, secret).await {
                    Ok(token) => Ok(Some(Authorization::Bearer(token))),
                    Err(error) if error.is_transient() || matches!(error, Error::RateLimited { .. }) => Err(error),
                    Err(_) => Ok(None),
                }
            }
        }
    }

    /// The answer to a challenge.
    pub async fn answer(
        &self,
        transport: &Transport,
        challenge: Option<Challenge>,
        repository: &RepositoryName,
        rejected: Rejected<'_>,
    ) -> Result<Authorization, Error> {
        let authorization = match challenge.clone().ok_or_else(|| rejected.refused())? {
            Challenge::Basic => Authorization::Basic(self.password(&rejected).await?),
            Challenge::Bearer { realm, service } => {
                if !realm_allowed(transport.origin(), &realm, &self.realms) {
                    let request = rejected.request.clone();
                    return Err(Error::RealmRefused { request, realm: SafeUrl::new(&realm) });
                }
                let secret = self.for_token(&rejected).await?;
                let key = token_key(realm, service, repository, secret.as_deref());
                self.forget(&key, rejected.authorization).await;
                Authorization::Bearer(self.token(transport, key, secret).await?)
            }
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
        Ok(authorization)
    }

    /// The password to send, and another one than that which was rejected.
    async fn password(&self, rejected: &Rejected<'_>) -> Result<Arc<Secret>, Error> {
        let secret = match rejected.authorization {
            Some(Authorization::Basic(old)) => self.keyring.other_than(Some(old)).await,
            _ => self.current().await?,
        };
        secret.filter(|secret| matches!(**secret, Secret::Password(_))).ok_or_else(|| rejected.refused())
    }

    /// What to show the token service: other credentials than those whose token was rejected a moment ago.
    async fn for_token(&self, rejected: &Rejected<'_>) -> Result<Option<Arc<Secret>>, Error> {
        let secret = self.current().await?;
        if !rejected.is_fresh {
            return Ok(secret);
        }
        self.keyring.other_than(secret.as_ref()).await.map(Some).ok_or_else(|| rejected.refused())
    }

    async fn current(&self) -> Result<Option<Arc<Secret>>, Error> {
        let host = &self.host;
        let unavailable = |error: Unavailable| Error::Credentials { host: host.clone(), reason: error.to_string() };
        self.keyring.current().await.map_err(unavailable)
    }

    /// Drops a rejected token, unless somebody else has had it replaced already.
    async fn forget(&self, key: &TokenKey, rejected: Option<&Authorization>) {
        let Some(Authorization::Bearer(old)) = rejected else { return };
        let drop_if_old = |cached: Option<moka::Entry<TokenKey, Arc<Token>>>| {
            let is_old = cached.is_some_and(|entry| Arc::ptr_eq(entry.value(), old));
            ready(if is_old { Op::Remove } else { Op::Nop })
        };
        self.tokens.entry(key.clone()).and_compute_with(drop_if_old).await;
    }

    /// A token, cached or fetched. Whoever waits for the same key shares one request and its error.
    async fn token(
        &self,
        transport: &Transport,
        key: TokenKey,
        secret: Option<Arc<Secret>>,
    ) -> Result<Arc<Token>, Error> {
        let fetch = async {
            match self.fetch(transport, &key, secret.as_deref()).await {
                Err(error @ Error::Refused { .. }) if secret.is_some() => {
                    let Some(other) = self.keyring.other_than(secret.as_ref()).await else { return Err(error) };
                    self.fetch(transport, &key, Some(&other)).await
                }
                fetched => fetched,
            }
        };
        self.tokens.try_get_with_by_ref(&key, fetch).await.map_err(|error| (*error).clone())
    }

    async fn fetch(&self, transport: &Transport, key: &TokenKey, secret: Option<&Secret>) -> Result<Arc<Token>, Error> {
        let mut ask = Ask::new(Method::GET, key.realm.clone(), Kind::Metadata);
        ask.accept = Some("application/json".to_owned());
        let answer = match secret {
            Some(Secret::IdentityToken(token)) => {
                ask.method = Method::POST;
                ask.form = Some(token::refresh_form(key.service.as_deref(), &key.scope, token));
                transport.send(&ask, None).await?
            }
            secret => {
                ask.url
                    .query_pairs_mut()
                    .extend_pairs(key.service.iter().map(|service| ("service", service)))
                    .append_pair("scope", &key.scope);
                let basic = secret.cloned().map(|secret| Authorization::Basic(Arc::new(secret)));
                transport.send(&ask, basic.as_ref()).await?
            }
        };
        let answer: Answer = answer.succeeded(false).map_err(|error| match error {
            // That there is no token service does not mean that there is no such content.
            Error::NotFound { request } => Error::Status { request, status: 404, retry_after: None },
            // What OAuth 2.0 calls an invalid grant is a refusal (RFC 6749, section 5.2).
            Error::Status { request, status: status @ 400, .. } if ask.form.is_some() => {
                Error::Refused { request, status }
            }
            other => other,
        })?;
        let request = answer.request.clone();
        let body = Body::of(answer, self.no_progress_timeout).read(TOKEN_BYTES_MAX).await?;
        let token = token::read(&body).ok_or(Error::Nonsense { request, what: Nonsense::Token })?;
        Ok(Arc::new(token))
    }
}

fn token_key(realm: Url, service: Option<String>, repository: &RepositoryName, secret: Option<&Secret>) -> TokenKey {
    // All that a mirror ever asks for, whatever the challenge suggests.
    let scope = format!("repository:{repository}:pull");
    TokenKey { realm, service, scope, identity: secret.map(|secret| secret.identity().to_owned()) }
}
