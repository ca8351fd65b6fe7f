//! `GET /api/v1/fills`: what is being fetched right now.

use axum::response::Response;
use serde::Serialize;

use super::{Moment, json};
use crate::registry::{FillView, Registry};

#[derive(Serialize)]
struct Listed {
    fills: Vec<FillShown>,
}

#[derive(Serialize)]
struct FillShown {
    digest: String,
    repository: String,
    upstream: String,
    source: String,
    bytes: u64,
    total_bytes: Option<u64>,
    bytes_per_second: u64,
    readers: usize,
    started_at: Moment,
    priority: &'static str,
    pieces: usize,
}

impl From<FillView> for FillShown {
    fn from(view: FillView) -> Self {
        Self {
            digest: view.digest.to_string(),
            repository: view.repository.to_string(),
            upstream: view.upstream.to_string(),
            source: view.source,
            bytes: view.received_bytes,
            total_bytes: view.total_bytes,
            bytes_per_second: view.bytes_per_second,
            readers: view.readers,
            started_at: Moment(view.started_ms),
            priority: view.priority.as_str(),
            pieces: view.pieces,
        }
    }
}

/// The fills under way, the longest running first.
pub fn list(registry: &Registry) -> Response {
    json(&Listed { fills: registry.fills().list().into_iter().map(FillShown::from).collect() })
}
