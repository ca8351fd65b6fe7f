//! Passwords: checked against bcrypt hashes, off the threads that serve, by few at a time.
//!
//! An unknown name costs what a known one costs. A success is remembered for a minute under a keyed digest, because clients
//! send their password with every request; a change of the file forgets it, for the hash is part of what is digested.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use moka::future::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;

use super::Refusal;
use super::secret::{digest_of, mark_of};
use super::throttle::{self, Throttle};
use crate::crowd::Crowd;
use crate::metrics::Metrics;

/// Successes remembered at most, and for how long.
const VERIFIED_MAX: u64 = 10_000;
const VERIFIED_FOR: Duration = Duration::from_mins(1);
/// Hashes computed at a time: each keeps a processor busy for a good part of a second.
const CHECKS_MAX: usize = 2;
/// Checks that may wait for their turn; further ones are told to come back.
const CHECKS_WAITING_MAX: usize = 64;
/// The same of one client, so that there is room for the others.
const CHECKS_PER_CLIENT_MAX: usize = 8;
/// The longest name and password that are looked at.
const NAME_BYTES_MAX: usize = 255;
const PASSWORD_BYTES_MAX: usize = 1024;

/// Nobody's hash, where there is no user's: of a cost as `hash-password` makes them.
const DECOY: &str = "$2y$12$abcdefghijklmnopqrstuuGsjVJ7bSMCCbQ/6ZSYu7hlyZ7v3DH1O";

/// The users and their hashes.
#[derive(Clone, Debug)]
pub struct Accounts {
    users: HashMap<String, User>,
    /// What an unknown user's password is compared with.
    decoy: SecretString,
}

#[derive(Clone, Debug)]
struct User {
    hash: SecretString,
    mark: String,
}

impl Accounts {
    /// These users. The hashes are bcrypt's.
    pub fn new(users: impl IntoIterator<Item = (String, SecretString)>) -> Self {
        let hashes: HashMap<String, SecretString> = users.into_iter().collect();
        // `$2y$12$…`: of one length, so the dearest is the greatest.
        let cost = |hash: &SecretString| hash.expose_secret().get(4..6).unwrap_or_default().to_owned();
        let dearest = hashes.values().max_by_key(|hash| cost(hash)).cloned();
        let decoy = dearest.unwrap_or_else(|| DECOY.into());
        let user = |(name, hash)| (name, User { mark: mark_of(&digest_of(&hash)), hash });
        Self { decoy, users: hashes.into_iter().map(user).collect() }
    }

    /// The hash of a user's password.
    pub fn hash(&self, name: &str) -> Option<&SecretString> {
        self.users.get(name).map(|user| &user.hash)
    }

    /// What tells a user's password from an earlier one.
    pub(super) fn mark(&self, name: &str) -> Option<&str> {
        self.users.get(name).map(|user| &*user.mark)
    }
}

/// What checks passwords.
pub struct Passwords {
    key: hmac::Key,
    verified: Cache<[u8; 32], ()>,
    throttle: Throttle,
    checks: Arc<Semaphore>,
    waiting: Semaphore,
    crowd: Arc<Crowd>,
}

