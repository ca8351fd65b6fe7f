//! `PUT /api/v1/cached/…?repository=HOST/NAME&digest=DIGEST`: content that came from an upstream some other way (an export of
//! another instance, carried over an air gap) is taken in as what it is: cached, under the upstream's name.

use std::sync::Arc;

use axum::body::Body as RequestBody;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::http::{manifests, route, uploads};
use crate::oci::{Digest, ErrorCode, Reference, RepositoryName};
use crate::registry::{self, Registry};

/// `blob`: the body is the blob.
pub async fn blob(
    registry: &Arc<Registry>,
    asked: &Asked,
    body: RequestBody,
    id: RequestId,
) -> Result<Response, ApiError> {
    let (name, digest) = (repository(asked)?, digest(asked)?);
    let chunk = uploads::chunk(asked, body)?;
    registry.import_blob(&asked.target(&name), &digest, chunk).await.map_err(failed(&name, id))?;
    Ok(created())
}

/// `link`: the blob is stored already, for another repository.
pub async fn link(registry: &Arc<Registry>, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let (name, digest) = (repository(asked)?, digest(asked)?);
    registry.import_link(&asked.target(&name), &digest).await.map_err(failed(&name, id))?;
    Ok(created())
}

/// `manifest`: the body is the manifest, and each `tag` names it.
pub async fn manifest(
    registry: &Arc<Registry>,
    asked: &Asked,
    body: RequestBody,
    id: RequestId,
) -> Result<Response, ApiError> {
    let (name, digest) = (repository(asked)?, digest(asked)?);
    let tags = manifests::tags_of(asked, &Reference::Digest(digest))?;
    let bytes = manifests::read(registry, asked, body, failed(&name, id)).await?;
    let imported = registry.import_manifest(&asked.target(&name), digest, tags, asked.text(&CONTENT_TYPE), bytes).await;
    imported.map_err(failed(&name, id))?;
    Ok(created())
}

fn created() -> Response {
    (StatusCode::CREATED, Body::empty()).into_response()
}

fn failed(name: &RepositoryName, id: RequestId) -> impl Fn(registry::Error) -> ApiError {
    let action = route::Action::StartUpload { name: name.clone() };
    move |error| ApiError::of(error, &action, &id.to_string())
}

fn repository(asked: &Asked) -> Result<RepositoryName, ApiError> {
    let unreadable = |reason: String| ApiError::bad_request(ErrorCode::NameInvalid, reason);
    let text = asked.query.first("repository");
    let text = text.ok_or_else(|| unreadable("say which repository: ?repository=HOST/NAME".to_owned()))?;
    text.parse().map_err(|invalid: crate::oci::NameInvalid| unreadable(invalid.to_string()))
}

fn digest(asked: &Asked) -> Result<Digest, ApiError> {
    let missing = || ApiError::bad_request(ErrorCode::DigestInvalid, "say which content: &digest=ALGORITHM:HEX");
    uploads::parse_digest(asked.query.first("digest").ok_or_else(missing)?)
}
