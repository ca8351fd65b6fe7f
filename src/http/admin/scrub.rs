//! `GET /api/v1/scrub`: how far the check of the stored blobs is, and what is lost.

use axum::response::Response;
use serde::Serialize;

use super::{Moment, json};
use crate::registry::{CacheError, Registry, ScrubView};

#[derive(Serialize)]
struct Shown {
    state: &'static str,
    pass: Option<Pass>,
    next_at: Option<Moment>,
    index_problems: Vec<String>,
    lost_blobs: u64,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Pass {
    started_at: Moment,
    ended_at: Option<Moment>,
    position: Option<String>,
    checked_blobs: u64,
    checked_bytes: u64,
    damaged_blobs: u64,
}

#[derive(Serialize)]
struct Lost {
    digest: String,
    repository: String,
    finding: String,
    found_at: Moment,
}

impl From<ScrubView> for Shown {
    fn from(view: ScrubView) -> Self {
        let is_under_way = view.pass.is_some_and(|pass| pass.ended_ms.is_none());
        let lost = view.lost.into_iter().map(|loss| Lost {
            digest: loss.digest.to_string(),
            repository: loss.repository.to_string(),
            finding: loss.finding,
            found_at: Moment(loss.found_ms),
        });
        Self {
            state: match (view.is_on, is_under_way) {
                (false, _) => "off",
                (true, true) => "running",
                (true, false) => "waiting",
            },
            pass: view.pass.map(|pass| Pass {
                started_at: Moment(pass.started_ms),
                ended_at: pass.ended_ms.map(Moment),
                position: pass.position.map(|digest| digest.to_string()),
                checked_blobs: pass.checked_blobs,
                checked_bytes: pass.checked_bytes,
                damaged_blobs: pass.damaged_blobs,
            }),
            next_at: view.next_ms.map(Moment),
            index_problems: view.index_problems,
            lost_blobs: view.lost_blobs,
            lost: lost.collect(),
        }
    }
}

/// The pass under way or the last one, and pushed blobs that are lost, the latest found first.
pub async fn show(registry: &Registry) -> Result<Response, CacheError> {
    Ok(json(&Shown::from(registry.scrub().view().await?)))
}