impl Passwords {
    /// Nothing was checked yet.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.limit("passwords_verified_max", VERIFIED_MAX);
        metrics.limit("password_checks_max", CHECKS_MAX as u64);
        metrics.limit("password_checks_waiting_max", CHECKS_WAITING_MAX as u64);
        metrics.limit("password_checks_per_client_max", CHECKS_PER_CLIENT_MAX as u64);
        metrics.limit("password_failures_max", throttle::ENTRIES_MAX);
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has random bytes"),
            verified: Cache::builder().max_capacity(VERIFIED_MAX).time_to_live(VERIFIED_FOR).build(),
            throttle: Throttle::new(),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            waiting: Semaphore::new(CHECKS_MAX + CHECKS_WAITING_MAX),
            crowd: Arc::new(Crowd::new(CHECKS_PER_CLIENT_MAX)),
        }
    }

    /// Is this the user's password?
    pub async fn check(
        &self,
        accounts: &Accounts,
        name: &str,
        password: &SecretString,
        address: Option<IpAddr>,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        if name.len() > NAME_BYTES_MAX || password.expose_secret().len() > PASSWORD_BYTES_MAX {
            return Err(Refusal::WrongPassword);
        }
        let known = accounts.hash(name);
        let hash = known.unwrap_or(&accounts.decoy);
        let kind = if known.is_some() { "user" } else { "nobody" };
        let mark = self.mark(&[kind, name, password.expose_secret(), hash.expose_secret()]);
        if self.verified.contains_key(&mark) {
            return Ok(());
        }
        if let Some(wait) = self.throttle.wait(name, address, now_ms) {
            return Err(Refusal::Throttled { wait });
        }
        // A fleet that comes at once with one password is one check, also when the password is wrong.
        let checking = async {
            if self.fits(password, hash, address).await? && known.is_some() {
                return Ok(());
            }
            self.throttle.failed(name, address, now_ms);
            Err(Refusal::WrongPassword)
        };
        let checked = self.verified.try_get_with(mark, checking).await;
        checked.map_err(Arc::unwrap_or_clone)?;
        self.throttle.succeeded(name, address);
        Ok(())
    }

    /// Compares when it is its turn, if there is room to wait for that.
    async fn fits(
        &self,
        password: &SecretString,
        hash: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<bool, Refusal> {
        let busy = Refusal::Throttled { wait: Duration::from_secs(1) };
        let _seat = address.map(|address| self.crowd.enter(address).ok_or_else(|| busy.clone())).transpose()?;
        let _place = self.waiting.try_acquire().map_err(|_| busy)?;
        let turn = Arc::clone(&self.checks).acquire_owned().await.expect("the semaphore is never closed");
        let (password, hash) = (password.clone(), hash.clone());
        let fits = tokio::task::spawn_blocking(move || {
            let fits = bcrypt::verify(password.expose_secret(), hash.expose_secret());
            drop(turn);
            fits.unwrap_or(false)
        });
        Ok(fits.await.unwrap_or(false))
    }

    fn mark(&self, parts: &[&str]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // With its length first, so that no two lists of parts are the same bytes.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn hash(password: &str) -> SecretString {
        bcrypt::hash(password, 4).unwrap().into()
    }

    async fn check(passwords: &Passwords, accounts: &Accounts, name: &str, password: &str, now_ms: i64) -> String {
        let password = password.to_owned().into();
        match passwords.check(accounts, name, &password, None, now_ms).await {
            Ok(()) => "in".to_owned(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[tokio::test]
    async fn the_right_password_gets_in_and_a_changed_one_counts_at_once() {
        let passwords = Passwords::new(&Metrics::new());
        let before = Accounts::new([("alice".to_owned(), hash("one")), ("bob".to_owned(), hash("two"))]);
        assert_eq!(check(&passwords, &before, "alice", "one", 0).await, "in");
        let after = Accounts::new([("alice".to_owned(), hash("three"))]);
        assert_eq!(check(&passwords, &after, "alice", "one", 0).await, Refusal::WrongPassword.to_string());
        assert_eq!(check(&passwords, &after, "alice", "three", 0).await, "in");
        assert_eq!(check(&passwords, &after, "bob", "two", 0).await, Refusal::WrongPassword.to_string());
        assert_eq!(check(&passwords, &after, "", "", 0).await, Refusal::WrongPassword.to_string());
    }

    #[tokio::test]
    async fn somebody_elses_password_gets_nobody_in_not_even_the_decoys() {
        let passwords = Passwords::new(&Metrics::new());
        let accounts = Accounts::new([("alice".to_owned(), hash("one"))]);
        // An unknown user is compared with alice's hash.
        assert_eq!(check(&passwords, &accounts, "mallory", "one", 0).await, Refusal::WrongPassword.to_string());
    }

    #[tokio::test]
    async fn who_fails_too_often_waits_but_whoever_was_let_in_goes_on() {
        let passwords = Passwords::new(&Metrics::new());
        let accounts = Accounts::new([("alice".to_owned(), hash("one"))]);
        assert_eq!(check(&passwords, &accounts, "alice", "one", 0).await, "in");
        for _ in 0..5 {
            assert_eq!(check(&passwords, &accounts, "alice", "guess", 0).await, Refusal::WrongPassword.to_string());
        }
        let waits = Refusal::Throttled { wait: Duration::from_secs(1) }.to_string();
        assert_eq!(check(&passwords, &accounts, "alice", "guess", 0).await, waits);
        assert_eq!(check(&passwords, &accounts, "alice", "one", 0).await, "in", "it is remembered");
    }

    /// All of them ask before the first one is answered.
    async fn at_once<T>(passwords: &Passwords, tries: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let turns = passwords.checks.acquire_many(u32::try_from(CHECKS_MAX).unwrap()).await.unwrap();
        let mut all = pin!(futures::future::join_all(tries));
        assert!(futures::poll!(all.as_mut()).is_pending());
        drop(turns);
        all.await
    }

    #[tokio::test]
    async fn a_crowd_behind_one_address_that_shows_one_password_takes_one_place() {
        let passwords = Passwords::new(&Metrics::new());
        let accounts = Accounts::new([("alice".to_owned(), hash("one"))]);
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let all_try = async |name: &'static str, password: &'static str| {
            let password = SecretString::from(password);
            let tries = (0..3 * CHECKS_PER_CLIENT_MAX).map(|_| passwords.check(&accounts, name, &password, address, 0));
            at_once(&passwords, tries).await
        };
        assert!(all_try("alice", "one").await.into_iter().all(|checked| checked.is_ok()));
        // Nobody learns from that whether there is such a user.
        for (name, password) in [("alice", "guess"), ("mallory", "guess")] {
            let refused = all_try(name, password).await;
            assert!(
                refused.iter().all(|checked| matches!(checked, Err(Refusal::WrongPassword))),
                "{name}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn one_client_that_shows_many_passwords_takes_its_places_and_no_more() {
        let passwords = Passwords::new(&Metrics::new());
        let accounts = Accounts::new([("alice".to_owned(), hash("one"))]);
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let guesses: Vec<SecretString> = (0..3 * CHECKS_PER_CLIENT_MAX).map(|n| format!("guess {n}").into()).collect();
        let tries = guesses.iter().map(|guess| passwords.check(&accounts, "alice", guess, address, 0));
        let refused = at_once(&passwords, tries).await;
        let looked_at = refused.iter().filter(|checked| matches!(checked, Err(Refusal::WrongPassword))).count();
        assert_eq!(looked_at, CHECKS_PER_CLIENT_MAX, "{refused:?}");
    }

    #[test]
    fn the_decoy_is_a_hash_like_any_other() {
        assert!(matches!(DECOY.parse::<bcrypt::HashParts>(), Ok(parts) if parts.get_cost() == 12));
        assert_eq!(Accounts::new([]).decoy.expose_secret(), DECOY);
    }
}
