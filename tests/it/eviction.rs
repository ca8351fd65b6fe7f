//! The cache's bound: never exceeded, kept by forgetting what was read longest ago, and never paid for by a client.

use std::time::Duration;

use entrepot::oci::Digest;
use futures::future::join_all;

use crate::support::client::{Answer, Reading};
use crate::support::content;
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path, bytes_on_disk, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
/// A blob of this size takes this much and one block more until it is there.
const BLOB: usize = 256 << 10;
const BLOB_BYTES: u64 = BLOB as u64;
const BLOCK_BYTES: u64 = 4096;

/// A registry whose cache has room for so many blobs, and one block for the one that comes.
async fn room_for(fake: &FakeUpstream, blobs: u64) -> TestRegistry {
    over(fake).cache_max(blobs * BLOB_BYTES + BLOCK_BYTES).start().await
}

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake)
}

fn push_blobs(fake: &FakeUpstream, n: usize) -> Vec<(Digest, Vec<u8>)> {
    let blobs = (0..n).map(|seed| content(BLOB, seed));
    blobs.map(|bytes| (fake.push_blob(REPOSITORY, bytes.clone()), bytes)).collect()
}

/// Pulls a blob, waits for its fill, and looks whether the bound holds.
async fn pull(registry: &TestRegistry, (digest, bytes): &(Digest, Vec<u8>)) -> Answer {
    // Reads are told apart by the time at which they were.
    registry.advance(Duration::from_secs(1));
    let answer = registry.get(&blob_path(REPOSITORY, digest)).await;
    assert!(answer.looks_complete() && answer.body == *bytes);
    registry.fills_end().await;
    assert_bound(registry);
    answer
}

fn assert_bound(registry: &TestRegistry) {
    let limits = registry.limits();
    let (sums, on_disk) = (registry.sums(), bytes_on_disk(&registry.store()));
    assert!(sums.of_cache() <= limits.cache_max_bytes, "{sums:?} beyond {limits:?}");
    assert!(sums.of_store() <= limits.store_max_bytes, "{sums:?} beyond {limits:?}");
    let counted = sums.of_store() - sums.index;
    assert!(on_disk <= counted, "{on_disk} bytes on disk, {counted} counted: {sums:?}");
}

fn is_here(registry: &TestRegistry, blob: &(Digest, Vec<u8>)) -> bool {
    registry.registry().depot().blobs.store().blob_path(&blob.0).exists()
}

fn here(registry: &TestRegistry, blobs: &[(Digest, Vec<u8>)]) -> Vec<usize> {
    (0..blobs.len()).filter(|n| is_here(registry, &blobs[*n])).collect()
}

#[tokio::test]
async fn the_longest_unread_blob_goes_first() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 5);
    let registry = room_for(&fake, 3).await;
    for blob in &blobs[..3] {
        assert_eq!(pull(&registry, blob).await.cache(), "miss");
    }
    assert_eq!(pull(&registry, &blobs[0]).await.cache(), "hit");
    pull(&registry, &blobs[3]).await;
    assert_eq!(here(&registry, &blobs), [0, 2, 3]);
    pull(&registry, &blobs[4]).await;
    assert_eq!(here(&registry, &blobs), [0, 3, 4]);
    assert_eq!(pull(&registry, &blobs[1]).await.cache(), "miss", "what was evicted is fetched again");
    assert_eq!(here(&registry, &blobs), [1, 3, 4]);
    registry.finish().await;
}

#[tokio::test]
async fn the_order_of_reads_outlives_a_restart() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 3);
    let mut registry = room_for(&fake, 2).await;
    pull(&registry, &blobs[0]).await;
    pull(&registry, &blobs[1]).await;
    pull(&registry, &blobs[0]).await;
    registry.restart().await;
    pull(&registry, &blobs[2]).await;
    assert_eq!(here(&registry, &blobs), [0, 2]);
    registry.finish().await;
}

