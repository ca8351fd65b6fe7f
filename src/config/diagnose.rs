//! What can be wrong with a configuration, said so that the reader knows where to go and what to write there.

use std::{fmt, io, path::PathBuf};

use super::{
    keys,
    tree::{KeyPath, Origin, Step},
};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// All that is wrong with it, never empty.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl Error {
    /// All problems in the order of the file; those of the environment and flags come first.
    pub(super) fn invalid(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::File { line, column, .. } => (line, column),
            _ => (0, 0),
        });
        Self::Invalid(problems)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong, with its place: `config.yaml:3:11: http.listen: …`.
#[derive(Debug)]
pub struct Problem {
    /// Where the value was written.
    pub origin: Origin,
    /// The key; empty when the trouble is not with a key.
    pub path: KeyPath,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.0.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match (&self.fault, self.path.0.last()) {
            // A key that is right but in the wrong section is better advised by its full path.
            (Fault::UnknownKey { nearest: None, .. }, Some(Step::Key(key)))
                if let Some(there) = keys::elsewhere(key) =>
            {
                write!(f, "unknown key; `{there}` is one")
            }
            (fault, _) => fault.fmt(f),
        }
    }
}

/// The known word that `word` was most likely meant to be, if any is near.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this, Jaro-Winkler pairs words that share no more than a beginning.
    const LIKENESS_MIN: f64 = 0.84;
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// What is wrong with a value or key, in one line with its reason. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The text is no YAML.
    #[error("not valid YAML: {message}")]
    Yaml {
        /// The parser's words.
        message: String,
    },
    /// A key occurs twice in one map.
    #[error("the key `{key}` is written twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// Two documents in one file.
    #[error("more than one YAML document")]
    ManyDocuments,
    /// A key that means nothing.
    #[error("unknown key; {}", advice(nearest.as_deref(), known))]
    UnknownKey {
        /// The known key it resembles.
        nearest: Option<String>,
        /// All keys of the section.
        known: &'static [&'static str],
    },
    /// A value of the wrong kind or out of range.
    #[error("{found} is not {accepted}")]
    WrongValue {
        /// What was written.
        found: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// A value its type refuses in its own words.
    #[error("{message}")]
    Refused {
        /// The type's words.
        message: String,
    },
    /// A number or duration that must not be zero.
    #[error("must be more than 0")]
    Zero,
    /// A path without a character.
    #[error("must name a directory; `.` is the working directory")]
    EmptyPath,
    /// A glob that cannot be compiled.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        reason: globset::ErrorKind,
    },
    /// An entry of a list that lacks a key.
    #[error("needs the key `{key}`")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A rule by which nothing goes.
    #[error(
        "no tag goes by this rule: say `keep_last` or `keep_pulled_within`, or nothing but `delete_untagged_after`"
    )]
    DeletesNothing,
    /// Content for those who have an account, where there are none.
    #[error(
        "`authenticated` needs accounts: add `auth`, or use `passthrough`, with which a client's own credentials must be \
         good at the upstream"
    )]
    NoAccounts,
    /// A file of users that is none.
    #[error("{}: {fault}", path.display())]
    Htpasswd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: super::auth::LineFault,
    },
    /// A rule that gives nobody something.
    #[error("says what is allowed but not to whom; add `identities`")]
    AllowedToNobody,
    /// A rule without any effect.
    #[error("has no effect: give it `identities` with `allow`, or `immutable`")]
    IdleRule,
    /// A group that nobody is in.
    #[error("there is no group `{group}` under `groups`")]
    NoGroup {
        /// The group.
        group: String,
    },
    /// Everybody as administrator.
    #[error("would make everybody an administrator; name users or groups")]
    EverybodyAdmin,
    /// A token that ends before clients expect it.
    #[error("must be at least 1m, which clients take for granted")]
    ShortToken,
    /// A token that goes on for days.
    #[error("must be at most 24h: refresh_lifetime says for how long a login counts")]
    LongToken,
    /// A name of this service that would break the challenge.
    #[error("must be a word of letters, digits, `.`, `-`, `_`, `:` and `/`")]
    Service,
    /// Providers of tokens that cannot be used.
    #[error(transparent)]
    Oidc(#[from] super::oidc::OidcFault),
    /// A token server that cannot be used.
    #[error(transparent)]
    TokenServer(#[from] super::token_server::TokenServerFault),
    /// A certificate that cannot be asked for.
    #[error(transparent)]
    Acme(#[from] super::acme::AcmeFault),
    /// A log filter that cannot be read.
    #[error(
        "`{filter}` is neither a level (error, warn, info, debug, trace) nor a filter such as info,entrepot::cache=debug"
    )]
    LogFilter {
        /// The filter.
        filter: String,
    },
    /// A cross-origin origin that is none.
    #[error("`{origin}` is not an origin; write scheme and host such as https://ui.example.com, or `*` for all")]
    CorsOrigin {
        /// The origin.
        origin: String,
    },
    /// A webhook's name is a label in metrics and logs.
    #[error("`{name}` is no name for a webhook; write lower-case letters, digits and hyphens")]
    WebhookName {
        /// The name.
        name: String,
    },
    /// A receiver's URL with user and password.
    #[error(
        "credentials do not belong in the URL; write them as a header, {{Authorization: Basic …}}, under `headers`"
    )]
    WebhookCredentials,
    /// A webhook has one secret.
    #[error("there is a `secret` as well; write one of the two")]
    TwoSecrets,
    /// A header that cannot be sent, or that is sent anyway.
    #[error("`{name}` cannot be set as a header of these requests, or not to this value")]
    Header {
        /// Its name.
        name: String,
    },
    /// The cache may not be larger than all that is stored.
    #[error("{cache} is more than storage.max_size ({storage}), which bounds everything")]
    CacheBeyondStorage {
        /// `cache.max_size`.
        cache: super::Limit,
        /// `storage.max_size`.
        storage: super::Limit,
    },
    /// An upstream named by something else than a host.
    #[error("`{name}` is not a host; write it in lower case as in an image name, such as ghcr.io or registry.lan:5000")]
    NotAHost {
        /// The name.
        name: String,
    },
    /// Two upstreams want to be the default.
    #[error("{first} is the default upstream already; there can be one")]
    TwoDefaults {
        /// The other one.
        first: String,
    },
    /// A Host header is mapped to two upstreams.
    #[error("the host `{host}` is mapped to {first} already")]
    HostTaken {
        /// The host.
        host: String,
        /// The upstream that has it.
        first: String,
    },
    /// A text that is no URL; it is not shown because it may hold a password.
    #[error("not a URL ({reason}); write one such as https://registry.example.com")]
    Url {
        /// Why.
        reason: url::ParseError,
    },
    /// A URL that is not spoken.
    #[error("the scheme `{scheme}` is unknown; use https:// or http://")]
    UrlScheme {
        /// The scheme.
        scheme: String,
    },
    /// A URL with a password in it.
    #[error(
        "credentials do not belong in the URL, which appears in logs; use the keys `username` and `password` or `password_file`"
    )]
    UrlCredentials,
    /// A URL with parts a registry has no use for.
    #[error("a registry's URL has no query and no fragment")]
    UrlQuery,
    /// A user name alone.
    #[error("a username needs a `password` or `password_file`")]
    UsernameAlone,
    /// A password alone.
    #[error("a password needs a `username`")]
    PasswordAlone,
    /// Two passwords.
    #[error("`password` and `password_file` are both given; keep one")]
    TwoPasswords,
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A file has nothing in it.
    #[error("{} is empty", path.display())]
    FileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// A list that must say something.
    #[error("must have an entry; leave the key out if there is none")]
    EmptyList,
    /// Two ways to say where an upstream is.
    #[error("`url` and `urls` are both given; `urls` alone is enough, with the first to ask first")]
    BothUrls,
    /// A source without its URL.
    #[error("an entry is a URL, or a map with `url` and who we are there")]
    NoUrl,
    /// Two sources at one place.
    #[error("is in the list already")]
    UrlTwice,
    /// Credentials of the first source twice.
    #[error("credentials beside `urls` are for its first entry, which has some of its own; keep one of them")]
    TwoIdentities,
    /// Two ways to say who we are.
    #[error("`{first}` says already who we are; keep one of them")]
    ManyIdentities {
        /// The other way.
        first: &'static str,
    },
    /// An account that is nobody.
    #[error("an account needs a `username` and a `password` or `password_file`")]
    NoAccount,
    /// A file that is not docker's.
    #[error("{} is not a config.json of docker", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
    },
    /// Something else than the name of a credential program.
    #[error("`{name}` is not what may follow `docker-credential-` in the name of a program, such as ecr-login")]
    HelperName {
        /// What was written.
        name: String,
    },
    /// A certificate without its key.
    #[error("a `certificate` needs its `key`")]
    CertificateAlone,
    /// A key without its certificate.
    #[error("a `key` needs its `certificate`")]
    KeyAlone,
    /// A file without what it should hold.
    #[error("{} is no PEM file with {what}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// Client certificates that nobody could vouch for.
    #[error("needs `client_ca`: the authority whose certificates clients may show")]
    NoClientCa,
    /// Client certificates without TLS.
    #[error("needs `certificate` and `key`, or `acme`: clients show certificates over TLS only")]
    ClientCaAlone,
    /// Identities by certificates that nobody is asked for.
    #[error("needs `http.tls.client_certificates: request` or `require`: no client shows a certificate unasked")]
    NoCertificates,
    /// The PROXY protocol, believed of nobody.
    #[error("needs `http.trusted_proxies`: the networks of the proxies that may say so")]
    NoTrustedProxy,
    /// TLS settings where there is no TLS.
    #[error("means nothing for an http:// URL; write https:// or leave it out")]
    TlsOverHttp,
    /// A proxy that is none; not shown because it may hold a password.
    #[error("not a proxy; write http://, https://, socks5:// or socks5h:// with host and port, or `none`")]
    Proxy,
    /// A variable with our prefix that names no key.
    #[error("names no key of the configuration{}", meant(nearest.as_deref()))]
    UnknownVariable {
        /// The variable it resembles.
        nearest: Option<String>,
    },
    /// A variable for an upstream that is not configured.
    #[error(
        "`{part}` is no configured upstream (there are: {}); add it in the file, or set all of ENTREPOT_UPSTREAMS, \
             because a variable cannot tell `.`, `-` and `:` apart",
        list(known)
    )]
    UnknownUpstream {
        /// The part of the name that should be a host.
        part: String,
        /// The upstreams there are.
        known: Vec<String>,
    },
    /// A variable that fits several upstreams.
    #[error("`{part}` may be any of {}; set it in the file", list(fitting))]
    AmbiguousUpstream {
        /// The part of the name that should be a host.
        part: String,
        /// The upstreams it fits.
        fitting: Vec<String>,
    },
    /// Two variables for one key.
    #[error("sets the same key as {other}")]
    VariableTwice {
        /// The other variable.
        other: String,
    },
    /// A variable whose value is no text.
    #[error("is not valid UTF-8")]
    NotUnicode,
    /// A warning: a client would have given up before the upstream is given up.
    #[error("connect_timeout plus first_byte_timeout is {}; clients are answered within {} all the same, \
             as containerd gives up at 30s", human(*sum), human(*bound))]
    SlowTimeouts {
        /// The two together.
        sum: std::time::Duration,
        /// The promise to clients.
        bound: std::time::Duration,
    },
    /// A warning: nobody knows who answers.
    #[error("INSECURE: whoever answers as {name} is believed, and gets its credentials; use `ca` instead")]
    InsecureTls {
        /// The upstream.
        name: String,
    },
    /// A warning: clients' credentials are sent in clear text.
    #[error(
        "INSECURE: clients send their passwords to this address and anybody on the way can read them; set `http.tls`, or \
         listen on loopback behind a proxy with TLS"
    )]
    PasswordsInClear,
    /// A warning: credentials are sent in clear text.
    #[error("the password is sent unencrypted over http://")]
    ClearTextPassword,
}

fn advice(nearest: Option<&str>, known: &[&str]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn human(duration: std::time::Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
