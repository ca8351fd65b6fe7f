//! Damaged bytes: found out, set aside, fetched again where that can be done and reported where it cannot.

use std::fs;

use bytes::Bytes;
use entrepot::oci::Digest;
use entrepot::registry::Verified;

use crate::support::client::Call;
use crate::support::content;
use crate::support::harm::{HARMS, Harm, file_of, harm};
use crate::support::push::{IMAGE, assert_refused, digest_of, push_image};
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "team/app";

async fn verify(registry: &TestRegistry, digest: &Digest) -> Verified {
    registry.registry().verifier().verify_now(*digest).await.unwrap()
}

fn n_quarantined(registry: &TestRegistry) -> usize {
    fs::read_dir(registry.store().join("quarantine")).unwrap().count()
}

#[tokio::test]
async fn harmed_cached_content_is_found_by_a_check_and_fetched_again() {
    let fake = FakeUpstream::start().await;
    let layer = content(300_000, 1);
    let image = fake.push_image(REPOSITORY, "1", &[&layer]);
    let registry = TestRegistry::over(&fake).await;
    let paths = [
        (image.manifest, manifest_path(REPOSITORY, "1")),
        (image.config, blob_path(REPOSITORY, &image.config)),
        (image.layers[0], blob_path(REPOSITORY, &image.layers[0])),
    ];
    let mut sound = Vec::new();
    for (digest, path) in &paths {
        sound.push(registry.get(path).await.body);
        registry.fills_end().await;
        assert_eq!(verify(&registry, digest).await, Verified::Sound);
    }
    for kind in HARMS {
        for ((digest, path), sound) in paths.iter().zip(&sound) {
            harm(&registry, digest, kind);
            let verified = verify(&registry, digest).await;
            assert!(matches!(verified, Verified::SetAside { pushed: false, .. }), "{kind:?} {path}: {verified:?}");
            assert_eq!(verify(&registry, digest).await, Verified::Absent);
            let answer = registry.get(path).await;
            assert!(answer.looks_complete() && answer.body == *sound, "{kind:?} {path}");
            registry.fills_end().await;
            assert_eq!(verify(&registry, digest).await, Verified::Sound, "{kind:?} {path}");
        }
    }
    let metrics = registry.metrics();
    assert!(metrics.contains(r#"entrepot_damaged_blobs_total{content="cached",finding="digest"} 6"#), "{metrics}");
    assert!(metrics.contains(r#"entrepot_damaged_blobs_total{content="cached",finding="missing"} 3"#), "{metrics}");
    registry.finish().await;
}

#[tokio::test]
async fn a_harmed_manifest_is_never_given_away_even_if_nobody_checked_it() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[]);
    let mut registry = TestRegistry::over(&fake).await;
    for kind in HARMS {
        assert!(registry.get(&manifest_path(REPOSITORY, "1")).await.body == image.manifest_bytes);
        // Nothing is left in memory.
        registry.restart().await;
        harm(&registry, &image.manifest, kind);
        let answer = registry.get(&manifest_path(REPOSITORY, "1")).await;
        assert!(answer.looks_complete() && answer.body == image.manifest_bytes, "{kind:?}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn harmed_pushed_content_is_reported_by_name_and_healed_by_a_push() {
    let registry = TestRegistry::builder().start().await;
    let layer = content(300_000, 1);
    let manifest = push_image(&registry, "our/app", "1", &layer).await;
    let (layer_path, tag_path) = (blob_path("our/app", &digest_of(&layer)), manifest_path("our/app", "1"));
    for kind in HARMS {
        harm(&registry, &digest_of(&layer), kind);
        let verified = verify(&registry, &digest_of(&layer)).await;
        assert!(matches!(verified, Verified::SetAside { pushed: true, .. }), "{kind:?}: {verified:?}");
        let answer = registry.get(&layer_path).await;
        assert_refused(&answer, 500, "UNKNOWN", &format!("{kind:?}"));
        let message = answer.message();
        assert!(message.contains(&digest_of(&layer).to_string()) && message.contains("push it again"), "{message}");
        // Whoever pushes asks this first, and goes on only after a 404.
        assert_eq!(registry.head(&layer_path).await.status(), 404);
        let put = registry.push_manifest("our/app", "2", IMAGE, manifest.clone()).await;
        assert_eq!(put.code(), "MANIFEST_BLOB_UNKNOWN", "a manifest must not rest on lost content");
        registry.push_blob("our/app", layer.clone()).await;
        assert!(registry.get(&layer_path).await.body == layer);
    }
    for kind in HARMS {
        harm(&registry, &digest_of(&manifest), kind);
        assert!(matches!(verify(&registry, &digest_of(&manifest)).await, Verified::SetAside { pushed: true, .. }));
        let answer = registry.get(&tag_path).await;
        assert_refused(&answer, 500, "UNKNOWN", &format!("{kind:?}"));
        assert!(answer.message().contains(&digest_of(&manifest).to_string()), "{}", answer.message());
        assert_eq!(registry.head(&tag_path).await.status(), 404);
        assert_eq!(registry.get("/v2/our/app/tags/list").await.json()["tags"][0], "1", "the name is not lost");
        assert_eq!(registry.push_manifest("our/app", "1", IMAGE, manifest.clone()).await.status(), 201);
        assert!(registry.get(&tag_path).await.body == manifest);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_pushed_blob_whose_file_is_gone_is_recorded_as_lost_by_the_first_who_wants_it() {
    let mut registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("our/app", content(100_000, 1)).await;
    fs::remove_file(file_of(&registry, &digest)).unwrap();
    for _ in 0..2 {
        assert_refused(&registry.get(&blob_path("our/app", &digest)).await, 500, "UNKNOWN", "lost");
        registry.restart().await;
    }
    assert_eq!(registry.metadata().count_losses().await.unwrap(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn what_was_pushed_and_harmed_comes_back_from_an_upstream_that_has_it() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    registry.push_blob("our/app", bytes.clone()).await;
    harm(&registry, &digest, Harm::Flip);
    verify(&registry, &digest).await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    registry.fills_end().await;
    let answer = registry.get(&blob_path("our/app", &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn whoever_is_reading_a_blob_when_it_is_found_harmed_does_not_get_its_end() {
    // More than sockets and pieces on their way hold.
    let bytes = content(48 << 20, 3);
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("our/app", bytes.clone()).await;
    let path = blob_path("our/app", &digest);
    let mut reading = registry.open(&path).await;
    reading.read(1_000_000).await;
    let tail = Call::get(&path).range("bytes=40000000-").open(registry.address()).await;
    harm(&registry, &digest, Harm::Flip);
    assert!(matches!(verify(&registry, &digest).await, Verified::SetAside { .. }));
    let answer = reading.finish().await;
    assert!(!answer.complete && answer.body.len() < bytes.len() - 1_000_000, "{} bytes came", answer.body.len());
    assert!(!tail.finish().await.complete);
    // Whoever comes after it has been pushed again is not concerned.
    registry.push_blob("our/app", bytes.clone()).await;
    assert!(registry.get(&path).await.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn the_quarantine_keeps_the_newest_within_its_limit_and_all_that_is_lost() {
    let fake = FakeUpstream::start().await;
    let blobs: Vec<Bytes> = (0..4).map(|seed| content(100_000, seed + 1).into()).collect();
    let builder = TestRegistry::builder().default_upstream("hub.example", &fake);
    let registry = builder.config(|config| config.storage.quarantine_max_bytes = 250_000).start().await;
    let lost = registry.push_blob("our/app", content(100_000, 9)).await;
    harm(&registry, &lost, Harm::Flip);
    verify(&registry, &lost).await;
    for bytes in &blobs {
        let digest = fake.push_blob(REPOSITORY, bytes.clone());
        registry.get(&blob_path(REPOSITORY, &digest)).await;
        registry.fills_end().await;
        harm(&registry, &digest, Harm::Flip);
        registry.advance(std::time::Duration::from_secs(1));
        verify(&registry, &digest).await;
    }
    assert_eq!(n_quarantined(&registry), 3, "two of those that can be fetched again, and the one that cannot");
    let kept = registry.registry().depot().blobs.list_quarantined().await.unwrap();
    let newest = [lost, digest_of(&blobs[2]), digest_of(&blobs[3])];
    assert_eq!(kept.iter().map(|quarantined| quarantined.digest).collect::<Vec<_>>(), newest);
    assert_eq!(registry.sums().quarantined, kept.iter().map(|quarantined| quarantined.stored_bytes).sum::<u64>());
    // Healed, its bytes are as good as any.
    registry.push_blob("our/app", content(100_000, 9)).await;
    let digest = digest_of(&blobs[0]);
    registry.get(&blob_path(REPOSITORY, &digest)).await;
    registry.fills_end().await;
    harm(&registry, &digest, Harm::Flip);
    registry.advance(std::time::Duration::from_secs(1));
    verify(&registry, &digest).await;
    assert_eq!(n_quarantined(&registry), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_reader_that_asks_again_with_no_cache_has_the_blob_looked_after() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    registry.get(&path).await;
    registry.fills_end().await;
    harm(&registry, &digest, Harm::Flip);
    assert_ne!(registry.get(&path).await.body, bytes, "a hit is not digested again");
    let doubting = Call::get(&path).header("cache-control", "no-cache");
    let again = registry.send(doubting.clone()).await;
    assert_eq!((again.cache(), again.body == bytes), ("miss", true));
    registry.fills_end().await;
    let sound = registry.send(doubting).await;
    assert_eq!((sound.cache(), sound.body == bytes, fake.requests().blobs_got(&digest)), ("hit", true, 2));
    registry.finish().await;
}
