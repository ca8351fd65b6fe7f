//! `/token`: name and password, or a refresh token, in exchange for a token (Distribution's "Token Authentication
//! Specification" by GET, its `OAuth2` flow by POST).

use axum::body::Body as RequestBody;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::AppState;
use super::access_log::{Line, Operation};
use super::admin::Moment;
use super::body::Body;
use super::error::ApiError;
use super::gate;
use super::patience;
use super::query::Query;
use super::request::{Arrived, Asked};
use crate::auth::{Caller, Error, Issued, NoToken, Permission, Presented, Refusal, Scope};
use crate::oci::{ErrorCode, RepositoryName};
use crate::registry::Target;

/// The form that a client posts: some names and a refresh token.
const FORM_BYTES_MAX: usize = 64 * 1024;

#[derive(Serialize)]
struct Answer<'a> {
    /// For clients of the token specification …
    token: &'a str,
    /// … and for those of `OAuth2`.
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    issued_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// Serves any request to `/token`.
pub async fn serve(State(app): State<AppState>, mut request: Request) -> Response {
    let arrived = Arrived::taken_from(&mut request);
    let mut line = Line::begin(&app, &request, &arrived.client);
    line.operation = Some(Operation::Token);
    let answer = answer(&app, (request, arrived), &mut line).await;
    line.answered_with(answer.unwrap_or_else(ApiError::into_response))
}

async fn answer(app: &AppState, (request, arrived): (Request, Arrived), line: &mut Line) -> Result<Response, ApiError> {
    let (asked, body) = Asked::new(request, arrived, &app.names);
    let standing = app.authority.standing();
    if !standing.is_configured {
        return Err(ApiError::no_endpoint("there are no tokens here: this registry's configuration has no `auth`"));
    }
    if let (Some(_), Some(realm)) = (&standing.token_server, &standing.realm) {
        return Err(ApiError::no_endpoint(format!("there are no tokens here: get them at {realm}")));
    }
    gate::admit_to_tokens(app, &asked)?;
    let wanted = match asked.method {
        Method::GET => Wanted::of_query(&asked),
        Method::POST => Wanted::of_form(&asked, &form(app, body).await?)?,
        _ => return Err(ApiError::method("GET, POST")),
    };
    if wanted.service.as_ref().is_some_and(|service| *service != standing.service) {
        return Err(bad_request("tokens of that service are issued elsewhere"));
    }
    if let (Some(notes), Proof::Presented(presented)) = (&mut line.notes, &wanted.proof) {
        notes.presented(presented);
    }
    let id = line.id;
    let failed = |no: NoToken| match no {
        NoToken::Refused(refusal) => ApiError::refused(&refusal).challenge_basic(),
        NoToken::Failed(error @ Error::TokenTooLong) => bad_request(&error.to_string()),
        NoToken::Failed(error) => ApiError::internal(&error, &id.to_string()),
    };
    let caller = who(app, &asked, &wanted).await.map_err(failed)?;
    line.identity = caller.identity().is_signed_in().then(|| caller.identity().to_string().into());
    let names = |name: &RepositoryName| app.registry.known_as(&target(&asked, name));
    let issued = app.authority.issue(&caller, &wanted.scopes, names).await.map_err(|error| failed(error.into()))?;
    let refresh = match &wanted.proof {
        Proof::Refresh(token) => Some(token.clone()),
        Proof::Presented(_) if wanted.offline => {
            app.authority.remember(&caller).await.map_err(|error| failed(error.into()))?
        }
        Proof::Presented(_) => None,
    };
    Ok(told(&issued, refresh.as_ref()))
}

/// What is asked for, in either form.
struct Wanted<'a> {
    proof: Proof<'a>,
    scopes: Vec<Scope>,
    service: Option<String>,
    /// A refresh token is wanted, too.
    offline: bool,
    /// Asked for by GET, as docker's daemon does.
    by_get: bool,
}

enum Proof<'a> {
    Presented(Presented<'a>),
    Refresh(SecretString),
}

