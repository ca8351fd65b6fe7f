//! Who may do what in which repository: pure, decided by names alone, before anything is looked up.
//!
//! A repository has several names (`nginx`, `library/nginx`, `docker.io/library/nginx`); rules see all of them at once, so
//! that no spelling gets around a rule. Rules are tried in order, and the first that is about the repository and about
//! the one who asks decides. A repository that some rule is about is closed to all whom its rules do not name; the
//! defaults hold for the others.

use std::fmt;

use globset::{GlobMatcher, GlobSet};

use super::identity::Identity;
use crate::oci::{Host, Tag};

/// One thing to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Fetching content and lists.
    Pull,
    /// Uploading content and setting tags.
    Push,
    /// Deleting tags, manifests and blobs.
    Delete,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word of rules, scopes and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Pull => 1,
            Self::Push => 2,
            Self::Delete => 4,
        }
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);
    /// Only to pull.
    pub const PULL: Self = Self(1);
    /// Every one.
    pub const ALL: Self = Self(7);

    /// Is it in the set?
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// What is in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Is nothing in it?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members, in the order of [`Permission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.has(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug)]
pub enum Who {
    /// Everybody: whoever signs in may do all the same what nobody in particular may.
    Anonymous,
    /// Whoever has signed in.
    Authenticated,
    /// Whoever asks from this machine without signing in.
    Loopback,
    /// Users by their names.
    User(GlobMatcher),
    /// Those in a group.
    Group(String),
    /// The jobs of one provider, by their subjects.
    Job {
        /// The provider.
        provider: String,
        /// The subjects.
        subjects: GlobMatcher,
    },
    /// Clients by the names in their certificates.
    Certificate(GlobMatcher),
}

impl Who {
    fn is(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Anonymous, _) => true,
            (Self::Authenticated, identity) => identity.is_signed_in(),
            (Self::Loopback, Identity::Anonymous { is_local }) => *is_local,
            (Self::User(names), Identity::User { name, .. })
            | (Self::Certificate(names), Identity::Certificate { name, .. }) => names.is_match(name),
            (Self::Group(group), identity) => identity.groups().contains(group),
            (Self::Job { provider, subjects }, Identity::Job { provider: of, subject, .. }) => {
                provider == of && subjects.is_match(subject)
            }
            _ => false,
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The repositories it is about.
    pub repositories: GlobSet,
    /// Whom it is about. Empty, and it is about tags alone.
    pub who: Vec<Who>,
    /// What these may do.
    pub allow: Permissions,
    /// Tags that are set once and for all, whoever asks.
    pub immutable: GlobSet,
}

/// What a robot may do, and where.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The repositories.
    pub repositories: GlobSet,
    /// What it may do there.
    pub allow: Permissions,
}

impl Grant {
    pub(super) fn permissions(&self, names: &[String]) -> Permissions {
        if matches(&self.repositories, names) { self.allow } else { Permissions::NONE }
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rule at this place of `auth.rules`, from 0.
    Rule(usize),
    /// There are rules about the repository, and none is about who asks.
    Closed,
    /// The upstream shows what it has to those who have signed in.
    Upstream,
    /// What a robot was given.
    Grant,
    /// No rule is about the repository.
    Default,
}

/// As the audit log tells it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(index) => write!(f, "auth.rules[{index}]"),
            Self::Closed => f.write_str("closed"),
            Self::Upstream => f.write_str("visibility"),
            Self::Grant => f.write_str("grant"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What somebody may do in a repository, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is allowed.
    pub allowed: Permissions,
    /// By what.
    pub source: Source,
}

/// All the rules.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Tried in this order.
    pub rules: Vec<Rule>,
    /// Upstreams whose content is for those who have signed in.
    pub members_only: Vec<Host>,
    /// What nobody in particular may do where no rule says otherwise.
    pub anonymous: Permissions,
    /// The same for who asks from this machine.
    pub local: Permissions,
    /// The same for who has signed in; at least what `anonymous` has.
    pub authenticated: Permissions,
    /// Who may look inside and steer.
    pub admins: Vec<Who>,
}

impl Policy {
    /// What holds without any configuration: this machine may do everything, everybody else may pull.
    pub const fn unconfigured() -> Self {
        Self {
            rules: Vec::new(),
            members_only: Vec::new(),
            anonymous: Permissions::PULL,
            local: Permissions::ALL,
            authenticated: Permissions::NONE,
            admins: Vec::new(),
        }
    }

    /// What `identity` may do in the repository that is called `names`. They are asked for only if they matter.
    pub fn decide<N: AsRef<[String]>>(&self, identity: &Identity, names: impl FnOnce() -> N) -> Decision {
        let by_default = Decision { allowed: self.default_of(identity), source: Source::Default };
        let has_grant = matches!(identity, Identity::Robot { .. });
        if self.rules.is_empty() && self.members_only.is_empty() && !has_grant {
            return by_default;
        }
        let names = names();
        let names = names.as_ref();
        if !identity.is_signed_in() && self.is_members_only(names) {
            return Decision { allowed: Permissions::NONE, source: Source::Upstream };
        }
        if let Some(allowed) = identity.granted(names) {
            return Decision { allowed, source: Source::Grant };
        }
        let mut is_named = false;
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.who.is_empty() || !matches(&rule.repositories, names) {
                continue;
            }
            if rule.who.iter().any(|who| who.is(identity)) {
                return Decision { allowed: rule.allow, source: Source::Rule(index) };
            }
            is_named = true;
        }
        if is_named { Decision { allowed: Permissions::NONE, source: Source::Closed } } else { by_default }
    }

    /// Is the tag set once and for all in the repository that is called `names`?
    pub fn is_immutable(&self, names: &[String], tag: &Tag) -> bool {
        self.rules.iter().any(|rule| rule.immutable.is_match(tag.as_str()) && matches(&rule.repositories, names))
    }

    /// Has any rule something to say about tags?
    pub fn has_immutable_tags(&self) -> bool {
        self.rules.iter().any(|rule| !rule.immutable.is_empty())
    }

    /// May it look inside and steer?
    pub fn is_admin(&self, identity: &Identity) -> bool {
        identity.is_signed_in() && self.admins.iter().any(|who| who.is(identity))
    }

    /// May it see the list of repositories, of which it is shown those it may pull?
    pub fn may_list(&self, identity: &Identity) -> bool {
        identity.is_signed_in() || self.default_of(identity).has(Permission::Pull)
    }

    const fn default_of(&self, identity: &Identity) -> Permissions {
        match identity {
            Identity::Anonymous { is_local: true } => self.local,
            Identity::Anonymous { is_local: false } => self.anonymous,
            Identity::User { .. } | Identity::Job { .. } | Identity::Certificate { .. } | Identity::Robot { .. } => {
                self.authenticated
            }
        }
    }

    fn is_members_only(&self, names: &[String]) -> bool {
        let is_of = |name: &String, host: &Host| name.split_once('/').is_some_and(|(first, _)| first == host.as_str());
        self.members_only.iter().any(|host| names.iter().any(|name| is_of(name, host)))
    }
}

fn matches(patterns: &GlobSet, names: &[String]) -> bool {
    names.iter().any(|name| patterns.is_match(name))
}

#[cfg(test)]
mod tests;
