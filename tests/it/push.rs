//! Whole pushes in the order of requests that each client was seen to send (docs/clients.md).

use bytes::Bytes;
use serde_json::json;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{DOCKER_IMAGE, IMAGE, append, assert_refused, begin, close, digest_of, image};
use crate::support::raw::Raw;
use crate::support::registry::{HUB, TestRegistry};
use crate::support::upstream::FakeUpstream;

async fn is_there(registry: &TestRegistry, path: &str) -> bool {
    let answer = registry.head(path).await;
    assert!([200, 404].contains(&answer.status()), "{path}: {}", answer.status());
    answer.status() == 200
}

#[tokio::test]
async fn docker_pushes_each_layer_over_three_connections_and_looks_again() {
    let registry = TestRegistry::builder().start().await;
    let (config, layer) = (content(2000, 1), content(400_000, 2));
    for bytes in [&layer, &config] {
        let blob = format!("/v2/team/app/blobs/{}", digest_of(bytes));
        assert!(!is_there(&registry, &blob).await);
        let session = begin(&registry, "team/app").await;
        let headers = "transfer-encoding: chunked\r\nconnection: close\r\n";
        let mut patch = Raw::begin(registry.address(), "PATCH", &session, headers).await;
        for piece in bytes.chunks(32_768) {
            patch.chunk(piece).await;
        }
        patch.chunk(b"").await;
        let patched = patch.answer("PATCH").await;
        assert_eq!(patched.status(), 202);
        let session = patched.header("location").unwrap().to_owned();
        assert_eq!(close(&registry, &session, &digest_of(bytes), "").await.status(), 201);
        assert!(is_there(&registry, &blob).await);
    }
    let mut manifest = image(&config, &[&layer]);
    manifest["mediaType"] = json!(DOCKER_IMAGE);
    let bytes = Bytes::from(manifest.to_string());
    assert_eq!(registry.push_manifest("team/app", "1", DOCKER_IMAGE, bytes.clone()).await.status(), 201);
    assert_eq!(registry.get("/v2/team/app/manifests/1").await.body, bytes);
    registry.finish().await;
}

#[tokio::test]
async fn containerd_pushes_each_blob_in_one_put_and_asks_for_the_tag_first() {
    let registry = TestRegistry::builder().start().await;
    let (config, layer) = (content(2000, 3), content(400_000, 4));
    for bytes in [&layer, &config] {
        assert!(!is_there(&registry, &format!("/v2/team/app/blobs/{}", digest_of(bytes))).await);
        let session = begin(&registry, "team/app").await;
        assert_eq!(close(&registry, &session, &digest_of(bytes), bytes.clone()).await.status(), 201);
    }
    assert!(!is_there(&registry, "/v2/team/app/manifests/1").await);
    let bytes = Bytes::from(image(&config, &[&layer]).to_string());
    assert_eq!(registry.push_manifest("team/app", "1", IMAGE, bytes.clone()).await.status(), 201);
    // The second push skips the PUT when HEAD says the same digest.
    let head = registry.head("/v2/team/app/manifests/1").await;
    assert_eq!(head.header("docker-content-digest"), Some(digest_of(&bytes).to_string().as_str()));
    assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
    registry.finish().await;
}

#[tokio::test]
async fn skopeo_pushes_with_a_length_and_deletes_by_digest() {
    let registry = TestRegistry::builder().start().await;
    let (config, layer) = (content(2000, 5), content(100_000, 6));
    for bytes in [&layer, &config] {
        let session = begin(&registry, "team/app").await;
        assert_eq!(append(&registry, &session, bytes.clone()).await.status(), 202);
        assert_eq!(close(&registry, &session, &digest_of(bytes), "").await.status(), 201);
    }
    let bytes = Bytes::from(image(&config, &[&layer]).to_string());
    registry.push_manifest("team/app", "1", IMAGE, bytes.clone()).await;
    let pulled = registry.get("/v2/team/app/manifests/1").await;
    let digest = pulled.header("docker-content-digest").unwrap();
    let deleted = registry.send(Call::new("DELETE", &format!("/v2/team/app/manifests/{digest}"))).await;
    assert_eq!(deleted.status(), 202);
    assert_refused(&registry.get("/v2/team/app/manifests/1").await, 404, "MANIFEST_UNKNOWN", "the tag");
    registry.finish().await;
}

#[tokio::test]
async fn many_layers_at_once_all_arrive() {
    let registry = TestRegistry::builder().start().await;
    let layers: Vec<Vec<u8>> = (0..20).map(|seed| content(200_000 + seed, seed + 1)).collect();
    let push = async |layer: &Vec<u8>| {
        let session = begin(&registry, "team/app").await;
        append(&registry, &session, layer[..100_000].to_vec()).await;
        close(&registry, &session, &digest_of(layer), layer[100_000..].to_vec()).await
    };
    for answer in futures::future::join_all(layers.iter().map(push)).await {
        assert_eq!(answer.status(), 201, "{:?}", answer.body);
    }
    for layer in &layers {
        assert!(registry.get(&format!("/v2/team/app/blobs/{}", digest_of(layer))).await.body == layer);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_push_to_a_namespace_stays_in_it_from_request_to_request() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    let bytes = content(50_000, 7);
    let started = registry.send(Call::new("POST", &format!("/v2/team/app/blobs/uploads/?ns={HUB}")).body("")).await;
    let session = started.header("location").unwrap().to_owned();
    assert!(session.ends_with(&format!("?ns={HUB}")), "{session}");
    let patched = append(&registry, &session, bytes.clone()).await;
    assert_eq!(patched.header("location"), Some(session.as_str()));
    let closed = close(&registry, &session, &digest_of(&bytes), "").await;
    assert_eq!(closed.status(), 201, "{:?}", closed.body);
    let spelled = registry.get(&format!("/v2/{HUB}/team/app/blobs/{}", digest_of(&bytes))).await;
    assert!(spelled.looks_complete() && spelled.body == bytes);
    assert_eq!(fake.requests().len(), 0, "a pushed blob was asked of the upstream");
    registry.finish().await;
}

#[tokio::test]
async fn a_push_to_an_upstream_nobody_configured_is_refused() {
    let registry = TestRegistry::builder().start().await;
    let answer = registry.send(Call::new("POST", "/v2/registry.corp:5000/app/blobs/uploads/").body("")).await;
    assert_refused(&answer, 400, "NAME_INVALID", "a name with a port");
    let answer = registry.send(Call::new("POST", "/v2/app/blobs/uploads/?ns=ghcr.io").body("")).await;
    assert_refused(&answer, 404, "NAME_UNKNOWN", "a namespace");
    registry.finish().await;
}
