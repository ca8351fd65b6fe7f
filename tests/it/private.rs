//! Pushed names beside mirrored ones: what somebody pushed is never asked of a public registry, nor given to others.

use bytes::Bytes;
use entrepot::oci::Digest;
use futures::future::join_all;

use crate::support::content;
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const TEAM: &str = "team/app";
const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image with one layer. Returns the manifest's bytes.
async fn push_image(registry: &TestRegistry, repository: &str, tag: &str, layer: &[u8]) -> Bytes {
    let config = registry.push_blob(repository, format!("{{\"tag\":\"{tag}\"}}")).await;
    let layer_digest = registry.push_blob(repository, layer.to_vec()).await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(),
            "size": format!("{{\"tag\":\"{tag}\"}}").len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest.to_string(),
            "size": layer.len()}],
    });
    let bytes = Bytes::from(manifest.to_string());
    assert_eq!(registry.push_manifest(repository, tag, OCI_IMAGE, bytes.clone()).await.status(), 201);
    bytes
}

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake)
}

#[tokio::test]
async fn a_private_repository_is_never_asked_of_the_upstream() {
    let fake = FakeUpstream::start().await;
    let evil = fake.push_image(TEAM, "latest", &[b"evil"]);
    let blob = fake.push_blob(TEAM, content(1000, 1));
    let mut registry = over(&fake).start().await;
    let pushed = push_image(&registry, TEAM, "1", b"good").await;
    for restarted in [false, true] {
        let own = registry.get(&manifest_path(TEAM, "1")).await;
        assert_eq!((own.status(), own.cache()), (200, "local"));
        assert!(own.body == pushed);
        for path in [
            manifest_path(TEAM, "latest"),
            manifest_path(TEAM, evil.manifest),
            blob_path(TEAM, &blob),
            manifest_path(&format!("{HUB}/{TEAM}"), "latest"),
            format!("{}?ns={HUB}", manifest_path(TEAM, "latest")),
        ] {
            assert_eq!(registry.get(&path).await.status(), 404, "{path}");
            assert_eq!(registry.head(&path).await.status(), 404, "{path}");
        }
        assert_eq!(registry.get(&format!("/v2/{TEAM}/tags/list")).await.json()["tags"], serde_json::json!(["1"]));
        if !restarted {
            registry.restart().await;
        }
    }
    assert_eq!(fake.requests().len(), 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_name_is_the_upstreams_until_somebody_pushes_to_it() {
    let fake = FakeUpstream::start().await;
    let theirs = fake.push_image(TEAM, "1", &[b"theirs"]);
    let registry = over(&fake).start().await;
    assert!(registry.get(&manifest_path(TEAM, "1")).await.body == theirs.manifest_bytes);
    let ours = push_image(&registry, TEAM, "1", b"ours").await;
    let asked = fake.requests().len();
    let answer = registry.get(&manifest_path(TEAM, "1")).await;
    assert_eq!(answer.cache(), "local");
    assert!(answer.body == ours);
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}

#[tokio::test]
async fn an_overlaid_repository_has_pushed_tags_first_and_the_upstreams_for_the_rest() {
    let fake = FakeUpstream::start().await;
    let (first, second) = (fake.push_image(TEAM, "1", &[b"one"]), fake.push_image(TEAM, "2", &[b"two"]));
    let registry = over(&fake).config(|config| config.overlay = vec!["team/**".to_owned()]).start().await;
    let ours = push_image(&registry, TEAM, "1", b"ours").await;
    let own = registry.get(&manifest_path(TEAM, "1")).await;
    assert!(own.body == ours && own.body != first.manifest_bytes);
    let theirs = registry.get(&manifest_path(TEAM, "2")).await;
    assert!(theirs.body == second.manifest_bytes);
    assert!(registry.get(&blob_path(TEAM, &second.layers[0])).await.body == "two");
    let tags = registry.get(&format!("/v2/{TEAM}/tags/list")).await.json();
    assert_eq!(tags["tags"], serde_json::json!(["1", "2"]));
    assert_eq!(fake.requests().manifests_got("1") + fake.requests().manifests_headed("1"), 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_local_only_name_never_leaves() {
    let fake = FakeUpstream::start().await;
    fake.push_image(TEAM, "1", &[b"evil"]);
    let blob = fake.push_blob(TEAM, content(1000, 1));
    let registry = over(&fake).config(|config| config.local_only = vec!["team/**".to_owned()]).start().await;
    for path in [
        manifest_path(TEAM, "1"),
        blob_path(TEAM, &blob),
        manifest_path(&format!("{HUB}/{TEAM}"), "1"),
        format!("{}?ns={HUB}", manifest_path(TEAM, "1")),
    ] {
        assert_eq!(registry.get(&path).await.status(), 404, "{path}");
    }
    assert_eq!(fake.requests().len(), 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_private_blob_is_not_read_through_another_repository() {
    let fake = FakeUpstream::start().await;
    let registry = over(&fake).start().await;
    let secret = registry.push_blob(TEAM, "secret").await;
    registry.push_blob("team/other", "something").await;
    for repository in ["team/other", "library/public"] {
        let path = blob_path(repository, &secret);
        for answer in [registry.get(&path).await, registry.head(&path).await] {
            assert_eq!(answer.status(), 404, "{repository}");
        }
    }
    assert_eq!(registry.get(&blob_path(TEAM, &secret)).await.body, "secret");
    registry.finish().await;
}

#[tokio::test]
async fn a_cached_blob_that_is_pushed_too_is_pushed_content() {
    let fake = FakeUpstream::start().await;
    let bytes = content(100_000, 1);
    let digest = fake.push_blob("library/public", bytes.clone());
    let registry = over(&fake).start().await;
    registry.get(&blob_path("library/public", &digest)).await;
    registry.fills_end().await;
    assert!(registry.sums().cached > 0 && registry.sums().pushed == 0);
    registry.push_blob(TEAM, bytes.clone()).await;
    assert!(registry.sums().cached == 0 && registry.sums().pushed > 0, "{:?}", registry.sums());
    assert!(registry.get(&blob_path(TEAM, &digest)).await.body == bytes);
    assert!(registry.get(&blob_path("library/public", &digest)).await.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_pushed_while_it_is_being_fetched_is_there_once() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let digest: Digest = fake.push_blob("library/public", bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 100_000));
    let registry = over(&fake).start().await;
    let mut reading = registry.open(&blob_path("library/public", &digest)).await;
    gate.let_pass(1);
    reading.read(10).await;
    registry.push_blob(TEAM, bytes.clone()).await;
    assert!(registry.get(&blob_path(TEAM, &digest)).await.body == bytes);
    gate.let_pass(2);
    let rest = reading.finish().await;
    assert!(rest.complete && rest.body == bytes[10..]);
    registry.fills_end().await;
    assert!(registry.sums().cached == 0 && registry.sums().pushed > 0, "{:?}", registry.sums());
    registry.finish().await;
}

#[tokio::test]
async fn pushes_and_pulls_of_the_same_blobs_at_once_leave_one_of_each() {
    let fake = FakeUpstream::start().await;
    let blobs: Vec<Vec<u8>> = (0..8).map(|seed| content(50_000, seed)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|bytes| fake.push_blob("library/public", bytes.clone())).collect();
    let registry = over(&fake).start().await;
    let pulls = join_all(digests.iter().map(async |digest| registry.get(&blob_path("library/public", digest)).await));
    let pushes = join_all(blobs.iter().map(async |bytes| registry.push_blob(TEAM, bytes.clone()).await));
    let (pulled, _) = tokio::join!(pulls, pushes);
    for (answer, bytes) in pulled.iter().zip(&blobs) {
        assert!(answer.looks_complete() && answer.body == *bytes);
    }
    registry.fills_end().await;
    assert_eq!(registry.sums().cached, 0, "a blob shared by cached and pushed content is pushed content");
    registry.finish().await;
}
