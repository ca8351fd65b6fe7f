//! `webhooks`: who is told what happened.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::{
    Route, Tls,
    diagnose::Fault,
    raw::{RawTls, secret},
    tree::{KeyPath, Step},
    units,
    validate::{Check, is_host},
};

/// One receiver as written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawWebhook {
    /// Where it is; must be there. A text, as it may hold a token and errors would quote it.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// What it is told. Default push and delete.
    pub events: Vec<WebhookEvent>,
    /// Globs of repositories. Default all.
    pub repositories: Vec<String>,
    /// What requests are signed with. Default none.
    #[serde(deserialize_with = "secret")]
    pub secret: Option<SecretString>,
    /// File that holds it. Default none.
    pub secret_file: Option<PathBuf>,
    /// Further headers. Default none.
    pub headers: BTreeMap<String, String>,
    /// How long an answer may take. Default `10s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub timeout: Duration,
    /// How long to wait after a failure; doubled with each further one. Default `1s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub retry_wait: Duration,
    /// The longest wait. Default `5m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub retry_wait_max: Duration,
    /// Events that are older are dropped. Default `3days`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub expire_after: Duration,
    /// Events that may wait; of more, the oldest are dropped. Default 10000.
    pub queue_max: u64,
    /// Certificates. Default those of the machine.
    pub tls: RawTls,
    /// A proxy's URL, or `none`. Default what the environment says.
    #[serde(deserialize_with = "secret")]
    pub proxy: Option<SecretString>,
}

impl Default for RawWebhook {
    fn default() -> Self {
        Self {
            url: None,
            events: vec![WebhookEvent::Push, WebhookEvent::Delete],
            repositories: vec!["**".to_owned()],
            secret: None,
            secret_file: None,
            headers: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            retry_wait: Duration::from_secs(1),
            retry_wait_max: Duration::from_mins(5),
            expire_after: Duration::from_hours(72),
            queue_max: 10_000,
            tls: RawTls::default(),
            proxy: None,
        }
    }
}

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// What it is called.
    #[serde(skip)]
    pub name: String,
    /// Where it is.
    pub url: WebhookUrl,
    /// What it is told; not empty.
    pub events: Vec<WebhookEvent>,
    /// Globs of the repositories that it is told of.
    pub repositories: Vec<String>,
    /// What requests are signed with.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Further headers.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "headers")]
    pub headers: Vec<(String, HeaderValue)>,
    /// How long an answer may take; not zero.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// How long to wait after a failure; not zero.
    #[serde(with = "units::duration")]
    pub retry_wait: Duration,
    /// The longest wait.
    #[serde(with = "units::duration")]
    pub retry_wait_max: Duration,
    /// Events that are older are dropped.
    #[serde(with = "units::duration")]
    pub expire_after: Duration,
    /// Events that may wait; not zero.
    pub queue_max: u64,
    /// Whom to believe, and who we are.
    #[serde(skip_serializing_if = "is_default_tls")]
    pub tls: Tls,
    /// How it is reached.
    #[serde(rename = "proxy", skip_serializing_if = "Route::is_system")]
    pub route: Route,
}

/// Something to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookEvent {
    /// A manifest was pushed.
    Push,
    /// A manifest was pulled.
    Pull,
    /// A tag, a manifest or a blob's link was deleted.
    Delete,
    /// A cached blob made room.
    Evict,
}

/// Where a receiver is. Path and query may hold a token, so `Debug` and `Serialize` show no more than the host.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(pub Url);

/// The value of a header, which may be a token: `Debug` and `Serialize` hide it.
#[derive(Debug, Clone)]
pub struct HeaderValue(pub SecretString);

/// What both sides know, or where it is to be read; `Debug` and `Serialize` hide it.
#[derive(Debug, Clone, Serialize)]
pub enum Secret {
    /// The secret.
    #[serde(rename = "secret", serialize_with = "super::source::redacted")]
    Written(SecretString),
    /// The file that holds it, which may change while we serve.
    #[serde(rename = "secret_file")]
    File(PathBuf),
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = if self.0.path() == "/" && self.0.query().is_none() { "/" } else { "/redacted" };
        write!(f, "{}{rest}", self.0.origin().ascii_serialization())
    }
}

