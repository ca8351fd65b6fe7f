//! The sources of one upstream: the same content at several places, asked in order, the next when one fails.
//!
//! A source that failed is asked last for a while, so that it does not cost every request a timeout; then one request
//! tries it again. What one source says of content — that there is none, that it is not for us — does not bind the
//! next: only when all say so it is so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Method;
use tracing::{info, warn};
use url::Url;

use super::Options;
use super::accounts::{AccountState, Accounts};
use super::answer::Answer;
use super::auth::Auth;
use super::budget::Budget;
use super::credentials::Keyring;
use super::error::Error;
use super::health::{self, Health};
use super::options::SourceOptions;
use super::redact::SafeUrl;
use super::transport::{Ask, Kind, Transport};
use super::turns::Turns;
use crate::clock::Clock;
use crate::oci::{Host, RepositoryName};

/// A request before it is known which source is asked.
pub struct Question<'a> {
    pub method: Method,
    pub repository: &'a RepositoryName,
    /// What follows the repository in the path: `manifests/latest`.
    pub rest: String,
    /// Encoded; empty is none.
    pub query: String,
    pub kind: Kind,
    pub accept: Option<String>,
    pub range: Option<String>,
}

impl<'a> Question<'a> {
    pub fn new(method: Method, kind: Kind, repository: &'a RepositoryName, rest: String) -> Self {
        Self { method, repository, rest, query: String::new(), kind, accept: None, range: None }
    }
}

/// One source as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Where it is.
    pub url: SafeUrl,
    /// Unix milliseconds until which it is asked last, because it failed.
    pub rests_until_ms: Option<i64>,
    /// Who we are there.
    pub accounts: Vec<AccountState>,
}

/// Who sent something, for the case that it turns out to be something else than was asked for.
#[derive(Clone)]
pub struct Origin(pub(super) Arc<Source>);

impl Origin {
    /// What it sent was not what it was asked for: it is asked last for a while.
    pub fn sent_wrong(&self) {
        self.0.sent_wrong();
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Origin {}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({})", self.0.url)
    }
}

pub struct Sources {
    all: Vec<Arc<Source>>,
    clock: Clock,
}

/// One of them.
pub struct Source {
    host: Host,
    url: SafeUrl,
    transport: Transport,
    accounts: Accounts,
    health: Mutex<Health>,
    clock: Clock,
    /// Failures of all sources so far.
    failures: Arc<AtomicU64>,
    is_alone: bool,
    send_ns: bool,
}

impl Sources {
    pub fn new(options: &Options) -> Result<Self, Error> {
        let turns = Turns::new(options.connections_max);
        let (realms, failures) = (options.realms.clone().into(), Arc::default());
        let mut n_accounts = 0;
        let all = options.sources.iter().map(|source| {
            let source = Source::new(options, source, n_accounts, &turns, &realms, &failures)?;
            n_accounts += source.accounts.states().count();
            Ok(Arc::new(source))
        });
        Ok(Self { all: all.collect::<Result<_, Error>>()?, clock: options.clock.clone() })
    }

