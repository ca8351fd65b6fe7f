//! Manifests of upstreams, as clients ask for them: HEAD pins what GET gives, byte for byte.

use entrepot::oci::{Algorithm, Digest, ManifestKind};

use crate::support::client::Call;
use crate::support::registry::{TestRegistry, manifest_path};
use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "team/app";

#[tokio::test]
async fn a_head_pins_a_digest_that_a_get_serves_without_asking_again() {
    let mut fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let head = registry.head(&manifest_path(REPOSITORY, "1")).await;
    assert_eq!((head.status(), head.cache(), head.body.len()), (200, "miss", 0));
    assert_eq!(head.header("content-type"), Some(image.media_type));
    assert_eq!(head.header("content-length"), Some(image.manifest_bytes.len().to_string().as_str()));
    let pinned = head.header("docker-content-digest").unwrap().to_owned();
    assert_eq!(pinned, image.manifest.to_string());
    fake.stop().await;
    let get = registry.get(&manifest_path(REPOSITORY, pinned)).await;
    assert_eq!((get.status(), get.cache()), (200, "hit"));
    assert!(get.body == image.manifest_bytes);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn get_and_head_by_tag_and_by_digest_have_the_same_headers() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let (tag, digest) = (manifest_path(REPOSITORY, "1"), manifest_path(REPOSITORY, image.manifest));
    let expected = registry.get(&tag).await.head.lasting();
    for answer in [registry.head(&tag).await, registry.get(&digest).await, registry.head(&digest).await] {
        assert_eq!(answer.head.lasting(), expected);
    }
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn manifests_of_every_kind_come_byte_for_byte() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    let digest = Digest::of(Algorithm::Sha256, b"x");
    for (n, kind) in ManifestKind::ALL.into_iter().enumerate() {
        let media_type = kind.media_type();
        let is_index = media_type.contains("index") || media_type.contains("list");
        let rest = if is_index {
            "\"manifests\": []".to_owned()
        } else {
            format!("\"config\": {{\"mediaType\":\"a/b\",\"digest\":\"{digest}\",\"size\":1}},\"layers\":[]")
        };
        // Spaces and line ends that no serialiser would write.
        let bytes = format!("\n {{ \"schemaVersion\":2 ,\t\"mediaType\" :\"{media_type}\", {rest}, \"x\": 1.0}}\r\n");
        let tag = n.to_string();
        let digest = fake.push_manifest(REPOSITORY, Some(&tag), kind, bytes.clone());
        for reference in [tag, digest.to_string()] {
            let answer = registry.get(&manifest_path(REPOSITORY, reference)).await;
            assert_eq!((answer.status(), answer.header("content-type")), (200, Some(media_type)));
            assert!(answer.body == bytes.as_bytes());
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn repeated_accept_headers_are_as_good_as_one() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let mut call = Call::get(&manifest_path(REPOSITORY, "1"));
    for accept in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
        "application/vnd.oci.image.manifest.v1+json",
    ] {
        call = call.header("accept", accept);
    }
    let answer = registry.send(call.header("accept-encoding", "gzip")).await;
    assert_eq!((answer.status(), answer.header("content-encoding")), (200, None));
    assert!(answer.body == image.manifest_bytes);
    registry.finish().await;
}

#[tokio::test]
async fn who_has_a_manifest_is_told_so_without_its_bytes() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let path = manifest_path(REPOSITORY, "1");
    let etag = registry.get(&path).await.header("etag").unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", image.manifest));
    let answer = registry.send(Call::get(&path).header("if-none-match", &etag)).await;
    assert_eq!((answer.status(), answer.body.len()), (304, 0));
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.to_string().as_str()));
    let other = registry.send(Call::get(&path).header("if-none-match", "\"other\"")).await;
    assert_eq!(other.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_asked_for_by_digest_is_kept_too() {
    let mut fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let mut registry = TestRegistry::over(&fake).await;
    let path = manifest_path(REPOSITORY, image.manifest);
    assert_eq!(registry.get(&path).await.cache(), "miss");
    fake.stop().await;
    registry.restart().await;
    let answer = registry.get(&path).await;
    assert_eq!((answer.status(), answer.cache()), (200, "hit"));
    assert!(answer.body == image.manifest_bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_of_another_repository_is_asked_of_this_one() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image("team/one", "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(registry.get(&manifest_path("team/one", image.manifest)).await.status(), 200);
    let answer = registry.get(&manifest_path("team/two", image.manifest)).await;
    assert_eq!((answer.status(), answer.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_that_cannot_exist_is_not_asked_of_anybody() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    for tag in ["-x", ".x", &"x".repeat(129), "a:b"] {
        let answer = registry.get(&manifest_path(REPOSITORY, tag)).await;
        assert_eq!(answer.status() / 100, 4, "{tag}");
    }
    assert_eq!(fake.requests().len(), 0);
    registry.finish().await;
}
