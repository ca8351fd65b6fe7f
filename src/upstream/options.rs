//! What an upstream is, how it is reached, and how patient to be with it.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::credentials::Account;
use super::error::Error;
use super::redact::SafeUrl;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::Host;

/// The settings of one upstream.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator calls it, and what its content is kept under, whichever source it comes from.
    pub host: Host,
    /// Where it can be had, in the order in which they are asked; at least one.
    pub sources: Vec<SourceOptions>,
    /// Hosts (`host` or `host:port`) of token services that any of them may send us to, besides those of its own domain.
    pub realms: Vec<String>,
    /// Whom to believe that they are the upstream, and who we are in TLS.
    pub tls: Tls,
    /// The way there.
    pub route: Route,
    /// Short questions (whatever is not a blob) in flight at a time; more wait.
    pub connections_max: usize,
    /// They are mirrors of several registries and have to be told which one is meant, by `?ns=`.
    pub send_ns: bool,
    /// Limit on making a connection.
    pub connect_timeout: Duration,
    /// Limit from handing a request over (connecting included) to the head of its answer, for each redirect anew.
    pub first_byte_timeout: Duration,
    /// Limit on the wait for the next bytes of a body.
    pub no_progress_timeout: Duration,
    /// Limit on an operation with its redirects, tokens, sources and retries; bodies of blobs are not part of it.
    pub answer_timeout: Duration,
    /// Attempts after the first; asking every source once is one attempt.
    pub retries: u32,
    /// The longest wait before the first retry; it doubles with each further one.
    pub retry_backoff: Duration,
    /// Redirects followed for one request.
    pub redirects_max: usize,
    /// Bytes in a manifest or in a page of tags.
    pub manifest_bytes_max: usize,
    /// By what rate limits and rests are timed; waits for answers go by the runtime's own clock.
    pub clock: Clock,
    /// Where the rate limits are shown.
    pub metrics: Metrics,
}

/// One place that an upstream's content is fetched from, with the accounts that are for it and nobody else.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Where it is: http or https, perhaps with a path in front of `/v2/`.
    pub url: Url,
    /// Who we are there, in the order of preference; anonymous if none.
    pub accounts: Vec<Account>,
}

impl SourceOptions {
    /// A source that is asked anonymously.
    pub fn anonymous(url: Url) -> Self {
        Self { url, accounts: Vec::new() }
    }
}

/// The TLS of an upstream.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates (PEM) of authorities to believe besides those of this machine.
    pub ca: Option<String>,
    /// Our certificate and its key (both PEM), shown to the sources' hosts only.
    pub identity: Option<SecretString>,
    /// Believe whoever answers at the sources' hosts. Nowhere else.
    pub insecure: bool,
}

/// How connections are made.
#[derive(Clone, Default)]
pub enum Route {
    /// As the environment of this process says (`HTTPS_PROXY` and its kin); never for loopback.
    #[default]
    System,
    /// Straight.
    Direct,
    /// Through this proxy: http, https, socks5 or socks5h. Its URL may hold a password.
    Through(SecretString),
}

impl Route {
    /// The proxy without its password.
    fn shown(&self) -> String {
        match self {
            Self::System => "system".to_owned(),
            Self::Direct => "direct".to_owned(),
            Self::Through(url) => Url::parse(url.expose_secret())
                .map_or_else(|_| "[not a URL]".to_owned(), |url| SafeUrl::new(&url).to_string()),
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Options {
    /// The defaults, with one source and no account there. `answer_timeout` leaves a second of the 25 s within which a
    /// client must have response headers.
    pub fn new(host: Host, url: Url) -> Self {
        Self {
            host,
            sources: vec![SourceOptions::anonymous(url)],
            realms: Vec::new(),
            tls: Tls::default(),
            route: Route::default(),
            connections_max: 32,
            send_ns: false,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(20),
            no_progress_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(24),
            retries: 3,
            retry_backoff: Duration::from_millis(200),
            redirects_max: 5,
            manifest_bytes_max: 4 * 1024 * 1024,
            clock: Clock::System,
            metrics: Metrics::new(),
        }
    }

    /// Refuses URLs that cannot be asked. Credentials have their own place: in a URL they would end up in logs.
    pub(super) fn checked(mut self) -> Result<Self, Error> {
        if self.sources.is_empty() {
            return Err(Error::NoSource { host: self.host });
        }
        for SourceOptions { url, .. } in &mut self.sources {
            let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
            if !is_web || !url.username().is_empty() || url.password().is_some() {
                return Err(Error::UrlUnsupported { host: self.host, url: SafeUrl::new(url) });
            }
            url.set_query(None);
            url.set_fragment(None);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_urls_are_taken_and_the_refusal_keeps_secrets() {
        let check = |url: &str| Options::new("a.example".parse().unwrap(), Url::parse(url).unwrap()).checked();
        assert!(check("https://a.example/registry/").is_ok());
        assert!(check("http://127.0.0.1:5000").is_ok());
        assert!(check("ftp://a.example").is_err());
        let refusal = check("https://me:hunter2@a.example").unwrap_err().to_string();
        assert_eq!(
            refusal,
            "upstream a.example: https://a.example/ is not an http or https URL without user and password"
        );
    }

    #[test]
    fn the_password_of_a_proxy_is_not_printed() {
        let mut options = Options::new("a.example".parse().unwrap(), Url::parse("https://a.example").unwrap());
        options.route = Route::Through("socks5h://me:hunter2@proxy.lan:1080".into());
        let printed = format!("{options:?}");
        assert!(printed.contains("proxy.lan:1080") && !printed.contains("hunter2"), "{printed}");
    }
}
