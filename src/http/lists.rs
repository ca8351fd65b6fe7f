//! Lists over HTTP: repositories, tags, referrers; and the probe every client begins with.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use url::form_urlencoded;

use super::body::Body;
use super::error::ApiError;
use super::manifests::{value, warn_of};
use super::request::Asked;
use super::v2::mark;
use crate::oci::{Digest, ErrorCode, OCI_INDEX, Referrer, RepositoryName, Tag};
use crate::registry::{self, PAGE_MAX, Page, Registry};

static FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

#[derive(Serialize)]
struct Repositories {
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Referrer>,
}

/// `/v2/`: an empty object, as every registry answers; or a challenge, where that is the only way to be given credentials.
pub fn probe(registry: &Registry, asked: &Asked) -> Result<Response, ApiError> {
    let is_challenged = registry.challenges(asked.query.first("ns"), asked.host.as_deref());
    if is_challenged && asked.credentials().is_none() {
        return Err(ApiError::unauthorized("log in with credentials that the upstream accepts"));
    }
    Ok(json("application/json", b"{}".to_vec()))
}

/// `/v2/_catalog`.
pub async fn repositories(
    registry: &Arc<Registry>,
    asked: &Asked,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let n = page_size(asked)?;
    let page = registry.list_repositories(&asked.sight, n, asked.query.first("last")).await.map_err(failed)?;
    let next = next_of(&page, RepositoryName::as_str)
        .map(|last| link("/v2/_catalog", &[("n", &n.to_string()), ("last", last)]));
    let names = page.entries.iter().map(ToString::to_string).collect();
    Ok(listed("application/json", &Repositories { repositories: names }, next))
}

/// `/v2/NAME/tags/list`.
pub async fn tags(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let n = page_size(asked)?;
    let page = registry.list_tags(&asked.target(name), n, asked.query.first("last")).await.map_err(failed)?;
    let n_text = n.to_string();
    let next = next_of(&page, Tag::as_str).map(|last| {
        let mut parameters = vec![("n", n_text.as_str()), ("last", last)];
        parameters.extend(asked.query.first("ns").map(|ns| ("ns", ns)));
        link(&format!("/v2/{name}/tags/list"), &parameters)
    });
    let tags = Tags { name: name.as_str(), tags: page.entries.iter().map(Tag::as_str).collect() };
    let mut response = listed("application/json", &tags, next);
    warn_of(&mut response, page.stale);
    mark(&mut response, page.outcome);
    Ok(response)
}

/// `/v2/NAME/referrers/DIGEST`.
pub async fn referrers(
    registry: &Arc<Registry>,
    asked: &Asked,
    name: &RepositoryName,
    subject: &Digest,
    failed: impl Fn(registry::Error) -> ApiError,
) -> Result<Response, ApiError> {
    let filter = asked.query.first("artifactType");
    let last: Option<Digest> =
        asked.query.first("last").map(str::parse).transpose().map_err(|invalid: crate::oci::DigestInvalid| {
            ApiError::bad_request(ErrorCode::DigestInvalid, invalid.to_string())
        })?;
    let page = registry.list_referrers(&asked.target(name), subject, filter, last.as_ref()).await.map_err(failed)?;
    let last = page.entries.last().filter(|_| page.has_more).map(|row| row.digest.to_string());
    let next = last.map(|last| {
        let mut parameters = vec![("last", last.as_str())];
        parameters.extend(filter.map(|filter| ("artifactType", filter)));
        parameters.extend(asked.query.first("ns").map(|ns| ("ns", ns)));
        link(&format!("/v2/{name}/referrers/{subject}"), &parameters)
    });
    let (outcome, stale) = (page.outcome, page.stale);
    let index = Referrers { schema_version: 2, media_type: OCI_INDEX, manifests: page.entries };
    let mut response = listed(OCI_INDEX, &index, next);
    warn_of(&mut response, stale);
    mark(&mut response, outcome);
    if filter.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED.clone(), HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

fn page_size(asked: &Asked) -> Result<usize, ApiError> {
    let Some(text) = asked.query.first("n") else { return Ok(PAGE_MAX) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let invalid = || ApiError::bad_request(ErrorCode::Unsupported, "n is the number of entries wanted: a whole number");
    if digits { Ok(text.parse().unwrap_or(usize::MAX).min(PAGE_MAX)) } else { Err(invalid()) }
}

fn next_of<T>(page: &Page<T>, text: impl Fn(&T) -> &str) -> Option<&str> {
    page.entries.last().filter(|_| page.has_more).map(text)
}

fn link(path: &str, parameters: &[(&str, &str)]) -> HeaderValue {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    value(&format!("<{path}?{query}>; rel=\"next\""))
}

fn listed(content_type: &'static str, list: &impl Serialize, next: Option<HeaderValue>) -> Response {
    let mut response = json(content_type, serde_json::to_vec(list).expect("a list is plain JSON"));
    response.headers_mut().extend(next.map(|next| (LINK, next)));
    response
}

fn json(content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Body::full(bytes.into()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