#[tokio::test]
async fn the_bound_holds_at_every_look_while_many_fills_compete() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 24);
    let registry = room_for(&fake, 4).await;
    let paths: Vec<String> = blobs.iter().map(|(digest, _)| blob_path(REPOSITORY, digest)).collect();
    for round in 0..3 {
        let watching = async {
            while fake.requests().0.iter().filter(|request| request.method == "GET").count() < (round + 1) * 20 {
                let (sums, limits) = (registry.sums(), registry.limits());
                assert!(sums.of_cache() <= limits.cache_max_bytes, "{sums:?} beyond {limits:?}");
                let on_disk = bytes_on_disk(&registry.store());
                assert!(on_disk <= limits.cache_max_bytes, "{on_disk} bytes on disk");
                tokio::task::yield_now().await;
            }
        };
        let pulls = join_all(paths.iter().map(|path| registry.get(path)));
        let (answers, ()) = tokio::join!(pulls, watching);
        for (answer, (_, bytes)) in answers.iter().zip(&blobs) {
            assert!(answer.looks_complete() && answer.body == *bytes, "a full cache failed a pull");
        }
        registry.fills_end().await;
        assert_bound(&registry);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_a_slow_client_reads_stays() {
    let fake = FakeUpstream::start().await;
    // More than the sockets in between can hold.
    let large = content(12 << 20, 9);
    let digest = fake.push_blob(REPOSITORY, large.clone());
    let blobs = push_blobs(&fake, 4);
    let registry = over(&fake).cache_max((12 << 20) + BLOB_BYTES + 2 * BLOCK_BYTES).start().await;
    registry.get(&blob_path(REPOSITORY, &digest)).await;
    registry.fills_end().await;
    let mut slow: Reading = registry.open(&blob_path(REPOSITORY, &digest)).await;
    slow.read(1).await;
    for blob in &blobs {
        pull(&registry, blob).await;
        assert!(is_here(&registry, &(digest, vec![])), "it went while it was read");
    }
    let rest = slow.finish().await;
    assert!(rest.complete && rest.body == large[1..]);
    registry.finish().await;
}

#[tokio::test]
async fn nothing_is_evicted_in_vain_for_a_blob_that_what_is_open_leaves_no_room_for() {
    let fake = FakeUpstream::start().await;
    let large = fake.push_blob(REPOSITORY, content(12 << 20, 9));
    let blobs = push_blobs(&fake, 3);
    let huge_bytes = content(6 << 20, 8);
    let huge = fake.push_blob(REPOSITORY, huge_bytes.clone());
    let registry = over(&fake).cache_max((12 << 20) + 4 * BLOB_BYTES).start().await;
    registry.get(&blob_path(REPOSITORY, &large)).await;
    registry.fills_end().await;
    for blob in &blobs {
        pull(&registry, blob).await;
    }
    let mut slow: Reading = registry.open(&blob_path(REPOSITORY, &large)).await;
    slow.read(1).await;
    let answer = registry.get(&blob_path(REPOSITORY, &huge)).await;
    assert_eq!((answer.cache(), answer.complete), ("bypass", true));
    assert!(answer.body == huge_bytes);
    assert_eq!(here(&registry, &blobs), [0, 1, 2], "the small ones went for nothing");
    drop(slow);
    registry.until("it is closed", |registry| registry.registry().depot().room.n_pins() == 0).await;
    assert_eq!(registry.get(&blob_path(REPOSITORY, &huge)).await.cache(), "miss");
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_larger_than_the_cache_streams_through_and_is_not_kept() {
    let fake = FakeUpstream::start().await;
    let bytes = content(4 * BLOB, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let blobs = push_blobs(&fake, 1);
    let registry = room_for(&fake, 2).await;
    pull(&registry, &blobs[0]).await;
    let path = blob_path(REPOSITORY, &digest);
    for _ in 0..2 {
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.cache(), answer.complete), (200, "bypass", true));
        assert_eq!(answer.header("content-length"), Some((4 * BLOB).to_string().as_str()));
        assert!(answer.body == bytes);
        registry.fills_end().await;
    }
    assert!(is_here(&registry, &blobs[0]), "nothing is evicted for what would not fit anyway");
    assert_bound(&registry);
    let call = crate::support::client::Call::get(&path).range("bytes=1000-1999");
    let part = registry.send(call).await;
    assert_eq!((part.status(), part.cache()), (206, "bypass"));
    assert!(part.complete && part.body == bytes[1000..2000]);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_passed_through_never_looks_complete_when_it_is_wrong() {
    for fault in [
        Fault::WrongBytes,
        Fault::LengthOff(-1),
        Fault::LengthOff(-4 * i64::try_from(BLOB).unwrap()),
        Fault::CutAfter(1000),
    ] {
        let fake = FakeUpstream::start().await;
        let digest = fake.push_blob(REPOSITORY, content(4 * BLOB, 1));
        fake.fault(On::blob(&digest).get(), fault);
        let registry = room_for(&fake, 2).await;
        let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
        assert!(!answer.looks_complete());
        registry.finish().await;
    }
}

#[tokio::test]
async fn pushed_blobs_are_never_evicted() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 6);
    let registry = over(&fake).cache_max(2 * BLOB_BYTES + BLOCK_BYTES).storage_max(64 << 20).start().await;
    let ours: Vec<Vec<u8>> = (100..104).map(|seed| content(BLOB, seed)).collect();
    let mut digests = vec![];
    for bytes in &ours {
        digests.push(registry.push_blob("our/app", bytes.clone()).await);
    }
    // One of them is in the cache first and pushed then.
    pull(&registry, &blobs[0]).await;
    digests.push(registry.push_blob("our/app", blobs[0].1.clone()).await);
    for blob in &blobs[1..] {
        pull(&registry, blob).await;
    }
    for (digest, bytes) in digests.iter().zip(ours.iter().chain([&blobs[0].1])) {
        let answer = registry.get(&blob_path("our/app", digest)).await;
        assert!(answer.looks_complete() && answer.body == *bytes);
    }
    assert_bound(&registry);
    registry.finish().await;
}

