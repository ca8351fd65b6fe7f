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
    /// Remove what nobody needs any more, or say what that would be.
    Sweep,
    /// Bring a reference into the cache.
    Warm,
}

/// Why a request is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// No endpoint has this path.
    #[error(
        "there is no such endpoint under /api/: there are /api/v1/fills, /api/v1/gc, /api/v1/scrub, /api/v1/why?ref=REF \
         and /api/v1/warm"
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
            Self::Sweep => "sweep",
            Self::Warm => "warm",
        }
    }
}

/// The action of a request. `path` is the path as it came.
pub fn route(method: &Method, path: &str) -> Result<Action, Unroutable> {
    let (action, allow) = match path {
        "/api/v1/fills" => (Action::ListFills, READ),
        "/api/v1/scrub" => (Action::ShowScrub, READ),
        "/api/v1/why" => (Action::Explain, READ),
        "/api/v1/warm" => (Action::Warm, "POST"),
        "/api/v1/gc" => (Action::Sweep, "POST"),
        _ => return Err(Unroutable::Path),
    };
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        Ok(action)
    } else {
        Err(Unroutable::Method { allow })
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
            (Method::POST, "/api/v1/gc", Ok(Action::Sweep)),
            (Method::GET, "/api/v1/gc", Err(Unroutable::Method { allow: "POST" })),
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
