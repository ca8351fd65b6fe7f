//! What orchestrators and Prometheus ask.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::AppState;
use super::body::Body;
use crate::registry::Depot;
use crate::report::Chain;
use crate::telemetry;

/// `/healthz`: the process is alive.
pub async fn alive() -> Response {
    text(StatusCode::OK, "text/plain; charset=utf-8", "alive\n".to_owned())
}

/// How long the index may take to be ready; kubelet waits for a second in all.
const READY_WITHIN: Duration = Duration::from_millis(800);
/// How long an answer counts, however many ask.
const READY_FOR: Duration = Duration::from_secs(1);

/// Whether this server is ready, as found a moment ago.
#[derive(Debug, Default)]
pub struct Readiness {
    /// When it was looked, and what keeps the server from serving.
    last: Mutex<Option<(Instant, Option<String>)>>,
}

impl Readiness {
    /// What keeps the server from serving, if something does. Whoever comes while it is being looked for waits for that.
    async fn problem(&self, depot: &Depot) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some((looked, problem)) = &*last
            && looked.elapsed() < READY_FOR
        {
            return problem.clone();
        }
        let problem = look(depot).await.err();
        *last = Some((Instant::now(), problem.clone()));
        problem
    }
}

/// The index answers and takes changes, and the disk is there.
async fn look(depot: &Depot) -> Result<(), String> {
    let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
    let index = async {
        depot.metadata.totals().await?;
        depot.metadata.try_writer().await
    };
    let index = timeout(READY_WITHIN, index).await;
    index.map_err(|_| format!("the index does not answer within {READY_WITHIN:?}"))?.map_err(|error| told(&error))?;
    depot.blobs.store().file_system().map_err(|error| told(&error))?;
    Ok(())
}

/// `/readyz`: the store is open, the index answers and takes changes, the disk's sums are sane.
pub async fn ready(State(app): State<AppState>) -> Response {
    let depot = app.registry.depot();
    let problem = app.readiness.problem(depot).await;
    let status = if problem.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let sums = depot.room.sums();
    // Neither keeps it from serving what is sound, but somebody has to look.
    let lost_blobs = if problem.is_none() { depot.metadata.count_losses().await.unwrap_or_default() } else { 0 };
    let warning = (lost_blobs > 0).then(|| {
        format!("{lost_blobs} pushed blobs are lost and have to be pushed again: GET /api/v1/scrub lists them")
    });
    let body = json!({
        "ready": problem.is_none(),
        "problem": problem,
        "warning": warning,
        "lost_blobs": lost_blobs,
        "cached_bytes": sums.of_cache(),
        "store_bytes": sums.of_store(),
        "fills_in_flight": app.registry.fills().len(),
    });
    text(status, "application/json", format!("{body}\n"))
}

/// `/metrics`: in the text format of Prometheus.
pub async fn metrics(State(app): State<AppState>) -> Response {
    let depot = app.registry.depot();
    depot.room.report();
    if let Ok(lost_blobs) = depot.metadata.count_losses().await {
        app.metrics.lost_blobs(lost_blobs);
    }
    app.metrics.log_lines_dropped.absolute(telemetry::lines_dropped());
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", app.metrics.render())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = (status, Body::full(body.into())).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
