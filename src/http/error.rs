//! The one place where what went wrong becomes a status, a code and a body (distribution-spec, "Error Codes").
//!
//! 4xx and what upstreams did wrong say what to do next. 5xx of our own say no more than a request id; the rest is in the log.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use tracing::error;

use super::admin;
use super::audit::RefusedBy;
use super::body::Body;
use super::route::{Action, Unroutable};
use crate::auth::Refusal;
use crate::oci::ErrorCode;
use crate::registry::{self, CacheError, UpstreamError};
use crate::report::Chain;

/// Errors in one body: a manifest may lack thousands of blobs.
const ERRORS_MAX: usize = 20;
/// What a client is told to wait when there is nothing better to say.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(5);

/// An answer that is an error.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    details: Vec<serde_json::Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What refused it, for the audit log.
    refused_by: Option<String>,
}

impl ApiError {
    /// An error of this status and code.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new(), headers: Vec::new(), refused_by: None }
    }

    /// A request that contradicts the specification.
    pub fn bad_request(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The same for a client that wants only what is stored: that it is not stored says nothing about whether it exists
    /// (RFC 9111, 5.2.1.7).
    #[must_use]
    pub fn as_not_stored(self) -> Self {
        if !matches!(self.code, ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown) {
            return self;
        }
        Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, format!("{} (only-if-cached)", self.message))
    }

    /// Its status as a number.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Its code as it stands in the body.
    pub const fn code(&self) -> &'static str {
        self.code.as_str()
    }

    /// What it tells.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same, with what refused it.
    #[must_use]
    pub fn refused_by(self, what: impl Into<String>) -> Self {
        Self { refused_by: Some(what.into()), ..self }
    }

    fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.extend(HeaderValue::try_from(value.into()).map(|value| (name, value)));
        self
    }

    fn retry_after(self, wait: Option<Duration>) -> Self {
        let seconds = wait.unwrap_or(RETRY_AFTER_DEFAULT).as_secs_f64().ceil().max(1.0);
        self.header(RETRY_AFTER, format!("{seconds:.0}"))
    }

    /// The error of an operation. `action` is what was wanted: it decides which code says "there is no such thing".
    pub fn of(error: registry::Error, action: &Action, request_id: &str) -> Self {
        use registry::Error as E;
        let message = error.to_string();
        let (status, code) = match error {
            E::NameUnknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            E::Unauthorized { .. } => return Self::unauthorized(message),
            E::NameInvalid { .. } => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            E::TagImmutable { .. } => return Self::denied(message).refused_by("immutable"),
            E::OverQuota { .. } => return Self::denied(message).refused_by("quotas"),
            E::BlobUnknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            E::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            E::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
            E::ManifestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            E::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            E::UploadUnknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
            E::UploadBusy { .. } => (StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid),
            E::ChunkOutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid),
            E::SizeInvalid { .. } => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
            E::BodyBroken { .. } => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            E::ManifestBlobUnknown { missing, .. } => {
                let mut answer = Self::new(StatusCode::NOT_FOUND, ErrorCode::ManifestBlobUnknown, message);
                answer.details = missing.iter().map(|digest| json!({ "digest": digest.to_string() })).collect();
                return answer;
            }
            E::TooManyUploads { .. } | E::TooManyUploadsOfOne { .. } => {
                let answer = Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message);
                return answer.retry_after(None);
            }
            E::RangeUnsatisfiable { size_bytes } => {
                let answer = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message);
                return answer.header(CONTENT_RANGE, format!("bytes */{size_bytes}"));
            }
            // A quota is somebody's decision and not a full disk: trying again does not help, so clients are to give up.
            E::Pinned { .. } => (StatusCode::CONFLICT, ErrorCode::Denied),
            E::NoRoom { .. } => {
                let answer = Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::StorageFull, message);
                return answer.retry_after(None);
            }
            E::Cache { source, .. } => return Self::of_cache(&source, action, request_id),
            E::TooSlow { .. } => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
            E::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal),
            E::Blobs(source) => return Self::internal(&source, request_id),
            E::Metadata(source) => return Self::internal(&source, request_id),
        };
        Self::new(status, code, message)
    }

    /// The client has sent more requests than its address may.
    pub fn too_many_requests(wait: Duration) -> Self {
        let message = "this address sends more requests than it may: wait as Retry-After says, or ask the operator to \
                       raise http.requests_per_second_max";
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message).retry_after(Some(wait))
    }

    /// Clients answer this challenge with what they were given at `docker login` and its kin.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new_unauthorized(message).challenge_basic()
    }

    /// Somebody is not who it says it is.
    pub fn refused(refusal: &Refusal) -> Self {
        let message = refusal.to_string();
        let answer = match refusal {
            Refusal::Throttled { wait } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message).retry_after(Some(*wait))
            }
            Refusal::IssuerSilent { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message).retry_after(None)
            }
            Refusal::WrongPassword | Refusal::Token | Refusal::Foreign { .. } | Refusal::Unreadable => {
                Self::new_unauthorized(message)
            }
        };
        answer.refused_by(refusal.as_str())
    }

    /// Somebody has to say who it is; [`ApiError::challenge`] says how.
    pub fn new_unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
    }

    /// There is nothing at this path.
    pub fn no_endpoint(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message)
    }

    /// The endpoint takes other methods.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("this endpoint takes {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message).header(ALLOW, allow)
    }

    /// Somebody may not do what it wants.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// With the challenge that clients answer with name and password, if it is an answer that challenges.
    #[must_use]
    pub fn challenge_basic(self) -> Self {
        self.challenge("Basic realm=\"entrepot\"")
    }

    /// With this challenge, if it is an answer that challenges.
    #[must_use]
    pub fn challenge(self, challenge: impl Into<String>) -> Self {
        if self.status == StatusCode::UNAUTHORIZED { self.header(WWW_AUTHENTICATE, challenge) } else { self }
    }

    /// What upstreams do, after an answer from the cache was impossible. A challenge of theirs is never relayed, and an
    /// outage is never a 404: clients take that for "ask somebody else" or "it does not exist".
    fn of_cache(error: &CacheError, action: &Action, request_id: &str) -> Self {
        let message = Chain(error).to_string();
        let unavailable = |status, message| Self::new(status, ErrorCode::Unavailable, message);
        match error {
            CacheError::Upstream { host, source } => match source {
                UpstreamError::NotFound { .. } => {
                    let message = format!("the upstream {host} has no such content");
                    Self::new(StatusCode::NOT_FOUND, unknown(action), message)
                }
                // A client takes a 404 here for "no referrers API", asks for the tag instead, and believes that there is
                // nothing when that is not there either.
                UpstreamError::Refused { .. } if matches!(action, Action::ListReferrers { .. }) => {
                    unavailable(StatusCode::BAD_GATEWAY, message)
                }
                // containerd goes on to the next host, with the user's own credentials, only after a 404.
                UpstreamError::Refused { status, .. } => {
                    let message = format!(
                        "the upstream {host} refuses this repository with status {status}: \
                         configure credentials for it, or ask it yourself"
                    );
                    Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
                }
                UpstreamError::RateLimited { retry_after, .. } => {
                    let message =
                        format!("the upstream {host} limits the rate of requests: configure credentials for it");
                    Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                        .retry_after(*retry_after)
                }
                UpstreamError::Connect { .. } | UpstreamError::TimedOut { .. } | UpstreamError::Dropped { .. } => {
                    unavailable(StatusCode::GATEWAY_TIMEOUT, message)
                }
                _ => unavailable(StatusCode::BAD_GATEWAY, message),
            },
            CacheError::Slow { .. } => unavailable(StatusCode::GATEWAY_TIMEOUT, message),
            CacheError::Wrong { .. } => unavailable(StatusCode::BAD_GATEWAY, message),
            CacheError::Resting { retry_after, .. } => {
                unavailable(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(Some(*retry_after))
            }
            CacheError::OverQuota { .. } => Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message),
            CacheError::NoRoom { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::StorageFull, message).retry_after(None)
            }
            CacheError::Offline { .. } | CacheError::Sparing { .. } | CacheError::Stopped => {
                unavailable(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(None)
            }
            CacheError::Limits(source) => Self::internal(source, request_id),
            CacheError::Blobs(source) => Self::internal(&**source, request_id),
            CacheError::Metadata(source) => Self::internal(&**source, request_id),
        }
    }

    /// A failure of our own, which is told in the log.
    pub fn internal(source: &(dyn std::error::Error + 'static), request_id: &str) -> Self {
        error!(request_id, error = %Chain(source), "a request failed inside");
        let message = format!("the registry failed inside: its log says more under request {request_id}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message)
    }
}

/// The code that says "there is no such thing" to this action.
const fn unknown(action: &Action) -> ErrorCode {
    match action {
        Action::PullBlob { .. } | Action::DeleteBlob { .. } => ErrorCode::BlobUnknown,
        Action::PullManifest { .. } | Action::PushManifest { .. } | Action::DeleteManifest { .. } => {
            ErrorCode::ManifestUnknown
        }
        _ => ErrorCode::NameUnknown,
    }
}

impl From<Unroutable> for ApiError {
    fn from(unroutable: Unroutable) -> Self {
        let message = unroutable.to_string();
        match unroutable {
            Unroutable::Path => Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message),
            Unroutable::Method { allow } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message).header(ALLOW, allow)
            }
            Unroutable::Encoding | Unroutable::Name(_) => Self::bad_request(ErrorCode::NameInvalid, message),
            Unroutable::Digest(_) => Self::bad_request(ErrorCode::DigestInvalid, message),
            Unroutable::Reference(crate::oci::ReferenceInvalid::Digest(_)) => {
                Self::bad_request(ErrorCode::DigestInvalid, message)
            }
            // Asked for, a tag that cannot exist does not exist; the specification knows no code for "no tag".
            Unroutable::Reference(_) => Self::new(StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown, message),
            Unroutable::Upload(_) => Self::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message),
        }
    }
}

impl From<admin::Denied> for ApiError {
    fn from(denied: admin::Denied) -> Self {
        Self::denied(denied.to_string()).refused_by("http.admin_from")
    }
}

impl From<admin::Unroutable> for ApiError {
    fn from(unroutable: admin::Unroutable) -> Self {
        let message = unroutable.to_string();
        match unroutable {
            admin::Unroutable::Path => Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message),
            admin::Unroutable::Method { allow } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message).header(ALLOW, allow)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let one = |detail: Option<&serde_json::Value>| {
            let mut error = json!({ "code": self.code.as_str(), "message": self.message });
            if let Some(detail) = detail {
                error["detail"] = detail.clone();
            }
            error
        };
        let errors: Vec<serde_json::Value> = if self.details.is_empty() {
            vec![one(None)]
        } else {
            self.details.iter().take(ERRORS_MAX).map(|detail| one(Some(detail))).collect()
        };
        let body = json!({ "errors": errors }).to_string();
        let mut response = (self.status, Body::full(body.into())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers);
        if let Some(refused_by) = self.refused_by {
            response.extensions_mut().insert(RefusedBy(refused_by));
        }
        response
    }
}
