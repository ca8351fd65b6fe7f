//! The head of an answer: its status as an error or not, and the headers that count.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};

use super::error::{Asked, Error, Nonsense};
use super::turns::Turn;
use crate::oci::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

/// A number of seconds from here on is a date: nobody says that we should stay away for thirty years.
const UNIX_SECONDS_MIN: u64 = 1_000_000_000;

/// A `Retry-After` beyond this is taken for a mistake and cut down to it.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// An answer whose body has not been read.
pub struct Answer {
    /// The request it answers, after redirects.
    pub request: Asked,
    /// False once a redirect led away from the origin that was asked first.
    pub at_origin: bool,
    /// What the source said of its rate limit, here or on the way.
    pub rate_limit: Option<RateLimit>,
    /// The right to have this answer open.
    pub turn: Option<Turn>,
    /// Unix milliseconds of its arrival.
    pub now_ms: i64,
    /// Head and body.
    pub response: reqwest::Response,
}

impl Answer {
    /// Turns every status into an error but 200, and 206 where a range was asked for.
    pub fn succeeded(self, asked_for_range: bool) -> Result<Self, Error> {
        let request = self.request.clone();
        let retry_after = self.retry_after();
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

    /// How long to stay away, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(self.response.headers(), self.now_ms)
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

/// `Retry-After` in each of its forms: seconds, a date (RFC 9110, section 10.2.3), and Docker Hub's, a date as Unix
/// seconds. A date counts from the answer's own `Date`, because two clocks seldom agree, or else from our clock.
pub fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER)?.trim();
    let now = text(headers, &DATE).and_then(unix_seconds).or_else(|| u64::try_from(now_ms / 1000).ok())?;
    let seconds = match decimal(value).filter(|_| !value.is_empty()) {
        Some(number) if number >= UNIX_SECONDS_MIN => number.saturating_sub(now),
        Some(seconds) => seconds,
        None => unix_seconds(value)?.saturating_sub(now),
    };
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// An HTTP date.
fn unix_seconds(date: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(date).ok()?;
    Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
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
    fn a_retry_after_is_seconds_a_date_or_a_date_in_seconds() {
        const NOW: i64 = 1_792_000_000;
        let read = |value| retry_after(&headers(&[("retry-after", value)]), NOW * 1000);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("1792000042"), Some(Duration::from_secs(42)));
        assert_eq!(read("1791999999"), Some(Duration::ZERO));
        assert_eq!(read("999999999"), Some(RETRY_AFTER_MAX));
        let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_792_000_009));
        let dated = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            retry_after(&pairs.collect(), NOW * 1000)
        };
        assert_eq!(dated(&[("retry-after", &date)]), Some(Duration::from_secs(9)));
        // A server whose clock is an hour fast means nine seconds all the same.
        let fast = |seconds| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
        let answer = [("retry-after", fast(1_792_003_609)), ("date", fast(1_792_003_600))];
        let answer = answer.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(dated(&answer), Some(Duration::from_secs(9)));
        for value in ["-1", "", "soon", "Wed, 99 Oct 2026 07:28:00 GMT"] {
            assert_eq!(read(value), None, "{value:?}");
        }
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
