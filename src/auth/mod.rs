//! Who may do what: identities and how they are proven, and the policy that decides for them by the names of repositories.
//!
//! ```text
//! what a request presents ─ identify ─ Caller ─ may(permission, names) ─ Verdict
//!                              │                     │
//!     passwords robots tokens ─┘                     └─ policy, and what the token was issued for
//! ```
//! Nothing here knows HTTP, and nothing is looked up in a repository: whoever may not pull gets the same answer whether there is
//! something or not. Rules count when a token is issued and again when it is used; so do users and robots that are gone.

mod caller;
mod identity;
mod keys;
mod passwords;
mod policy;
mod robots;
mod scope;
mod secret;
mod throttle;
mod tokens;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::Clock;
use crate::metadata::{self, Metadata, RefreshTokenRow};
use crate::metrics::Metrics;
use crate::oci::RepositoryName;

pub use caller::{Caller, Verdict};
pub use identity::Identity;
pub use passwords::Accounts;
pub use policy::{Decision, Grant, Permission, Permissions, Policy, Rule, Source, Who};
pub use robots::{NewRobot, ROBOT_PREFIX, Robot, RobotError, Robots};
pub use scope::Scope;
pub use tokens::{ISSUER, Issued, Ticket};

use keys::Keys;
use passwords::Passwords;
use secret::{digest_of, new_secret};
use tokens::Tokens;

/// What a refresh token begins with.
const REFRESH_PREFIX: &str = "entrepot_refresh_";
/// Refresh tokens of one user; of more, the oldest end. Each `docker login` takes one.
const REFRESH_TOKENS_PER_USER_MAX: usize = 100;

/// What a request says about who sent it.
#[derive(Debug)]
pub enum Presented {
    /// Nothing.
    Nothing,
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password, or a secret in its place.
        password: SecretString,
    },
    /// A token.
    Token(SecretString),
    /// Something that is neither, or more than one thing.
    Unreadable,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The address of whoever sent it.
    pub address: Option<IpAddr>,
    /// It was sent from this machine, and nobody sent it on.
    pub is_local: bool,
}

/// Why somebody is not who it says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Name and password do not belong together.
    #[error("user name or password is wrong: log in again")]
    WrongPassword,
    /// Too many failures, or too much to do.
    #[error("too many attempts to log in: wait {} s", wait.as_secs_f64().ceil())]
    Throttled {
        /// How long to wait.
        wait: Duration,
    },
    /// The token is not, or not any more, one of ours.
    #[error("the token is not valid, or not any more: get another one")]
    Token,
    /// The header makes no sense.
    #[error("the Authorization header must be one, of the form `Basic …` or `Bearer …`")]
    Unreadable,
}

impl Refusal {
    /// The word of the audit log.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::WrongPassword => "password",
            Self::Throttled { .. } => "throttle",
            Self::Token => "token",
            Self::Unreadable => "authorization",
        }
    }
}

/// What went wrong inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index could not be read or written.
    #[error("using the index")]
    Metadata(#[from] metadata::Error),
    /// The cryptographic library failed.
    #[error("signing a token")]
    Signing,
}

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// The caller is not who it says it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something went wrong inside.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// All that is configured: replaced as a whole when the configuration changes.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The rules.
    pub policy: Policy,
    /// The users.
    pub accounts: Accounts,
    /// The groups of each user.
    pub groups: HashMap<String, Vec<String>>,
    /// Somebody can sign in; otherwise what requests say of who sent them is none of our business.
    pub is_configured: bool,
    /// Where clients get tokens, if not at the name by which they know us.
    pub realm: Option<String>,
    /// For whom tokens are meant.
    pub service: String,
    /// How long a token is good.
    pub token_lifetime: Duration,
    /// How long a refresh token is good.
    pub refresh_lifetime: Duration,
}

impl Standing {
    /// What holds without any configuration.
    pub fn unconfigured() -> Self {
        Self {
            policy: Policy::unconfigured(),
            accounts: Accounts::new([]),
            groups: HashMap::new(),
            is_configured: false,
            realm: None,
            service: String::new(),
            token_lifetime: Duration::ZERO,
            refresh_lifetime: Duration::ZERO,
        }
    }

    fn user(&self, name: &str) -> Identity {
        Identity::User { name: name.to_owned(), groups: self.groups.get(name).cloned().unwrap_or_default() }
    }
}

