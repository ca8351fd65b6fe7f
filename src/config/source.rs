//! Where an upstream is, who we are there, and the way there: validated.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use url::Url;

use super::{Upstream, units};

/// One of the places an upstream's content is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where its API is; http or https, without credentials, query or fragment.
    pub url: Url,
    /// Who we are there, and nowhere else.
    pub identity: Identity,
}

/// Who we are to a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Identity {
    /// Nobody.
    #[default]
    Anonymous,
    /// The keys `username` and `password` or `password_file`.
    One(Credentials),
    /// The list `accounts`; not empty.
    Several(Vec<Credentials>),
    /// Whoever docker's `config.json` says.
    DockerConfig(PathBuf),
    /// Whoever `docker-credential-NAME` says.
    Helper(String),
}

/// A user name and its password; `Debug` and `Serialize` hide the password.
#[derive(Debug, Clone, Serialize)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// How its password is known.
    #[serde(flatten)]
    pub password: Password,
}

/// A password, or where it is to be read.
#[derive(Debug, Clone, Serialize)]
pub enum Password {
    /// The password or token.
    #[serde(rename = "password", serialize_with = "redacted")]
    Written(SecretString),
    /// The file that holds it, which may change while we serve.
    #[serde(rename = "password_file")]
    File(PathBuf),
}

/// For comparing configurations in tests and on reload; nothing is authenticated by it, so its timing reveals nothing.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let same_password = match (&self.password, &other.password) {
            (Password::Written(one), Password::Written(other)) => one.expose_secret() == other.expose_secret(),
            (Password::File(one), Password::File(other)) => one == other,
            _ => false,
        };
        self.username == other.username && same_password
    }
}

impl Eq for Credentials {}

/// `tls`: whom to believe, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Authorities to believe besides those of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// Our certificate, with its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Pem>,
    /// Its key; there is one if there is the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Pem>,
    /// Believe anybody.
    pub insecure: bool,
}

/// A file, most often in PEM, and what was in it at the start.
#[derive(Debug, Clone)]
pub struct Pem {
    /// The file.
    pub file: PathBuf,
    /// Its content.
    pub text: SecretString,
}

impl PartialEq for Pem {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.text.expose_secret() == other.text.expose_secret()
    }
}

impl Eq for Pem {}

/// The file as it is written; validation reads it.
impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(|file| Self { file, text: SecretString::default() })
    }
}

impl Serialize for Pem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.file.serialize(serializer)
    }
}

/// `proxy`: how connections are made. `Debug` and `Serialize` hide the password.
#[derive(Clone, Default)]
pub enum Route {
    /// As the environment says.
    #[default]
    System,
    /// `none`: straight.
    Direct,
    /// Through the proxy at this URL, which may hold a password.
    Through(SecretString),
}

impl Route {
    pub(super) const fn is_system(&self) -> bool {
        matches!(self, Self::System)
    }

    /// As it is written, without user and password.
    fn shown(&self) -> Option<String> {
        match self {
            Self::System => None,
            Self::Direct => Some("none".to_owned()),
            Self::Through(url) => {
                let mut url = Url::parse(url.expose_secret()).ok()?;
                // A URL that cannot have them has none.
                let _ = url.set_password(None).and_then(|()| url.set_username(""));
                Some(url.to_string())
            }
        }
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Through(one), Self::Through(other)) => one.expose_secret() == other.expose_secret(),
            (Self::System, Self::System) | (Self::Direct, Self::Direct) => true,
            _ => false,
        }
    }
}

impl Eq for Route {}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown().as_deref().unwrap_or("system"))
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown().serialize(serializer)
    }
}

/// How credential programs are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Patience {
    /// A program that takes longer is killed; not zero.
    #[serde(rename = "credential_timeout", with = "units::duration")]
    pub timeout: Duration,
    /// How long its answer is good, unless it is refused before.
    #[serde(rename = "credential_lifetime", with = "units::duration")]
    pub lifetime: Duration,
}

pub(super) fn redacted<S: Serializer>(_: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("[redacted]")
}

/// The list as the map it is written as.
pub(super) fn by_name<S: Serializer>(upstreams: &[Upstream], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        sources: Written<'a>,
        #[serde(flatten)]
        rest: &'a Upstream,
    }
    let whole = |upstream| Whole { sources: Written(upstream), rest: upstream };
    serializer.collect_map(upstreams.iter().map(|upstream| (&upstream.name, whole(upstream))))
}

/// One source as `url` and the keys beside it, several as `urls`.
struct Written<'a>(&'a Upstream);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Upstream { url, identity, further, .. } = self.0;
        if further.is_empty() {
            return place(url, identity, serializer);
        }
        let first = Source { url: url.clone(), identity: identity.clone() };
        let all: Vec<&Source> = std::iter::once(&first).chain(further).collect();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("urls", &all)?;
        map.end()
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        place(&self.url, &self.identity, serializer)
    }
}

fn place<S: Serializer>(url: &Url, identity: &Identity, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("url", url.as_str())?;
    match identity {
        Identity::Anonymous => {}
        Identity::One(Credentials { username, password }) => {
            map.serialize_entry("username", username)?;
            match password {
                Password::Written(_) => map.serialize_entry("password", "[redacted]")?,
                Password::File(file) => map.serialize_entry("password_file", file)?,
            }
        }
        Identity::Several(accounts) => map.serialize_entry("accounts", accounts)?,
        Identity::DockerConfig(file) => map.serialize_entry("docker_config", file)?,
        Identity::Helper(name) => map.serialize_entry("credential_helper", name)?,
    }
    map.end()
}
