//! One line per request to `/v2/`, `/api/` and `/token`, written when the last byte of its answer has left or its client has.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body as AnyBody;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tracing::info;

use super::audit::{Known, Notes};
use super::forwarded::Client;
use super::request::RequestId;
use super::v2::outcome_of;
use super::{AppState, admin, route};
use crate::registry::{Outcome, Staleness};

/// What a request turned out to want.
#[derive(Debug)]
pub enum Operation {
    /// Something of the distribution specification.
    Registry(route::Action),
    /// Something of the admin API.
    Admin(admin::Action),
    /// A token.
    Token,
}

impl Operation {
    /// The word for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Registry(action) => action.as_str(),
            Self::Admin(action) => action.as_str(),
            Self::Token => "token",
        }
    }

    const fn of_registry(&self) -> Option<&route::Action> {
        match self {
            Self::Registry(action) => Some(action),
            Self::Admin(_) | Self::Token => None,
        }
    }
}

/// The line of a request, written when it is dropped: also when that is before there is an answer.
#[derive(Debug)]
pub struct Line {
    /// The request's name.
    pub id: RequestId,
    /// What it wants, once that is known.
    pub operation: Option<Operation>,
    /// Who sent it, if somebody did who has signed in.
    pub identity: Option<Arc<str>>,
    /// What the audit log is to have of it, until it has.
    pub notes: Option<Box<Notes>>,
    method: Method,
    path: String,
    client: Option<IpAddr>,
    started: Instant,
    app: AppState,
    status: Option<StatusCode>,
    outcome: &'static str,
    /// Why the answer could not be confirmed, if it should have been.
    stale: Option<&'static str>,
    sent_bytes: u64,
    announced_bytes: Option<u64>,
}

impl Line {
    /// The line of a request that has just come in.
    pub fn begin(app: &AppState, request: &Request, client: &Client) -> Self {
        Self {
            id: app.request_ids.next(),
            operation: None,
            identity: None,
            notes: app.audit.is_some().then(Box::default),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            client: client.address,
            started: Instant::now(),
            app: app.clone(),
            status: None,
            outcome: "none",
            stale: None,
            sent_bytes: 0,
            announced_bytes: None,
        }
    }

    /// The answer, whose body takes the line with it.
    pub fn answered_with(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        self.audit(Some(&response));
        self.outcome = outcome_of(&response).map_or("none", Outcome::as_str);
        self.stale = response.extensions().get::<Staleness>().map(|stale| stale.reason);
        response.map(|body| {
            self.announced_bytes = body.size_hint().exact();
            AnyBody::new(Logged { body, line: self })
        })
    }

    /// Tells the audit log, once.
    fn audit(&mut self, answer: Option<&Response>) {
        let Some((notes, audit)) = self.notes.take().zip(self.app.audit.as_ref()) else { return };
        let Some(operation) = &self.operation else { return };
        let known = Known {
            now_ms: self.app.registry.depot().clock.now_ms(),
            operation,
            identity: self.identity.as_deref(),
            client: self.client,
            method: &self.method,
            request_id: self.id.to_string(),
        };
        notes.record(audit, &known, answer);
    }

    /// Did the client get all there was? A HEAD announces a length of which nothing is sent.
    fn is_complete(&self) -> bool {
        let all_sent = self.announced_bytes.is_none_or(|bytes| bytes == self.sent_bytes);
        self.status.is_some() && (self.method == Method::HEAD || all_sent)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.audit(None);
        let Self {
            id,
            operation,
            identity,
            method,
            path,
            client,
            started,
            app,
            status,
            outcome,
            stale,
            sent_bytes,
            ..
        } = &*self;
        let took = started.elapsed();
        let action = operation.as_ref().and_then(Operation::of_registry);
        let operation = operation.as_ref().map_or("none", Operation::as_str);
        let status = status.map(|status| status.as_u16());
        app.metrics.request(operation, outcome, status, *sent_bytes);
        app.metrics.request_seconds.record(took.as_secs_f64());
        info!(
            target: "entrepot::access",
            message = operation,
            %method,
            path,
            client = client.map(tracing::field::display),
            repository = action.and_then(route::Action::name).map(tracing::field::display),
            reference = action.and_then(route::Action::reference).as_deref(),
            status,
            sent_bytes,
            complete = self.is_complete(),
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            outcome,
            stale,
            identity = identity.as_deref(),
            request_id = %id,
        );
    }
}

/// A body that carries its request's line to its end.
#[derive(Debug)]
struct Logged {
    body: AnyBody,
    line: Line,
}

impl Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            self.line.sent_bytes += bytes.len() as u64;
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
