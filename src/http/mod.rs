//! The only room that knows axum and status codes: from a request to an action, from an outcome to an answer.

mod access_log;
pub mod admin;
mod blobs;
pub mod body;
pub mod connection;
mod error;
mod health;
mod inside;
mod lists;
mod manifests;
mod opening;
mod patience;
/// For the fuzz targets, which read what a stranger may ask.
#[doc(hidden)]
pub mod query;
mod request;
pub mod route;
pub mod sendfile;
pub mod server;
mod uploads;
mod v2;

#[cfg(test)]
mod sample;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get};

use crate::metrics::Metrics;
use crate::registry::Registry;

pub use error::ApiError;
pub use inside::{BoxError, Inside};

/// What every handler works with.
#[derive(Clone, Debug)]
pub struct AppState(Arc<App>);

/// The parts of [`AppState`].
#[derive(Debug)]
pub struct App {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The counters.
    pub metrics: Metrics,
    /// Web pages that may call the API; `*` for all.
    pub cors_origins: Vec<String>,
    /// How long a client may send no byte of a body.
    pub read_timeout: Duration,
    /// Who may look inside and steer.
    pub admin: admin::Door,
    /// Whether it can serve.
    readiness: health::Readiness,
    /// Counts requests, so that a failure can be found in the log.
    request_ids: request::RequestIds,
}

/// What is configured of the handlers.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// Web pages that may call the API; `*` for all.
    pub cors_origins: Vec<String>,
    /// How long a client may send no byte of a body.
    pub read_timeout: Duration,
    /// Who may look inside and steer.
    pub admin: admin::Door,
}

impl AppState {
    /// The state of one server.
    pub fn new(registry: Arc<Registry>, metrics: Metrics, options: AppOptions) -> Self {
        let AppOptions { cors_origins, read_timeout, admin } = options;
        let (readiness, request_ids) = (health::Readiness::default(), request::RequestIds::new());
        Self(Arc::new(App { registry, metrics, cors_origins, read_timeout, admin, readiness, request_ids }))
    }
}

impl std::ops::Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

/// Every path this server answers. Below `/v2/` names hold slashes, so [`route`] reads those paths itself.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/v2", any(v2::serve))
        .route("/v2/", any(v2::serve))
        .route("/v2/{*rest}", any(v2::serve))
        .route("/api/{*rest}", any(admin::serve))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(v2::no_such_page)
        .with_state(state)
}
