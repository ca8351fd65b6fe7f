//! `/v2/`: every request becomes an action, every action is served in its file, every answer gets its common headers.

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body as _;

use super::access_log::{Line, Operation};
use super::body::Body;
use super::error::ApiError;
use super::request::{Arrived, Asked};
use super::route::{self, Action};
use super::{AppState, blobs, gate, lists, manifests, patience, uploads};
use crate::oci::{ErrorCode, EventKind};
use crate::registry::Outcome;

/// Says that this is a registry of API version 2; old clients look for it, errors included.
static API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// How the answer came about.
pub static CACHE: HeaderName = HeaderName::from_static("entrepot-cache");
/// The upstream that `?ns=` named and that this answer is for.
static NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// Puts the outcome into an answer, from where the log takes it too (see [`outcome_of`]).
pub fn mark(response: &mut Response, outcome: Outcome) {
    response.headers_mut().insert(CACHE.clone(), HeaderValue::from_static(outcome.as_str()));
}

/// The outcome that an answer tells of.
pub fn outcome_of(response: &Response) -> Option<Outcome> {
    let told = response.headers().get(&CACHE)?.as_bytes();
    Outcome::ALL.into_iter().find(|outcome| outcome.as_str().as_bytes() == told)
}

/// Is this the path of something that is served here?
pub fn is_below(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Serves any request below `/v2`.
pub async fn serve(app: AppState, request: Request, arrived: Arrived) -> Response {
    let mut line = Line::begin(&app, &request, &arrived.client);
    let origin = request.headers().get(ORIGIN).cloned();
    let answer = match route::route(request.method(), request.uri().path()) {
        Ok(action) => {
            line.operation = Some(Operation::Registry(action.clone()));
            dispatch(&app, &action, (request, arrived), &mut line).await
        }
        Err(unroutable) if is_preflight(&app, request.method()) => Ok(preflight(&unroutable)),
        // A push to something that is no tag is the client's mistake; asking for it only finds nothing.
        Err(route::Unroutable::Reference(invalid)) if request.method() == Method::PUT => {
            Err(ApiError::bad_request(ErrorCode::ManifestInvalid, invalid.to_string()))
        }
        Err(unroutable) => Err(unroutable.into()),
    };
    let mut response = answer.unwrap_or_else(ApiError::into_response);
    response.headers_mut().insert(API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
    allow_origin(&app, origin.as_ref(), response.headers_mut());
    line.answered_with(response)
}

/// Answers whatever is outside of the API.
pub async fn no_such_page(request: Request) -> Response {
    let message = format!("there is nothing at {}: the registry's API is below /v2/", short(request.uri().path()));
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message).into_response()
}

fn short(path: &str) -> String {
    path.chars().take(80).collect()
}

async fn dispatch(
    app: &AppState,
    action: &Action,
    (request, arrived): (Request, Arrived),
    line: &mut Line,
) -> Result<Response, ApiError> {
    let (mut asked, body) = Asked::new(request, arrived, &app.names);
    if let Some(notes) = &mut line.notes {
        notes.take(&asked);
    }
    let admitted = gate::admit(app, &mut asked, action).await;
    line.identity.clone_from(&asked.identity);
    let caller = admitted?;
    if let Some(notes) = &mut line.notes {
        notes.rule = gate::source(app, &asked, &caller, action).map(|source| source.to_string());
    }
    if event(action).is_some_and(|kind| app.registry.is_listened_to(kind)) {
        asked.testify(line.id, line.identity.as_deref());
    }
    let body = if body.is_end_stream() { body } else { patience::patient(body, app.read_timeout) };
    let registry = &app.registry;
    let id = line.id;
    let only_stored = asked.only_stored;
    let failed = |error| {
        let error = ApiError::of(error, action, &id.to_string());
        if only_stored { error.as_not_stored() } else { error }
    };
    // What takes much memory has its own: this future is made for every request.
    let mut response = match action {
        Action::Probe => lists::probe(registry, &asked),
        Action::ListRepositories => Box::pin(lists::repositories(registry, &asked, failed)).await,
        Action::ListTags { name } => Box::pin(lists::tags(registry, &asked, name, failed)).await,
        Action::ListReferrers { name, digest } => {
            Box::pin(lists::referrers(registry, &asked, name, digest, failed)).await
        }
        Action::PullManifest { name, reference } => manifests::pull(registry, &asked, name, reference, failed).await,
        Action::PushManifest { name, reference } => {
            Box::pin(manifests::push(registry, &asked, name, reference, body, failed)).await
        }
        Action::DeleteManifest { name, reference } => {
            Box::pin(manifests::delete(registry, &asked, name, reference, failed)).await
        }
        Action::PullBlob { name, digest } if asked.is_head() => {
            Box::pin(blobs::head(registry, &asked, name, digest, failed)).await
        }
        Action::PullBlob { name, digest } => blobs::pull(registry, &asked, name, digest, failed).await,
        Action::DeleteBlob { name, digest } => Box::pin(blobs::delete(registry, &asked, name, digest, failed)).await,
        Action::StartUpload { name } => Box::pin(uploads::start(registry, &asked, name, body, failed)).await,
        Action::FindUpload { name, id } => Box::pin(uploads::find(registry, &asked, name, id, failed)).await,
        Action::AppendUpload { name, id } => Box::pin(uploads::append(registry, &asked, name, id, body, failed)).await,
        Action::FinishUpload { name, id } => Box::pin(uploads::finish(registry, &asked, name, id, body, failed)).await,
        Action::CancelUpload { name, id } => Box::pin(uploads::cancel(registry, &asked, name, id, failed)).await,
    }?;
    if let Some(ns) = asked.query.first("ns").and_then(|ns| HeaderValue::try_from(ns).ok()) {
        response.headers_mut().insert(NAMESPACE.clone(), ns);
    }
    if !response.headers().contains_key(&CACHE) {
        mark(&mut response, Outcome::Local);
    }
    Ok(response)
}

/// The event that comes of an action.
const fn event(action: &Action) -> Option<EventKind> {
    match action {
        Action::PushManifest { .. } => Some(EventKind::Push),
        Action::PullManifest { .. } => Some(EventKind::Pull),
        Action::DeleteManifest { .. } | Action::DeleteBlob { .. } => Some(EventKind::Delete),
        _ => None,
    }
}

fn is_preflight(app: &AppState, method: &Method) -> bool {
    *method == Method::OPTIONS && !app.cors_origins.is_empty()
}

/// A browser asks before it sends anything but a simple GET.
fn preflight(unroutable: &route::Unroutable) -> Response {
    let methods = match unroutable {
        route::Unroutable::Method { allow } => allow,
        _ => "GET, HEAD",
    };
    let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(http::header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    let allowed = "Accept, Authorization, Content-Range, Content-Type, If-None-Match, Range";
    headers.insert(http::header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    response
}

fn allow_origin(app: &AppState, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin else { return };
    let allowed = app.cors_origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes());
    if !allowed {
        return;
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    let exposed = "Docker-Content-Digest, Content-Range, Link, Location, OCI-Subject, Range, Entrepot-Cache";
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
}