impl Serialize for WebhookUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl PartialEq for HeaderValue {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for HeaderValue {}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Written(one), Self::Written(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(one), Self::File(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Secret {}

fn is_default_tls(tls: &Tls) -> bool {
    *tls == Tls::default()
}

fn headers<S: Serializer>(headers: &[(String, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, _)| (name, "[redacted]")))
}

/// The list as the map it is written as.
pub(super) fn by_name<S: Serializer>(webhooks: &[Webhook], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(webhooks.iter().map(|webhook| (&webhook.name, webhook)))
}

impl Check<'_> {
    pub(super) fn webhook(&mut self, name: String, raw: RawWebhook) -> Option<Webhook> {
        let base = KeyPath::of(&["webhooks", &name]);
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        if !is_host(&name) || name.contains([':', '.']) {
            self.refuse(base.clone(), Fault::WebhookName { name: name.clone() });
            return None;
        }
        for (key, is_zero) in [
            ("timeout", raw.timeout.is_zero()),
            ("retry_wait", raw.retry_wait.is_zero()),
            ("retry_wait_max", raw.retry_wait_max.is_zero()),
            ("expire_after", raw.expire_after.is_zero()),
            ("queue_max", raw.queue_max == 0),
        ] {
            if is_zero {
                self.refuse(path(key), Fault::Zero);
            }
        }
        for (key, is_empty) in [("events", raw.events.is_empty()), ("repositories", raw.repositories.is_empty())] {
            if is_empty {
                self.refuse(path(key), Fault::EmptyList);
            }
        }
        self.globs(&path("repositories"), &raw.repositories);
        let secret = match (raw.secret, raw.secret_file) {
            (Some(_), Some(_)) => {
                self.refuse(path("secret_file"), Fault::TwoSecrets);
                None
            }
            (Some(secret), None) if secret.expose_secret().is_empty() => {
                self.refuse(path("secret"), Fault::Zero);
                None
            }
            (Some(secret), None) => Some(Secret::Written(secret)),
            (None, Some(file)) => self.secret_in(path("secret_file"), &file).map(|_| Secret::File(file)),
            (None, None) => None,
        };
        let headers = self.headers(&path("headers"), raw.headers);
        let route = self.route(path("proxy"), raw.proxy);
        let Some(url) = raw.url else {
            self.refuse(base, Fault::Missing { key: "url" });
            return None;
        };
        let url = match receiver(url.expose_secret()) {
            Ok(url) => url,
            Err(fault) => {
                self.refuse(path("url"), fault);
                return None;
            }
        };
        let tls = self.tls(&path("tls"), &name, raw.tls, url.scheme() == "https");
        Some(Webhook {
            name,
            url: WebhookUrl(url),
            events: raw.events,
            repositories: raw.repositories,
            secret,
            headers,
            timeout: raw.timeout,
            retry_wait: raw.retry_wait,
            retry_wait_max: raw.retry_wait_max,
            expire_after: raw.expire_after,
            queue_max: raw.queue_max,
            tls,
            route,
        })
    }

    /// Only what can stand in a request, and nothing that says how it is framed.
    fn headers(&mut self, base: &KeyPath, written: BTreeMap<String, String>) -> Vec<(String, HeaderValue)> {
        let mut checked = Vec::with_capacity(written.len());
        for (name, value) in written {
            let is_name = http::HeaderName::try_from(&name).is_ok();
            let is_ours = ["content-type", "content-length", "transfer-encoding", "host", "entrepot-signature"]
                .iter()
                .any(|ours| name.eq_ignore_ascii_case(ours));
            if !is_name || is_ours || http::HeaderValue::try_from(&value).is_err() {
                self.refuse(base.clone().then(Step::Key(name.clone())), Fault::Header { name });
                continue;
            }
            checked.push((name, HeaderValue(value.into())));
        }
        checked
    }
}

/// A URL without user and password, which would end up in logs; a token in its query will not.
fn receiver(text: &str) -> Result<Url, Fault> {
    let url = Url::parse(text).map_err(|reason| Fault::Url { reason })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::UrlScheme { scheme: url.scheme().to_owned() });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::WebhookCredentials);
    }
    Ok(url)
}
