//! Taking away tags, manifests and blobs: at once, in whole, and only where it was asked.

use serde_json::json;

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::push::{IMAGE, assert_refused, digest_of, push_image};
use crate::support::registry::TestRegistry;
use crate::support::upstream::FakeUpstream;

async fn delete(registry: &TestRegistry, path: &str) -> Answer {
    registry.send(Call::new("DELETE", path)).await
}

#[tokio::test]
async fn a_deleted_tag_leaves_the_manifest_and_other_tags() {
    let registry = TestRegistry::builder().start().await;
    let bytes = push_image(&registry, "app", "one", b"layer").await;
    registry.push_manifest("app", "two", IMAGE, bytes.clone()).await;
    assert_eq!(registry.get("/v2/app/manifests/one").await.status(), 200);
    assert_eq!(delete(&registry, "/v2/app/manifests/one").await.status(), 202);
    assert_refused(&registry.get("/v2/app/manifests/one").await, 404, "MANIFEST_UNKNOWN", "the tag");
    assert_refused(&delete(&registry, "/v2/app/manifests/one").await, 404, "MANIFEST_UNKNOWN", "once more");
    for reference in ["two".to_owned(), digest_of(&bytes).to_string()] {
        assert_eq!(registry.get(&format!("/v2/app/manifests/{reference}")).await.status(), 200, "{reference}");
    }
    assert_eq!(registry.get("/v2/app/tags/list").await.json()["tags"], json!(["two"]));
    registry.finish().await;
}

#[tokio::test]
async fn a_deleted_manifest_takes_its_tags_along() {
    let registry = TestRegistry::builder().start().await;
    let bytes = push_image(&registry, "app", "one", b"layer").await;
    let other = push_image(&registry, "app", "other", b"other").await;
    registry.push_manifest("app", "two", IMAGE, bytes.clone()).await;
    let by_digest = format!("/v2/app/manifests/{}", digest_of(&bytes));
    for path in [by_digest.as_str(), "/v2/app/manifests/one", "/v2/app/manifests/two"] {
        assert_eq!(registry.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(delete(&registry, &by_digest).await.status(), 202);
    for path in [by_digest.as_str(), "/v2/app/manifests/one", "/v2/app/manifests/two"] {
        assert_refused(&registry.get(path).await, 404, "MANIFEST_UNKNOWN", path);
    }
    assert_refused(&delete(&registry, &by_digest).await, 404, "MANIFEST_UNKNOWN", "once more");
    assert_eq!(registry.get("/v2/app/tags/list").await.json()["tags"], json!(["other"]));
    assert_eq!(registry.get("/v2/app/manifests/other").await.body, other);
    registry.finish().await;
}

#[tokio::test]
async fn a_reader_sees_all_tags_of_a_manifest_or_none() {
    let registry = TestRegistry::builder().start().await;
    let bytes = push_image(&registry, "app", "t0", b"layer").await;
    let by_digest = format!("/v2/app/manifests/{}", digest_of(&bytes));
    for _ in 0..5 {
        for tag in 1..8 {
            registry.push_manifest("app", &format!("t{tag}"), IMAGE, bytes.clone()).await;
        }
        registry.push_manifest("app", "t0", IMAGE, bytes.clone()).await;
        let deleting = delete(&registry, &by_digest);
        let listing = async {
            let mut seen = Vec::new();
            for _ in 0..20 {
                let tags = registry.get("/v2/app/tags/list").await.json()["tags"].as_array().unwrap().len();
                seen.push(tags);
            }
            seen
        };
        let (deleted, seen) = tokio::join!(deleting, listing);
        assert_eq!(deleted.status(), 202);
        assert!(seen.iter().all(|tags| [0, 8].contains(tags)), "{seen:?}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_deleted_blob_is_gone_from_its_repository_only() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(1000, 1);
    let digest = registry.push_blob("one", bytes.clone()).await;
    registry.push_blob("two", bytes.clone()).await;
    let path = format!("/v2/one/blobs/{digest}");
    assert_eq!(delete(&registry, &path).await.status(), 202);
    assert_refused(&registry.get(&path).await, 404, "BLOB_UNKNOWN", "GET");
    assert_eq!(registry.head(&path).await.status(), 404);
    assert_refused(&delete(&registry, &path).await, 404, "BLOB_UNKNOWN", "once more");
    assert_eq!(registry.get(&format!("/v2/two/blobs/{digest}")).await.body, bytes);
    assert_eq!(registry.push_blob("one", bytes.clone()).await, digest, "it may come back");
    assert_eq!(registry.get(&path).await.body, bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_is_deleted_all_the_same() {
    let registry = TestRegistry::builder().start().await;
    let manifest = push_image(&registry, "app", "latest", b"layer").await;
    let path = format!("/v2/app/blobs/{}", digest_of(b"layer"));
    assert_eq!(delete(&registry, &path).await.status(), 202);
    assert_refused(&registry.get(&path).await, 404, "BLOB_UNKNOWN", "the blob");
    assert_eq!(registry.get("/v2/app/manifests/latest").await.body, manifest);
    let again = registry.push_manifest("app", "again", IMAGE, manifest).await;
    assert_refused(&again, 404, "MANIFEST_BLOB_UNKNOWN", "a manifest that names it");
    registry.finish().await;
}

#[tokio::test]
async fn what_never_was_cannot_be_deleted() {
    let registry = TestRegistry::builder().start().await;
    let digest = digest_of(b"x");
    for (path, code) in [
        ("/v2/app/manifests/latest".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/app/manifests/{digest}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/app/blobs/{digest}"), "BLOB_UNKNOWN"),
    ] {
        assert_refused(&delete(&registry, &path).await, 404, code, &path);
    }
    registry.finish().await;
}

#[tokio::test]
async fn deletes_survive_a_crash() {
    let mut registry = TestRegistry::builder().start().await;
    let bytes = push_image(&registry, "app", "latest", b"layer").await;
    let digest = registry.push_blob("app", "more").await;
    delete(&registry, &format!("/v2/app/manifests/{}", digest_of(&bytes))).await;
    delete(&registry, &format!("/v2/app/blobs/{digest}")).await;
    registry.kill_and_restart().await;
    assert_eq!(registry.get("/v2/app/manifests/latest").await.status(), 404);
    assert_eq!(registry.get(&format!("/v2/app/blobs/{digest}")).await.status(), 404);
    registry.finish().await;
}

#[tokio::test]
async fn a_private_name_stays_private_when_its_last_tag_is_gone() {
    let fake = FakeUpstream::start().await;
    fake.push_image("team/app", "latest", &[b"somebody else's"]);
    let registry = TestRegistry::over(&fake).await;
    let bytes = push_image(&registry, "team/app", "latest", b"ours").await;
    delete(&registry, &format!("/v2/team/app/manifests/{}", digest_of(&bytes))).await;
    let answer = registry.get("/v2/team/app/manifests/latest").await;
    assert_refused(&answer, 404, "MANIFEST_UNKNOWN", "a private name");
    assert_eq!(fake.requests().0.len(), 0, "a public registry was asked for a private name");
    registry.finish().await;
}
