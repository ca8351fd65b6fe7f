//! A request as its handlers see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body as RequestBody;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, Entry, HOST, IF_NONE_MATCH, PRAGMA, RANGE, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method};
use secrecy::{ExposeSecret as _, SecretString};

use super::body::Transport;
use super::error::ApiError;
use super::forwarded::Client;
use super::pages::OwnNames;
use super::query::Query;
use super::sendfile::Mappings;
use super::tls::PeerCertificate;
use crate::auth::{Origin, Presented};
use crate::oci::{ContentRange, ErrorCode, RangeRequest, RepositoryName};
use crate::registry::{Caller, Credentials, Keeps, Sight, Target, Witness};

/// The longest Authorization header that is looked at; tokens are a fifth of that.
const AUTHORIZATION_BYTES_MAX: usize = 16 * 1024;

/// Letters of what a client calls itself and us that are told: events wait in the index.
const TOLD_MAX: usize = 300;

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

/// How a request came. Where a router stands between, it is in the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// Who asks, as far as the connection and trusted proxies tell.
    pub client: Client,
    /// Whom the client proved to be in its TLS handshake.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// What may leave by `sendfile`, where that is possible.
    pub mappings: Option<Arc<Mappings>>,
}

impl Arrived {
    /// What a router let through.
    pub fn taken_from(request: &mut axum::extract::Request) -> Self {
        request.extensions_mut().remove().unwrap_or_default()
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
    /// The host that the client thinks it talks to, in lower case, with its port if one was said: that of the request's own
    /// line, where HTTP/2 has it, before a Host header (RFC 9112, 3.2.2).
    pub host: Option<Arc<str>>,
    /// Who asks, as far as the connection and trusted proxies tell.
    pub client: Client,
    /// Whom the client proved to be in its TLS handshake.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Who sent it, if somebody did who has signed in: known at the gate, also of who is not let in.
    pub identity: Option<Arc<str>>,
    /// It calls us by a name that no stranger can have made lead here.
    pub is_well_named: bool,
    /// How a file gets to this client.
    pub transport: Transport,
    /// It said `no-cache` and may: see [`Asked::says_no_cache`].
    pub insists: bool,
    /// What it may see of repositories besides its own.
    pub sight: Sight,
    /// The tags of its repository that nobody moves.
    pub keeps: Keeps,
    /// What is told of it, if anybody listens.
    pub witness: Option<Arc<Witness>>,
    /// It said `only-if-cached` (RFC 9111, 5.2.1.7).
    pub only_stored: bool,
}

impl Asked {
    /// Takes a request apart that came to a server of these names.
    pub fn new(request: axum::extract::Request, arrived: Arrived, names: &OwnNames) -> (Self, RequestBody) {
        let (parts, body) = request.into_parts();
        let Arrived { client, certificate, mappings } = arrived;
        let transport = Transport::of(parts.version, mappings);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let host = parts.uri.authority().map(Authority::as_str).or_else(|| parts.headers.get(HOST)?.to_str().ok());
        let is_lower = |host: &str| !host.bytes().any(|byte| byte.is_ascii_uppercase());
        let host = host.map(|host| if is_lower(host) { host.into() } else { host.to_ascii_lowercase().into() });
        let (method, mut headers) = (parts.method, parts.headers);
        if let Entry::Occupied(mut given) = headers.entry(AUTHORIZATION) {
            given.iter_mut().for_each(|value| value.set_sensitive(true));
        }
        let (sight, keeps) = (Sight::default(), Keeps::default());
        let (insists, only_stored) = (false, false);
        let mut asked = Self {
            method,
            headers,
            query,
            host,
            client,
            certificate,
            identity: None,
            is_well_named: false,
            transport,
            insists,
            sight,
            keeps,
            witness: None,
            only_stored,
        };
        asked.only_stored = asked.says(&[&CACHE_CONTROL], "only-if-cached");
        // Over TLS the certificate has proved the name.
        asked.is_well_named = asked.client.is_tls || asked.reached_by().is_none_or(|host| names.have(host));
        (asked, body)
    }

