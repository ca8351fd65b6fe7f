//! `auth`: who may do what. Its written shape is the valid one, but for the file of passwords, which validation reads.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{oidc::Oidc, token_server::TokenServer, units};

/// `auth`: without this section whoever asks from this machine may do everything, and everybody else may pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// File of users, `NAME:HASH` a line, hashes by bcrypt. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub htpasswd: Option<Htpasswd>,
    /// What nobody in particular may do where no rule says otherwise. Default `none`.
    pub anonymous: Anonymous,
    /// What whoever has signed in may do where no rule says otherwise. Default `[pull, push, delete]`.
    pub authenticated: Vec<Allowed>,
    /// Providers whose tokens are believed, by name. Default none.
    pub oidc: BTreeMap<String, Oidc>,
    /// Which name of a client's certificate makes it somebody. Default none: certificates make nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificateName>,
    /// Members by group: users by their names, others as `oidc:PROVIDER:SUBJECT` and `cert:NAME`. Default none.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Who may look inside and steer, besides `http.admin_from`. Default nobody.
    pub admins: Vec<Who>,
    /// Who may do what in which repositories; the first that fits counts. Default none.
    pub rules: Vec<AccessRule>,
    /// Who issues the tokens instead of this registry. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_server: Option<TokenServer>,
    /// Where clients get their tokens, as a URL. Default: `/token` at the name by which a client has reached us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// For whom our tokens are meant: this service. Default `entrepot`.
    pub service: String,
    /// How long a token is good. Default `5m`; clients take at least one minute for granted.
    #[serde(with = "units::duration")]
    pub token_lifetime: Duration,
    /// How long what `docker login` keeps instead of a password is good. Default `90days`.
    #[serde(with = "units::duration")]
    pub refresh_lifetime: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            htpasswd: None,
            anonymous: Anonymous::default(),
            authenticated: vec![Allowed::Pull, Allowed::Push, Allowed::Delete],
            oidc: BTreeMap::new(),
            certificates: None,
            groups: BTreeMap::new(),
            admins: Vec::new(),
            rules: Vec::new(),
            token_server: None,
            realm: None,
            service: "entrepot".to_owned(),
            token_lifetime: Duration::from_mins(5),
            refresh_lifetime: Duration::from_hours(90 * 24),
        }
    }
}

/// `auth.certificates`: which name in a certificate is who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    /// The subject's common name.
    CommonName,
    /// The alternative name of the kind DNS.
    Dns,
    /// The one of the kind email.
    Email,
    /// The one of the kind URI, of SPIFFE for instance.
    Uri,
}

/// `auth.anonymous`: what nobody in particular may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nothing.
    #[default]
    None,
    /// Pull.
    Pull,
}

/// One thing that somebody may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allowed {
    /// Fetch content and lists.
    Pull,
    /// Upload content and set tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
}

/// One of `auth.rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessRule {
    /// Globs ([`units::glob`]) of repositories; must be there.
    pub repositories: Vec<String>,
    /// Whom it is about. None, and it is about tags alone.
    pub identities: Vec<Who>,
    /// What these may do; nothing, and they are shut out.
    pub allow: Vec<Allowed>,
    /// Globs ([`units::glob`]) of tags that are set once and for all in these repositories, whoever asks.
    pub immutable: Vec<String>,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Everybody, signed in or not.
    Anonymous,
    /// Whoever has signed in.
    Authenticated,
    /// Whoever asks from this machine without signing in.
    Loopback,
    /// Users by a glob of their names.
    User(String),
    /// The members of a group.
    Group(String),
    /// Jobs by their provider and a glob of their subjects, as [`Auth::jobs`] reads it.
    Job(String),
    /// Clients by a glob of the names in their certificates.
    Certificate(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Loopback => f.write_str("loopback"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Job(text) => write!(f, "oidc:{text}"),
            Self::Certificate(name) => write!(f, "cert:{name}"),
        }
    }
}

/// A text that means nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoInvalid;

impl FromStr for Who {
    type Err = WhoInvalid;

    fn from_str(text: &str) -> Result<Self, WhoInvalid> {
        let named = |name: &str| if name.is_empty() { Err(WhoInvalid) } else { Ok(name.to_owned()) };
        match text.split_once(':') {
            None if text == "anonymous" => Ok(Self::Anonymous),
            None if text == "authenticated" => Ok(Self::Authenticated),
            None if text == "loopback" => Ok(Self::Loopback),
            Some(("user", name)) => named(name).map(Self::User),
            Some(("group", name)) => named(name).map(Self::Group),
            Some(("cert", name)) => named(name).map(Self::Certificate),
            Some(("oidc", text)) => named(text).map(Self::Job),
            _ => Err(WhoInvalid),
        }
    }
}

impl Serialize for Who {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted = "anonymous (everybody), authenticated, loopback, user:NAME, group:NAME, cert:NAME or \
                        oidc:PROVIDER:SUBJECT";
        units::parsed(deserializer, accepted, |text| text.parse().ok())
    }
}

/// The file of users and what was in it when it was read.
#[derive(Debug, Clone)]
pub struct Htpasswd {
    /// The file.
    pub file: PathBuf,
    /// Its users, in its order.
    pub users: Vec<Account>,
}

/// A user and the hash of its password.
#[derive(Debug, Clone)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The bcrypt hash.
    pub password: SecretString,
}

