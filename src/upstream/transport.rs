//! Sends one request to wherever redirects lead, within its limits on waiting, and never a credential too far.
//!
//! Redirects are followed here and not by the HTTP client, so that three things are certain: `Authorization` stays at
//! the origin it was meant for, https is never left, and `Range` and the method go along.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, LOCATION, RANGE};
use url::Url;

use super::Options;
use super::answer::{Answer, RateLimit};
use super::auth::Authorization;
use super::budget::{Budget, Level, Meter};
use super::clients::Clients;
use super::error::{Asked, Error, Nonsense, Wait};
use super::redact::SafeUrl;
use super::redirect;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::Host;

/// A request as it goes to every hop.
pub struct Ask {
    pub method: Method,
    pub url: Url,
    /// `Accept`; none for blobs, which are what they are.
    pub accept: Option<String>,
    /// `Range`.
    pub range: Option<String>,
}

/// Bytes of a body that are read only to keep the connection for the next request.
const DISCARD_BYTES_MAX: usize = 16 * 1024;

/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

pub struct Transport {
    host: Host,
    origin: Url,
    clients: Clients,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    redirects_max: usize,
    clock: Clock,
    metrics: Metrics,
    meter: Mutex<Meter>,
}

impl Transport {
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            host: options.host.clone(),
            origin: options.url.clone(),
            clients: Clients::new(&options.host, options.connect_timeout)?,
            connect_timeout: options.connect_timeout,
            first_byte_timeout: options.first_byte_timeout,
            redirects_max: options.redirects_max,
            clock: options.clock.clone(),
            metrics: options.metrics.clone(),
            meter: Mutex::default(),
        })
    }

    /// The upstream's own URL.
    pub fn origin(&self) -> &Url {
        &self.origin
    }

    /// How an error names a request.
    pub fn asked(&self, method: &Method, url: &Url) -> Asked {
        Asked { host: self.host.clone(), method: method.clone(), url: SafeUrl::new(url) }
    }

    /// What may still be asked.
    pub fn budget(&self) -> Option<Budget> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).budget(self.clock.now_ms())
    }

    /// Takes note of what an answer says is left, and tells when that becomes little.
    fn meter(&self, seen: RateLimit) {
        let (host, remaining, limit) = (&self.host, seen.remaining, seen.limit);
        self.metrics.rate_limit(host.as_str(), 0, remaining, limit);
        let noted = self.meter.lock().unwrap_or_else(PoisonError::into_inner).note(seen, self.clock.now_ms());
        match noted {
            (before, Level::Exhausted) if before != Some(Level::Exhausted) => {
                tracing::warn!(upstream = %host, limit, "the rate limit is used up");
            }
            (None | Some(Level::Plenty), Level::Low) => {
                tracing::warn!(upstream = %host, remaining, limit, "little is left of the rate limit");
            }
            _ => {}
        }
    }

    /// Sends, follows redirects, and returns the first answer that is none, whatever its status.
    pub async fn send(&self, ask: &Ask, authorization: Option<&Authorization>) -> Result<Answer, Error> {
        let mut visited = vec![ask.url.clone()];
        // Once dropped on the way it stays dropped, even if the way leads back.
        let mut authorization = authorization;
        loop {
            let url = visited.last().expect("the first URL is never removed");
            let answer = self.send_once(ask, url, authorization).await?;
            if !matches!(answer.response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = redirect::target(&visited, location, self.redirects_max)
                .map_err(|what| Error::Nonsense { request: answer.request.clone(), what })?;
            authorization = authorization.filter(|_| redirect::same_origin(&ask.url, &next));
            discard(answer).await;
            visited.push(next);
        }
    }

    async fn send_once(&self, ask: &Ask, url: &Url, authorization: Option<&Authorization>) -> Result<Answer, Error> {
        let request = self.asked(&ask.method, url);
        let mut builder =
            self.clients.for_url(url).request(ask.method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(accept) = &ask.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if let Some(range) = &ask.range {
            builder = builder.header(RANGE, range);
        }
        if let Some(authorization) = authorization {
            builder = authorization.apply(builder);
        }
        let response = match tokio::time::timeout(self.first_byte_timeout, builder.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => return Err(self.failed(request, source)),
            Err(_) => {
                let after = self.first_byte_timeout;
                return Err(Error::TimedOut { request, what: Wait::FirstByte, after });
            }
        };
        tracing::debug!(%request, status = response.status().as_u16(), "upstream answered");
        if redirect::same_origin(url, &self.origin)
            && let Some(seen) = RateLimit::read(response.headers())
        {
            self.meter(seen);
        }
        Ok(Answer { at_origin: redirect::same_origin(url, &ask.url), request, response })
    }

    /// What it means that there was no answer.
    fn failed(&self, request: Asked, error: reqwest::Error) -> Error {
        if error.is_connect() && error.is_timeout() {
            return Error::TimedOut { request, what: Wait::Connection, after: self.connect_timeout };
        }
        let is_connect = error.is_connect();
        let is_nonsense = is_not_http(&error);
        let source = Arc::new(error.without_url());
        if is_connect {
            Error::Connect { request, source }
        } else if is_nonsense {
            Error::Nonsense { request, what: Nonsense::Http }
        } else {
            Error::Dropped { request, source }
        }
    }
}

fn is_not_http(error: &reqwest::Error) -> bool {
    std::iter::successors(error.source(), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse)
}

/// Reads a short body to its end: a connection with an unread body is closed, and the next one costs a handshake.
pub async fn discard(mut answer: Answer) {
    let read = async {
        let mut left = DISCARD_BYTES_MAX;
        while let Ok(Some(bytes)) = answer.response.chunk().await {
            let Some(rest) = left.checked_sub(bytes.len()) else { return };
            left = rest;
        }
    };
    // Whether it ended in time makes no difference but for the connection.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}
