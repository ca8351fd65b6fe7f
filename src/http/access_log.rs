//! One line per request to `/v2/`, written when the last byte of its answer has left or its client has.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body as AnyBody;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tracing::info;

use super::AppState;
use super::request::RequestId;
use super::route::Action;

/// What is known of a request when its answer begins.
#[derive(Debug)]
pub struct Line {
    pub id: RequestId,
    pub method: Method,
    pub path: String,
    pub action: Option<Action>,
    pub status: StatusCode,
    pub outcome: &'static str,
    pub started: Instant,
    pub app: AppState,
}

/// A body that writes its request's line when it is done with.
#[derive(Debug)]
pub struct Logged {
    body: AnyBody,
    line: Line,
    sent_bytes: u64,
    announced_bytes: Option<u64>,
}

impl Logged {
    /// `body`, with `line` to be written at its end.
    pub fn new(body: AnyBody, line: Line) -> Self {
        let announced_bytes = body.size_hint().exact();
        Self { body, line, sent_bytes: 0, announced_bytes }
    }
}

impl Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            self.sent_bytes += bytes.len() as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Line { id, method, path, action, status, outcome, started, app } = &self.line;
        let took = started.elapsed();
        let operation = action.as_ref().map_or("none", Action::as_str);
        app.metrics.request(operation, outcome, status.as_u16(), self.sent_bytes);
        app.metrics.request_seconds.record(took.as_secs_f64());
        // A HEAD announces a length of which nothing is sent.
        let complete = *method == Method::HEAD || self.announced_bytes.is_none_or(|bytes| bytes == self.sent_bytes);
        info!(
            target: "entrepot::access",
            %method,
            path,
            repository = action.as_ref().and_then(Action::name).map(tracing::field::display),
            reference = action.as_ref().and_then(Action::reference),
            status = status.as_u16(),
            sent_bytes = self.sent_bytes,
            complete,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            outcome,
            request_id = %id,
            "{operation}"
        );
    }
}
