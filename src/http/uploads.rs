//! Upload sessions over HTTP.

use std::sync::Arc;

use axum::body::Body as RequestBody;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_LENGTH, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::Body;
use super::error::ApiError;
use super::manifests::{DIGEST, value};
use super::request::Asked;
use crate::oci::{Algorithm, Digest, ErrorCode, RepositoryName, UploadId};
use crate::registry::{self, Chunk, Mounted, Registry};

static UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// POST: opens a session, or mounts a blob, or takes a whole blob at once.
pub async fn start(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    body: RequestBody,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let target = asked.target(name);
    if let Some(mount) = asked.query.first("mount") {
        let digest = parse_digest(mount)?;
        let from = asked.query.first("from").filter(|from| !from.is_empty()).map(str::parse).transpose();
        let from: Option<RepositoryName> =
            from.map_err(|invalid: crate::oci::NameInvalid| bad_name(&invalid.to_string()))?;
        let mounted = registry.mount_blob(&target, &digest, from.as_ref()).await.map_err(failed)?;
        return Ok(match mounted {
            Mounted::Yes(_) => created(name, &digest),
            Mounted::Started(_, id) => session(StatusCode::ACCEPTED, asked, name, &id, 0),
        });
    }
    let digest = asked.query.first("digest").map(parse_digest).transpose()?;
    let algorithm = asked.query.first("digest-algorithm").map(parse_algorithm).transpose()?;
    if let Some(digest) = digest {
        registry.push_blob(&target, &digest, chunk(asked, body)?).await.map_err(failed)?;
        return Ok(created(name, &digest));
    }
    let (_, id) = registry.start_upload(&target, algorithm).await.map_err(failed)?;
    Ok(session(StatusCode::ACCEPTED, asked, name, &id, 0))
}

/// GET: how far the session has come.
pub async fn find(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let offset_bytes = registry.upload_offset(&asked.target(name), id).await.map_err(failed)?;
    Ok(session(StatusCode::NO_CONTENT, asked, name, id, offset_bytes))
}

/// PATCH.
pub async fn append(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
    body: RequestBody,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let chunk = chunk(asked, body)?;
    match registry.append_upload(&asked.target(name), id, chunk).await {
        Ok(offset_bytes) => Ok(session(StatusCode::ACCEPTED, asked, name, id, offset_bytes)),
        Err(error) => Ok(out_of_order(asked, name, error, failed)),
    }
}

/// PUT.
pub async fn finish(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
    body: RequestBody,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let missing = || ApiError::bad_request(ErrorCode::DigestInvalid, "closing an upload takes ?digest=ALGORITHM:HEX");
    let digest = parse_digest(asked.query.first("digest").ok_or_else(missing)?)?;
    match registry.finish_upload(&asked.target(name), id, &digest, chunk(asked, body)?).await {
        Ok(_) => Ok(created(name, &digest)),
        Err(error) => Ok(out_of_order(asked, name, error, failed)),
    }
}

/// DELETE.
pub async fn cancel(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    registry.cancel_upload(&asked.target(name), id).await.map_err(failed)?;
    Ok((StatusCode::NO_CONTENT, Body::empty()).into_response())
}

/// The bytes of a body.
pub type DataStream = axum::body::BodyDataStream;

/// The body of a chunk with what its headers say.
pub fn chunk(asked: &Asked, body: RequestBody) -> Result<Chunk<DataStream>, ApiError> {
    Ok(Chunk { range: asked.content_range()?, length_bytes: asked.content_length(), body: body.into_data_stream() })
}

/// A chunk out of order is told where to go on, like any answer about the session.
fn out_of_order(
    asked: &Asked,
    name: &RepositoryName,
    error: registry::Error,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Response {
    let place = match &error {
        registry::Error::ChunkOutOfOrder { id, offset_bytes, .. } => Some((*id, *offset_bytes)),
        _ => None,
    };
    let mut response = failed(error).into_response();
    if let Some((id, offset_bytes)) = place {
        locate(response.headers_mut(), asked, name, &id, offset_bytes);
    }
    response
}

fn session(status: StatusCode, asked: &Asked, name: &RepositoryName, id: &UploadId, offset_bytes: u64) -> Response {
    let mut response = (status, Body::empty()).into_response();
    locate(response.headers_mut(), asked, name, id, offset_bytes);
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    response
}

fn locate(headers: &mut HeaderMap, asked: &Asked, name: &RepositoryName, id: &UploadId, offset_bytes: u64) {
    // The session belongs to the repository that `ns` chose; without it the next request would look elsewhere.
    let ns = asked.query.first("ns").map_or_else(String::new, |ns| format!("?ns={ns}"));
    headers.insert(LOCATION, value(&format!("/v2/{name}/blobs/uploads/{id}{ns}")));
    headers.insert(RANGE, value(&format!("0-{}", offset_bytes.saturating_sub(1))));
    headers.insert(UPLOAD_UUID.clone(), value(&id.to_string()));
}

fn created(name: &RepositoryName, digest: &Digest) -> Response {
    let mut response = (StatusCode::CREATED, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, value(&format!("/v2/{name}/blobs/{digest}")));
    headers.insert(DIGEST.clone(), value(&digest.to_string()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    response
}

/// A digest out of a query.
pub fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|invalid: crate::oci::DigestInvalid| {
        ApiError::bad_request(ErrorCode::DigestInvalid, invalid.to_string())
    })
}

fn parse_algorithm(text: &str) -> Result<Algorithm, ApiError> {
    text.parse().map_err(|invalid: crate::oci::DigestInvalid| {
        ApiError::bad_request(ErrorCode::DigestInvalid, invalid.to_string())
    })
}

fn bad_name(message: &str) -> ApiError {
    ApiError::bad_request(ErrorCode::NameInvalid, message)
}
