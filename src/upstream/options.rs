//! What an upstream is and how patient to be with it.

use std::time::Duration;

use url::Url;

use super::auth::Credentials;
use super::error::Error;
use super::redact::SafeUrl;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::Host;

/// The settings of one upstream.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator calls it, and what its content is kept under.
    pub host: Host,
    /// Where it is: http or https, perhaps with a path in front of `/v2/`.
    pub url: Url,
    /// It is a mirror of several registries and has to be told which one is meant, by `?ns=`.
    pub send_ns: bool,
    /// Who we are there; anonymous if none.
    pub credentials: Option<Credentials>,
    /// Limit on making a connection.
    pub connect_timeout: Duration,
    /// Limit from handing a request over (connecting included) to the head of its answer, for each redirect anew.
    pub first_byte_timeout: Duration,
    /// Limit on the wait for the next bytes of a body.
    pub no_progress_timeout: Duration,
    /// Limit on an operation with its redirects, tokens and retries; bodies of blobs are not part of it.
    pub answer_timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// The longest wait before the first retry; it doubles with each further one.
    pub retry_backoff: Duration,
    /// Redirects followed for one request.
    pub redirects_max: usize,
    /// Bytes in a manifest or in a page of tags.
    pub manifest_bytes_max: usize,
    /// By what rate limits and rests are timed; waits for answers go by the runtime's own clock.
    pub clock: Clock,
    /// Where the rate limit is shown.
    pub metrics: Metrics,
}

impl Options {
    /// The defaults. `answer_timeout` leaves a second of the 25 s within which a client must have response headers.
    pub fn new(host: Host, url: Url) -> Self {
        Self {
            host,
            url,
            send_ns: false,
            credentials: None,
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

    /// Refuses a URL that cannot be asked. Credentials have their own place: in a URL they would end up in logs.
    pub(super) fn checked(mut self) -> Result<Self, Error> {
        let is_web = matches!(self.url.scheme(), "http" | "https") && self.url.has_host();
        if !is_web || !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(Error::UrlUnsupported { host: self.host, url: SafeUrl::new(&self.url) });
        }
        self.url.set_query(None);
        self.url.set_fragment(None);
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
}
