//! Blobs over HTTP.

use std::sync::Arc;

use axum::body::Body as AnyBody;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::{Body, FileBody};
use super::error::ApiError;
use super::manifests::{DIGEST, etag, value};
use super::request::Asked;
use super::v2::mark;
use crate::oci::{Digest, RepositoryName};
use crate::registry::{self, Content, PulledBlob, Registry};

/// HEAD: costs an upstream a HEAD at most.
pub async fn head(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    digest: &Digest,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let head = registry.head_blob(&asked.target(name), digest).await.map_err(failed)?;
    let mut response = Body::empty().into_response();
    describe(response.headers_mut(), digest, head.size_bytes);
    mark(&mut response, head.outcome);
    Ok(response)
}

/// GET.
pub async fn pull(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    digest: &Digest,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let target = asked.target(name);
    let digest_text = digest.to_string();
    if asked.has(&digest_text) {
        let head = registry.head_blob(&target, digest).await.map_err(failed)?;
        let mut response = (StatusCode::NOT_MODIFIED, Body::empty()).into_response();
        describe(response.headers_mut(), digest, None);
        response.headers_mut().remove(CONTENT_TYPE);
        mark(&mut response, head.outcome);
        return Ok(response);
    }
    let pulled = registry.pull_blob(&target, digest, asked.range(&digest_text)).await.map_err(failed)?;
    let (size_bytes, range, outcome) = (pulled.size_bytes, pulled.range, pulled.outcome);
    let mut response = body_of(pulled, asked).into_response();
    let headers = response.headers_mut();
    describe(headers, digest, range.map_or(size_bytes, |range| Some(range.length_bytes())));
    if let (Some(range), Some(size_bytes)) = (range, size_bytes) {
        let text = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
        headers.insert(CONTENT_RANGE, value(&text));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    mark(&mut response, outcome);
    Ok(response)
}

/// DELETE.
pub async fn delete(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    digest: &Digest,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    registry.delete_blob(&asked.target(name), digest).await.map_err(failed)?;
    Ok((StatusCode::ACCEPTED, Body::empty()).into_response())
}

fn body_of(pulled: PulledBlob, asked: &Asked) -> AnyBody {
    let transport = asked.transport.clone();
    match pulled.content {
        Content::File(reader) => {
            let file = match pulled.range {
                Some(range) => FileBody::range(reader, range.start..range.end, transport),
                None => FileBody::whole(reader, transport),
            };
            Body::file(file).into()
        }
        Content::Bypass(bypass) => AnyBody::from_stream(bypass.into_stream()),
    }
}

fn describe(headers: &mut HeaderMap, digest: &Digest, length_bytes: Option<u64>) {
    let text = digest.to_string();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(DIGEST.clone(), value(&text));
    headers.insert(ETAG, etag(&text));
    if let Some(length_bytes) = length_bytes {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length_bytes));
    }
}
