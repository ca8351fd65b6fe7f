//! (method, path) → [`Action`] below `/api/`: pure.

use http::Method;

/// What a request to `/api/v1/` wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The blobs being fetched now.
    ListFills,
    /// How far the check of the stored blobs is, and what is lost.
    ShowScrub,
    /// Why a reference is answered as it is.
    Explain,
    /// What is pinned.
    ListPins,
    /// Keep something from eviction.
    Pin,
    /// Keep it no more.
    Unpin,
    /// What is kept here.
    ListContent,
    /// Take something away.
    RemoveContent,
    /// What the rules of retention do not keep.
    PlanRetention,
    /// Delete that.
    ApplyRetention,
}

/// Why a request is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// No endpoint has this path.
    #[error("there is no such endpoint under /api/: there are /api/v1/ content, fills, pins, retention, scrub and why")]
    Path,
    /// The endpoint does not know this method.
    #[error("this endpoint takes {allow}")]
    Method {
        /// What it knows.
        allow: &'static str,
    },
}

impl Action {
    /// The word for log and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ListFills => "list_fills",
            Self::ShowScrub => "show_scrub",
            Self::Explain => "explain",
            Self::ListPins => "list_pins",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::ListContent => "list_content",
            Self::RemoveContent => "remove_content",
            Self::PlanRetention => "plan_retention",
            Self::ApplyRetention => "apply_retention",
        }
    }
}

/// The action of a request. `path` is the path as it came.
pub fn route(method: &Method, path: &str) -> Result<Action, Unroutable> {
    let (read, changes): (Action, &[(Method, Action)]) = match path {
        "/api/v1/fills" => (Action::ListFills, &[]),
        "/api/v1/scrub" => (Action::ShowScrub, &[]),
        "/api/v1/why" => (Action::Explain, &[]),
        "/api/v1/pins" => (Action::ListPins, &[(Method::PUT, Action::Pin), (Method::DELETE, Action::Unpin)]),
        "/api/v1/content" => (Action::ListContent, &[(Method::DELETE, Action::RemoveContent)]),
        "/api/v1/retention" => (Action::PlanRetention, &[(Method::PUT, Action::ApplyRetention)]),
        _ => return Err(Unroutable::Path),
    };
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(read);
    }
    let change = changes.iter().find(|(changing, _)| changing == method);
    change.map(|(_, action)| action.clone()).ok_or(Unroutable::Method { allow: allowed(changes) })
}

/// What an endpoint takes. Changes are PUT or DELETE: pages of other sites can send neither without being allowed to.
fn allowed(changes: &[(Method, Action)]) -> &'static str {
    let takes = |method: &Method| changes.iter().any(|(changing, _)| changing == method);
    match (takes(&Method::PUT), takes(&Method::DELETE)) {
        (false, false) => "GET, HEAD",
        (true, false) => "GET, HEAD, PUT",
        (false, true) => "GET, HEAD, DELETE",
        (true, true) => "GET, HEAD, PUT, DELETE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_its_path_and_methods() {
        for (method, path, routed) in [
            (Method::GET, "/api/v1/fills", Ok(Action::ListFills)),
            (Method::HEAD, "/api/v1/fills", Ok(Action::ListFills)),
            (Method::POST, "/api/v1/fills", Err(Unroutable::Method { allow: "GET, HEAD" })),
            (Method::GET, "/api/v1/scrub", Ok(Action::ShowScrub)),
            (Method::GET, "/api/v1/why", Ok(Action::Explain)),
            (Method::GET, "/api/v1/pins", Ok(Action::ListPins)),
            (Method::PUT, "/api/v1/pins", Ok(Action::Pin)),
            (Method::DELETE, "/api/v1/pins", Ok(Action::Unpin)),
            (Method::POST, "/api/v1/pins", Err(Unroutable::Method { allow: "GET, HEAD, PUT, DELETE" })),
            (Method::GET, "/api/v1/content", Ok(Action::ListContent)),
            (Method::DELETE, "/api/v1/content", Ok(Action::RemoveContent)),
            (Method::PUT, "/api/v1/content", Err(Unroutable::Method { allow: "GET, HEAD, DELETE" })),
            (Method::GET, "/api/v1/retention", Ok(Action::PlanRetention)),
            (Method::PUT, "/api/v1/retention", Ok(Action::ApplyRetention)),
            (Method::DELETE, "/api/v1/retention", Err(Unroutable::Method { allow: "GET, HEAD, PUT" })),
            (Method::GET, "/api/v1/fills/", Err(Unroutable::Path)),
            (Method::GET, "/api/v2/fills", Err(Unroutable::Path)),
            (Method::GET, "/api/", Err(Unroutable::Path)),
        ] {
            assert_eq!(route(&method, path), routed, "{method} {path}");
        }
    }
}
