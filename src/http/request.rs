//! A request as its handlers see it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body as RequestBody;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, HOST, IF_NONE_MATCH, PRAGMA, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Method};

use super::body::Transport;
use super::error::ApiError;
use super::query::Query;
use crate::oci::{ContentRange, ErrorCode, RangeRequest, RepositoryName};
use crate::registry::{Caller, Credentials, Target};

/// Gives every request a name that no other has, also over restarts.
#[derive(Debug)]
pub struct RequestIds {
    start: u32,
    count: AtomicU64,
}

/// The name of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    start: u32,
    count: u64,
}

impl RequestIds {
    /// Counts from a random start.
    pub fn new() -> Self {
        let random = uuid::Uuid::new_v4().as_fields().0;
        Self { start: random, count: AtomicU64::new(0) }
    }

    /// The next name.
    pub fn next(&self) -> RequestId {
        RequestId { start: self.start, count: self.count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.start, self.count)
    }
}

/// What handlers may want to know of a request, besides its action.
#[derive(Debug)]
pub struct Asked {
    /// GET, HEAD, …
    pub method: Method,
    /// Its headers.
    pub headers: HeaderMap,
    /// What stands behind the question mark.
    pub query: Query,
    /// The host in the request's own line: HTTP/2 has it there, and it wins over a Host header (RFC 9112, 3.2.2).
    pub authority: Option<String>,
    /// Where the connection comes from.
    pub peer: Option<SocketAddr>,
    /// How a file gets to this client.
    pub transport: Transport,
    /// It said `no-cache` and may: see [`Asked::says_no_cache`].
    pub insists: bool,
    /// It said `only-if-cached` (RFC 9111, 5.2.1.7).
    pub only_stored: bool,
}

impl Asked {
    /// Takes a request apart.
    pub fn new(request: axum::extract::Request) -> (Self, RequestBody) {
        let (parts, body) = request.into_parts();
        let transport = Transport::of(parts.version, &parts.extensions);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let authority = parts.uri.authority().map(ToString::to_string);
        let peer = parts.extensions.get::<SocketAddr>().copied();
        let (method, headers) = (parts.method, parts.headers);
        let mut asked = Self { method, headers, query, authority, peer, transport, insists: false, only_stored: false };
        asked.only_stored = asked.says(&[&CACHE_CONTROL], "only-if-cached");
        (asked, body)
    }

    /// Is only the head of the answer wanted?
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The repository that the request means, all its spellings considered.
    pub fn target(&self, name: &RepositoryName) -> Target {
        let caller = Caller { credentials: self.credentials(), insists: self.insists, only_stored: self.only_stored };
        Target { name: name.clone(), ns: self.query.first("ns").map(str::to_owned), host: self.host(), caller }
    }

    /// Who the client says it is (RFC 7617). Podman's kind of nobody, an empty name with an empty password, is nobody.
    pub fn credentials(&self) -> Option<Credentials> {
        let (scheme, encoded) = self.text(&AUTHORIZATION)?.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
        let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let is_somebody = !username.is_empty() || !password.is_empty();
        is_somebody.then(|| Credentials { username: username.to_owned(), password: password.into() })
    }

    /// The host that the client thinks it talks to, in lower case, with its port if one was said.
    pub fn host(&self) -> Option<String> {
        self.authority.as_deref().or(self.text(&HOST)).map(str::to_ascii_lowercase)
    }

    /// Does the client want nothing from a cache that was not confirmed for it (RFC 9111, 5.2.1.4 and 5.4)?
    pub fn says_no_cache(&self) -> bool {
        self.says(&[&CACHE_CONTROL, &PRAGMA], "no-cache")
    }

    fn says(&self, headers: &[&HeaderName], wanted: &str) -> bool {
        let said = headers.iter().flat_map(|name| self.headers.get_all(*name));
        let directives = said.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        directives.map(str::trim).any(|directive| directive.eq_ignore_ascii_case(wanted))
    }

    /// A header as text, if it is there and is text.
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Does the client have this content already (RFC 9110, 13.1.2)?
    pub fn has(&self, etag: &str) -> bool {
        self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value
                .split(',')
                .map(str::trim)
                .any(|one| one == "*" || one.trim_start_matches("W/").trim_matches('"') == etag)
        })
    }

    /// The part of a body that the client wants. Ranges are for GET; one guarded by another content's ETag is ignored.
    pub fn range(&self, etag: &str) -> Option<RangeRequest> {
        let guarded = self.text(&http::header::IF_RANGE).is_some_and(|guard| guard.trim_matches('"') != etag);
        if guarded || self.method != Method::GET {
            return None;
        }
        RangeRequest::parse(self.text(&RANGE)?)
    }

    /// The range of an upload's chunk.
    pub fn content_range(&self) -> Result<Option<ContentRange>, ApiError> {
        let Some(value) = self.headers.get(http::header::CONTENT_RANGE) else { return Ok(None) };
        let range = value.to_str().ok().and_then(|text| text.parse().ok());
        let malformed =
            || ApiError::bad_request(ErrorCode::BlobUploadInvalid, "Content-Range is not of the form first-last");
        range.map(Some).ok_or_else(malformed)
    }

    /// The announced length of the body; `None` when it comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        if self.headers.contains_key(TRANSFER_ENCODING) {
            return None;
        }
        self.text(&CONTENT_LENGTH)?.parse().ok()
    }
}
