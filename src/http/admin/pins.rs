//! `/api/v1/pins`: what is kept from eviction. GET lists, `PUT ?ref=` pins, `DELETE ?ref=` takes a pin off.

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::json;
use super::reference::{failed, named};
use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::oci::{Reference, RepositoryName};
use crate::registry::{Pinned, Registry};

/// Every pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// By repository.
    pub pins: Vec<Pin>,
    /// What pinned blobs of the cache take on disk.
    pub pinned_bytes: u64,
}

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The repository by the name under which it is kept, and tag or digest.
    pub reference: String,
    /// `command`, or `configuration` where a pattern of `pin` says so.
    pub by: String,
    /// The manifest that it stands for at present; nothing if that is not here.
    pub manifest: Option<String>,
    /// Blobs that this leads to.
    pub blobs: u64,
    /// Those of them that are not here.
    pub missing_blobs: u64,
    /// What the others take on disk.
    pub stored_bytes: u64,
}

/// What became of a request to pin or to take a pin off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The repository by the name under which it is kept, and tag or digest.
    pub reference: String,
    /// It was otherwise before.
    pub changed: bool,
}

impl Pins {
    /// The document of these pins.
    pub fn new(rows: Vec<Pinned>, pinned_bytes: u64) -> Self {
        let pin = |row: Pinned| Pin {
            reference: written(&row.repo, &row.reference),
            by: if row.is_configured { "configuration" } else { "command" }.to_owned(),
            manifest: row.manifest.map(|digest| digest.to_string()),
            blobs: row.extent.blobs,
            missing_blobs: row.extent.missing_blobs,
            stored_bytes: row.extent.stored_bytes,
        };
        Self { pins: rows.into_iter().map(pin).collect(), pinned_bytes }
    }
}

impl Changed {
    /// Of this manifest.
    pub fn new(repo: &RepositoryName, reference: &Reference, changed: bool) -> Self {
        Self { reference: written(repo, reference), changed }
    }
}

/// `NAME:TAG` or `NAME@DIGEST`.
pub fn written(repo: &RepositoryName, reference: &Reference) -> String {
    let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
    format!("{repo}{separator}{reference}")
}

/// Every pin.
pub async fn list(registry: &Registry, id: RequestId) -> Result<Response, ApiError> {
    let metadata = &registry.depot().metadata;
    let listed = async { Ok((metadata.list_pins().await?, metadata.pinned_bytes().await?)) };
    let (rows, pinned_bytes) = listed.await.map_err(failed(id))?;
    Ok(json(&Pins::new(rows, pinned_bytes)))
}

/// Pins what `?ref=` names.
pub async fn put(registry: &Registry, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let (name, reference) = named(asked)?;
    let (repo, is_new) = registry.pin(&name, &reference).await.map_err(failed(id))?;
    Ok(json(&Changed::new(&repo, &reference, is_new)))
}

/// Takes the pin of what `?ref=` names off.
pub async fn remove(registry: &Registry, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let (name, reference) = named(asked)?;
    let (repo, was_there) = registry.unpin(&name, &reference).await.map_err(failed(id))?;
    Ok(json(&Changed::new(&repo, &reference, was_there)))
}
