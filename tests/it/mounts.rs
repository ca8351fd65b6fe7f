//! Mounting a blob from another repository, in the spellings clients use.

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::push::{assert_refused, close, digest_of};
use crate::support::registry::TestRegistry;
use crate::support::upstream::FakeUpstream;

async fn mount(registry: &TestRegistry, repository: &str, query: &str) -> Answer {
    registry.send(Call::new("POST", &format!("/v2/{repository}/blobs/uploads/?{query}")).body("")).await
}

async fn assert_mounted(registry: &TestRegistry, answer: &Answer, repository: &str, bytes: &[u8]) {
    let digest = digest_of(bytes);
    assert_eq!(answer.status(), 201, "{repository}: {:?}", answer.body);
    assert_eq!(answer.header("location"), Some(format!("/v2/{repository}/blobs/{digest}").as_str()));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
    let pulled = registry.get(&format!("/v2/{repository}/blobs/{digest}")).await;
    assert!(pulled.looks_complete() && pulled.body == bytes, "{repository}");
}

/// 202 is always a legal way out; the session it opens must work.
async fn assert_started(registry: &TestRegistry, answer: &Answer, bytes: &[u8]) {
    assert_eq!(answer.status(), 202, "{:?}", answer.body);
    let session = answer.header("location").expect("a session has a place");
    assert_eq!(close(registry, session, &digest_of(bytes), bytes.to_vec()).await.status(), 201);
}

#[tokio::test]
async fn a_blob_is_mounted_raw_and_escaped() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(100_000, 1);
    let digest = registry.push_blob("local/a", bytes.clone()).await;
    let escaped = digest.to_string().replace(':', "%3A");
    let spellings = [
        ("docker/classic", format!("from=local%2Fa&mount={escaped}")),
        ("containerd/raw", format!("mount={digest}&from=local/a")),
        ("lower/case", format!("mount={}&from=local%2fa", escaped.to_lowercase())),
    ];
    let before = registry.sums().pushed;
    for (repository, query) in spellings {
        let answer = mount(&registry, repository, &query).await;
        assert_mounted(&registry, &answer, repository, &bytes).await;
    }
    assert_eq!(registry.sums().pushed, before, "a mount takes no space");
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_is_mounted_without_saying_from_where() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(1000, 2);
    let digest = registry.push_blob("local/a", bytes.clone()).await;
    for (repository, query) in [("b", format!("mount={digest}")), ("c", format!("mount={digest}&from="))] {
        let answer = mount(&registry, repository, &query).await;
        assert_mounted(&registry, &answer, repository, &bytes).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_the_source_lacks_is_uploaded_instead() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(1000, 3);
    let digest = registry.push_blob("has/it", bytes.clone()).await;
    for from in ["lacks/it", "never/heard", "here"] {
        let answer = mount(&registry, "here", &format!("mount={digest}&from={from}")).await;
        assert_eq!(answer.status(), 202, "from {from}");
        let session = answer.header("location").unwrap();
        registry.send(Call::new("DELETE", session)).await;
        assert_eq!(registry.head(&format!("/v2/here/blobs/{digest}")).await.status(), 404, "from {from}");
    }
    let unknown = content(500, 4);
    let answer = mount(&registry, "here", &format!("mount={}&from=has/it", digest_of(&unknown))).await;
    assert_started(&registry, &answer, &unknown).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_deleted_blob_is_not_mounted() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(1000, 5);
    let digest = registry.push_blob("a", bytes.clone()).await;
    registry.send(Call::new("DELETE", &format!("/v2/a/blobs/{digest}"))).await;
    let answer = mount(&registry, "b", &format!("mount={digest}&from=a")).await;
    assert_started(&registry, &answer, &bytes).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_pulled_through_the_cache_is_mounted_and_kept_from_then_on() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 6);
    let digest = fake.push_blob("library/small", bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let pulled = registry.get(&format!("/v2/library/small/blobs/{digest}")).await;
    assert_eq!(pulled.status(), 200);
    registry.fills_end().await;
    for (repository, from) in [("one", "library/small"), ("two", "hub.example/library/small")] {
        let answer = mount(&registry, repository, &format!("mount={digest}&from={from}")).await;
        assert_mounted(&registry, &answer, repository, &bytes).await;
    }
    assert_eq!((registry.sums().cached, registry.sums().pushed > 0), (0, true), "a mounted blob is pushed content");
    registry.finish().await;
}

#[tokio::test]
async fn a_mount_never_asks_an_upstream() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1000, 7);
    let digest = fake.push_blob("library/small", bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let answer = mount(&registry, "team/app", &format!("mount={digest}&from=library/small")).await;
    assert_started(&registry, &answer, &bytes).await;
    assert_eq!(fake.requests().0.len(), 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_malformed_mount_is_refused_and_opens_no_session() {
    let registry = TestRegistry::builder().start().await;
    let digest = digest_of(b"x");
    let refusals = [
        ("mount=sha256:zz&from=a".to_owned(), "DIGEST_INVALID"),
        ("mount=&from=a".to_owned(), "DIGEST_INVALID"),
        (format!("mount={digest}&from=UPPER"), "NAME_INVALID"),
        (format!("mount={digest}&from=../etc"), "NAME_INVALID"),
        (format!("mount={digest}&from=a%252Fb"), "NAME_INVALID"),
    ];
    for (query, code) in refusals {
        assert_refused(&mount(&registry, "app", &query).await, 400, code, &query);
    }
    crate::support::push::assert_holds_nothing(&registry, "malformed mounts").await;
    registry.finish().await;
}
