//! Who asks.

use std::fmt;

use super::policy::{Grant, Permissions};

/// Who a request comes from, as far as that has been proven.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous {
        /// It asks from this machine, and nobody sent it on.
        is_local: bool,
    },
    /// A user of the file of passwords.
    User {
        /// The name.
        name: String,
        /// The groups it is in.
        groups: Vec<String>,
    },
    /// A job, which a provider of `auth.oidc` vouches for.
    Job {
        /// The provider: the same subject of another one is somebody else.
        provider: String,
        /// What the provider says who it is.
        subject: String,
        /// The groups it is in.
        groups: Vec<String>,
        /// When what it showed ends, Unix milliseconds.
        expires_ms: i64,
    },
    /// A client that has shown a certificate, and nothing else.
    Certificate {
        /// The name in it.
        name: String,
        /// The groups it is in.
        groups: Vec<String>,
    },
    /// A robot, whose token says what it may do: rules do not concern it.
    Robot {
        /// The name.
        name: String,
        /// What it may do.
        grant: Grant,
    },
}

impl Identity {
    /// Nobody, from elsewhere.
    pub const fn anonymous() -> Self {
        Self::Anonymous { is_local: false }
    }

    /// Did it sign in?
    pub const fn is_signed_in(&self) -> bool {
        !matches!(self, Self::Anonymous { .. })
    }

    /// The groups it is in.
    pub(super) fn groups(&self) -> &[String] {
        match self {
            Self::User { groups, .. } | Self::Job { groups, .. } | Self::Certificate { groups, .. } => groups,
            Self::Anonymous { .. } | Self::Robot { .. } => &[],
        }
    }

    /// What it may do beyond all rules.
    pub(super) fn granted(&self, names: &[String]) -> Option<Permissions> {
        match self {
            Self::Robot { grant, .. } => Some(grant.permissions(names)),
            Self::Anonymous { .. } | Self::User { .. } | Self::Job { .. } | Self::Certificate { .. } => None,
        }
    }
}

/// As in rules, logs and tokens: `anonymous`, `user:alice`, `oidc:github:repo:org/app`, `cert:node-1`,
/// `robot:ci`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous { .. } => f.write_str("anonymous"),
            Self::User { name, .. } => write!(f, "user:{name}"),
            Self::Job { provider, subject, .. } => write!(f, "oidc:{provider}:{subject}"),
            Self::Certificate { name, .. } => write!(f, "cert:{name}"),
            Self::Robot { name, .. } => write!(f, "robot:{name}"),
        }
    }
}
