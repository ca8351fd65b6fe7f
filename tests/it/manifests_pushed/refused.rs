//! What is refused leaves nothing and says why.

use bytes::Bytes;
use entrepot::config::Sparse;
use serde_json::json;

use crate::support::push::{DOCKER_IMAGE, IMAGE, INDEX, assert_holds_nothing, assert_refused, digest_of, image, index};
use crate::support::raw::Raw;
use crate::support::registry::TestRegistry;

const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

#[tokio::test]
async fn bodies_that_are_no_manifest_are_refused_with_a_reason() {
    let registry = TestRegistry::builder().config(|config| config.push.sparse = Sparse::Accept).start().await;
    let good = image(b"config", &[b"layer"]);
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest.to_string()
    };
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("nothing", IMAGE, String::new(), "JSON"),
        ("a page", IMAGE, "<html></html>".into(), "JSON"),
        ("a list", IMAGE, "[]".into(), "JSON"),
        ("half", IMAGE, good.to_string()[..40].into(), ""),
        ("two", IMAGE, format!("{good}{good}"), ""),
        ("schema 1", SCHEMA1, r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#.into(), "schema 1"),
        ("signed", SCHEMA1_SIGNED, r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#.into(), "schema 1"),
        ("schema 1 as 2", DOCKER_IMAGE, r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), "schema 1"),
        ("version 3", IMAGE, changed(&|m| m["schemaVersion"] = json!(3)), "schemaVersion"),
        ("no version", IMAGE, changed(&|m| m["schemaVersion"] = json!(null)), "schemaVersion"),
        ("contradiction", INDEX, good.to_string(), "contradicts"),
        ("another", "text/html", changed(&|m| m["mediaType"] = json!(null)), "text/html"),
        ("both", IMAGE, changed(&|m| m["manifests"] = json!([])), "manifests"),
        ("no config", IMAGE, changed(&|m| m["config"] = json!(null)), "config"),
        ("no layers", IMAGE, changed(&|m| m["layers"] = json!(null)), "layers"),
        ("bad digest", IMAGE, changed(&|m| m["config"]["digest"] = json!("sha256:xyz")), "digest"),
        ("traversal", IMAGE, changed(&|m| m["config"]["digest"] = json!("../../etc/passwd")), "digest"),
        ("negative", IMAGE, changed(&|m| m["config"]["size"] = json!(-1)), ""),
        ("deep", IMAGE, "{\"a\":".repeat(50_000) + &"}".repeat(50_000), ""),
    ];
    for (what, content_type, body, said) in cases {
        let answer = registry.push_manifest("app", "latest", content_type, Bytes::from(body)).await;
        assert_refused(&answer, 400, "MANIFEST_INVALID", what);
        assert!(answer.message().contains(said), "{what}: {}", answer.message());
        assert!(answer.message().len() < 500, "{what}: {}", answer.message());
    }
    assert_holds_nothing(&registry, "refused manifests").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_of_another_digest_is_refused() {
    let registry = TestRegistry::builder().config(|config| config.push.sparse = Sparse::Accept).start().await;
    let bytes = Bytes::from(image(b"config", &[]).to_string());
    let other = digest_of(b"other").to_string();
    let answer = registry.push_manifest("app", &other, IMAGE, bytes).await;
    assert_refused(&answer, 400, "DIGEST_INVALID", "another digest");
    assert_holds_nothing(&registry, "another digest").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_beyond_the_limit_is_refused_however_it_comes() {
    let registry = TestRegistry::builder().start().await;
    let bytes = Bytes::from(" ".repeat((4 << 20) + 1));
    let answer = registry.push_manifest("app", "latest", IMAGE, bytes.clone()).await;
    assert_refused(&answer, 413, "SIZE_INVALID", "with its length");

    let headers = "transfer-encoding: chunked\r\n";
    let mut put = Raw::begin(registry.address(), "PUT", "/v2/app/manifests/latest", headers).await;
    put.chunk(&bytes).await;
    assert_refused(&put.answer("PUT").await, 413, "SIZE_INVALID", "without");
    assert_holds_nothing(&registry, "a large manifest").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_whose_client_goes_away_leaves_nothing() {
    let registry = TestRegistry::builder().start().await;
    let bytes = image(b"config", &[]).to_string();
    let headers = format!("content-length: {}\r\ncontent-type: {IMAGE}\r\n", bytes.len() + 10);
    let mut put = Raw::begin(registry.address(), "PUT", "/v2/app/manifests/latest", &headers).await;
    put.write(&bytes).await;
    drop(put);
    assert_holds_nothing(&registry, "half a manifest").await;
    registry.finish().await;
}

#[tokio::test]
async fn what_a_manifest_may_lack_is_configured() {
    let child = image(b"config", &[b"layer"]).to_string();
    let with_child = index(&[child.as_bytes(), b"another platform"]).to_string();
    // (policy, is an image without its blobs accepted, is an index without its platforms)
    let policies = [(Sparse::Refuse, false, false), (Sparse::Indexes, false, true), (Sparse::Accept, true, true)];
    for (sparse, images, indexes) in policies {
        let registry = TestRegistry::builder().config(|config| config.push.sparse = sparse).start().await;
        let pushes = [("image", IMAGE, &child, images), ("index", INDEX, &with_child, indexes)];
        for (tag, media_type, bytes, accepted) in pushes {
            let answer = registry.push_manifest("app", tag, media_type, Bytes::from(bytes.clone())).await;
            if accepted {
                assert_eq!(answer.status(), 201, "{sparse:?} {tag}: {:?}", answer.body);
                continue;
            }
            assert_refused(&answer, 404, "MANIFEST_BLOB_UNKNOWN", &format!("{sparse:?} {tag}"));
            let errors = answer.json()["errors"].as_array().unwrap().clone();
            let missing: Vec<&str> = errors.iter().map(|error| error["detail"]["digest"].as_str().unwrap()).collect();
            assert_eq!(missing.len(), 2, "{sparse:?} {tag}: {missing:?}");
            assert_eq!(registry.head(&format!("/v2/app/manifests/{tag}")).await.status(), 404);
        }
        registry.finish().await;
    }
}

#[tokio::test]
async fn blobs_of_another_repository_do_not_count() {
    let registry = TestRegistry::builder().start().await;
    registry.push_blob("other", "config").await;
    registry.push_blob("other", "layer").await;
    let bytes = Bytes::from(image(b"config", &[b"layer"]).to_string());
    let answer = registry.push_manifest("app", "latest", IMAGE, bytes).await;
    assert_refused(&answer, 404, "MANIFEST_BLOB_UNKNOWN", "blobs elsewhere");
    registry.finish().await;
}
