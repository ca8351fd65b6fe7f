//! Paths of requests: no path panics the router, and whatever it takes for an action says the same when it is spelled out.
#![no_main]

use entrepot::http::route::{Action, route};
use http::Method;
use libfuzzer_sys::fuzz_target;

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];

fuzz_target!(|input: (u8, &str)| {
    let (method, path) = (&METHODS[usize::from(input.0) % METHODS.len()], input.1);
    let Ok(action) = route(method, path) else { return };
    if let Some(name) = action.name() {
        // A name that got through is safe to be a part of paths and of keys.
        assert!(!name.as_str().split('/').any(|part| matches!(part, "" | "." | "..")), "{name}");
    }
    if let Some(spelled) = spell(&action) {
        assert_eq!(route(method, &spelled).as_ref(), Ok(&action), "{spelled}");
    }
});

fn spell(action: &Action) -> Option<String> {
    Some(match action {
        Action::PullManifest { name, reference }
        | Action::PushManifest { name, reference }
        | Action::DeleteManifest { name, reference } => format!("/v2/{name}/manifests/{reference}"),
        Action::PullBlob { name, digest } | Action::DeleteBlob { name, digest } => format!("/v2/{name}/blobs/{digest}"),
        Action::ListReferrers { name, digest } => format!("/v2/{name}/referrers/{digest}"),
        Action::ListTags { name } => format!("/v2/{name}/tags/list"),
        Action::StartUpload { name } => format!("/v2/{name}/blobs/uploads/"),
        Action::FindUpload { name, id }
        | Action::AppendUpload { name, id }
        | Action::FinishUpload { name, id }
        | Action::CancelUpload { name, id } => format!("/v2/{name}/blobs/uploads/{id}"),
        Action::Probe | Action::ListRepositories => return None,
    })
}
