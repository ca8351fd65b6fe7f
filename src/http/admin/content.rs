//! `/api/v1/content`: what is kept. GET lists repositories, or with `?repository=` the tags of one; `DELETE ?ref=` removes a tag
//! or a manifest, `DELETE ?repository=` all of a repository.

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::json;
use super::moment::Moment;
use super::pins::written;
use super::reference::{failed, named};
use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::oci::{ErrorCode, RepositoryName};
use crate::registry::{self, Registry, RepositoryHolding, TagHolding};

/// Entries of a list at most, so that no question keeps the index busy for long.
pub const PAGE: usize = 500;

/// A page of repositories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repositories {
    /// In bytewise order.
    pub repositories: Vec<Repository>,
    /// There may be more after the last one: ask with `?after=` its name.
    pub more: bool,
}

/// A repository and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The name under which it is kept.
    pub name: String,
    /// Somebody pushed to it.
    pub pushed: bool,
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// What its blobs take on disk; what it shares with others counts in each.
    pub stored_bytes: u64,
    /// When one of its manifests was last used.
    pub used_at: Option<Moment>,
}

/// A page of a repository's tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// The name under which it is kept.
    pub repository: String,
    /// In bytewise order.
    pub tags: Vec<Tag>,
    /// There may be more after the last one: ask with `?after=` its name.
    pub more: bool,
}

/// A tag and what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The tag.
    pub name: String,
    /// What it names.
    pub digest: String,
    /// Somebody pushed it; else it is cached.
    pub pushed: bool,
    /// It is kept from eviction.
    pub pinned: bool,
    /// What it leads to takes so much on disk.
    pub stored_bytes: u64,
    /// Blobs that it leads to.
    pub blobs: u64,
    /// Those of them that are not here.
    pub missing_blobs: u64,
    /// When it was last written.
    pub updated_at: Moment,
    /// When its manifest was last pulled or written.
    pub used_at: Moment,
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Reference or repository, by the name under which it was kept.
    pub removed: String,
    /// Manifests that went, if it was a repository.
    pub manifests: Option<u64>,
}

impl From<RepositoryHolding> for Repository {
    fn from(holding: RepositoryHolding) -> Self {
        Self {
            name: holding.name.to_string(),
            pushed: holding.private,
            tags: holding.tags,
            manifests: holding.manifests,
            stored_bytes: holding.stored_bytes,
            used_at: holding.used_ms.map(Moment),
        }
    }
}

impl From<TagHolding> for Tag {
    fn from(holding: TagHolding) -> Self {
        Self {
            name: holding.name.to_string(),
            digest: holding.digest.to_string(),
            pushed: holding.provenance.is_pushed(),
            pinned: holding.is_pinned,
            stored_bytes: holding.extent.stored_bytes,
            blobs: holding.extent.blobs,
            missing_blobs: holding.extent.missing_blobs,
            updated_at: Moment(holding.updated_ms),
            used_at: Moment(holding.used_ms),
        }
    }
}

impl Repositories {
    /// A page of at most [`PAGE`].
    pub fn new(rows: Vec<RepositoryHolding>) -> Self {
        let more = rows.len() >= PAGE;
        Self { repositories: rows.into_iter().map(Repository::from).collect(), more }
    }
}

impl Tags {
    /// A page of at most [`PAGE`].
    pub fn new(repository: &RepositoryName, rows: Vec<TagHolding>) -> Self {
        let more = rows.len() >= PAGE;
        Self { repository: repository.to_string(), tags: rows.into_iter().map(Tag::from).collect(), more }
    }
}

/// The repositories, or the tags of one.
pub async fn list(registry: &Registry, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let (metadata, after) = (&registry.depot().metadata, asked.query.first("after"));
    let index = |error| failed(id)(registry::Error::from(error));
    let Some(repository) = repository(asked)? else {
        let rows = metadata.list_holdings(after, PAGE).await.map_err(index)?;
        return Ok(json(&Repositories::new(rows)));
    };
    let rows = metadata.list_tag_holdings(&repository, after, PAGE).await.map_err(index)?;
    Ok(json(&Tags::new(&repository, rows)))
}

/// Removes what `?ref=` or `?repository=` names.
pub async fn remove(registry: &std::sync::Arc<Registry>, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let witness = || asked.witness.clone();
    if let Some(repository) = repository(asked)? {
        let (name, removed) = registry.remove_repository(&repository, witness()).await.map_err(failed(id))?;
        return Ok(json(&Removed { removed: name.to_string(), manifests: Some(removed.manifests) }));
    }
    let (name, reference) = named(asked)?;
    let kept = registry.remove(&name, &reference, witness()).await.map_err(failed(id))?;
    Ok(json(&Removed { removed: written(&kept, &reference), manifests: None }))
}

fn repository(asked: &Asked) -> Result<Option<RepositoryName>, ApiError> {
    let written = asked.query.first("repository").map(str::parse::<RepositoryName>).transpose();
    written.map_err(|error| ApiError::bad_request(ErrorCode::NameInvalid, format!("{error}")))
}
