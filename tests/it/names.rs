//! Every way a client may name a repository, and a closed world behind all of them.

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

/// Two upstreams: the default one that keeps single names below `library/`, and another.
async fn two() -> (FakeUpstream, FakeUpstream, TestRegistry) {
    let (hub, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let builder = TestRegistry::builder().default_upstream("docker.io", &hub).upstream("other.example", &other);
    let registry = builder
        .upstreams(|upstream| {
            if upstream.name == "other.example" {
                upstream.hosts = vec!["mirror.example".to_owned()];
            }
        })
        .start()
        .await;
    (hub, other, registry)
}

async fn tag_of(registry: &TestRegistry, repository: &str, query: &str) -> Answer {
    registry.get(&format!("/v2/{repository}/manifests/1{query}")).await
}

#[tokio::test]
async fn one_repository_has_many_spellings_and_is_kept_once() {
    let (hub, _other, registry) = two().await;
    let image = hub.push_image("library/nginx", "1", &[b"layer"]);
    for (repository, query) in [
        ("nginx", ""),
        ("library/nginx", ""),
        ("docker.io/nginx", ""),
        ("docker.io/library/nginx", ""),
        ("nginx", "?ns=docker.io"),
        ("library/nginx", "?ns=docker.io"),
    ] {
        let answer = tag_of(&registry, repository, query).await;
        assert_eq!(answer.status(), 200, "{repository}{query}");
        assert!(answer.body == image.manifest_bytes);
        let namespace = (!query.is_empty()).then_some("docker.io");
        assert_eq!(answer.header("oci-namespace"), namespace, "{repository}{query}");
    }
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(hub.requests().last().path, "/v2/library/nginx/manifests/1");
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!(["docker.io/library/nginx"]));
    registry.finish().await;
}

#[tokio::test]
async fn another_upstream_is_meant_by_ns_by_prefix_and_by_host() {
    let (hub, other, registry) = two().await;
    let image = other.push_image("app", "1", &[b"layer"]);
    let by_ns = tag_of(&registry, "app", "?ns=other.example").await;
    let by_prefix = tag_of(&registry, "other.example/app", "").await;
    let by_host = Call::get(&manifest_path("app", "1")).header("host", "mirror.example:5000");
    let by_host = registry.send(by_host).await;
    for answer in [&by_ns, &by_prefix, &by_host] {
        assert_eq!(answer.status(), 200);
        assert!(answer.body == image.manifest_bytes);
    }
    // A single name stays single there: `library/` is a custom of one registry.
    assert_eq!(other.requests().last().path, "/v2/app/manifests/1");
    assert_eq!((other.requests().len(), hub.requests().len()), (1, 0));
    registry.finish().await;
}

#[tokio::test]
async fn an_unknown_ns_is_refused_and_nobody_is_asked() {
    let (hub, other, registry) = two().await;
    hub.push_image("library/nginx", "1", &[b"layer"]);
    let digest = hub.push_blob("library/nginx", content(10, 1));
    for ns in ["unknown.example", "other.example:444", "", "docker.io/evil", "..", "%00"] {
        for path in [manifest_path("library/nginx", "1"), blob_path("library/nginx", &digest)] {
            for call in [Call::get(&format!("{path}?ns={ns}")), Call::head(&format!("{path}?ns={ns}"))] {
                let answer = registry.send(call).await;
                assert_eq!(answer.status(), 404, "ns={ns}");
                assert!(answer.body.is_empty() || answer.code() == "NAME_UNKNOWN", "ns={ns}");
            }
        }
    }
    assert_eq!((hub.requests().len(), other.requests().len()), (0, 0));
    registry.finish().await;
}

#[tokio::test]
async fn a_prefix_that_is_no_configured_upstream_is_not_asked_of_the_default_one() {
    let (hub, other, registry) = two().await;
    for name in ["unknown.example/app", "registry.corp/team/app", "localhost/app"] {
        let answer = tag_of(&registry, name, "").await;
        assert_eq!(answer.status(), 404, "{name}");
    }
    assert_eq!((hub.requests().len(), other.requests().len()), (0, 0));
    registry.finish().await;
}

#[tokio::test]
async fn without_a_default_upstream_plain_names_are_local() {
    let fake = FakeUpstream::start().await;
    fake.push_image("team/app", "1", &[b"layer"]);
    let registry = TestRegistry::builder().upstream("other.example", &fake).start().await;
    assert_eq!(tag_of(&registry, "team/app", "").await.status(), 404);
    assert_eq!(fake.requests().len(), 0);
    assert_eq!(tag_of(&registry, "other.example/team/app", "").await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_is_stored_is_read_through_another_repository_after_one_head() {
    let (hub, _other, registry) = two().await;
    let bytes = content(300_000, 1);
    let digest = hub.push_blob("team/one", bytes.clone());
    hub.push_blob("team/two", bytes.clone());
    registry.get(&blob_path("team/one", &digest)).await;
    registry.fills_end().await;
    for heads in [1, 1] {
        let answer = registry.get(&blob_path("team/two", &digest)).await;
        assert!(answer.looks_complete() && answer.body == bytes);
        assert_eq!(answer.cache(), "hit");
        let asked: Vec<String> = hub.requests().0.iter().skip(1).map(|request| request.method.clone()).collect();
        assert_eq!(asked, vec!["HEAD"; heads]);
    }
    let third = registry.get(&blob_path("team/three", &digest)).await;
    assert_eq!((third.status(), third.code().as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(hub.requests().blobs_got(&digest), 1, "it was transferred twice");
    registry.finish().await;
}

#[tokio::test]
async fn a_stored_blob_is_not_read_through_another_upstream_that_refuses_it() {
    let (hub, other, registry) = two().await;
    let digest = hub.push_blob("team/one", content(300_000, 1));
    registry.get(&blob_path("team/one", &digest)).await;
    registry.fills_end().await;
    other.fault(crate::support::upstream::On::any(), crate::support::upstream::Fault::status(401));
    let path = blob_path("other.example/team/one", &digest);
    for answer in [registry.get(&path).await, registry.head(&path).await] {
        assert_eq!(answer.status(), 404);
    }
    registry.finish().await;
}
