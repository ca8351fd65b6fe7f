//! `GET /api/v1/fills`: what is being fetched right now.

use axum::response::Response;
use serde::Serialize;

use super::json;
use crate::registry::Registry;

#[derive(Serialize)]
struct Listed {
    fills: Vec<FillShown>,
}

#[derive(Serialize)]
struct FillShown {
    digest: String,
    repository: String,
    bytes: u64,
}

/// The fills under way.
pub fn list(registry: &Registry) -> Response {
    let shown = registry.fills().list().into_iter().map(|fill| FillShown {
        digest: fill.digest.to_string(),
        repository: fill.repository.to_string(),
        bytes: fill.servable_bytes().unwrap_or(0),
    });
    json(&Listed { fills: shown.collect() })
}
