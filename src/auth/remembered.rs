//! Tokens that were verified: the same one comes with every request of a client, and its signature costs more than the answer.
//!
//! They are kept as they came and wiped when they go. What is compared is compared in constant time.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};
use secrecy::{ExposeSecret as _, SecretString};

use super::tokens::Ticket;

/// What remembered tokens take at most, about: some ten thousand usual ones.
pub(super) const BYTES_MAX: u64 = 16 << 20;
/// What an entry takes beyond its words.
const ENTRY_BYTES: u64 = 512;
/// A token is a third longer than what it says, which is kept beside it, in words of their own.
const TIMES_ITS_LENGTH: u64 = 3;
/// How long a usual token is.
const USUAL_BYTES: u64 = 400;

/// What tokens are good for that were shown lately.
pub(super) struct Remembered(Cache<Token, Arc<Ticket>, ByLength>);

/// What a token and its ticket take.
#[derive(Clone)]
struct ByLength;

impl Weighter<Token, Arc<Ticket>> for ByLength {
    fn weight(&self, token: &Token, _: &Arc<Ticket>) -> u64 {
        ENTRY_BYTES + TIMES_ITS_LENGTH * token.0.expose_secret().len() as u64
    }
}

struct Token(SecretString);

/// A token that somebody shows.
struct Shown<'a>(&'a str);

impl Remembered {
    /// None yet.
    pub fn new() -> Self {
        let usual = BYTES_MAX / (ENTRY_BYTES + TIMES_ITS_LENGTH * USUAL_BYTES);
        Self(Cache::with_weighter(usize::try_from(usual).unwrap_or(usize::MAX), BYTES_MAX, ByLength))
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

impl Token {
    fn is(&self, other: &str) -> bool {
        verify_slices_are_equal(self.0.expose_secret().as_bytes(), other.as_bytes()).is_ok()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.expose_secret())
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
        token.is(self.0)
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}
