//! Tags of pushed manifests: set with the push, several at once, moved.

use bytes::Bytes;
use serde_json::json;

use crate::support::client::{Answer, Call};
use crate::support::push::{IMAGE, assert_holds_nothing, assert_refused, digest_of, image, push_image};
use crate::support::registry::TestRegistry;

/// Pushes a manifest by its digest with these tags in the query.
async fn push_tagged(registry: &TestRegistry, bytes: &Bytes, tags: &[String]) -> Answer {
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let path = format!("/v2/app/manifests/{}?{}", digest_of(bytes), query.join("&"));
    registry.send(Call::new("PUT", &path).header("content-type", IMAGE).body(bytes.clone())).await
}

async fn ready(sparse: entrepot::config::Sparse) -> (TestRegistry, Bytes) {
    let registry = TestRegistry::builder().config(|config| config.push.sparse = sparse).start().await;
    (registry, Bytes::from(image(b"config", &[b"layer"]).to_string()))
}

#[tokio::test]
async fn a_push_by_digest_sets_all_tags_of_its_query() {
    let (registry, bytes) = ready(entrepot::config::Sparse::Accept).await;
    let tags = ["1", "1.2", "1.2.3", "latest"].map(str::to_owned);
    let answer = push_tagged(&registry, &bytes, &tags).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body);
    let told: Vec<String> =
        answer.head.lasting().into_iter().filter(|(name, _)| name == "oci-tag").map(|(_, tag)| tag).collect();
    assert_eq!(told, tags);
    for tag in &tags {
        assert_eq!(registry.get(&format!("/v2/app/manifests/{tag}")).await.body, bytes);
    }
    assert_eq!(registry.get("/v2/app/tags/list").await.json()["tags"], json!(tags));
    registry.finish().await;
}

#[tokio::test]
async fn a_push_sets_all_its_tags_or_none() {
    let (registry, bytes) = ready(entrepot::config::Sparse::Accept).await;
    let many: Vec<String> = (0..101).map(|at| format!("t{at}")).collect();
    assert_refused(&push_tagged(&registry, &bytes, &many).await, 414, "MANIFEST_INVALID", "101 tags");
    let malformed = ["good".to_owned(), "-bad".to_owned()];
    assert_refused(&push_tagged(&registry, &bytes, &malformed).await, 400, "MANIFEST_INVALID", "a malformed tag");
    let path = "/v2/app/manifests/latest?tag=other";
    let answer = registry.send(Call::new("PUT", path).header("content-type", IMAGE).body(bytes.clone())).await;
    assert_refused(&answer, 400, "MANIFEST_INVALID", "tags beside a tag");
    assert_holds_nothing(&registry, "refused tags").await;
    assert_eq!(push_tagged(&registry, &bytes, &many[..100]).await.status(), 201, "as many as allowed");
    registry.finish().await;
}

#[tokio::test]
async fn a_push_to_what_is_no_tag_is_refused() {
    let (registry, bytes) = ready(entrepot::config::Sparse::Accept).await;
    for reference in ["-a", ".a", "a@b", "a+b", "~", &"a".repeat(129)] {
        let answer = registry.push_manifest("app", reference, IMAGE, bytes.clone()).await;
        assert_refused(&answer, 400, "MANIFEST_INVALID", reference);
    }
    assert_holds_nothing(&registry, "bad tags").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_moves_and_the_old_manifest_stays_by_digest() {
    let registry = TestRegistry::builder().start().await;
    let old = push_image(&registry, "app", "latest", b"old").await;
    // Read once, so that it is in memory when it moves.
    assert_eq!(registry.get("/v2/app/manifests/latest").await.body, old);
    let new = push_image(&registry, "app", "latest", b"new").await;
    assert_eq!(registry.get("/v2/app/manifests/latest").await.body, new);
    assert_eq!(registry.get(&format!("/v2/app/manifests/{}", digest_of(&old))).await.body, old);
    assert_eq!(registry.get("/v2/app/tags/list").await.json()["tags"], json!(["latest"]));
    registry.finish().await;
}

#[tokio::test]
async fn the_same_push_twice_changes_nothing() {
    let registry = TestRegistry::builder().start().await;
    push_image(&registry, "app", "latest", b"layer").await;
    let before = registry.sums();
    push_image(&registry, "app", "latest", b"layer").await;
    assert_eq!((registry.sums().pushed, registry.sums().uploading), (before.pushed, 0));
    registry.finish().await;
}

#[tokio::test]
async fn the_answer_of_a_pull_can_be_a_condition() {
    let registry = TestRegistry::builder().start().await;
    let bytes = push_image(&registry, "app", "latest", b"layer").await;
    let (manifest, blob) = (digest_of(&bytes), digest_of(b"layer"));
    for (path, digest) in [("/v2/app/manifests/latest".to_owned(), manifest), (format!("/v2/app/blobs/{blob}"), blob)] {
        for condition in
            [format!("\"{digest}\""), format!("W/\"{digest}\""), format!("\"x\", \"{digest}\""), "*".to_owned()]
        {
            let answer = registry.send(Call::get(&path).header("if-none-match", &condition)).await;
            assert_eq!((answer.status(), answer.body.len()), (304, 0), "{path} {condition}");
            assert_eq!(answer.header("etag"), Some(format!("\"{digest}\"").as_str()));
        }
        let answer = registry.send(Call::get(&path).header("if-none-match", "\"sha256:other\"")).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
    registry.finish().await;
}
