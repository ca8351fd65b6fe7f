//! Sends one request to wherever redirects lead, within its limits on waiting, and never a credential too far.
//!
//! Redirects are followed here and not by the HTTP client, so that three things are certain: `Authorization` stays at
//! the origin it was meant for, https is never left, and `Range` and the method go along.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, LOCATION, RANGE};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Options;
use super::answer::{Answer, RateLimit};
use super::auth::Authorization;
use super::clients::Clients;
use super::error::{Asked, Error, Nonsense, Wait};
use super::redact::SafeUrl;
use super::redirect;
use super::turns::Turns;
use crate::clock::Clock;
use crate::oci::Host;

/// What a request is for, which decides how it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Short answers that share connections: manifests, heads, tags, tokens.
    Metadata,
    /// A long body with a connection of its own.
    Blob,
}

/// A request as it goes to every hop.
pub struct Ask {
    pub method: Method,
    pub url: Url,
    pub kind: Kind,
    /// `Accept`; none for blobs, which are what they are.
    pub accept: Option<String>,
    /// `Range`.
    pub range: Option<String>,
    /// A form in the body; it is sent to the first hop only.
    pub form: Option<SecretString>,
}

impl Ask {
    pub fn new(method: Method, url: Url, kind: Kind) -> Self {
        Self { method, url, kind, accept: None, range: None, form: None }
    }
}

/// Bytes of a body that are read only to keep the connection for the next request.
const DISCARD_BYTES_MAX: usize = 16 * 1024;

/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

pub struct Transport {
    host: Host,
    origin: Url,
    clients: Clients,
    turns: Turns,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    redirects_max: usize,
    clock: Clock,
}

impl Transport {
    /// To one source. Turns are those of the whole upstream.
    pub fn new(options: &Options, origin: &Url, turns: Turns) -> Result<Self, Error> {
        Ok(Self {
            host: options.host.clone(),
            origin: origin.clone(),
            clients: Clients::new(options, origin)?,
            turns,
            connect_timeout: options.connect_timeout,
            first_byte_timeout: options.first_byte_timeout,
            redirects_max: options.redirects_max,
            clock: options.clock.clone(),
        })
    }

    /// The source's own URL.
    pub fn origin(&self) -> &Url {
        &self.origin
    }

    /// How an error names a request.
    pub fn asked(&self, method: &Method, url: &Url) -> Asked {
        Asked { host: self.host.clone(), method: method.clone(), url: SafeUrl::new(url) }
    }

    /// Sends, follows redirects, and returns the first answer that is none, whatever its status.
    pub async fn send(&self, ask: &Ask, authorization: Option<&Authorization>) -> Result<Answer, Error> {
        let after = self.first_byte_timeout;
        let turn = tokio::time::timeout(after, self.turns.take(ask.kind)).await.ok().flatten();
        let turn = turn.ok_or_else(|| Error::Busy { request: self.asked(&ask.method, &ask.url), after })?;
        let mut visited = vec![ask.url.clone()];
        // Once dropped on the way it stays dropped, even if the way leads back.
        let mut authorization = authorization;
        let mut rate_limit = None;
        loop {
            let url = visited.last().expect("the first URL is never removed");
            let mut answer = self.send_once(ask, url, authorization).await?;
            rate_limit = answer.rate_limit.or(rate_limit);
            if !matches!(answer.response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                answer.rate_limit = rate_limit;
                answer.turn = Some(turn);
                return Ok(answer);
            }
            let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = redirect::target(&visited, location, self.redirects_max)
                .map_err(|what| Error::Nonsense { request: answer.request.clone(), what })?;
            if ask.form.is_some() {
                // The form holds a secret that was meant for the first hop.
                return Err(Error::Nonsense { request: answer.request, what: Nonsense::RedirectTarget });
            }
            authorization = authorization.filter(|_| redirect::same_origin(&ask.url, &next));
            discard(answer).await;
            visited.push(next);
        }
    }

    async fn send_once(&self, ask: &Ask, url: &Url, authorization: Option<&Authorization>) -> Result<Answer, Error> {
        let request = self.asked(&ask.method, url);
        let client = self.clients.for_url(url, ask.kind)?;
        let mut builder = client.request(ask.method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(accept) = &ask.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if let Some(range) = &ask.range {
            builder = builder.header(RANGE, range);
        }
        if let Some(form) = &ask.form {
            builder = builder.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            builder = builder.body(form.expose_secret().to_owned());
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
        let status = response.status().as_u16();
        tracing::debug!(%request, status, version = ?response.version(), "upstream answered");
        let is_ours = redirect::same_origin(url, &self.origin);
        let rate_limit = RateLimit::read(response.headers()).filter(|_| is_ours);
        let at_origin = redirect::same_origin(url, &ask.url);
        let now_ms = self.clock.now_ms();
        Ok(Answer { request, at_origin, rate_limit, turn: None, now_ms, response })
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
