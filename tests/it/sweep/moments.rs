//! Somebody comes in between.

use bytes::Bytes;

use super::*;
use crate::support::client::Reading;
use crate::support::content;
use crate::support::push::{IMAGE, append, assert_refused, begin, close, digest_of, image, push_image};

async fn put(registry: &TestRegistry, layer: &[u8]) -> crate::support::client::Answer {
    let manifest = Bytes::from(image(layer, &[layer]).to_string());
    registry.push_manifest("app", "one", IMAGE, manifest).await
}

#[tokio::test]
async fn a_blob_pushed_just_before_the_sweep_is_there_for_its_manifest_just_after() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("app", &b"layer"[..]).await;
    sweep(&registry, AS_USUAL).await;
    assert_eq!(put(&registry, b"layer").await.status(), 201);
    registry.advance(PAST_THE_GRACE);
    sweep(&registry, AS_USUAL).await;
    assert!(has_blob(&registry, "app", &digest).await);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_a_client_was_told_of_waits_for_its_manifest() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("app", &b"layer"[..]).await;
    sweep(&registry, AS_USUAL).await;
    registry.advance(PAST_THE_GRACE);
    assert_eq!(registry.head(&blob_path("app", &digest)).await.status(), 200);
    assert_eq!(sweep(&registry, AS_USUAL).await.blobs, 0);
    assert_eq!(put(&registry, b"layer").await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_read_is_noted_anew_in_the_same_second_once_the_earlier_ones_are_in_the_index() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("app", &b"layer"[..]).await;
    let room = &registry.registry().depot().room;
    for _ in 0..2 {
        room.flush_touches().await.unwrap();
        assert_eq!(room.n_touches(), 0);
        for _ in 0..2 {
            assert_eq!(registry.head(&blob_path("app", &digest)).await.status(), 200);
            assert_eq!(room.n_touches(), 1, "whoever sweeps now has to know of it");
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn layers_wait_while_others_of_their_repository_are_being_uploaded() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("app", &b"layer"[..]).await;
    let session = begin(&registry, "app").await;
    append(&registry, &session, &b"half"[..]).await;
    sweep(&registry, AS_USUAL).await;
    registry.advance(PAST_THE_GRACE);
    assert_eq!(sweep(&registry, AS_USUAL).await.blobs, 0);
    assert!(has_blob(&registry, "app", &digest).await);
    assert_eq!(close(&registry, &session, &digest_of(b"half"), Bytes::new()).await.status(), 201);
    registry.advance(PAST_THE_GRACE * 2);
    sweep(&registry, AT_ONCE).await;
    assert!(!has_blob(&registry, "app", &digest).await);
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_whose_blob_was_swept_is_refused() {
    let registry = TestRegistry::builder().start().await;
    registry.push_blob("app", &b"layer"[..]).await;
    assert_eq!(sweep(&registry, AT_ONCE).await.blobs, 1);
    assert_refused(&put(&registry, b"layer").await, 404, "MANIFEST_BLOB_UNKNOWN", "a blob that is gone");
    registry.finish().await;
}

#[tokio::test]
async fn a_mount_from_a_repository_that_has_just_lost_the_blob_opens_a_session_and_one_before_keeps_it() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("from", &b"layer"[..]).await;
    let mount = |to: &str| Call::new("POST", &format!("/v2/{to}/blobs/uploads/?mount={digest}&from=from")).body("");
    assert_eq!(registry.send(mount("before")).await.status(), 201);
    delete_blob(&registry, "from", &digest).await;
    let late = registry.send(mount("late")).await;
    assert_eq!(late.status(), 202);
    assert_eq!(sweep(&registry, AS_USUAL).await.blobs, 0);
    assert!(has_blob(&registry, "before", &digest).await);
    let session = late.header("location").unwrap().to_owned();
    // The bytes go while the late one is on its way, and come with it again.
    assert_eq!(sweep(&registry, AT_ONCE).await.blobs, 1);
    assert_eq!(close(&registry, &session, &digest, &b"layer"[..]).await.status(), 201);
    assert!(has_blob(&registry, "late", &digest).await);
    registry.finish().await;
}

#[tokio::test]
async fn a_reader_ends_well_although_the_manifest_was_deleted_meanwhile() {
    let registry = TestRegistry::builder().start().await;
    let layer = content(24 << 20, 5);
    let manifest = push_image(&registry, "app", "one", &layer).await;
    let mut reading: Reading = registry.open(&blob_path("app", &digest_of(&layer))).await;
    let first = reading.read(100_000).await;
    delete_manifest(&registry, "app", &digest_of(&manifest)).await;
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!(swept.blobs, 2, "config and manifest: {swept:?}");
    let rest = reading.finish().await;
    assert!(rest.complete && [&first[..], &rest.body].concat() == layer);
    registry.until("nobody holds the blob", |registry| registry.registry().depot().room.n_pins() == 0).await;
    assert_eq!(sweep(&registry, AT_ONCE).await.blobs, 1);
    registry.finish().await;
}

#[tokio::test]
async fn what_is_pushed_again_while_its_bytes_go_is_there() {
    let registry = TestRegistry::builder().start().await;
    for round in 0..20_usize {
        let layer = content(20_000, round);
        let manifest = push_image(&registry, "app", "one", &layer).await;
        delete_manifest(&registry, "app", &digest_of(&manifest)).await;
        let (_, digest) = tokio::join!(sweep(&registry, AT_ONCE), registry.push_blob("app", layer.clone()));
        // Pushed and swept at once, it is there or it is not; pushed after, it is there.
        registry.push_blob("app", layer.clone()).await;
        assert!(registry.get(&blob_path("app", &digest)).await.body == layer, "round {round}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn two_sweeps_at_once_take_everything_once() {
    let registry = TestRegistry::builder().start().await;
    for seed in 0..30 {
        registry.push_blob("app", content(5000, seed)).await;
    }
    let held = registry.sums().pushed;
    let (one, two) = tokio::join!(sweep(&registry, AT_ONCE), sweep(&registry, AT_ONCE));
    assert_eq!((one.blobs + two.blobs, one.freed_bytes + two.freed_bytes), (30, held));
    assert_eq!(registry.sums().pushed, 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_sweep_during_shutdown_ends_between_two_batches_and_goes_on_after_the_start() {
    let mut registry = TestRegistry::builder().config(|config| config.gc.batch_max = 1).start().await;
    for seed in 0..60 {
        registry.push_blob("app", content(5000, seed)).await;
    }
    let address = registry.address();
    let asked = tokio::spawn(Call::new("POST", "/api/v1/gc?grace=0s").send(address));
    let held = registry.sums().pushed;
    registry.until("the sweep has begun", |registry| registry.sums().pushed < held).await;
    registry.restart().await;
    let answer = asked.await.expect("the client does not panic");
    assert!(answer.json()["stopped"] == true || answer.json()["blobs"] == 60, "{:?}", answer.body);
    sweep(&registry, AT_ONCE).await;
    assert_eq!(registry.sums().pushed, 0);
    registry.finish().await;
}
