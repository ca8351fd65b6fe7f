//! `/api/v1/`: what operators see of the inside, as JSON. Every request becomes an [`Action`] and passes the [`Door`].

mod cached;
pub mod content;
mod door;
mod fills;
pub mod gc;
mod moment;
pub mod pins;
mod reference;
pub mod retention;
pub mod robots;
mod route;
mod scrub;
pub mod warm;
pub mod why;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::AppState;
use super::access_log::{Line, Operation};
use super::body::Body;
use super::error::ApiError;
use super::gate;
use super::patience;
use super::request::{Arrived, Asked};
use crate::oci::EventKind;

pub use door::{Denied, Door, foreign_name};
pub use moment::Moment;
pub use route::{Action, Unroutable};

/// Serves any request below `/api/`.
pub async fn serve(State(app): State<AppState>, mut request: Request) -> Response {
    let arrived = Arrived::taken_from(&mut request);
    let mut line = Line::begin(&app, &request, &arrived.client);
    let routed = route::route(request.method(), request.uri().path());
    let answer = match routed {
        Ok(action) => {
            line.operation = Some(Operation::Admin(action.clone()));
            dispatch(&app, &action, (request, arrived), &mut line).await
        }
        Err(unroutable) => Err(unroutable.into()),
    };
    line.answered_with(answer.unwrap_or_else(ApiError::into_response))
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
    let admitted = gate::admit_admin(app, &mut asked).await;
    line.identity.clone_from(&asked.identity);
    let rule = admitted?;
    if let Some(notes) = &mut line.notes {
        notes.rule = Some(rule.to_owned());
    }
    let id = line.id;
    if *action == Action::RemoveContent && app.registry.is_listened_to(EventKind::Delete) {
        asked.testify(id, line.identity.as_deref());
    }
    let body = patience::patient(body, app.read_timeout);
    match action {
        Action::ImportBlob => cached::blob(&app.registry, &asked, body, id).await,
        Action::ImportLink => cached::link(&app.registry, &asked, id).await,
        Action::ImportManifest => cached::manifest(&app.registry, &asked, body, id).await,
        Action::ListFills => Ok(fills::list(&app.registry)),
        Action::ListRobots => Ok(robots::list(app.authority.robots())),
        Action::CreateRobot => {
            robots::create(app.authority.robots(), body, app.registry.depot().clock.now_ms(), id).await
        }
        Action::RevokeRobot { name } => robots::revoke(app.authority.robots(), name, id).await,
        Action::ShowScrub => {
            scrub::show(&app.registry).await.map_err(|error| ApiError::internal(&error, &id.to_string()))
        }
        Action::ListPins => pins::list(&app.registry, id).await,
        Action::Pin => pins::put(&app.registry, &asked, id).await,
        Action::Unpin => pins::remove(&app.registry, &asked, id).await,
        Action::ListContent => content::list(&app.registry, &asked, id).await,
        Action::RemoveContent => content::remove(&app.registry, &asked, id).await,
        Action::PlanRetention => retention::plan(&app.registry, id).await,
        Action::ApplyRetention => retention::apply(&app.registry, id).await,
        Action::Explain => why::explain(&app.registry, &asked, id).await,
        Action::Warm => warm::begin(&app.registry, &asked, body, id).await,
        Action::Sweep => gc::sweep(&app.registry, &asked, id).await,
    }
}

/// An answer for programs.
fn json(value: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(value).expect("names are texts, and nothing else can fail");
    text.push('\n');
    let mut response = (StatusCode::OK, Body::full(text.into())).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
