//! The only room that knows axum and status codes: from a request to an action, from an outcome to an answer.

mod access_log;
pub mod admin;
mod audit;
mod blobs;
pub mod body;
pub mod connection;
mod error;
pub mod forwarded;
mod gate;
mod health;
mod inside;
#[doc(hidden)]
pub mod introduction;
mod lists;
mod manifests;
mod opening;
mod pages;
mod patience;
/// For the fuzz targets, which read what a stranger may ask.
#[doc(hidden)]
pub mod query;
mod rate;
mod request;
pub mod route;
pub mod sendfile;
pub mod server;
pub mod tls;
mod token;
mod uploads;
mod v2;

#[cfg(test)]
mod sample;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, get};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};
use http_body::Body as _;
use tower::ServiceExt as _;

use crate::auth::Authority;
use crate::metrics::Metrics;
use crate::near::Held;
use crate::registry::Registry;
use crate::telemetry::Audit;
use request::Arrived;
use server::{Answering, Answers};

pub use error::ApiError;
pub use inside::{BoxError, Inside};
pub use pages::OwnNames;
/// For the fuzz targets, which read what a stranger may ask.
#[doc(hidden)]
pub use request::presented_in;
pub use tls::Tls;

/// What every handler works with.
///
/// Each connection holds it by a count of its own: one for all would go from core to core with every request.
#[derive(Clone, Debug)]
pub struct AppState(Held<App>);

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
    /// Where requests that look inside and steer may come from.
    pub admin: admin::Door,
    /// The names by which clients reach this server.
    pub names: OwnNames,
    /// Who may do what.
    pub authority: Arc<Authority>,
    /// TLS of the port, if it has it.
    pub tls: Option<Arc<Tls>>,
    /// Where it is written down who did what, if it is.
    pub audit: Option<Audit>,
    /// How many requests a client may send, if that is limited.
    rate: Option<rate::Rate>,
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
    /// The names by which clients reach this server.
    pub names: OwnNames,
    /// TLS of the port, if it has it.
    pub tls: Option<Arc<Tls>>,
    /// Where it is written down who did what, if it is.
    pub audit: Option<Audit>,
    /// Requests of one client per second; 0 for any number.
    pub requests_per_second_max: u32,
    /// How many of these may come at once.
    pub requests_burst_max: u32,
}

impl AppState {
    /// The state of one server.
    pub fn new(registry: Arc<Registry>, authority: Arc<Authority>, metrics: Metrics, options: AppOptions) -> Self {
        let AppOptions {
            cors_origins,
            read_timeout,
            admin,
            names,
            tls,
            audit,
            requests_per_second_max,
            requests_burst_max,
        } = options;
        let rate = rate::Rate::new(requests_per_second_max, requests_burst_max);
        let (readiness, request_ids) = (health::Readiness::default(), request::RequestIds::new());
        Self(Held::new(App {
            registry,
            metrics,
            cors_origins,
            read_timeout,
            admin,
            names,
            authority,
            tls,
            audit,
            rate,
            readiness,
            request_ids,
        }))
    }

    /// The same, held by another count.
    fn apart(&self) -> Self {
        Self(self.0.apart())
    }
}

impl std::ops::Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

/// Every path that a server answers.
///
/// Nearly all requests are for what is below `/v2/`. There names hold slashes, so [`route`] reads those paths itself, and no
/// router is asked before; the rest is the router's.
#[derive(Clone, Debug)]
pub struct Site {
    state: AppState,
    others: Router,
}

impl Site {
    /// All that this state serves.
    pub fn new(state: AppState) -> Self {
        Self { others: others(state.clone()), state }
    }
}

impl Answers for Site {
    fn answer(&self, mut request: Request, arrived: Arrived) -> Answering {
        if !v2::is_below(request.uri().path()) {
            request.extensions_mut().insert(arrived);
            return Box::pin(self.others.clone().oneshot(request));
        }
        let (app, is_head) = (self.state.clone(), request.method() == Method::HEAD);
        Box::pin(async move {
            let answer = match rate::refused(&app, &arrived.client, request.uri().path()) {
                Some(refused) => refused,
                None => v2::serve(app, request, arrived).await,
            };
            Ok(if is_head { without_body(answer) } else { answer })
        })
    }

    fn of_connection(&self) -> Arc<dyn Answers> {
        Arc::new(Self { state: self.state.apart(), others: self.others.clone() })
    }
}

/// The answer to a HEAD: what GET would say, and nothing after it (RFC 9110, 9.3.2). Over HTTP/2 nobody else sees to that.
fn without_body(mut response: Response) -> Response {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    response.map(|_| Body::empty())
}

/// What is not below `/v2/`. Those who look whether it is alive are answered however many requests their address has sent.
fn others(state: AppState) -> Router {
    let limited = Router::new()
        .route("/api/{*rest}", any(admin::serve))
        .route("/token", any(token::serve))
        .fallback(v2::no_such_page);
    let limited = match &state.rate {
        Some(_) => limited.layer(from_fn_with_state(state.clone(), rate::limited)),
        None => limited,
    };
    limited
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(state)
}
