//! What orchestrators and Prometheus ask.

use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::AppState;
use super::body::Body;
use super::tls;
use crate::registry::Depot;
use crate::report::Chain;
use crate::telemetry::{self, Audit};

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
    last: Mutex<Option<(Instant, Look)>>,
}

/// What was found.
#[derive(Clone, Debug)]
enum Look {
    /// It serves and keeps what it serves.
    Ready,
    /// The disk is full: pulls are answered, what they fetch is not kept, pushes are refused.
    Full,
    /// It cannot serve.
    Not(String),
}

impl Readiness {
    /// Whoever comes while it is being looked waits for that.
    async fn look(&self, depot: &Depot) -> Look {
        let mut last = self.last.lock().await;
        if let Some((looked, found)) = &*last
            && looked.elapsed() < READY_FOR
        {
            return found.clone();
        }
        let found = look(depot).await;
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

/// The index answers, the disk is there, and both take changes.
async fn look(depot: &Depot) -> Look {
    let index = async {
        depot.metadata.totals().await?;
        depot.metadata.try_writer().await
    };
    let Ok(index) = timeout(READY_WITHIN, index).await else {
        return Look::Not(format!("the index does not answer within {READY_WITHIN:?}"));
    };
    let Ok(disk) = timeout(READY_WITHIN, depot.blobs.try_write()).await else {
        return Look::Not(format!("the disk does not answer within {READY_WITHIN:?}"));
    };
    match (index, disk) {
        (Ok(()), Ok(())) => Look::Ready,
        (Err(error), _) if error.is_damage() => Look::Not(format!(
            "the index is damaged: stop the server and run `entrepot scrub --repair` ({})",
            Chain(&error)
        )),
        (Err(error), _) if !error.is_no_space() => Look::Not(Chain(&error).to_string()),
        (_, Err(error)) if !error.is_no_space() => Look::Not(Chain(&error).to_string()),
        _ => Look::Full,
    }
}

/// `/readyz`: the store is there, the index answers, and both take changes.
pub async fn ready(State(app): State<AppState>) -> Response {
    let depot = app.registry.depot();
    let look = app.readiness.look(depot).await;
    let (status, problem) = match &look {
        Look::Ready | Look::Full => (StatusCode::OK, None),
        Look::Not(problem) => (StatusCode::SERVICE_UNAVAILABLE, Some(problem)),
    };
    let sums = depot.room.sums();
    // Neither keeps it from serving what is sound, but somebody has to look.
    let lost_blobs = if problem.is_none() { depot.metadata.count_losses().await.unwrap_or_default() } else { 0 };
    let full = matches!(look, Look::Full)
        .then(|| "the disk is full: what is pulled is not kept, and pushes are refused".to_owned());
    let lost = (lost_blobs > 0).then(|| {
        format!("{lost_blobs} pushed blobs are lost and have to be pushed again: GET /api/v1/scrub lists them")
    });
    let unwritten = app.audit.as_ref().and_then(Audit::problem);
    let unwritten = unwritten.map(|problem| format!("the audit log cannot be written, events are lost: {problem}"));
    let warnings: Vec<String> = full.into_iter().chain(lost).chain(unwritten).collect();
    let body = json!({
        "ready": problem.is_none(),
        "problem": problem,
        "warning": (!warnings.is_empty()).then(|| warnings.join("; ")),
        "lost_blobs": lost_blobs,
        "cached_bytes": sums.of_cache(),
        "store_bytes": sums.of_store(),
        "fills_in_flight": app.registry.fills().len(),
        "tls": app.tls.as_ref().map(|tls| certificate(&tls.status())),
    });
    text(status, "application/json", format!("{body}\n"))
}

/// An old certificate still serves until it ends, so trouble with a new one does not make the server unready.
fn certificate(status: &tls::Status) -> serde_json::Value {
    let ends = status.validity.map(|validity| {
        let ends_s = u64::try_from(validity.not_after_s).unwrap_or(0);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(ends_s)).to_string()
    });
    json!({ "certificate_ends": ends, "problem": status.problem, "unissued": status.unissued })
}

/// `/metrics`: in the text format of Prometheus.
pub async fn metrics(State(app): State<AppState>) -> Response {
    let depot = app.registry.depot();
    depot.room.report();
    if let Ok(lost_blobs) = depot.metadata.count_losses().await {
        app.metrics.lost_blobs(lost_blobs);
    }
    if let Ok(counts) = depot.metadata.notice_counts().await {
        for count in counts {
            app.metrics.webhook_queue(&count.name, count.waiting.0, count.overflowed.0);
        }
    }
    app.metrics.log_lines_dropped.absolute(telemetry::lines_dropped());
    if let Some(audit) = &app.audit {
        app.metrics.audit_lost(audit.lost());
    }
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", app.metrics.render())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = (status, Body::full(body.into())).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
