//! The head of an answer: its status as an error or not, and the headers that count.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};

use super::error::{Asked, Error, Nonsense};
use crate::oci::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

/// A `Retry-After` beyond this is taken for a mistake (some upstreams send a date as seconds) and cut down to it.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// An answer whose body has not been read.
pub struct Answer {
    /// The request it answers, after redirects.
    pub request: Asked,
    /// False once a redirect led away from the origin that was asked first.
    pub at_origin: bool,
    /// Head and body.
    pub response: reqwest::Response,
}

impl Answer {
    /// Turns every status into an error but 200, and 206 where a range was asked for.
    pub fn succeeded(self, asked_for_range: bool) -> Result<Self, Error> {
        let request = self.request.clone();
        let retry_after = retry_after(self.response.headers());
        match self.response.status().as_u16() {
            200 => Ok(self),
            206 if asked_for_range => Ok(self),
            206 => Err(Error::Nonsense { request, what: Nonsense::PartialUnasked }),
            404 => Err(Error::NotFound { request }),
            status @ (401 | 403) => Err(Error::Refused { request, status }),
            416 => Err(Error::RangeUnsatisfiable { request }),
            429 => Err(Error::RateLimited { request, retry_after }),
            status => Err(Error::Status { request, status, retry_after }),
        }
    }

    /// `Content-Type` as it came.
    pub fn content_type(&self) -> Option<String> {
        text(self.response.headers(), &CONTENT_TYPE).map(str::to_owned)
    }

    /// `Content-Length` of the content, also on an answer to HEAD.
    pub fn length_bytes(&self) -> Option<u64> {
        text(self.response.headers(), &CONTENT_LENGTH).and_then(decimal)
    }

    /// `Docker-Content-Digest`; one of an algorithm that is not kept counts as none.
    pub fn content_digest(&self) -> Option<Digest> {
        text(self.response.headers(), &CONTENT_DIGEST)?.trim().parse().ok()
    }
}

/// What an upstream says of the number of requests left (Docker Hub's headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests allowed in a window, if said.
    pub limit: Option<u64>,
    /// Requests left in it.
    pub remaining: u64,
    /// Length of the window, if said.
    pub window: Option<Duration>,
}

impl RateLimit {
    /// Reads `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`; the latter must be there.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let (remaining, window) = quota(text(headers, &RATE_REMAINING)?)?;
        let limit = text(headers, &RATE_LIMIT).and_then(quota);
        let window = window.or(limit.and_then(|(_, window)| window));
        Some(Self { limit: limit.map(|(limit, _)| limit), remaining, window })
    }
}

fn quota(value: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = value.split(';').map(str::trim);
    let count = decimal(parts.next()?)?;
    let window = parts.find_map(|part| part.strip_prefix("w=")).and_then(decimal).map(Duration::from_secs);
    Some((count, window))
}

/// Seconds only: the other form, a date, is not worth trusting another clock for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = decimal(text(headers, &RETRY_AFTER)?.trim())?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `Content-Range` of a 206 answer: the part it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset of its first byte.
    pub first: u64,
    /// Offset of its last byte.
    pub last: u64,
    /// Length of the whole, unless the upstream does not know it.
    pub total_bytes: Option<u64>,
}

impl Part {
    /// Reads `bytes first-last/total` or `bytes first-last/*` (RFC 9110, section 14.4). Strict: a part taken for another
    /// one would be found out only when the whole blob has come.
    pub fn parse(value: &str) -> Option<Self> {
        let (range, total) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (some_decimal(first)?, some_decimal(last)?);
        let total_bytes = if total == "*" { None } else { Some(some_decimal(total)?) };
        let inside = first <= last && last < total_bytes.unwrap_or(u64::MAX);
        inside.then_some(Self { first, last, total_bytes })
    }
}

fn some_decimal(text: &str) -> Option<u64> {
    if text.is_empty() { None } else { decimal(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_rate_limit_of_docker_hub_is_read() {
        let rate =
            RateLimit::read(&headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")]));
        let window = Some(Duration::from_hours(6));
        assert_eq!(rate, Some(RateLimit { limit: Some(100), remaining: 76, window }));
        let rate = RateLimit::read(&headers(&[("ratelimit-remaining", "0")]));
        assert_eq!(rate, Some(RateLimit { limit: None, remaining: 0, window: None }));
        assert_eq!(RateLimit::read(&headers(&[("ratelimit-limit", "100")])), None);
        assert_eq!(RateLimit::read(&headers(&[("ratelimit-remaining", "many")])), None);
    }

    #[test]
    fn a_retry_after_is_a_bounded_number_of_seconds() {
        let read = |value| retry_after(&headers(&[("retry-after", value)]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("1800000000"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(read("-1"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn parts_are_read_strictly() {
        assert_eq!(Part::parse("bytes 5-9/10"), Some(Part { first: 5, last: 9, total_bytes: Some(10) }));
        assert_eq!(Part::parse("bytes 0-0/*"), Some(Part { first: 0, last: 0, total_bytes: None }));
        for value in [
            "",
            "bytes",
            "bytes */10",
            "bytes 5-10/10",
            "bytes 9-5/10",
            "5-9/10",
            "bytes 5-9",
            "bytes -9/10",
            "bytes 5-9/",
            "bytes +5-9/10",
        ] {
            assert_eq!(Part::parse(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics_the_readers(value in "(bytes )?[0-9*/;w=-]{0,50}") {
            let _ = (Part::parse(&value), quota(&value));
        }
    }
}
