//! What is accepted comes out as it went in.

use bytes::Bytes;
use entrepot::oci::{Algorithm, Digest};
use serde_json::json;

use crate::support::client::Call;
use crate::support::push::{DOCKER_IMAGE, DOCKER_LIST, IMAGE, INDEX, descriptor, digest_of, image, index, push_image};
use crate::support::registry::TestRegistry;

async fn with_blobs(repository: &str) -> TestRegistry {
    let registry = TestRegistry::builder().start().await;
    registry.push_blob(repository, "config").await;
    registry.push_blob(repository, "layer").await;
    registry
}

#[tokio::test]
async fn every_byte_of_a_manifest_is_kept() {
    let registry = with_blobs("app").await;
    let compact = image(b"config", &[b"layer"]).to_string();
    let pretty = serde_json::to_string_pretty(&image(b"config", &[b"layer"])).unwrap();
    let unusual =
        compact.replacen('{', "{\n\t\"zeta\" : 1.0e0, \"dup\":1,\"dup\":2, \"\\u00e9\":\"\u{e9}\\/\",", 1) + "\r\n \n";
    for (tag, bytes) in [("compact", compact), ("pretty", pretty), ("unusual", unusual)] {
        let digest = digest_of(&bytes);
        let pushed = registry.push_manifest("app", tag, IMAGE, Bytes::from(bytes.clone())).await;
        assert_eq!(pushed.status(), 201, "{tag}: {:?}", pushed.body);
        assert_eq!(pushed.header("location"), Some(format!("/v2/app/manifests/{tag}").as_str()));
        assert_eq!(pushed.header("docker-content-digest"), Some(digest.to_string().as_str()));
        for reference in [tag, digest.to_string().as_str()] {
            let pulled = registry.get(&format!("/v2/app/manifests/{reference}")).await;
            assert_eq!((pulled.status(), pulled.body.as_ref()), (200, bytes.as_bytes()), "{reference}");
            assert_eq!(pulled.header("content-type"), Some(IMAGE));
            assert_eq!(pulled.header("docker-content-digest"), Some(digest.to_string().as_str()));
            assert_eq!(pulled.header("etag"), Some(format!("\"{digest}\"").as_str()));
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn every_kind_keeps_its_media_type() {
    let registry = with_blobs("app").await;
    let child = image(b"config", &[b"layer"]).to_string();
    registry.push_manifest("app", "child", IMAGE, Bytes::from(child.clone())).await;
    let with_type = |mut manifest: serde_json::Value, media_type: &str| {
        manifest["mediaType"] = json!(media_type);
        manifest.to_string()
    };
    let kinds = [
        ("oci", IMAGE, child.clone()),
        ("oci-index", INDEX, index(&[child.as_bytes()]).to_string()),
        ("schema2", DOCKER_IMAGE, with_type(image(b"config", &[b"layer"]), DOCKER_IMAGE)),
        ("list", DOCKER_LIST, with_type(index(&[child.as_bytes()]), DOCKER_LIST)),
    ];
    for (tag, media_type, bytes) in kinds {
        let pushed = registry.push_manifest("app", tag, media_type, Bytes::from(bytes.clone())).await;
        assert_eq!(pushed.status(), 201, "{tag}: {:?}", pushed.body);
        let pulled = registry.get(&format!("/v2/app/manifests/{tag}")).await;
        assert_eq!((pulled.header("content-type"), pulled.body.as_ref()), (Some(media_type), bytes.as_bytes()));
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_body_without_media_type_is_what_the_client_says_or_what_it_looks_like() {
    let registry = with_blobs("app").await;
    let without = |mut manifest: serde_json::Value| {
        manifest.as_object_mut().unwrap().remove("mediaType");
        Bytes::from(manifest.to_string())
    };
    let (an_image, an_index) = (without(image(b"config", &[b"layer"])), without(index(&[])));
    let cases = [
        ("a", Some(IMAGE), an_image.clone(), IMAGE),
        (
            "b",
            Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
            an_image.clone(),
            DOCKER_IMAGE,
        ),
        ("c", Some("application/json"), an_image, IMAGE),
        ("d", None, an_index.clone(), INDEX),
        ("e", Some(DOCKER_LIST), an_index, DOCKER_LIST),
    ];
    for (tag, content_type, bytes, expected) in cases {
        let mut call = Call::new("PUT", &format!("/v2/{tag}app/manifests/{tag}")).body(bytes);
        if let Some(content_type) = content_type {
            call = call.header("content-type", content_type);
        }
        registry.push_blob(&format!("{tag}app"), "config").await;
        registry.push_blob(&format!("{tag}app"), "layer").await;
        assert_eq!(registry.send(call).await.status(), 201, "{tag}");
        let pulled = registry.get(&format!("/v2/{tag}app/manifests/{tag}")).await;
        assert_eq!(pulled.header("content-type"), Some(expected), "{tag}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_pushed_by_sha512_is_found_by_it() {
    let registry = with_blobs("app").await;
    let bytes = image(b"config", &[b"layer"]).to_string();
    let digest = Digest::of(Algorithm::Sha512, bytes.as_bytes());
    let pushed = registry.push_manifest("app", &digest.to_string(), IMAGE, Bytes::from(bytes.clone())).await;
    assert_eq!((pushed.status(), pushed.header("docker-content-digest")), (201, Some(digest.to_string().as_str())));
    let pulled = registry.get(&format!("/v2/app/manifests/{digest}")).await;
    assert_eq!((pulled.status(), pulled.body.as_ref()), (200, bytes.as_bytes()));
    assert_eq!(pulled.header("docker-content-digest"), Some(digest.to_string().as_str()));
    registry.finish().await;
}

#[tokio::test]
async fn a_digest_in_the_path_may_be_escaped() {
    let registry = with_blobs("app").await;
    let bytes = image(b"config", &[b"layer"]).to_string();
    let digest = digest_of(&bytes).to_string();
    registry.push_manifest("app", &digest.replace(':', "%3A"), IMAGE, Bytes::from(bytes)).await;
    for spelled in [digest.replace(':', "%3A"), digest.replace(':', "%3a"), digest] {
        assert_eq!(registry.head(&format!("/v2/app/manifests/{spelled}")).await.status(), 200, "{spelled}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_subject_is_confirmed_and_need_not_exist() {
    let registry = with_blobs("app").await;
    let mut manifest = image(b"config", &[]);
    manifest["subject"] = descriptor(IMAGE, b"not here yet");
    let pushed = registry.push_manifest("app", "signature", IMAGE, Bytes::from(manifest.to_string())).await;
    assert_eq!(pushed.status(), 201, "{:?}", pushed.body);
    assert_eq!(pushed.header("oci-subject"), Some(digest_of(b"not here yet").to_string().as_str()));
    let plain = push_image(&registry, "app", "plain", b"layer").await;
    let again = registry.push_manifest("app", "plain", IMAGE, plain).await;
    assert_eq!((again.status(), again.header("oci-subject")), (201, None));
    registry.finish().await;
}

#[tokio::test]
async fn the_largest_manifest_that_is_allowed_is_accepted() {
    let registry = with_blobs("app").await;
    let mut bytes = image(b"config", &[b"layer"]).to_string();
    bytes.push_str(&" ".repeat((4 << 20) - bytes.len()));
    let pushed = registry.push_manifest("app", "large", IMAGE, Bytes::from(bytes.clone())).await;
    assert_eq!(pushed.status(), 201, "{:?}", pushed.body);
    assert_eq!(registry.get("/v2/app/manifests/large").await.body, bytes);
    registry.finish().await;
}

#[tokio::test]
async fn foreign_layers_need_not_be_pushed() {
    let registry = with_blobs("app").await;
    let mut manifest = image(b"config", &[b"layer", b"elsewhere"]);
    manifest["layers"][1]["urls"] = json!(["https://layers.example/elsewhere"]);
    let pushed = registry.push_manifest("app", "windows", IMAGE, Bytes::from(manifest.to_string())).await;
    assert_eq!(pushed.status(), 201, "{:?}", pushed.body);
    registry.finish().await;
}
