//! Why somebody is not let in, or gets no token.

use std::time::Duration;

use super::jwt::Fault;
use crate::metadata;

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
    /// The token of somebody else is none that counts.
    #[error("the token for {of} does not count: {fault}")]
    Foreign {
        /// The section of the configuration that says what would.
        of: String,
        /// Why not.
        fault: Fault,
    },
    /// Nobody can tell whether a token is good.
    #[error("{issuer} (auth.oidc.{provider}), which has issued the token, does not give its keys now: try again")]
    IssuerSilent {
        /// What it is called here.
        provider: String,
        /// Whose keys are missing.
        issuer: String,
    },
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
            Self::Token | Self::Foreign { .. } => "token",
            Self::IssuerSilent { .. } => "issuer",
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
    /// More was asked for than a token can say.
    #[error("a token for all of that would be too long to be shown: ask for fewer repositories at a time")]
    TokenTooLong,
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
