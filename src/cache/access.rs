//! Whose own credentials are good at an upstream whose content is not for everyone: found out by asking it with them.
//!
//! Credentials are used for that question and, where the operator configured none, for fetching what they gave access to.
//! They are kept in memory only, until they were not used for some minutes, and looked up by a keyed digest.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use moka::sync::Cache;
use secrecy::ExposeSecret as _;

use super::belief::Beliefs;
use super::error::Error;
use super::fills::Depot;
use super::flights::Flights;
use super::{Source, Visibility};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::upstream::{Credentials, Upstream};

/// Answers remembered at most: one for each user and repository.
const VERDICTS_MAX: u64 = 10_000;
/// Users whose connections to an upstream are kept at most, and for how long after their last use.
const SESSIONS_MAX: u64 = 1_000;
const SESSION_IDLE: Duration = Duration::from_mins(10);

/// Stands for credentials at an upstream: whoever reads this out of memory has learnt no password.
type Mark = [u8; 32];
type Key = (Mark, RepositoryName);

/// What is asked for, and therefore asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A manifest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// The list of tags.
    Tags,
}

/// The callers of guarded repositories.
pub struct Access {
    key: hmac::Key,
    /// The reason why not; `None`: they are good.
    verdicts: Beliefs<Key, Option<Error>>,
    sessions: Cache<Mark, Upstream>,
    /// By what is asked for, too: that one thing is not there is no answer to who wants another.
    flights: Flights<(Key, Probe), Result<(), Error>>,
}

impl Access {
    /// Knows nobody.
    pub fn new(depot: &Depot) -> Arc<Self> {
        depot.metrics.limit("access_verdicts_max", VERDICTS_MAX);
        depot.metrics.limit("access_sessions_max", SESSIONS_MAX);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has random bytes");
        let sessions = Cache::builder().max_capacity(SESSIONS_MAX).time_to_idle(SESSION_IDLE).build();
        let verdicts = Beliefs::new(depot.clock.clone(), VERDICTS_MAX);
        Arc::new(Self { key, verdicts, sessions, flights: Flights::default() })
    }

    /// The source as this caller may use it, once its credentials have proved good for the repository.
    pub async fn admit(
        self: &Arc<Self>,
        source: Source,
        credentials: &Credentials,
        probe: Probe,
    ) -> Result<Source, Error> {
        let Visibility::Passthrough { access_ttl, has_own_credentials } = source.mirror.policy().visibility else {
            return Ok(source);
        };
        let mark = self.mark(&source, credentials);
        let key = (mark, source.canonical.clone());
        let known = self.verdicts.find(&key);
        if let Some(Some(no)) = known {
            return Err(no);
        }
        let session = self.session(mark, &source, credentials)?;
        if known.is_none() {
            let asked = self.flights.run((key.clone(), probe.clone()), || {
                let (this, source, session) = (Arc::clone(self), source.clone(), session.clone());
                async move { this.ask(key, &source, &session, probe, access_ttl).await }
            });
            asked.await.0.unwrap_or(Err(Error::Stopped))?;
        }
        let caller = (!has_own_credentials).then_some(session);
        Ok(Source { caller, ..source })
    }

    async fn ask(
        &self,
        key: Key,
        source: &Source,
        session: &Upstream,
        probe: Probe,
        access_ttl: Duration,
    ) -> Result<(), Error> {
        let (mirror, remote) = (&source.mirror, &source.remote);
        let answer = match probe {
            Probe::Manifest(reference) => {
                mirror.ask("check_access", session.head_manifest(remote, &reference)).await.map(drop)
            }
            Probe::Blob(digest) => mirror.ask("check_access", session.head_blob(remote, &digest)).await.map(drop),
            Probe::Tags => mirror.ask("check_access", session.list_tags(remote, Some(1), None)).await.map(drop),
        };
        // That one thing is not there says nothing of the rest.
        let time = match &answer {
            Ok(()) => Some(access_ttl),
            Err(error) if error.is_not_found() => None,
            Err(error) => error.lasts(mirror.policy().negative_ttl),
        };
        if let Some(time) = time {
            self.verdicts.hold(key, answer.clone().err(), time);
        }
        answer
    }

    /// The upstream as these credentials see it.
    fn session(&self, mark: Mark, source: &Source, credentials: &Credentials) -> Result<Upstream, Error> {
        if let Some(session) = self.sessions.get(&mark) {
            return Ok(session);
        }
        let host = || source.mirror.host().clone();
        let session = source.mirror.upstream().with_credentials(credentials.clone());
        let session = session.map_err(|source| Error::Upstream { host: host(), source })?;
        self.sessions.insert(mark, session.clone());
        Ok(session)
    }

    fn mark(&self, source: &Source, credentials: &Credentials) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        let password = credentials.password.expose_secret();
        for part in [source.mirror.host().as_str(), &credentials.username, password] {
            // With its length first, so that no two lists of parts are the same bytes.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = Mark::default();
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}
