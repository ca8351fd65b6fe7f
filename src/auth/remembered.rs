//! Tokens that were verified: the same one comes with every request of a client, and its signature costs more than the answer.
//!
//! They are kept as they came and wiped when they go. The time that a look takes tells nobody anything: a guess is compared
//! with a token only if it has the same hash of 64 bits, whose seed is this process's own.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};

use super::tokens::Ticket;

/// Tokens remembered at most.
pub(super) const TOKENS_MAX: usize = 10_000;

/// What tokens are good for that were shown lately.
pub(super) struct Remembered(Cache<Token, Arc<Ticket>>);

struct Token(SecretString);

/// A token that somebody shows.
struct Shown<'a>(&'a str);

impl Remembered {
    /// None yet.
    pub fn new() -> Self {
        Self(Cache::new(TOKENS_MAX))
    }

    /// What this token is good for, if it was verified for `service`. Whether its time is over is for the caller to say.
    pub fn find(&self, token: &str, service: &str) -> Option<Arc<Ticket>> {
        self.0.get(&Shown(token)).filter(|ticket| ticket.service == service)
    }

    /// Remembers what a token is good for.
    pub fn insert(&self, token: &str, ticket: Arc<Ticket>) {
        self.0.insert(Token(token.into()), ticket);
    }

    /// Forgets a token whose time is over.
    pub fn remove(&self, token: &str) {
        self.0.remove(&Shown(token));
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Shown(self.0.expose_secret()).hash(state);
    }
}

impl Hash for Shown<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

impl Equivalent<Token> for Shown<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        self.0 == token.0.expose_secret()
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}
