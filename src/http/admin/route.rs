//! (method, path) → [`Action`] below `/api/`: pure.

use http::Method;

/// The methods of what only tells.
const READ: &str = "GET, HEAD";

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
    /// Bring a reference into the cache.
    Warm,
}

/// Why a request is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// No endpoint has this path.
    #[error(
        "there is no such endpoint under /api/: there are /api/v1/ content, fills, pins, retention, scrub, warm and why"
    )]
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
            Self::Warm => "warm",
        }
    }
}

/// The action of a request. `path` is the path as it came.
pub fn route(method: &Method, path: &str) -> Result<Action, Unroutable> {
    let action = match (path, method) {
        ("/api/v1/fills", &Method::GET | &Method::HEAD) => Action::ListFills,
        ("/api/v1/scrub", &Method::GET | &Method::HEAD) => Action::ShowScrub,
        ("/api/v1/why", &Method::GET | &Method::HEAD) => Action::Explain,
        ("/api/v1/warm", &Method::POST) => Action::Warm,
        ("/api/v1/pins", &Method::GET | &Method::HEAD) => Action::ListPins,
        ("/api/v1/pins", &Method::PUT) => Action::Pin,
        ("/api/v1/pins", &Method::DELETE) => Action::Unpin,
        ("/api/v1/content", &Method::GET | &Method::HEAD) => Action::ListContent,
        ("/api/v1/content", &Method::DELETE) => Action::RemoveContent,
        ("/api/v1/retention", &Method::GET | &Method::HEAD) => Action::PlanRetention,
        ("/api/v1/retention", &Method::PUT) => Action::ApplyRetention,
        _ => return Err(allowed(path).map_or(Unroutable::Path, |allow| Unroutable::Method { allow })),
    };
    Ok(action)
}

/// What an endpoint takes; `None` if there is none.
fn allowed(path: &str) -> Option<&'static str> {
    match path {
        "/api/v1/fills" | "/api/v1/scrub" | "/api/v1/why" => Some(READ),
        "/api/v1/warm" => Some("POST"),
        "/api/v1/pins" => Some("GET, HEAD, PUT, DELETE"),
        "/api/v1/content" => Some("GET, HEAD, DELETE"),
        "/api/v1/retention" => Some("GET, HEAD, PUT"),
        _ => None,
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
            (Method::POST, "/api/v1/warm", Ok(Action::Warm)),
            (Method::GET, "/api/v1/warm", Err(Unroutable::Method { allow: "POST" })),
            (Method::GET, "/api/v1/fills/", Err(Unroutable::Path)),
            (Method::GET, "/api/v2/fills", Err(Unroutable::Path)),
            (Method::GET, "/api/", Err(Unroutable::Path)),
        ] {
            assert_eq!(route(&method, path), routed, "{method} {path}");
        }
    }
}
