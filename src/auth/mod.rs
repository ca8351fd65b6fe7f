//! Who may do what: identities and how they are proven, and the policy that decides for them by the names of repositories.
//!
//! ```text
//! what a request presents ─ identify ─ Caller ─ may(permission, names) ─ Verdict
//!                              │                     │
//! passwords robots tokens oidc ┘                     └─ policy, and what the token was issued for
//! ```
//! Nothing here knows HTTP, and nothing is looked up in a repository: whoever may not pull gets the same answer whether there is
//! something or not. Rules count when a token is issued and again when it is used; so do users and robots that are gone.

mod caller;
mod certificate;
mod identity;
mod jwt;
mod keys;
mod oidc;
mod passwords;
mod policy;
mod presented;
mod refusal;
mod remembered;
mod robots;
mod scope;
mod secret;
mod standing;
mod throttle;
mod token_server;
mod tokens;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::Clock;
use crate::metadata::{Metadata, RefreshTokenRow};
use crate::metrics::Metrics;
use crate::near::{Held, Near};
use crate::oci::RepositoryName;

pub use caller::{Caller, Verdict};
pub use certificate::{CertificateName, PeerCertificate};
pub use identity::Identity;
pub use jwt::{Fault, KeySet, KeysInvalid};
pub use oidc::{Options as ProviderOptions, Provider, Providers};
pub use passwords::Accounts;
pub use policy::{Decision, Grant, Permission, Permissions, Policy, Rule, Source, Who};
pub use presented::Presented;
pub use refusal::{Error, NoToken, Refusal};
pub use robots::{NewRobot, ROBOT_PREFIX, Robot, RobotError, Robots};
pub use scope::Scope;
pub use standing::Standing;
pub use token_server::TokenServer;
pub use tokens::{ISSUER, Issued, Ticket};

use keys::Keys;
use passwords::Passwords;
use secret::{digest_of, new_secret};
use tokens::Tokens;

/// What a refresh token begins with.
const REFRESH_PREFIX: &str = "entrepot_refresh_";
/// Refresh tokens of one user; of more, the oldest end. Each `docker login` takes one.
const REFRESH_TOKENS_PER_USER_MAX: usize = 100;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The address of whoever sent it.
    pub address: Option<IpAddr>,
    /// It was sent from this machine, and nobody sent it on.
    pub is_local: bool,
    /// Whom the client proved to be when it connected.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// The one that knows everybody.
#[derive(Debug)]
pub struct Authority {
    standing: RwLock<Arc<Standing>>,
    /// Counts the replacements of the standing.
    version: AtomicU64,
    /// The standing, as each thread holds it: all its requests count at one place, and not at one for all threads.
    near: Near<(), Held<Standing>>,
    passwords: Passwords,
    tokens: Tokens,
    robots: Robots,
    metadata: Metadata,
    clock: Clock,
    metrics: Metrics,
}

impl Authority {
    /// Decides by `standing`, with the robots and keys in the index.
    pub async fn open(standing: Standing, metadata: Metadata, clock: Clock, metrics: &Metrics) -> Result<Self, Error> {
        metrics.limit("robots_max", robots::ROBOTS_MAX as u64);
        metrics.limit("refresh_tokens_per_user_max", REFRESH_TOKENS_PER_USER_MAX as u64);
        metrics.limit("issuer_document_bytes_max", oidc::DOCUMENT_BYTES_MAX as u64);
        metrics.limit("issuer_keys_max", jwt::KEYS_MAX as u64);
        let keys = Keys::open(metadata.clone(), clock.clone()).await?;
        Ok(Self {
            standing: RwLock::new(Arc::new(standing)),
            version: AtomicU64::new(0),
            near: Near::of_each(2),
            passwords: Passwords::new(metrics),
            tokens: Tokens::new(keys, clock.clone(), metrics),
            robots: Robots::open(metadata.clone()).await?,
            metadata,
            clock,
            metrics: metrics.clone(),
        })
    }

