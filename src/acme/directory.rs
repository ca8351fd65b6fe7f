//! The way to the directory: at its own origin only, without redirects, within bounds of bytes and time.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient, Problem};
use reqwest::Client;
use url::Url;

use crate::clock::Clock;
use crate::outbound;

/// The longest document that a directory may answer with.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take, its document included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A `Retry-After` beyond this is taken for a mistake and cut down to it.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(7 * 24);

/// Why the directory has not answered, or not as one should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No connection, or it broke, or it took too long.
    #[error("the directory cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It sends us to somebody else.
    #[error("the directory leads to {0}, which is not its own origin")]
    Elsewhere(String),
    /// An answer that is neither what was asked for nor a reason in ACME's form.
    #[error("{url} answered with status {status}; redirects are not followed")]
    Status {
        /// What was asked.
        url: Url,
        /// What came.
        status: u16,
    },
    /// An answer that does not end.
    #[error("{0} is longer than {DOCUMENT_BYTES_MAX} bytes")]
    Large(Url),
}

/// A client of one directory.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client,
    directory: Arc<Url>,
    clock: Clock,
    /// What the last answer said about when to ask again.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Wire {
    /// A client of the directory at this URL, which believes `ca` too. Nothing is asked yet.
    pub fn new(directory: Url, ca: Option<&str>, clock: Clock) -> reqwest::Result<Self> {
        let is_local = outbound::is_loopback(&directory);
        let client = outbound::client(ca, || {
            let settings = outbound::settings().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
            Ok(if is_local { settings.no_proxy() } else { settings })
        })?;
        Ok(Self { client, directory: Arc::new(directory), clock, retry_after: Arc::default() })
    }

    /// How long the last answer said to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Trouble> {
        let (parts, body) = request.into_parts();
        let asked = parts.uri.to_string();
        let url = Url::parse(&asked).ok().filter(|url| url.origin() == self.directory.origin());
        let url = url.ok_or_else(|| Trouble::Elsewhere(shown(&asked)))?;
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let mut headers = parts.headers;
        // The client says itself who it is.
        headers.remove(USER_AGENT);
        let unreachable = |error: reqwest::Error| Trouble::Unreachable(error.without_url());
        let told = |wait| *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        told(None);
        let sending = self.client.request(parts.method.clone(), url.clone()).headers(headers).body(body);
        let mut answer = sending.send().await.map_err(unreachable)?;
        told(retry_after(answer.headers(), self.clock.now_ms()));
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if document.len() + piece.len() > DOCUMENT_BYTES_MAX {
                return Err(Trouble::Large(url));
            }
            document.extend_from_slice(&piece);
        }
        let (status, is_post) = (answer.status(), parts.method == Method::POST);
        let is_reason = is_post && status.as_u16() >= 400 && serde_json::from_slice::<Problem>(&document).is_ok();
        if !status.is_success() && !is_reason {
            return Err(Trouble::Status { url, status: status.as_u16() });
        }
        if url == *self.directory {
            self.check(&document)?;
        }
        let mut response = Response::new(Full::from(document));
        (*response.status_mut(), *response.headers_mut()) = (status, answer.headers().clone());
        Ok(response)
    }
}

impl Wire {
    /// Whoever goes on from the directory takes its URLs for URLs.
    fn check(&self, directory: &[u8]) -> Result<(), Trouble> {
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(directory) else { return Ok(()) };
        for text in ["newNonce", "newAccount", "newOrder"].iter().filter_map(|name| document.get(*name)?.as_str()) {
            let is_ours = Url::parse(text).is_ok_and(|url| url.origin() == self.directory.origin());
            if !is_ours || text.parse::<http::Uri>().is_err() {
                return Err(Trouble::Elsewhere(format!("\"{}\"", shown(text))));
            }
        }
        Ok(())
    }
}

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let wire = self.clone();
        Box::pin(async move {
            let answer = wire.ask(request).await;
            answer.map(BytesResponse::from).map_err(|trouble| instant_acme::Error::Other(Box::new(trouble)))
        })
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3), which counts from the answer's own `Date`, or else from our clock.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let unix_s = |date: &str| Some(httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs());
    let told = text(RETRY_AFTER)?;
    let seconds = told.parse::<u64>().ok().or_else(|| {
        let now_s = text(DATE).and_then(unix_s).or_else(|| u64::try_from(now_ms / 1000).ok())?;
        Some(unix_s(told)?.saturating_sub(now_s))
    })?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// As much of somebody else's text as a line of the log should have.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date_and_has_an_end() {
        let said = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            retry_after(&headers, 1_700_000_000_000).map(|wait| wait.as_secs())
        };
        assert_eq!(said(&[("retry-after", " 120 ")]), Some(120));
        assert_eq!(said(&[("retry-after", "Tue, 14 Nov 2023 22:14:20 GMT")]), Some(60));
        let date = ("date", "Tue, 14 Nov 2023 22:14:00 GMT");
        assert_eq!(said(&[date, ("retry-after", "Tue, 14 Nov 2023 22:14:20 GMT")]), Some(20));
        assert_eq!(said(&[date, ("retry-after", "Tue, 14 Nov 2023 22:13:20 GMT")]), Some(0));
        assert_eq!(said(&[("retry-after", "99999999999")]), Some(7 * 24 * 3600));
        for nothing in ["", "soon", "-1"] {
            assert_eq!(said(&[("retry-after", nothing)]), None, "{nothing}");
        }
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn foreign_text_is_one_short_line() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(shown(&"x".repeat(1000)).len(), 400);
    }
}
