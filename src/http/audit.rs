//! Which requests are events of the audit log, and what is told of them there.

use std::borrow::Cow;

use axum::response::Response;
use http::Method;

use super::access_log::Operation;
use super::request::Asked;
use super::{admin, route};
use crate::auth::Presented;
use crate::clock::written;
use crate::telemetry::Audit;
use crate::telemetry::audit::Entry;

/// Letters of what a client says that are written down: nobody fills the disk with one request.
const TEXT_MAX: usize = 300;
/// Tags of one push that are written down; a push has no more.
const TAGS_MAX: usize = 100;

/// By what a request was refused: goes with the answer.
#[derive(Clone, Debug)]
pub struct RefusedBy(pub String);

/// What an order in a body was about: goes with the answer.
#[derive(Clone, Debug)]
pub struct About(pub String);

/// What is kept of a request for the audit log, beside its line in the other one.
#[derive(Debug, Default)]
pub struct Notes {
    /// Who it says it is.
    pub claimed: Option<String>,
    /// What allowed it.
    pub rule: Option<String>,
    /// It presented something, be it right or wrong.
    pub presents: bool,
    about: Option<String>,
    from: Option<String>,
    mounts: bool,
    tags: Vec<String>,
}

/// What the line of a request knows.
#[derive(Debug)]
pub struct Known<'a> {
    pub now_ms: i64,
    pub operation: &'a Operation,
    pub identity: Option<&'a str>,
    pub client: Option<std::net::IpAddr>,
    pub method: &'a Method,
    pub request_id: String,
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

impl Notes {
    /// Takes down what the request says, but no secret.
    pub fn take(&mut self, asked: &Asked) {
        let first = |key: &str| asked.query.first(key).map(short);
        self.about = first("ref").or_else(|| first("repository"));
        (self.from, self.mounts) = (first("from"), first("mount").is_some());
        self.tags = asked.query.all("tag").take(TAGS_MAX).map(short).collect();
        self.presented(&asked.presented());
    }

    /// Takes down who somebody says it is.
    pub fn presented(&mut self, presented: &Presented<'_>) {
        self.presents = !matches!(presented, Presented::Nothing);
        if let Presented::Password { username, .. } = presented {
            self.claimed = Some(short(username));
        }
    }

    /// Writes the event down, if the request is one; without `answer` its client left before there was one.
    pub fn record(&self, audit: &Audit, known: &Known<'_>, answer: Option<&Response>) {
        let status = answer.map(|answer| answer.status().as_u16());
        let refused = answer.and_then(|answer| answer.extensions().get::<RefusedBy>());
        let is_denied = refused.is_some() || matches!(status, Some(401 | 403));
        if !self.is_event(audit, known, status, is_denied) {
            return;
        }
        let header = |name: &str| answer.and_then(|answer| answer.headers().get(name)?.to_str().ok());
        let about = answer.and_then(|answer| answer.extensions().get::<About>()).map(|about| about.0.as_str());
        let (repository, reference) = match known.operation {
            Operation::Registry(action) => {
                (action.name().map(ToString::to_string), action.reference().map(Cow::into_owned))
            }
            Operation::Admin(admin::Action::RevokeRobot { name }) => (None, Some(name.clone())),
            Operation::Admin(_) | Operation::Token => (None, None),
        };
        audit.record(&Entry {
            time: written(known.now_ms),
            event: self.event(known.operation, status),
            decision: if is_denied { "denied" } else { "allowed" },
            rule: if is_denied { refused.map(|refused| refused.0.clone()) } else { self.rule.clone() },
            identity: known.identity.unwrap_or("anonymous"),
            claimed: self.claimed.as_deref().filter(|_| known.identity.is_none()),
            client: known.client,
            method: Some(known.method.as_str()),
            repository,
            reference: reference.as_deref().or(about).or(self.about.as_deref()),
            tags: &self.tags,
            from: self.from.as_deref().filter(|_| self.mounts),
            digest: header("docker-content-digest"),
            status,
            request_id: Some(known.request_id.clone()),
        });
    }

    fn event(&self, operation: &Operation, status: Option<u16>) -> &'static str {
        match operation {
            Operation::Registry(route::Action::StartUpload { .. }) if status == Some(201) => {
                if self.mounts {
                    "mount_blob"
                } else {
                    "push_blob"
                }
            }
            Operation::Registry(route::Action::Probe) => "login",
            operation => operation.as_str(),
        }
    }

    fn is_event(&self, audit: &Audit, known: &Known<'_>, status: Option<u16>, is_denied: bool) -> bool {
        use route::Action as A;
        match known.operation {
            // Every client begins with that, to learn how to sign in: nobody is refused anything yet.
            Operation::Registry(A::Probe) => known.identity.is_some() || (is_denied && self.presents),
            _ if is_denied => true,
            Operation::Token => true,
            Operation::Registry(A::StartUpload { .. }) => status == Some(201),
            Operation::Registry(A::PullManifest { .. } | A::PullBlob { .. }) => audit.has_pulls(),
            Operation::Registry(action) => matches!(
                action,
                A::PushManifest { .. } | A::FinishUpload { .. } | A::DeleteManifest { .. } | A::DeleteBlob { .. }
            ),
            Operation::Admin(action) => action.changes(),
        }
    }
}
