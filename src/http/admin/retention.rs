//! `/api/v1/retention`: what the rules do not keep. GET lists it and deletes nothing, PUT deletes it.

use std::sync::Arc;

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::json;
use super::pins::written;
use super::reference::failed;
use crate::http::error::ApiError;
use crate::http::request::RequestId;
use crate::registry::Registry;
use crate::registry::retention::Expired;

/// What goes, or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// By repository.
    pub expired: Vec<ExpiredShown>,
    /// It was deleted; else it would be.
    pub deleted: bool,
}

/// Something that no rule keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredShown {
    /// `NAME:TAG`, or `NAME@DIGEST` of an untagged manifest.
    pub reference: String,
    /// The manifest.
    pub digest: String,
    /// The repositories that the rule is about, as it is written.
    pub rule: String,
    /// Why it goes.
    pub why: String,
}

impl Retained {
    /// The document of these.
    pub fn new(expired: Vec<Expired>, deleted: bool) -> Self {
        let shown = |one: Expired| ExpiredShown {
            reference: written(&one.repo, &one.reference),
            digest: one.digest.to_string(),
            rule: one.rule,
            why: one.why,
        };
        Self { expired: expired.into_iter().map(shown).collect(), deleted }
    }
}

/// What would go.
pub async fn plan(registry: &Registry, id: RequestId) -> Result<Response, ApiError> {
    let expired = registry.plan_retention().await.map_err(failed(id))?;
    Ok(json(&Retained::new(expired, false)))
}

/// Has it go.
pub async fn apply(registry: &Arc<Registry>, id: RequestId) -> Result<Response, ApiError> {
    let expired = registry.apply_retention().await.map_err(failed(id))?;
    Ok(json(&Retained::new(expired, true)))
}