/// The one that knows everybody.
#[derive(Debug)]
pub struct Authority {
    standing: RwLock<Arc<Standing>>,
    passwords: Passwords,
    tokens: Tokens,
    robots: Robots,
    metadata: Metadata,
    clock: Clock,
}

impl Authority {
    /// Decides by `standing`, with the robots and keys in the index.
    pub async fn open(standing: Standing, metadata: Metadata, clock: Clock, metrics: &Metrics) -> Result<Self, Error> {
        metrics.limit("robots_max", robots::ROBOTS_MAX as u64);
        metrics.limit("refresh_tokens_per_user_max", REFRESH_TOKENS_PER_USER_MAX as u64);
        let keys = Keys::open(metadata.clone(), clock.clone()).await?;
        Ok(Self {
            standing: RwLock::new(Arc::new(standing)),
            passwords: Passwords::new(metrics),
            tokens: Tokens::new(keys, clock.clone(), metrics),
            robots: Robots::open(metadata.clone()).await?,
            metadata,
            clock,
        })
    }

    /// Decides by another configuration from now on, also for who has signed in already.
    pub fn replace(&self, standing: Standing) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(standing);
    }

    /// What is configured now.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The robots.
    pub const fn robots(&self) -> &Robots {
        &self.robots
    }

    /// Nobody in particular.
    pub fn stranger(&self, origin: Origin) -> Caller {
        Caller::new(Identity::Anonymous { is_local: origin.is_local }, None, self.standing())
    }

    /// Finds out who sent a request.
    pub async fn identify(&self, presented: &Presented, origin: Origin) -> Result<Caller, Refusal> {
        let stranger = self.stranger(origin);
        if !stranger.standing().is_configured {
            return Ok(stranger);
        }
        match presented {
            Presented::Nothing => Ok(stranger),
            Presented::Password { username, password } => self.sign_in(username, password, origin).await,
            Presented::Token(token) => self.admit(token, origin),
            Presented::Unreadable => Err(Refusal::Unreadable),
        }
    }

    async fn sign_in(&self, username: &str, password: &SecretString, origin: Origin) -> Result<Caller, Refusal> {
        let (standing, now_ms) = (self.standing(), self.clock.now_ms());
        let Some(robot) = username.strip_prefix(ROBOT_PREFIX) else {
            self.passwords.check(&standing.accounts, username, password, origin.address, now_ms).await?;
            return Ok(Caller::new(standing.user(username), None, standing));
        };
        // Nobody guesses a token, so nobody has to be slowed down.
        let grant = self.robots.admit(robot, password, now_ms).ok_or(Refusal::WrongPassword)?;
        Ok(Caller::new(Identity::Robot { name: robot.to_owned(), grant }, None, standing))
    }

    /// Who shows a token is who it was issued to, as that one is now.
    fn admit(&self, token: &SecretString, origin: Origin) -> Result<Caller, Refusal> {
        let standing = self.standing();
        let ticket = self.tokens.verify(token, &standing.service)?;
        let identity = match ticket.subject.split_once(':') {
            None if ticket.subject == "anonymous" => Identity::Anonymous { is_local: origin.is_local },
            Some(("user", name)) if standing.accounts.hash(name).is_some() => standing.user(name),
            Some(("robot", name)) => {
                let grant = self.robots.grant(name, self.clock.now_ms()).ok_or(Refusal::Token)?;
                Identity::Robot { name: name.to_owned(), grant }
            }
            _ => return Err(Refusal::Token),
        };
        Ok(Caller::new(identity, Some(ticket), standing))
    }

    /// A token for what `caller` asks for, as far as it may. `names` are all the names of a repository.
    pub async fn issue(
        &self,
        caller: &Caller,
        scopes: &[Scope],
        names: impl Fn(&RepositoryName) -> Vec<String>,
    ) -> Result<Issued, Error> {
        let standing = caller.standing();
        let mut ticket = Ticket::new(caller.identity().to_string());
        for scope in scopes {
            match scope {
                Scope::List => ticket.lists = standing.policy.may_list(caller.identity()),
                Scope::Repository { name, wanted } => {
                    let names = names(name);
                    let granted = standing.policy.decide(caller.identity(), || names.clone()).allowed.and(*wanted);
                    let Some(first) = names.into_iter().next().filter(|_| !granted.is_empty()) else { continue };
                    let entry = ticket.access.entry(first).or_default();
                    *entry = entry.or(granted);
                }
            }
        }
        self.tokens.issue(&ticket, &standing.service, standing.token_lifetime).await
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