/// For comparing configurations on reload; nothing is authenticated by it.
impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl PartialEq for Htpasswd {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.users == other.users
    }
}

impl Eq for Htpasswd {}

impl Serialize for Htpasswd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.file.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Htpasswd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(|file| Self { file, users: Vec::new() })
    }
}

/// Users in one file: what they take stays in memory.
const USERS_MAX: usize = 10_000;
/// The dearest hash accepted: each step doubles what one attempt to sign in costs, and this takes about two seconds.
const COST_MAX: u32 = 15;

/// What is wrong with a line of the file of users. Never shows the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// No colon, or nothing before it.
    #[error("line {line} is not of the form NAME:HASH; `entrepot hash-password NAME` makes such a line")]
    Form {
        /// The line, from 1.
        line: usize,
    },
    /// Some other way of hashing, or none.
    #[error(
        "line {line}: the password of {name} is not hashed by bcrypt ($2a$, $2b$ or $2y$) with a cost of 4 to {COST_MAX}; \
         make the line anew with `entrepot hash-password {name}` or `htpasswd -B`"
    )]
    Hash {
        /// The line, from 1.
        line: usize,
        /// The user.
        name: String,
    },
    /// A name twice.
    #[error("line {line}: {name} is there already")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The user.
        name: String,
    },
    /// Too many.
    #[error("more than {USERS_MAX} users")]
    Many,
}

/// Reads a file of users. Empty lines and those that begin with `#` say nothing.
pub fn parse_htpasswd(text: &str) -> Result<Vec<Account>, LineFault> {
    let mut users: BTreeMap<&str, Account> = BTreeMap::new();
    let mut order = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (line, text) = (at + 1, line.trim());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, hash) = text.split_once(':').filter(|(name, _)| is_user(name)).ok_or(LineFault::Form { line })?;
        if !is_bcrypt(hash) {
            return Err(LineFault::Hash { line, name: name.to_owned() });
        }
        let account = Account { name: name.to_owned(), password: hash.into() };
        if users.insert(name, account).is_some() {
            return Err(LineFault::Twice { line, name: name.to_owned() });
        }
        order.push(name);
        if order.len() > USERS_MAX {
            return Err(LineFault::Many);
        }
    }
    Ok(order.into_iter().filter_map(|name| users.remove(name)).collect())
}

/// A name that can be given with Basic authentication, and that is no robot's.
pub fn is_user(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains([':', '+']) && !name.chars().any(char::is_control)
}

fn is_bcrypt(hash: &str) -> bool {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix));
    let Some((cost, salt_and_digest)) = rest.and_then(|rest| rest.split_once('$')) else { return false };
    let is_cost = cost.len() == 2 && cost.parse().is_ok_and(|cost| (4..=COST_MAX).contains(&cost));
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    is_cost && salt_and_digest.len() == 53 && salt_and_digest.bytes().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$abcdefghijklmnopqrstuuGsjVJ7bSMCCbQ/6ZSYu7hlyZ7v3DH1O";

    #[test]
    fn users_are_read_in_their_order() {
        let text = format!("# staff\nbob:{HASH}\n\n  alice:{HASH}  \n");
        let users = parse_htpasswd(&text).unwrap();
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["bob", "alice"]);
        assert!(users.iter().all(|user| user.password.expose_secret() == HASH));
        assert!(!format!("{users:?}").contains("$2y$"), "hashes are not shown");
    }

    #[test]
    fn what_is_no_user_is_named_by_its_line() {
        let hash = |line, name: &str| LineFault::Hash { line, name: name.to_owned() };
        for (text, fault) in [
            ("nonsense".to_owned(), LineFault::Form { line: 1 }),
            (format!(":{HASH}"), LineFault::Form { line: 1 }),
            (format!("robot+ci:{HASH}"), LineFault::Form { line: 1 }),
            ("\nbob:$apr1$abc$def".to_owned(), hash(2, "bob")),
            ("bob:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=".to_owned(), hash(1, "bob")),
            ("bob:password".to_owned(), hash(1, "bob")),
            (format!("bob:{}", HASH.replace("$04$", "$16$")), hash(1, "bob")),
            (format!("bob:{}", HASH.replace("$04$", "$03$")), hash(1, "bob")),
            (format!("bob:{}", HASH.replace("$2y$", "$2x$")), hash(1, "bob")),
            (format!("bob:{}é", &HASH[..HASH.len() - 2]), hash(1, "bob")),
            (format!("bob:{HASH}\nbob:{HASH}"), LineFault::Twice { line: 2, name: "bob".to_owned() }),
        ] {
            let found = parse_htpasswd(&text).unwrap_err();
            assert_eq!(found, fault, "{text}");
            assert!(!found.to_string().contains("password$"), "{found}");
        }
    }

    #[test]
    fn identities_are_printed_as_they_are_read() {
        for text in [
            "anonymous",
            "authenticated",
            "loopback",
            "user:alice",
            "user:ci-*",
            "group:team-a",
            "oidc:github:repo:org/*",
            "cert:node-*",
        ] {
            assert_eq!(text.parse::<Who>().map(|who| who.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "alice", "user:", "group:", "*", "User:alice", "robot:ci", "anonymous:x"] {
            assert_eq!(text.parse::<Who>(), Err(WhoInvalid), "{text}");
        }
    }
}
