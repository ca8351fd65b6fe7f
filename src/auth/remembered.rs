//! Tokens that were verified: the same one comes with every request of a client, and its signature costs more than the answer.
//!
//! They are kept as they came and wiped when they go. Looking tells nobody anything: a guess is held against a token letter by
//! letter only if both have the same hash of 64 bits, by a seed that is this memory's own.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Equivalent, Weighter};
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
pub(super) struct Remembered {
    seed: DefaultHashBuilder,
    tokens: Cache<Token, Arc<Ticket>, ByLength>,
}

/// What a token and its ticket take.
#[derive(Clone)]
struct ByLength;

impl Weighter<Token, Arc<Ticket>> for ByLength {
    fn weight(&self, token: &Token, _: &Arc<Ticket>) -> u64 {
        ENTRY_BYTES + TIMES_ITS_LENGTH * token.text.expose_secret().len() as u64
    }
}

struct Token {
    hash: u64,
    text: SecretString,
}

/// A token that somebody shows.
struct Shown<'a> {
    hash: u64,
    text: &'a str,
}

impl Remembered {
    /// None yet.
    pub fn new() -> Self {
        let usual = BYTES_MAX / (ENTRY_BYTES + TIMES_ITS_LENGTH * USUAL_BYTES);
        let usual = usize::try_from(usual).unwrap_or(usize::MAX);
        Self { seed: DefaultHashBuilder::default(), tokens: Cache::with_weighter(usual, BYTES_MAX, ByLength) }
    }

    /// What this token is good for, if it was verified for `service`. Whether its time is over is for the caller to say.
    pub fn find(&self, token: &str, service: &str) -> Option<Arc<Ticket>> {
        self.tokens.get(&self.shown(token)).filter(|ticket| ticket.service == service)
    }

    /// Remembers what a token is good for.
    pub fn insert(&self, token: &str, ticket: Arc<Ticket>) {
        let Shown { hash, text } = self.shown(token);
        self.tokens.insert(Token { hash, text: text.into() }, ticket);
    }

    /// Forgets a token whose time is over.
    pub fn remove(&self, token: &str) {
        self.tokens.remove(&self.shown(token));
    }

    fn shown<'a>(&self, text: &'a str) -> Shown<'a> {
        Shown { hash: self.seed.hash_one(text), text }
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        Shown { hash: self.hash, text: self.text.expose_secret() }.equivalent(other)
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for Shown<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Token> for Shown<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        self.hash == token.hash && self.text == token.text.expose_secret()
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}