impl<'a> Wanted<'a> {
    fn of_query(asked: &'a Asked) -> Self {
        Self {
            proof: Proof::Presented(asked.presented()),
            scopes: Scope::parse_all(asked.query.all("scope")),
            service: asked.query.first("service").map(str::to_owned),
            offline: asked.query.first("offline_token") == Some("true"),
            by_get: true,
        }
    }

    fn of_form(asked: &'a Asked, form: &Query) -> Result<Self, ApiError> {
        let proof = match form.first("grant_type") {
            Some("refresh_token") => {
                let token = form.first("refresh_token").ok_or_else(|| bad_request("refresh_token is missing"))?;
                Proof::Refresh(token.into())
            }
            Some("password") => match (form.first("username"), form.first("password")) {
                (Some(username), Some(password)) if !username.is_empty() || !password.is_empty() => {
                    Proof::Presented(Presented::Password { username: username.to_owned(), password: password.into() })
                }
                _ => Proof::Presented(asked.presented()),
            },
            _ => return Err(bad_request("grant_type is password or refresh_token")),
        };
        Ok(Self {
            proof,
            scopes: Scope::parse_all(form.all("scope")),
            service: form.first("service").map(str::to_owned),
            offline: form.first("access_type") == Some("offline"),
            by_get: false,
        })
    }
}

async fn who(app: &AppState, asked: &Asked, wanted: &Wanted<'_>) -> Result<Caller, NoToken> {
    let presented = match &wanted.proof {
        Proof::Refresh(token) => return app.authority.recall(token).await,
        // A token says what it is for; it gets nobody another one.
        Proof::Presented(Presented::Token(_)) => return Err(Refusal::Token.into()),
        Proof::Presented(presented) => presented,
    };
    match app.authority.identify(presented, &asked.origin()).await {
        Ok(caller) => Ok(caller),
        // That one is for us, whatever came of it.
        Err(refusal @ (Refusal::Foreign { .. } | Refusal::IssuerSilent { .. })) => Err(refusal.into()),
        Err(refusal) => stranger_instead(app, asked, wanted).ok_or_else(|| refusal.into()),
    }
}

/// Docker's daemon shows a mirror of its default registry the password for that registry, which is none of ours. Where
/// everybody may pull what it wants, it gets that; otherwise it would go past the mirror without a word to anybody.
fn stranger_instead(app: &AppState, asked: &Asked, wanted: &Wanted<'_>) -> Option<Caller> {
    let stranger = app.authority.stranger(&asked.origin());
    let may_pull = |scope: &Scope| match scope {
        Scope::List => false,
        Scope::Repository { name, wanted } => {
            let only_pulls = wanted.iter().eq([Permission::Pull]);
            only_pulls && stranger.decide(|| app.registry.known_as(&target(asked, name))).allowed.has(Permission::Pull)
        }
    };
    let is_pull = wanted.by_get && !wanted.offline && !wanted.scopes.is_empty() && wanted.scopes.iter().all(may_pull);
    is_pull.then_some(stranger)
}

fn target(asked: &Asked, name: &RepositoryName) -> Target {
    Target { ns: None, ..asked.target(name) }
}

async fn form(app: &AppState, body: RequestBody) -> Result<Query, ApiError> {
    let body = Limited::new(patience::patient(body, app.read_timeout), FORM_BYTES_MAX);
    let bytes = body.collect().await.map_err(|_| bad_request("the form is too long, or broke off"))?.to_bytes();
    let text = std::str::from_utf8(&bytes).map_err(|_| bad_request("the form is no text"))?;
    Ok(Query::parse(text))
}

fn bad_request(message: &str) -> ApiError {
    ApiError::bad_request(ErrorCode::Unsupported, message)
}

fn told(issued: &Issued, refresh: Option<&SecretString>) -> Response {
    let token = issued.token.expose_secret();
    let answer = Answer {
        token,
        access_token: token,
        token_type: "Bearer",
        expires_in: issued.lifetime.as_secs(),
        issued_at: Moment(issued.issued_ms),
        refresh_token: refresh.map(SecretString::expose_secret),
    };
    let text = serde_json::to_string(&answer).expect("an answer is plain JSON");
    let mut response = (StatusCode::OK, Body::full(text.into())).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
