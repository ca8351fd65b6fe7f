//! Who we are at a source, and where that is written: in the configuration, in a file, in docker's configuration, in
//! the head of a credential program.
//!
//! What is written elsewhere changes while we serve. A file is read whenever its secret is needed; a program is asked
//! again when its answer is old, or was refused. What cannot be read at the moment is what it was before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::budget::after;
use super::docker_config::{self, Found};
use super::outside::{self, ProgramError};
use crate::clock::Clock;

/// A program whose answer was refused is not asked again before this: repositories that are nobody's business are
/// refused all day.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A user and the password.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: SecretString,
}

/// Where the credentials of an account come from.
#[derive(Clone, Debug)]
pub enum Account {
    /// From here.
    Fixed(Credentials),
    /// The password from a file, whose content may change.
    PasswordFile {
        /// The user.
        username: String,
        /// The file; line breaks at its end do not count.
        file: PathBuf,
    },
    /// From docker's `config.json`, by the host of the source.
    DockerConfig {
        /// The file, whose content may change.
        file: PathBuf,
        /// The programs that it may name.
        programs: Programs,
    },
    /// From `docker-credential-NAME get`, by the host of the source.
    Program {
        /// The part after `docker-credential-`.
        name: String,
        /// How long it may take, and how long its answer holds.
        programs: Programs,
    },
}

/// How credential programs are found and treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The folder they are in; the `PATH` of this process if none.
    pub folder: Option<PathBuf>,
    /// It is killed when it takes longer.
    pub timeout: Duration,
    /// It is asked again when its answer is older.
    pub lifetime: Duration,
}

/// What proves who we are.
#[derive(Clone)]
pub enum Secret {
    Password(Credentials),
    /// Exchanged for access tokens at the token service (OAuth 2.0's refresh token).
    IdentityToken(SecretString),
}

impl Secret {
    /// Who it is, without proof.
    pub fn identity(&self) -> &str {
        match self {
            Self::Password(who) => &who.username,
            Self::IdentityToken(_) => "<token>",
        }
    }
}

/// Compares secrets of ours with secrets of ours: nobody times this.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(one), Self::Password(other)) => {
                one.username == other.username && one.password.expose_secret() == other.password.expose_secret()
            }
            (Self::IdentityToken(one), Self::IdentityToken(other)) => one.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

/// Why credentials could not be had, without a secret in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// The credentials of one account at one source. The same secret is always the same `Arc`.
pub struct Keyring {
    account: Option<Account>,
    /// The source by its name in docker's files.
    server: String,
    clock: Clock,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    secret: Option<Arc<Secret>>,
    /// When a program said so.
    program_at_ms: Option<i64>,
}

impl Keyring {
    /// `host` is that of the source, with its port if it has one; no account is anonymous.
    pub fn new(account: Option<Account>, host: &str, clock: Clock) -> Self {
        Self { account, server: docker_config::server_of(host), clock, last: Mutex::default() }
    }

    /// The secret as it is now; `None` is anonymous.
    pub async fn current(&self) -> Result<Option<Arc<Secret>>, Unavailable> {
        self.look(false).await
    }

    /// The secret if it is another one than that which was refused.
    pub async fn other_than(&self, refused: Option<&Arc<Secret>>) -> Option<Arc<Secret>> {
        let secret = self.look(true).await.ok()??;
        (!refused.is_some_and(|refused| Arc::ptr_eq(refused, &secret))).then_some(secret)
    }

    async fn look(&self, refused: bool) -> Result<Option<Arc<Secret>>, Unavailable> {
        let Some(account) = &self.account else { return Ok(None) };
        // Held while a program runs: those who come meanwhile want the same answer.
        let mut last = self.last.lock().await;
        let found = match account {
            Account::Fixed(who) => Ok(Some(Secret::Password(who.clone()))),
            Account::PasswordFile { username, file } => password_in(file)
                .await
                .map(|password| Some(Secret::Password(Credentials { username: username.clone(), password }))),
            Account::Program { name, programs } => self.asked(name, programs, refused, &mut last).await,
            Account::DockerConfig { file, programs } => match written_in(file, &self.server).await {
                Ok(Found::Secret(secret)) => Ok(Some(secret)),
                Ok(Found::Nothing) => Ok(None),
                Ok(Found::Program { name, otherwise }) => {
                    let answer = self.asked(&name, programs, refused, &mut last).await;
                    if matches!(answer, Ok(Some(_))) || otherwise.is_none() { answer } else { Ok(otherwise) }
                }
                Err(error) => Err(error),
            },
        };
        match found {
            Ok(secret) => {
                if secret.as_ref() != last.secret.as_deref() {
                    last.secret = secret.map(Arc::new);
                }
            }
            Err(error) if last.secret.is_none() => return Err(error),
            Err(error) => tracing::warn!(server = self.server, %error, "using the credentials that were there before"),
        }
        Ok(last.secret.clone())
    }

    /// A program's answer, the last one while it holds.
    async fn asked(
        &self,
        name: &str,
        programs: &Programs,
        refused: bool,
        last: &mut Last,
    ) -> Result<Option<Secret>, Unavailable> {
        let now_ms = self.clock.now_ms();
        let holds = if refused { AGAIN_AFTER.min(programs.lifetime) } else { programs.lifetime };
        if last.program_at_ms.is_some_and(|at_ms| now_ms < after(at_ms, holds)) {
            return Ok(last.secret.as_deref().cloned());
        }
        let answer = match outside::ask_program(programs, name, &self.server).await {
            Ok(answer) => answer,
            // Who is not known there is anonymous, as for docker.
            Err(ProgramError::NotFound) => {
                last.program_at_ms = Some(now_ms);
                return Ok(None);
            }
            Err(error) => return Err(Unavailable(format!("docker-credential-{name} {error}"))),
        };
        let secret = docker_config::read_answer(&answer)
            .ok_or_else(|| Unavailable(format!("docker-credential-{name} answered with no credentials")))?;
        last.program_at_ms = Some(now_ms);
        Ok(Some(secret))
    }
}

async fn password_in(file: &Path) -> Result<SecretString, Unavailable> {
    let text = outside::read(file).await.map_err(|error| Unavailable(format!("{}: {error}", file.display())))?;
    // Editors and `echo` end a file with a line break that is no part of the secret.
    match text.expose_secret().trim_end_matches(['\r', '\n']) {
        "" => Err(Unavailable(format!("{} is empty", file.display()))),
        password => Ok(password.into()),
    }
}

async fn written_in(file: &Path, server: &str) -> Result<Found, Unavailable> {
    let text = outside::read(file).await.map_err(|error| Unavailable(format!("{}: {error}", file.display())))?;
    docker_config::look_up(&text, server)
        .ok_or_else(|| Unavailable(format!("{} is no configuration of docker", file.display())))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret of {}", self.identity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_print_their_secret() {
        let credentials = Credentials { username: "me".to_owned(), password: "hunter2".into() };
        let account = Account::Fixed(credentials.clone());
        let secrets = [Secret::Password(credentials.clone()), Secret::IdentityToken("hunter2".into())];
        let printed = format!("{credentials:?} {account:?} {secrets:?}");
        assert!(printed.contains("me") && !printed.contains("hunter2"), "{printed}");
    }
}
