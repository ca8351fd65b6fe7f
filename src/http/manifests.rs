//! Manifests over HTTP.

use std::sync::Arc;

use axum::body::Body as RequestBody;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::body::Body;
use super::error::ApiError;
use super::request::Asked;
use super::v2::mark;
use crate::oci::{ErrorCode, Reference, RepositoryName, Tag};
use crate::registry::{self, PulledManifest, Registry, Staleness};

/// The digest of what is sent, in every answer that has one.
pub static DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
static SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
static TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Headers of an answer with a manifest; more only cost another allocation.
const HEADERS: usize = 8;

/// Tags that one push may set.
const TAGS_MAX: usize = 100;

/// GET and HEAD. The client's `Accept` chooses nothing: a digest names one representation, and a tag names one digest.
pub async fn pull(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    reference: &Reference,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let target = asked.target(name);
    let found = registry.pull_manifest(&target, reference).await.map_err(|error| match error {
        // Whoever is about to push asks with HEAD first, and a push is what heals it.
        registry::Error::Damaged { .. } if asked.is_head() => {
            failed(registry::Error::ManifestUnknown { name: name.clone(), reference: reference.clone() })
        }
        error => failed(error),
    })?;
    let has_it = asked.has(&found.pulled.manifest.digest_text);
    if !has_it && !asked.is_head() {
        registry.manifest_got(&found, &target, reference);
    }
    let PulledManifest { manifest, outcome, stale } = found.pulled;
    let mut response = if has_it {
        (StatusCode::NOT_MODIFIED, Body::empty()).into_response()
    } else if asked.is_head() {
        Body::empty().into_response()
    } else {
        Body::full(manifest.bytes.clone()).into_response()
    };
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    if !has_it {
        headers.insert(CONTENT_TYPE, value(manifest.media_type.as_str()));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
    }
    headers.insert(DIGEST.clone(), value(&manifest.digest_text));
    headers.insert(ETAG, etag(&manifest.digest_text));
    warn_of(&mut response, stale);
    mark(&mut response, outcome);
    Ok(response)
}

/// PUT.
pub async fn push(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    reference: &Reference,
    body: RequestBody,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let tags = tags_of(asked, reference)?;
    let bytes = read(registry, asked, body, &failed).await?;
    let content_type = asked.text(&CONTENT_TYPE);
    let target = asked.target(name);
    let pushed = registry.push_manifest(&target, reference, tags, content_type, bytes).await.map_err(&failed)?;
    let mut response = (StatusCode::CREATED, Body::empty()).into_response();
    let headers = response.headers_mut();
    let digest = pushed.digest.to_string();
    headers.insert(LOCATION, value(&format!("/v2/{name}/manifests/{reference}")));
    headers.insert(DIGEST.clone(), value(&digest));
    if let Some(subject) = pushed.subject {
        headers.insert(SUBJECT.clone(), value(&subject.to_string()));
    }
    if matches!(reference, Reference::Digest(_)) {
        append_tags(headers, &pushed.tags);
    }
    Ok(response)
}

/// The bytes of a manifest, as many as one may have.
pub async fn read(
    registry: &Registry,
    asked: &Asked,
    body: RequestBody,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Bytes, ApiError> {
    let max_bytes = registry.options().manifest_max_bytes;
    let too_large = || failed(registry::Error::ManifestTooLarge { max_bytes });
    if asked.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let limited = Limited::new(body, usize::try_from(max_bytes).unwrap_or(usize::MAX));
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::bad_request(ErrorCode::ManifestInvalid, "the request's body broke off")),
    }
}

/// DELETE.
pub async fn delete(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    reference: &Reference,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    registry.delete_manifest(&asked.target(name), reference).await.map_err(failed)?;
    Ok((StatusCode::ACCEPTED, Body::empty()).into_response())
}

/// `?tag=`, for pushes by digest.
pub fn tags_of(asked: &Asked, reference: &Reference) -> Result<Vec<Tag>, ApiError> {
    let texts: Vec<&str> = asked.query.all("tag").collect();
    if !texts.is_empty() && matches!(reference, Reference::Tag(_)) {
        let message = "the tag parameter is for pushes by digest: put the tag into the path, or the digest";
        return Err(ApiError::bad_request(ErrorCode::ManifestInvalid, message));
    }
    if texts.len() > TAGS_MAX {
        let message = format!("a push sets at most {TAGS_MAX} tags");
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, ErrorCode::ManifestInvalid, message));
    }
    let parse = |text: &str| text.parse().map_err(|invalid: crate::oci::TagInvalid| invalid.to_string());
    let tags: Result<Vec<Tag>, String> = texts.into_iter().map(parse).collect();
    tags.map_err(|message| ApiError::bad_request(ErrorCode::ManifestInvalid, message))
}

/// Says that the upstream could not confirm the answer, if it could not.
pub fn warn_of(response: &mut Response, stale: Option<Staleness>) {
    let Some(stale) = stale else { return };
    // RFC 7234, 5.5; the specification has clients show warnings of code 299.
    let text = format!("299 - \"served from the cache: the upstream did not confirm it ({})\"", stale.reason);
    response.headers_mut().insert(WARNING, value(&text));
    response.extensions_mut().insert(stale);
}

fn append_tags(headers: &mut HeaderMap, tags: &[Tag]) {
    for tag in tags {
        headers.append(TAG.clone(), value(tag.as_str()));
    }
}

/// A header value from text that was checked before: digests, names, tags and media types have no control characters.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The ETag of content: its digest.
pub fn etag(digest: &str) -> HeaderValue {
    value(&format!("\"{digest}\""))
}