#[tokio::test]
async fn a_push_takes_room_from_the_cache_when_the_store_is_full() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 8);
    // Room for some two dozen blobs, the index and its log.
    let registry = over(&fake).cache_max(8 << 20).storage_max(8 << 20).start().await;
    for blob in &blobs {
        pull(&registry, blob).await;
    }
    for seed in 100..116 {
        registry.push_blob("our/app", content(BLOB, seed)).await;
        assert_bound(&registry);
    }
    // A store full of pushed content passes mirrored content through.
    let mut seed = 116;
    loop {
        let call = crate::support::client::Call::new(
            "POST",
            &format!(
                "/v2/our/app/blobs/uploads/?digest={}",
                Digest::of(entrepot::oci::Algorithm::Sha256, &content(BLOB, seed))
            ),
        );
        let answer = registry.send(call.body(content(BLOB, seed))).await;
        assert_bound(&registry);
        if answer.status() == 507 {
            assert_eq!(answer.code(), "STORAGE_FULL");
            assert!(answer.header("retry-after").is_some());
            break;
        }
        assert_eq!(answer.status(), 201);
        seed += 1;
    }
    let answer = registry.get(&blob_path(REPOSITORY, &blobs[0].0)).await;
    assert!(answer.looks_complete() && answer.body == blobs[0].1, "a full store failed a pull");
    registry.finish().await;
}

#[tokio::test]
async fn two_fills_that_cannot_both_be_kept_both_arrive() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 2);
    let gate = Gate::closed();
    fake.fault(On::blob(&blobs[0].0).get(), Fault::Drip(gate.clone(), BLOB / 4));
    let registry = room_for(&fake, 1).await;
    // The first fill has all the room there is, until its gate opens.
    let first = registry.open(&blob_path(REPOSITORY, &blobs[0].0)).await;
    let second = registry.get(&blob_path(REPOSITORY, &blobs[1].0)).await;
    assert!(second.looks_complete() && second.body == blobs[1].1);
    assert_eq!(second.cache(), "bypass");
    assert_bound(&registry);
    gate.let_pass(4);
    let first = first.finish().await;
    assert!(first.complete && first.body == blobs[0].1);
    registry.fills_end().await;
    assert_bound(&registry);
    registry.finish().await;
}

#[tokio::test]
async fn a_partial_fill_goes_before_anything_that_can_be_read() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 3);
    fake.fault(On::blob(&blobs[0].0).times(1), Fault::CutAfter(BLOB_BYTES / 2));
    fake.fault(On::blob(&blobs[0].0), Fault::CutAfter(0));
    let registry = room_for(&fake, 2).await;
    pull(&registry, &blobs[1]).await;
    assert!(!registry.get(&blob_path(REPOSITORY, &blobs[0].0)).await.complete);
    registry.fills_end().await;
    assert!(registry.sums().partial > 0);
    assert_bound(&registry);
    pull(&registry, &blobs[2]).await;
    assert_eq!(registry.sums().partial, 0);
    assert_eq!(here(&registry, &blobs), [1, 2]);
    registry.finish().await;
}

#[tokio::test]
async fn a_smaller_bound_after_a_restart_is_met_by_the_next_fill() {
    let fake = FakeUpstream::start().await;
    let blobs = push_blobs(&fake, 6);
    let mut registry = room_for(&fake, 5).await;
    for blob in &blobs[..5] {
        pull(&registry, blob).await;
    }
    let smaller = entrepot::config::Limit::Bytes(2 * BLOB_BYTES + BLOCK_BYTES);
    registry.reconfigure(|config| config.cache.max_size = smaller).await;
    pull(&registry, &blobs[5]).await;
    assert_eq!(here(&registry, &blobs), [4, 5]);
    registry.finish().await;
}

#[tokio::test]
async fn manifests_are_evicted_and_come_back() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let blobs = push_blobs(&fake, 3);
    let registry = over(&fake)
        // A manifest goes when nothing else is left to go: one blob alone fills this.
        .cache_max(BLOB_BYTES + BLOCK_BYTES)
        .config(|config| config.cache.manifests_in_memory_bytes = 0)
        .start()
        .await;
    let path = manifest_path(REPOSITORY, "1");
    assert!(registry.get(&path).await.body == image.manifest_bytes);
    for blob in &blobs {
        pull(&registry, blob).await;
    }
    let again = registry.get(&path).await;
    assert_eq!(again.status(), 200);
    assert!(again.body == image.manifest_bytes);
    assert_eq!(fake.requests().manifests_got("1") + fake.requests().manifests_got(&image.manifest.to_string()), 2);
    assert_bound(&registry);
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_that_finds_no_room_is_answered_all_the_same() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = over(&fake).cache_max(1).start().await;
    for _ in 0..2 {
        let answer = registry.get(&manifest_path(REPOSITORY, "1")).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.body == image.manifest_bytes);
    }
    assert_eq!(registry.sums().of_cache(), 0);
    registry.finish().await;
}
