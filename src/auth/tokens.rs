//! Tokens: signed by ES256, for one service, for some minutes, for what was asked for and allowed. What is allowed is
//! decided again when a token is used; it can only narrow that down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::policy::{Permission, Permissions};
use super::remembered::{BYTES_MAX, Remembered};
use super::secret::new_name;
use super::{Error, Refusal};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The one that issues our tokens; nobody else's are believed.
pub const ISSUER: &str = "entrepot";
/// What two clocks may differ by.
const LEEWAY_MS: i64 = 10_000;
/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    access: Vec<Access>,
}

/// One entry of `access`, as Distribution's tokens have it.
#[derive(Debug, Serialize, Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

/// What a token is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Who has it, as [`super::Identity`] is displayed.
    pub subject: Arc<str>,
    /// What may be done, by the first name of each repository.
    pub access: HashMap<String, Permissions>,
    /// The list of repositories may be seen.
    pub lists: bool,
    /// For whom it was meant.
    pub(super) service: String,
    /// What proved whose it is, as far as that may change: the settings under which a job was believed, a user's password, a
    /// robot's secret.
    pub(super) mark: Option<String>,
    /// It was issued by a token server that is not ours.
    pub(super) is_of_another: bool,
    not_before_ms: i64,
    /// When its time is over, Unix milliseconds.
    pub(super) expires_ms: i64,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: SecretString,
    /// When it was issued, Unix milliseconds.
    pub issued_ms: i64,
    /// For how long it is good.
    pub lifetime: Duration,
}

/// What issues and verifies tokens.
pub(super) struct Tokens {
    keys: Keys,
    verified: Remembered,
    clock: Clock,
}

impl Tokens {
    pub fn new(keys: Keys, clock: Clock, metrics: &Metrics) -> Self {
        metrics.limit("tokens_verified_max_bytes", BYTES_MAX);
        Self { keys, verified: Remembered::new(), clock }
    }

    /// A token for what `ticket` says.
    pub async fn issue(&self, ticket: &Ticket, service: &str, lifetime: Duration) -> Result<Issued, Error> {
        let issued_ms = self.clock.now_ms();
        let now = issued_ms / 1000;
        let mut access: Vec<Access> = ticket.access.iter().map(|(name, allowed)| entry(name, *allowed)).collect();
        access.sort_by(|one, other| one.name.cmp(&other.name));
        if ticket.lists {
            access.push(Access { kind: "registry".into(), name: "catalog".into(), actions: vec!["*".into()] });
        }
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: ticket.subject.to_string(),
            aud: service.to_owned(),
            exp: now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
            nbf: now,
            iat: now,
            jti: new_name(),
            mark: ticket.mark.clone(),
            access,
        };
        let key = self.keys.current().await?;
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::ES256) };
        let token = encode(&header, &claims, &key.signing).map_err(|_| Error::Signing)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::TokenTooLong);
        }
        Ok(Issued { token: token.into(), issued_ms, lifetime })
    }

    /// What a token is good for, if it was found to be one of ours before.
    pub fn recall(&self, token: &str, service: &str) -> Option<Result<Arc<Ticket>, Refusal>> {
        Some(self.in_time(token, self.verified.find(token, service)?))
    }

    /// What a token is good for, if it is one of ours, for `service`, and its time is now.
    pub fn verify(&self, token: &str, service: &str) -> Result<Arc<Ticket>, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Token);
        }
        let ticket = Arc::new(self.read(token, service).ok_or(Refusal::Token)?);
        self.verified.insert(token, Arc::clone(&ticket));
        self.in_time(token, ticket)
    }

    fn in_time(&self, token: &str, ticket: Arc<Ticket>) -> Result<Arc<Ticket>, Refusal> {
        let now_ms = self.clock.now_ms();
        if ticket.not_before_ms > now_ms + LEEWAY_MS {
            return Err(Refusal::Token);
        }
        if ticket.expires_ms + LEEWAY_MS <= now_ms {
            self.verified.remove(token);
            return Err(Refusal::Token);
        }
        Ok(ticket)
    }

    /// The algorithm is ours to choose, not the token's; its time is compared by our clock, at each use.
    fn read(&self, token: &str, service: &str) -> Option<Ticket> {
        let key = self.keys.find(&decode_header(token).ok()?.kid?)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[service]);
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let claims = decode::<Claims>(token, &key.verifying, &validation).ok()?.claims;
        let lists = |entry: &Access| entry.kind == "registry" && entry.name == "catalog";
        let of_repository = |entry: &Access| (entry.kind == "repository").then(|| (entry.name.clone(), allowed(entry)));
        Some(Ticket {
            subject: claims.sub.into(),
            service: service.to_owned(),
            mark: claims.mark,
            is_of_another: false,
            lists: claims.access.iter().any(lists),
            access: claims.access.iter().filter_map(of_repository).collect(),
            not_before_ms: claims.nbf.checked_mul(1000)?,
            expires_ms: claims.exp.checked_mul(1000)?,
        })
    }
}

fn entry(name: &str, allowed: Permissions) -> Access {
    let actions = allowed.iter().map(|permission| permission.as_str().to_owned()).collect();
    Access { kind: "repository".to_owned(), name: name.to_owned(), actions }
}

fn allowed(entry: &Access) -> Permissions {
    let is_named = |permission: &Permission| entry.actions.iter().any(|action| action == permission.as_str());
    Permission::ALL.into_iter().filter(is_named).collect()
}

impl Ticket {
    /// One for nothing yet.
    pub(super) fn new(subject: &str) -> Self {
        Self { subject: subject.into(), ..Self::default() }
    }

    /// One of another token server.
    pub(super) fn of_another(subject: &str, service: &str, expires_ms: i64) -> Self {
        Self { service: service.to_owned(), expires_ms, is_of_another: true, ..Self::new(subject) }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

#[cfg(test)]
mod tests;
