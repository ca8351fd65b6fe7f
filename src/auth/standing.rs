//! What is configured, and whom it makes of a name.

use std::collections::HashMap;
use std::time::Duration;

use super::{Accounts, CertificateName, Identity, Origin, Policy, Providers, TokenServer};

/// All that is configured: replaced as a whole when the configuration changes.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The rules.
    pub policy: Policy,
    /// The users.
    pub accounts: Accounts,
    /// Whose tokens are believed.
    pub providers: Providers,
    /// The name of a client's certificate that makes it somebody, if certificates do.
    pub certificates: Option<CertificateName>,
    /// The groups of each user, by its name, and of everybody else, as it is displayed.
    pub groups: HashMap<String, Vec<String>>,
    /// Somebody can sign in; otherwise what requests say of who sent them is none of our business.
    pub is_configured: bool,
    /// Who issues the tokens, if it is not this registry.
    pub token_server: Option<TokenServer>,
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
            providers: Providers::default(),
            certificates: None,
            groups: HashMap::new(),
            is_configured: false,
            token_server: None,
            realm: None,
            service: String::new(),
            token_lifetime: Duration::ZERO,
            refresh_lifetime: Duration::ZERO,
        }
    }

    pub(super) fn user(&self, name: &str) -> Identity {
        // With a colon it is the name that a token server has given; groups have others by such names.
        let groups = if name.contains(':') { Vec::new() } else { self.groups_of(name) };
        Identity::User { name: name.to_owned(), groups }
    }

    pub(super) fn job(&self, provider: &str, subject: &str, expires_ms: i64) -> Identity {
        let groups = self.groups_of(&format!("oidc:{provider}:{subject}"));
        Identity::Job { provider: provider.to_owned(), subject: subject.to_owned(), groups, expires_ms }
    }

    /// Whom a certificate makes its client.
    pub(super) fn certified(&self, origin: &Origin) -> Option<Identity> {
        let name = self.certificates?.of(origin.certificate.as_deref()?)?;
        Some(Identity::Certificate { name: name.to_owned(), groups: self.groups_of(&format!("cert:{name}")) })
    }

    fn groups_of(&self, member: &str) -> Vec<String> {
        self.groups.get(member).cloned().unwrap_or_default()
    }
}
