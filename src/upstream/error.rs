//! What can go wrong between this registry and an upstream, in terms the callers decide by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;

use super::redact::SafeUrl;
use crate::oci::Host;

/// The request an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The upstream as the operator calls it; after a redirect it is not the host in `url`.
    pub host: Host,
    /// The method.
    pub method: Method,
    /// Where the request went, without its secrets.
    pub url: SafeUrl,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream {}: {} {}", self.host, self.method, self.url)
    }
}

/// Why an upstream gave no usable answer. Cheap to clone, so that all who waited for one answer can have its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The upstream says that it has no such content (404).
    #[error("{request}: not found there")]
    NotFound {
        /// What was asked.
        request: Asked,
    },
    /// The upstream does not let us (401, 403), with the credentials that are configured or without any.
    #[error("{request}: refused with status {status}")]
    Refused {
        /// What was asked.
        request: Asked,
        /// 401 or 403.
        status: u16,
    },
    /// Too many requests (429).
    #[error("{request}: rate limit reached")]
    RateLimited {
        /// What was asked.
        request: Asked,
        /// How long to stay away, if the upstream said so.
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{request}: answered with status {status}")]
    Status {
        /// What was asked.
        request: Asked,
        /// The status.
        status: u16,
        /// How long to stay away, if the upstream said so.
        retry_after: Option<Duration>,
    },
    /// The range asked for lies outside of the blob (416).
    #[error("{request}: the range lies outside of the blob")]
    RangeUnsatisfiable {
        /// What was asked.
        request: Asked,
    },
    /// No connection: refused, unreachable, name not resolved, TLS handshake failed.
    #[error("{request}: no connection")]
    Connect {
        /// What was asked.
        request: Asked,
        /// What the connector says.
        source: Arc<reqwest::Error>,
    },
    /// The connection broke before there was an answer.
    #[error("{request}: the connection broke before the answer")]
    Dropped {
        /// What was asked.
        request: Asked,
        /// What the connection says.
        source: Arc<reqwest::Error>,
    },
    /// A limit on waiting passed.
    #[error("{request}: {what} took longer than {after:?}")]
    TimedOut {
        /// What was asked.
        request: Asked,
        /// What was waited for.
        what: Wait,
        /// The limit that passed.
        after: Duration,
    },
    /// The body ended before its announced length.
    #[error("{request}: the body was cut at byte {at}")]
    Cut {
        /// What was asked.
        request: Asked,
        /// Offset in the content (not in the body) of the first byte that did not come.
        at: u64,
        /// What the connection says; none if it was closed in good order.
        source: Option<Arc<reqwest::Error>>,
    },
    /// An answer that no registry should give.
    #[error("{request}: {what}")]
    Nonsense {
        /// What was asked.
        request: Asked,
        /// What is wrong with the answer.
        what: Nonsense,
    },
    /// A challenge that sends us for a token to a host which is not the upstream's. Nothing was sent there.
    #[error("{request}: the challenge names a token service outside of the upstream's domain: {realm}")]
    RealmRefused {
        /// What was asked.
        request: Asked,
        /// The token service named in the challenge.
        realm: SafeUrl,
    },
    /// The URL of the upstream cannot be asked: not http(s), no host, or with credentials in it.
    #[error("upstream {host}: {url} is not an http or https URL without user and password")]
    UrlUnsupported {
        /// The upstream.
        host: Host,
        /// Its URL.
        url: SafeUrl,
    },
    /// The HTTP client could not be made, not even with the built-in certificate authorities.
    #[error("upstream {host}: the HTTP client could not be set up")]
    Setup {
        /// The upstream.
        host: Host,
        /// What the client's builder says.
        source: Arc<reqwest::Error>,
    },
}

/// What was waited for when a limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A connection.
    Connection,
    /// The head of the answer.
    FirstByte,
    /// The next bytes of the body.
    Progress,
    /// The whole operation with its redirects, tokens and retries.
    Answer,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "connecting",
            Self::FirstByte => "the first byte",
            Self::Progress => "the next bytes of the body",
            Self::Answer => "the answer with all retries",
        })
    }
}

/// What is wrong with an answer that no registry should give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A web page: a captive portal, a login page, a wrong URL.
    #[error("an HTML page came instead of a manifest")]
    Html,
    /// The bytes are not HTTP, or contradict themselves in their framing.
    #[error("the answer is not valid HTTP")]
    Http,
    /// More bytes than the limit for this kind of body.
    #[error("the body has more than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// 206 without a `Content-Range` that covers what was asked for.
    #[error("the partial answer does not cover the range asked for")]
    ContentRange,
    /// 206 to a request without `Range`.
    #[error("a partial answer came to a request for the whole")]
    PartialUnasked,
    /// `Content-Length`, `Content-Range` and the body do not agree.
    #[error("the lengths in the answer contradict each other")]
    Length,
    /// A redirect came back to a URL already visited.
    #[error("the redirects run in a circle")]
    RedirectLoop,
    /// More redirects than allowed.
    #[error("more than {max} redirects")]
    RedirectsExceeded {
        /// How many are followed.
        max: usize,
    },
    /// A redirect from https to http.
    #[error("the redirect leaves https")]
    RedirectDowngrade,
    /// A redirect without a usable `Location`.
    #[error("the redirect has no usable Location")]
    RedirectTarget,
    /// The token service's answer holds no usable token.
    #[error("the token service sent no usable token")]
    Token,
    /// The tag list is no JSON of the shape the specification gives.
    #[error("the tag list is not valid")]
    TagList,
    /// The list of referrers is no JSON of the shape the specification gives.
    #[error("the list of referrers is not valid")]
    Referrers,
}

impl Nonsense {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Http => "http",
            Self::TooLarge { .. } => "too_large",
            Self::ContentRange | Self::PartialUnasked => "content_range",
            Self::Length => "length",
            Self::RedirectLoop | Self::RedirectsExceeded { .. } | Self::RedirectDowngrade | Self::RedirectTarget => {
                "redirect"
            }
            Self::Token => "token",
            Self::TagList => "tag_list",
            Self::Referrers => "referrers",
        }
    }
}

impl Error {
    /// Did the upstream itself say that it has no such content?
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Did the upstream say that it does not know this kind of request at all?
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Status { status: 405 | 501, .. })
    }

    /// May the same request succeed a moment later? A rate limit does not count: asking again is what it forbids.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Dropped { .. } | Self::TimedOut { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::RateLimited { .. }
            | Self::RangeUnsatisfiable { .. }
            | Self::Nonsense { .. }
            | Self::RealmRefused { .. }
            | Self::UrlUnsupported { .. }
            | Self::Setup { .. } => false,
        }
    }

    /// One word for logs and metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } => "refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::Status { .. } => "status",
            Self::RangeUnsatisfiable { .. } => "range_unsatisfiable",
            Self::Connect { .. } => "connect",
            Self::Dropped { .. } => "dropped",
            Self::TimedOut { .. } => "timed_out",
            Self::Cut { .. } => "cut",
            Self::Nonsense { what, .. } => what.kind(),
            Self::RealmRefused { .. } => "realm_refused",
            Self::UrlUnsupported { .. } => "url_unsupported",
            Self::Setup { .. } => "setup",
        }
    }

    /// How long the upstream asked us to stay away.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