    /// Decides by another configuration from now on, also for who has signed in already.
    pub fn replace(&self, mut standing: Standing) {
        let mut current = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.providers.inherit(&current.providers);
        *current = Arc::new(standing);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What is configured now.
    pub fn standing(&self) -> Held<Standing> {
        let version = self.version.load(Ordering::Acquire);
        if let Some(held) = self.near.get(&(), version) {
            return held;
        }
        let held = Held::of(Arc::clone(&self.standing.read().unwrap_or_else(PoisonError::into_inner)));
        self.near.put((), held.clone(), version);
        held
    }

    /// The robots.
    pub const fn robots(&self) -> &Robots {
        &self.robots
    }

    /// Nobody in particular.
    pub fn stranger(&self, origin: &Origin) -> Caller {
        Caller::new(Identity::Anonymous { is_local: origin.is_local }, None, self.standing())
    }

    /// Finds out who sent a request. What it shows comes before the certificate of its connection: somebody signs in from a
    /// machine that has one.
    pub async fn identify(&self, presented: &Presented<'_>, origin: &Origin) -> Result<Caller, Refusal> {
        let standing = self.standing();
        let nobody = Identity::Anonymous { is_local: origin.is_local };
        if !standing.is_configured {
            return Ok(Caller::new(nobody, None, standing));
        }
        match presented {
            Presented::Nothing => {
                let identity = standing.certified(origin).unwrap_or(nobody);
                Ok(Caller::new(identity, None, standing))
            }
            Presented::Password { username, password } => {
                Box::pin(self.sign_in(standing, username, password, origin)).await
            }
            Presented::Token(token) => self.admit(standing, token, origin).await,
            Presented::Unreadable => Err(Refusal::Unreadable),
        }
    }

    async fn sign_in(
        &self,
        standing: Held<Standing>,
        username: &str,
        password: &SecretString,
        origin: &Origin,
    ) -> Result<Caller, Refusal> {
        let now_ms = self.clock.now_ms();
        let Some(robot) = username.strip_prefix(ROBOT_PREFIX) else {
            if let Some(admitted) = self.vouched_for(&standing, password.expose_secret()).await {
                return admitted;
            }
            self.passwords.check(&standing.accounts, username, password, origin.address, now_ms).await?;
            return Ok(Caller::new(standing.user(username), None, standing));
        };
        // Nobody guesses a token, so nobody has to be slowed down.
        let grant = self.robots.admit(robot, password, now_ms).ok_or(Refusal::WrongPassword)?;
        Ok(Caller::new(Identity::Robot { name: robot.to_owned(), grant }, None, standing))
    }

    /// The job whose token this is, if it says that one of the providers has issued it. Of several that have the same
    /// issuer the first that takes it counts.
    async fn vouched_for(&self, standing: &Held<Standing>, token: &str) -> Option<Result<Caller, Refusal>> {
        if standing.providers.is_empty() {
            return None;
        }
        let issuer = jwt::issuer_of(token)?;
        let mut refused = None;
        for provider in standing.providers.of_issuer(&issuer) {
            match provider.admit(token, &self.clock, &self.metrics).await {
                Ok(job) => {
                    let identity = standing.job(provider.name(), &job.subject, job.expires_ms);
                    return Some(Ok(Caller::new(identity, None, standing.clone())));
                }
                // A token for somebody else's audience says less about what is wrong than one for ours.
                Err(Refusal::Foreign { fault: Fault::Audience { .. }, .. }) if refused.is_some() => {}
                Err(refusal) => refused = Some(refusal),
            }
        }
        refused.map(Err)
    }

    /// Who shows a token is who it was issued to, as that one is now.
    async fn admit(&self, standing: Held<Standing>, token: &str, origin: &Origin) -> Result<Caller, Refusal> {
        let ours = standing.token_server.is_none().then(|| self.tokens.recall(token, &standing.service)).flatten();
        let ticket = if let Some(ticket) = ours {
            ticket?
        } else if let Some(admitted) = Box::pin(self.vouched_for(&standing, token)).await {
            return admitted;
        } else if let Some(server) = &standing.token_server {
            server.verify(token, &standing.service, self.clock.now_ms())?
        } else {
            self.tokens.verify(token, &standing.service)?
        };
        let identity = self.bearer(&ticket, &standing, origin)?;
        Ok(Caller::new(identity, Some(ticket), standing))
    }

    /// Whose token it is.
    fn bearer(&self, ticket: &Ticket, standing: &Standing, origin: &Origin) -> Result<Identity, Refusal> {
        let nobody = Identity::Anonymous { is_local: origin.is_local };
        if ticket.is_of_another {
            return Ok(if ticket.subject.is_empty() { nobody } else { standing.user(&ticket.subject) });
        }
        Ok(match ticket.subject.split_once(':') {
            None if &*ticket.subject == "anonymous" => nobody,
            Some(("user", name)) if ticket.mark.is_some() && ticket.mark.as_deref() == standing.accounts.mark(name) => {
                standing.user(name)
            }
            Some(("robot", name)) => {
                let grant =
                    self.robots.grant(name, ticket.mark.as_deref(), self.clock.now_ms()).ok_or(Refusal::Token)?;
                Identity::Robot { name: name.to_owned(), grant }
            }
            // Whoever copies the token has not got the certificate.
            Some(("cert", _)) => match standing.certified(origin) {
                Some(identity) if *identity.to_string() == *ticket.subject => identity,
                _ => return Err(Refusal::Token),
            },
            Some(("oidc", job)) => {
                let (provider, subject) = job.split_once(':').ok_or(Refusal::Token)?;
                let known = standing.providers.find(provider).ok_or(Refusal::Token)?;
                if ticket.mark.as_deref() != Some(known.mark()) {
                    return Err(Refusal::Token);
                }
                standing.job(provider, subject, ticket.expires_ms)
            }
            _ => return Err(Refusal::Token),
        })
    }

    /// A token for what `caller` asks for, as far as it may. `names` are all the names of a repository.
    pub async fn issue(
        &self,
        caller: &Caller,
        scopes: &[Scope],
        names: impl Fn(&RepositoryName) -> Arc<[String]>,
    ) -> Result<Issued, Error> {
        let standing = caller.standing();
        let mut ticket = Ticket::new(&caller.identity().to_string());
        let mut lifetime = standing.token_lifetime;
        ticket.mark = match caller.identity() {
            Identity::User { name, .. } => standing.accounts.mark(name).map(str::to_owned),
            Identity::Robot { name, .. } => self.robots.mark(name),
            Identity::Job { provider, .. } => standing.providers.find(provider).map(|known| known.mark().to_owned()),
            Identity::Anonymous { .. } | Identity::Certificate { .. } => None,
        };
        if let Identity::Job { expires_ms, .. } = caller.identity() {
            // Ours ends with the one that it was issued for.
            let left_ms = u64::try_from(expires_ms - self.clock.now_ms()).unwrap_or(0);
            lifetime = lifetime.min(Duration::from_millis(left_ms)).max(Duration::from_secs(1));
        }
        for scope in scopes {
            match scope {
                Scope::List => ticket.lists = standing.policy.may_list(caller.identity()),
                Scope::Repository { name, wanted } => {
                    let names = names(name);
                    let granted = standing.policy.decide(caller.identity(), || &*names).allowed.and(*wanted);
                    let Some(first) = names.first().filter(|_| !granted.is_empty()) else { continue };
                    let entry = ticket.access.entry(first.clone()).or_default();
                    *entry = entry.or(granted);
                }
            }
        }
        self.tokens.issue(&ticket, &standing.service, lifetime).await
    }

    /// What a client keeps instead of the password it has just shown; none for those who show no password.
    pub async fn remember(&self, caller: &Caller) -> Result<Option<SecretString>, Error> {
        let (standing, now_ms) = (caller.standing(), self.clock.now_ms());
        let Identity::User { name, .. } = caller.identity() else { return Ok(None) };
        let Some(hash) = standing.accounts.hash(name) else { return Ok(None) };
        let token = new_secret(REFRESH_PREFIX);
        let lifetime_ms = i64::try_from(standing.refresh_lifetime.as_millis()).unwrap_or(i64::MAX);
        let row = RefreshTokenRow {
            digest: digest_of(&token),
            user: name.clone(),
            mark: digest_of(hash),
            expires_ms: now_ms.saturating_add(lifetime_ms),
        };
        self.metadata.put_refresh_token(row, REFRESH_TOKENS_PER_USER_MAX, now_ms).await?;
        Ok(Some(token))
    }

    /// Who was given this refresh token, if it still counts: its time has not come, and the password is the same. It can be
    /// used again, because docker's daemon never keeps a new one.
    pub async fn recall(&self, token: &SecretString) -> Result<Caller, NoToken> {
        if !token.expose_secret().starts_with(REFRESH_PREFIX) {
            return Err(Refusal::Token.into());
        }
        let standing = self.standing();
        let row = self.metadata.find_refresh_token(&digest_of(token)).await.map_err(Error::from)?;
        let row = row.filter(|row| self.clock.now_ms() < row.expires_ms).ok_or(Refusal::Token)?;
        let hash = standing.accounts.hash(&row.user).ok_or(Refusal::Token)?;
        if digest_of(hash) != row.mark {
            return Err(Refusal::Token.into());
        }
        Ok(Caller::new(standing.user(&row.user), None, standing))
    }
}