    /// All of them, in the order in which they should be asked now.
    pub fn in_order(&self) -> Vec<Arc<Source>> {
        if let [only] = &self.all[..] {
            return vec![Arc::clone(only)];
        }
        let mut locked: Vec<MutexGuard<'_, Health>> = self.all.iter().map(|source| source.health()).collect();
        let mut healths: Vec<&mut Health> = locked.iter_mut().map(|health| &mut **health).collect();
        let order = health::order(&mut healths, self.clock.now_ms());
        order.into_iter().map(|at| Arc::clone(&self.all[at])).collect()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What is left of each account's rate limit, as far as that is known.
    pub fn budgets(&self) -> impl Iterator<Item = Option<Budget>> {
        self.all.iter().flat_map(|source| source.accounts.states()).map(|account| account.budget)
    }

    pub fn states(&self) -> Vec<SourceState> {
        let now_ms = self.clock.now_ms();
        let state = |source: &Arc<Source>| SourceState {
            url: source.url.clone(),
            rests_until_ms: source.health().rests_until_ms(now_ms),
            accounts: source.accounts.states().collect(),
        };
        self.all.iter().map(state).collect()
    }
}

impl Source {
    fn new(
        options: &Options,
        source: &SourceOptions,
        first_index: usize,
        turns: &Turns,
        realms: &Arc<[String]>,
        failures: &Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let (host, clock) = (&options.host, &options.clock);
        let server = match (source.url.host_str(), source.url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let auth = |account| {
            let keyring = Keyring::new(account, &server, clock.clone());
            Auth::new(host.clone(), keyring, Arc::clone(realms), options.no_progress_timeout)
        };
        let auths = match &source.accounts[..] {
            [] => vec![auth(None)],
            accounts => accounts.iter().cloned().map(|account| auth(Some(account))).collect(),
        };
        Ok(Self {
            host: host.clone(),
            url: SafeUrl::new(&source.url),
            transport: Transport::new(options, &source.url, turns.clone())?,
            accounts: Accounts::new(host.clone(), auths, first_index, clock.clone(), options.metrics.clone()),
            health: Mutex::default(),
            clock: clock.clone(),
            failures: Arc::clone(failures),
            is_alone: options.sources.len() == 1,
            send_ns: options.send_ns,
        })
    }

    /// Where it is, without secrets.
    pub fn url(&self) -> &SafeUrl {
        &self.url
    }

    /// Asks it once, with whichever account may. Every status but success is an error.
    pub async fn ask(&self, question: &Question<'_>) -> Result<Answer, Error> {
        let ask = Ask {
            accept: question.accept.clone(),
            range: question.range.clone(),
            ..Ask::new(question.method.clone(), self.url_of(question), question.kind)
        };
        let answer = self.accounts.ask(&self.transport, &ask, question.repository).await?;
        answer.succeeded(ask.range.is_some())
    }

    /// How an error names a question put here.
    pub fn asked(&self, question: &Question<'_>) -> super::Asked {
        self.transport.asked(&question.method, &self.url_of(question))
    }

    fn url_of(&self, question: &Question<'_>) -> Url {
        let mut url = self.transport.origin().clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/{}/{}", question.repository, question.rest));
        let ns = self.send_ns.then(|| format!("ns={}", self.host));
        // A mirror's own `Link` names the registry already.
        let given = question.query.split('&').filter(|pair| ns.is_none() || !pair.starts_with("ns="));
        let pairs: Vec<&str> = given.chain(ns.as_deref()).filter(|pair| !pair.is_empty()).collect();
        url.set_query(Some(&*pairs.join("&")).filter(|query| !query.is_empty()));
        url
    }

    /// It did its part.
    pub fn answered(&self) {
        if self.health().answered() && !self.is_alone {
            info!(upstream = %self.host, source = %self.url, "the source answers again");
        }
    }

    /// It failed; whoever is asked next time, it is not this one while there is another.
    pub fn failed(&self, error: &Error) {
        if !error.blames_source() {
            return;
        }
        let was_slow = matches!(error, Error::TimedOut { .. });
        let number = self.failures.fetch_add(1, Ordering::Relaxed);
        let was_well = self.health().failed(self.clock.now_ms(), number, was_slow);
        if was_well && !self.is_alone {
            warn!(upstream = %self.host, source = %self.url, %error, "a source failed and is asked last for a while");
        }
    }

    /// What it sent was not what it was asked for.
    pub fn sent_wrong(&self) {
        let number = self.failures.fetch_add(1, Ordering::Relaxed);
        self.health().sent_wrong(self.clock.now_ms(), number);
        if !self.is_alone {
            warn!(upstream = %self.host, source = %self.url, "a source sent something else than was asked for and is asked last for a while");
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
