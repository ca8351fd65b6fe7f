//! What orchestrators and Prometheus ask.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::AppState;
use super::body::Body;
use crate::report::Chain;
use crate::telemetry;

/// `/healthz`: the process is alive.
pub async fn alive() -> Response {
    text(StatusCode::OK, "text/plain; charset=utf-8", "alive\n".to_owned())
}

/// `/readyz`: the store is open, the index answers, the disk's sums are sane.
pub async fn ready(State(app): State<AppState>) -> Response {
    let depot = app.registry.depot();
    let index = depot.metadata.totals().await;
    let disk = depot.blobs.store().file_system();
    let problem =
        index.err().map(|error| Chain(&error).to_string()).or(disk.err().map(|error| Chain(&error).to_string()));
    let status = if problem.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let sums = depot.room.sums();
    let body = json!({
        "ready": problem.is_none(),
        "problem": problem,
        "cached_bytes": sums.of_cache(),
        "store_bytes": sums.of_store(),
        "fills_in_flight": app.registry.fills().len(),
    });
    text(status, "application/json", format!("{body}\n"))
}

/// `/metrics`: in the text format of Prometheus.
pub async fn metrics(State(app): State<AppState>) -> Response {
    app.registry.depot().room.report();
    app.metrics.log_lines_dropped.absolute(telemetry::lines_dropped());
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", app.metrics.render())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = (status, Body::full(body.into())).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
