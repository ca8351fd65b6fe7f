//! `/api/v1/robots`: the robots, a new one, one less.

use std::time::Duration;

use axum::body::Body as RequestBody;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::{Moment, json};
use crate::auth::{NewRobot, Permission, Permissions, ROBOT_PREFIX, Robot, RobotError, Robots};
use crate::http::audit::About;
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::request::RequestId;
use crate::oci::ErrorCode;

/// What a request may say of a robot.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Every robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// By name.
    pub robots: Vec<RobotShown>,
}

/// A robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobotShown {
    /// Its name.
    pub name: String,
    /// What it logs in as.
    pub username: String,
    /// What it may do.
    pub allow: Vec<String>,
    /// Where: patterns of repositories.
    pub repositories: Vec<String>,
    /// When it was made.
    pub created_at: Moment,
    /// When it ends; never, without.
    pub expires_at: Option<Moment>,
    /// Its token, when it is made and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A robot to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobotWanted {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub allow: Vec<String>,
    /// Where: patterns of repositories.
    pub repositories: Vec<String>,
    /// For how long; for ever, without.
    #[serde(default)]
    pub lifetime_seconds: Option<u64>,
}

impl RobotShown {
    /// What may be shown of a robot.
    pub fn of(robot: Robot, token: Option<String>) -> Self {
        Self {
            username: format!("{ROBOT_PREFIX}{}", robot.name),
            allow: robot.allow.iter().map(|permission| permission.as_str().to_owned()).collect(),
            repositories: robot.repositories,
            created_at: Moment(robot.created_ms),
            expires_at: robot.expires_ms.map(Moment),
            name: robot.name,
            token,
        }
    }
}

impl RobotWanted {
    /// What is wanted, in the words of those who make it. `None` if a permission is none.
    pub fn parsed(self) -> Option<NewRobot> {
        let permission = |word: &String| Permission::ALL.into_iter().find(|permission| permission.as_str() == word);
        let allow: Permissions = self.allow.iter().map(permission).collect::<Option<_>>()?;
        let lifetime = self.lifetime_seconds.map(Duration::from_secs);
        Some(NewRobot { name: self.name, allow, repositories: self.repositories, lifetime })
    }
}

/// GET.
pub fn list(robots: &Robots) -> Response {
    let robots = robots.list().into_iter().map(|robot| RobotShown::of(robot, None)).collect();
    json(&Listed { robots })
}

/// POST.
pub async fn create(robots: &Robots, body: RequestBody, now_ms: i64, id: RequestId) -> Result<Response, ApiError> {
    let unreadable = |what: String| ApiError::bad_request(ErrorCode::Unsupported, what);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|_| unreadable("the body is too long, or broke off".to_owned()))?.to_bytes();
    let wanted: RobotWanted = serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
    let wanted = wanted.parsed().ok_or_else(|| unreadable("allow has pull, push and delete".to_owned()))?;
    match robots.create(wanted, now_ms).await {
        Ok((robot, token)) => {
            let shown = RobotShown::of(robot, Some(token.expose_secret().to_owned()));
            let mut answer = (StatusCode::CREATED, json(&shown)).into_response();
            answer.extensions_mut().insert(About(shown.name));
            Ok(answer)
        }
        Err(RobotError::Auth(error)) => Err(ApiError::internal(&error, &id.to_string())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// DELETE.
pub async fn revoke(robots: &Robots, name: &str, id: RequestId) -> Result<Response, ApiError> {
    match robots.revoke(name).await {
        Ok(true) => Ok((StatusCode::NO_CONTENT, Body::empty()).into_response()),
        Ok(false) => Err(ApiError::no_endpoint(format!("there is no robot {name}"))),
        Err(error) => Err(ApiError::internal(&error, &id.to_string())),
    }
}
