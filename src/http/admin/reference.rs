//! What a request of the admin API is about: `?ref=NAME:TAG`.

use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::http::route;
use crate::oci::{ErrorCode, Reference, RepositoryName, WrittenReference};
use crate::registry;

/// The manifest that `?ref=` names.
pub fn named(asked: &Asked) -> Result<(RepositoryName, Reference), ApiError> {
    let unreadable = |reason: String| ApiError::bad_request(ErrorCode::NameInvalid, reason);
    let written = asked.query.first("ref").ok_or_else(|| unreadable("say which: ?ref=NAME:TAG".to_owned()))?;
    let written: WrittenReference = written.parse().map_err(|error| unreadable(format!("{error}")))?;
    Ok((written.name.clone(), written.reference()))
}

/// For failures of the registry: what is not there is a manifest.
pub fn failed(id: RequestId) -> impl Fn(registry::Error) -> ApiError {
    let nothing: RepositoryName = "unnamed".parse().expect("a word is a name");
    let tag: Reference = "none".parse().expect("a word is a tag");
    let action = route::Action::PullManifest { name: nothing, reference: tag };
    move |error| ApiError::of(error, &action, &id.to_string())
}
