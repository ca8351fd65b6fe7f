//! `POST /api/v1/gc`: removes what nobody needs any more, or with `?dry_run` says what that would be. `?grace=10m` is another
//! grace period than the configured one, `?full` looks for garbage in the whole index and not in the review queue alone.

use std::time::Duration;

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::json;
use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::oci::ErrorCode;
use crate::registry::{Garbage, Registry, SweepRequest, Swept};

/// What a sweep did, or would do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Gc {
    /// Nothing was removed.
    pub dry_run: bool,
    /// It was stopped before its end.
    pub stopped: bool,
    /// Entries of the review queue looked at.
    pub reviewed: u64,
    /// Manifests.
    pub manifests: u64,
    /// Blobs.
    pub blobs: u64,
    /// Disk space, in bytes.
    pub freed_bytes: u64,
    /// Links to blobs of which the repository has no use.
    pub links: u64,
    /// Blobs that may be evicted from now on, because no push needs them any more.
    pub demoted: u64,
    /// Rows of blobs without bytes.
    pub rows: u64,
    /// Empty repositories.
    pub repositories: u64,
    /// Entries left in the queue.
    pub queued: u64,
    /// What would go, of a dry run: the first thousand.
    pub garbage: Vec<GcItem>,
}

/// Something that would go.
#[derive(Debug, Serialize, Deserialize)]
pub struct GcItem {
    /// `manifest`, `blob` or `row`.
    pub kind: String,
    /// Which.
    pub digest: String,
    /// Where, for a manifest.
    pub repository: Option<String>,
    /// Disk space it takes, in bytes.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

impl From<Garbage> for GcItem {
    fn from(garbage: Garbage) -> Self {
        Self {
            kind: garbage.kind.to_owned(),
            digest: garbage.digest.to_string(),
            repository: garbage.repository.map(|name| name.to_string()),
            bytes: garbage.stored_bytes,
            reason: garbage.reason.to_owned(),
        }
    }
}

impl Gc {
    /// The answer for programs.
    pub fn new(swept: Swept, dry_run: bool) -> Self {
        Self {
            dry_run,
            stopped: swept.is_partial,
            reviewed: swept.reviewed,
            manifests: swept.manifests,
            blobs: swept.blobs,
            freed_bytes: swept.freed_bytes,
            links: swept.links,
            demoted: swept.demoted,
            rows: swept.rows,
            repositories: swept.repositories,
            queued: swept.queued,
            garbage: swept.garbage.into_iter().map(GcItem::from).collect(),
        }
    }
}

pub(super) async fn sweep(registry: &Registry, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let request = read(asked).map_err(|what| ApiError::bad_request(ErrorCode::Unsupported, what))?;
    // A client that leaves ends the sweep between two batches; what was begun is ended.
    let swept = registry.sweeper().sweep(request).await;
    let swept = swept.map_err(|error| ApiError::internal(&error, &id.to_string()))?;
    Ok(json(&Gc::new(swept, request.dry_run)))
}

fn read(asked: &Asked) -> Result<SweepRequest, String> {
    let flag = |key: &str| match asked.query.first(key) {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(format!("{key} is true or false, not {other}")),
    };
    let grace = asked.query.first("grace").map(|text| {
        let parsed: Result<Duration, _> = humantime::parse_duration(text);
        parsed.map_err(|error| format!("grace is a duration such as 0s or 10m, not {text}: {error}"))
    });
    Ok(SweepRequest { grace: grace.transpose()?, full: flag("full")?, dry_run: flag("dry_run")? })
}
