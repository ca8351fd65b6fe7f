use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ID: &str = "7f0b9f0e-6a4c-4e8b-9c53-2f1f8f2f6c11";

fn get(path: &str) -> Result<Action, Unroutable> {
    route(&Method::GET, path)
}

#[test]
fn names_may_look_like_endpoints() {
    for name in ["a", "library/nginx", "a/blobs/uploads", "a/manifests/b", "tags/list/a", "blobs/uploads/x", "v2/a"] {
        let parsed: RepositoryName = name.parse().unwrap();
        let path = |rest: &str| format!("/v2/{name}/{rest}");
        assert_eq!(get(&path("tags/list")), Ok(Action::ListTags { name: parsed.clone() }), "{name}");
        let digest = DIGEST.parse().unwrap();
        assert_eq!(get(&path(&format!("blobs/{DIGEST}"))), Ok(Action::PullBlob { name: parsed.clone(), digest }));
        let id = ID.parse().unwrap();
        assert_eq!(get(&path(&format!("blobs/uploads/{ID}"))), Ok(Action::FindUpload { name: parsed.clone(), id }));
        let started = route(&Method::POST, &path("blobs/uploads/"));
        assert_eq!(started, Ok(Action::StartUpload { name: parsed.clone() }), "{name}");
        let reference = "latest".parse().unwrap();
        assert_eq!(get(&path("manifests/latest")), Ok(Action::PullManifest { name: parsed, reference }));
    }
}

#[test]
fn an_encoded_colon_is_the_only_encoding() {
    let encoded = DIGEST.replace(':', "%3A");
    assert!(matches!(get(&format!("/v2/a/blobs/{encoded}")), Ok(Action::PullBlob { .. })));
    assert!(matches!(
        get(&format!("/v2/a/manifests/{}", encoded.replace("%3A", "%3a"))),
        Ok(Action::PullManifest { .. })
    ));
    for path in
        ["/v2/a%2Fb/tags/list", "/v2/a/manifests/%6Catest", "/v2/a/manifests/sha256%253Aaa", "/v2/a/manifests/a%00"]
    {
        assert_eq!(get(path), Err(Unroutable::Encoding), "{path}");
    }
}

#[test]
fn what_is_no_endpoint_is_told_apart_by_its_reason() {
    assert_eq!(get("/v2/a"), Err(Unroutable::Path));
    assert_eq!(get("/v2/a/b/c"), Err(Unroutable::Path));
    assert_eq!(get("/v3/"), Err(Unroutable::Path));
    assert!(matches!(get("/v2/A/tags/list"), Err(Unroutable::Name(_))));
    assert!(matches!(get("/v2/../tags/list"), Err(Unroutable::Name(_))));
    assert!(matches!(get("/v2//tags/list"), Err(Unroutable::Name(_))));
    assert!(matches!(get("/v2/a/blobs/sha256:00"), Err(Unroutable::Digest(_))));
    assert!(matches!(get("/v2/a/manifests/.x"), Err(Unroutable::Reference(_))));
    assert!(matches!(get("/v2/a/blobs/uploads/../x"), Err(Unroutable::Path | Unroutable::Name(_))));
    assert!(matches!(get("/v2/a/blobs/uploads/x"), Err(Unroutable::Upload(_))));
    assert_eq!(route(&Method::POST, "/v2/"), Err(Unroutable::Method { allow: "GET, HEAD" }));
    assert_eq!(get("/v2/a/blobs/uploads/"), Err(Unroutable::Method { allow: "POST" }));
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(name in "[a-z0-9]{1,5}(/(blobs|uploads|manifests|tags|list|[a-z0-9]{1,5})){0,4}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}") {
        let (parsed, reference): (RepositoryName, Reference) = (name.parse().unwrap(), tag.parse().unwrap());
        prop_assert_eq!(get(&format!("/v2/{name}/manifests/{tag}")), Ok(Action::PullManifest { name: parsed, reference }));
    }

    #[test]
    fn no_path_panics_and_none_escapes_the_grammar(path in "/v2/[a-zA-Z0-9_.:/%-]{0,60}") {
        if let Ok(action) = get(&path) {
            prop_assert!(action.name().is_none_or(|name| !name.as_str().contains("..")));
        }
    }

    #[test]
    fn no_text_panics(path in "\\PC{0,80}") {
        let _ = get(&path);
    }
}
