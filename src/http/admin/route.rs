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
    /// The names for programs.
    ListRobots,
    /// Another one.
    CreateRobot,
    /// One less.
    RevokeRobot {
        /// Its name.
        name: String,
    },
    /// Takes a blob in as an upstream's.
    ImportBlob,
    /// Shows a blob that is stored in an upstream's repository.
    ImportLink,
    /// Takes a manifest in as an upstream's, with its tags.
    ImportManifest,
    /// Bring a reference into the cache.
    Warm,
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
    /// Remove what nobody needs any more, or say what that would be.
    Sweep,
}

/// Why a request is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// No endpoint has this path.
    #[error(
        "there is no such endpoint under /api/: there are /api/v1/ content, fills, gc, pins, retention, robots, scrub, warm \
         and why"
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
    /// Does it do more than tell?
    pub const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::ListFills
                | Self::ShowScrub
                | Self::Explain
                | Self::ListRobots
                | Self::ListPins
                | Self::ListContent
                | Self::PlanRetention
        )
    }

    /// The word for log and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ListFills => "list_fills",
            Self::ShowScrub => "show_scrub",
            Self::Explain => "explain",
            Self::ListRobots => "list_robots",
            Self::CreateRobot => "create_robot",
            Self::RevokeRobot { .. } => "revoke_robot",
            Self::ImportBlob => "import_blob",
            Self::ImportLink => "import_link",
            Self::ImportManifest => "import_manifest",
            Self::Warm => "warm",
            Self::ListPins => "list_pins",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::ListContent => "list_content",
            Self::RemoveContent => "remove_content",
            Self::PlanRetention => "plan_retention",
            Self::ApplyRetention => "apply_retention",
            Self::Sweep => "sweep",
        }
    }
}

/// The action of a request. `path` is the path as it came.
pub fn route(method: &Method, path: &str) -> Result<Action, Unroutable> {
    if let Some(name) = path.strip_prefix("/api/v1/robots/").filter(|name| !name.is_empty() && !name.contains('/')) {
        return match *method {
            Method::DELETE => Ok(Action::RevokeRobot { name: name.to_owned() }),
            _ => Err(Unroutable::Method { allow: "DELETE" }),
        };
    }
    let (action, allow) = match path {
        "/api/v1/fills" => (Action::ListFills, READ),
        "/api/v1/scrub" => (Action::ShowScrub, READ),
        "/api/v1/why" => (Action::Explain, READ),
        "/api/v1/gc" => (Action::Sweep, "POST"),
        "/api/v1/warm" => (Action::Warm, "POST"),
        "/api/v1/robots" => {
            (read_or(method, Action::ListRobots, &Method::POST, Action::CreateRobot), "GET, HEAD, POST")
        }
        "/api/v1/cached/blob" => (Action::ImportBlob, "PUT"),
        "/api/v1/cached/link" => (Action::ImportLink, "PUT"),
        "/api/v1/cached/manifest" => (Action::ImportManifest, "PUT"),
        "/api/v1/pins" if *method == Method::DELETE => (Action::Unpin, "GET, HEAD, PUT, DELETE"),
        "/api/v1/pins" => (read_or(method, Action::ListPins, &Method::PUT, Action::Pin), "GET, HEAD, PUT, DELETE"),
        "/api/v1/content" => {
            (read_or(method, Action::ListContent, &Method::DELETE, Action::RemoveContent), "GET, HEAD, DELETE")
        }
        "/api/v1/retention" => {
            (read_or(method, Action::PlanRetention, &Method::PUT, Action::ApplyRetention), "GET, HEAD, PUT")
        }
        _ => return Err(Unroutable::Path),
    };
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        Ok(action)
    } else {
        Err(Unroutable::Method { allow })
    }
}

/// What an endpoint means that can be read, and changed by one method.
fn read_or(method: &Method, read: Action, changing: &Method, change: Action) -> Action {
    if method == changing { change } else { read }
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
            (Method::GET, "/api/v1/robots", Ok(Action::ListRobots)),
            (Method::POST, "/api/v1/robots", Ok(Action::CreateRobot)),
            (Method::PUT, "/api/v1/robots", Err(Unroutable::Method { allow: "GET, HEAD, POST" })),
            (Method::DELETE, "/api/v1/robots/ci", Ok(Action::RevokeRobot { name: "ci".to_owned() })),
            (Method::GET, "/api/v1/robots/ci", Err(Unroutable::Method { allow: "DELETE" })),
            (Method::DELETE, "/api/v1/robots/", Err(Unroutable::Path)),
            (Method::DELETE, "/api/v1/robots/a/b", Err(Unroutable::Path)),
            (Method::PUT, "/api/v1/cached/blob", Ok(Action::ImportBlob)),
            (Method::PUT, "/api/v1/cached/link", Ok(Action::ImportLink)),
            (Method::PUT, "/api/v1/cached/manifest", Ok(Action::ImportManifest)),
            (Method::GET, "/api/v1/cached/blob", Err(Unroutable::Method { allow: "PUT" })),
            (Method::POST, "/api/v1/warm", Ok(Action::Warm)),
            (Method::GET, "/api/v1/warm", Err(Unroutable::Method { allow: "POST" })),
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
            (Method::POST, "/api/v1/gc", Ok(Action::Sweep)),
            (Method::GET, "/api/v1/gc", Err(Unroutable::Method { allow: "POST" })),
            (Method::GET, "/api/v1/fills/", Err(Unroutable::Path)),
            (Method::GET, "/api/v2/fills", Err(Unroutable::Path)),
            (Method::GET, "/api/", Err(Unroutable::Path)),
        ] {
            assert_eq!(route(&method, path), routed, "{method} {path}");
        }
    }
}