    /// Is only the head of the answer wanted?
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The repository that the request means, all its spellings considered.
    pub fn target(&self, name: &RepositoryName) -> Target {
        let (sight, keeps) = (self.sight.clone(), self.keeps.clone());
        let (insists, only_stored) = (self.insists, self.only_stored);
        let (witness, identity) = (self.witness.clone(), self.identity.clone());
        let credentials = self.credentials();
        let caller = Caller { credentials, identity, insists, only_stored, sight, keeps, witness };
        Target { name: name.clone(), ns: self.query.first("ns").map(str::to_owned), host: self.host.clone(), caller }
    }

    /// The name and password the client was given.
    pub fn credentials(&self) -> Option<Credentials> {
        // It is asked for with every request, and nearly all that show anything show a token.
        let scheme = self.headers.get(AUTHORIZATION)?.as_bytes().trim_ascii_start().get(..5)?;
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        match self.presented() {
            Presented::Password { username, password } => Some(Credentials { username, password }),
            Presented::Nothing | Presented::Token(_) | Presented::Unreadable => None,
        }
    }

    /// What the client says about who it is (RFC 7617, RFC 6750). Podman's kind of nobody, an empty name with an empty
    /// password, is nobody. Two headers are none that anybody could agree upon.
    pub fn presented(&self) -> Presented<'_> {
        let mut given = self.headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Presented::Nothing };
        if given.next().is_some() || value.len() > AUTHORIZATION_BYTES_MAX {
            return Presented::Unreadable;
        }
        std::str::from_utf8(value.as_bytes()).ok().and_then(presented_in).unwrap_or(Presented::Unreadable)
    }

    /// Where it comes from. What somebody sent on of whom nobody trusted speaks comes from nowhere in particular, and so does
    /// what calls us by a name that may be somebody else's.
    pub fn origin(&self) -> Origin {
        let is_local = self.is_from_here() && self.is_well_named;
        Origin { address: self.client.address, is_local, certificate: self.certificate.clone() }
    }

    /// What is told of it to those who listen: nothing that proves anything.
    pub fn testify(&mut self, id: RequestId, identity: Option<&str>) {
        let short = |text: &str| text.chars().take(TOLD_MAX).collect();
        let host = short(self.reached_by().unwrap_or_default());
        let user_agent = short(self.text(&USER_AGENT).unwrap_or_default());
        self.witness = Some(Arc::new(Witness {
            id: id.to_string(),
            address: self.client.address.map(|address| address.to_string()).unwrap_or_default(),
            host,
            method: self.method.to_string(),
            user_agent,
            actor: identity.unwrap_or_default().to_owned(),
            origin_url: self.origin_url().filter(|url| url.len() <= TOLD_MAX),
        }));
    }

    /// Was it sent by this machine straight to us?
    pub fn is_from_here(&self) -> bool {
        let Client { address, unvouched, is_proxy, .. } = &self.client;
        address.is_some_and(|address| address.is_loopback()) && unvouched.is_none() && !is_proxy
    }

    /// Host and port by which the client reaches us or a trusted proxy, in lower case.
    pub fn reached_by(&self) -> Option<&str> {
        self.client.forwarded_host.as_deref().or(self.host.as_deref())
    }

    /// How the client reaches us, as a URL without a path, if it says so in a way that can be said back.
    pub fn origin_url(&self) -> Option<String> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let host = self.reached_by().filter(|host| !host.is_empty() && host.bytes().all(is_part))?;
        Some(format!("{}://{host}", if self.client.is_tls { "https" } else { "http" }))
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

/// What an `Authorization` header says; `None` if it is of no kind that is known.
pub fn presented_in(header: &str) -> Option<Presented<'_>> {
    let (scheme, given) = header.trim().split_once(' ')?;
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (!given.is_empty()).then(|| Presented::Token(given));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = zeroized(BASE64_STANDARD.decode(given).ok()?)?;
    let (username, password) = decoded.expose_secret().split_once(':')?;
    if username.is_empty() && password.is_empty() {
        return Some(Presented::Nothing);
    }
    Some(Presented::Password { username: username.to_owned(), password: password.into() })
}

/// A decoded header as text that leaves no trace in memory.
fn zeroized(bytes: Vec<u8>) -> Option<SecretString> {
    String::from_utf8(bytes).ok().map(SecretString::from)
}
