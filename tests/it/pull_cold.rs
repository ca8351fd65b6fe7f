//! A pull of what is not here yet: one transfer that belongs to the server, and readers that follow it.

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{TestRegistry, blob_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 300_000;
/// Three pieces make a blob.
const PIECE: usize = 100_000;

/// A fake whose blob comes piece by piece as the gate says, and a registry over it.
async fn dripping() -> (FakeUpstream, TestRegistry, Gate, Vec<u8>, String) {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), PIECE));
    let registry = TestRegistry::over(&fake).await;
    (fake, registry, gate, bytes, blob_path(REPOSITORY, &digest))
}

#[tokio::test]
async fn the_head_and_the_first_bytes_leave_while_the_upstream_still_sends() {
    let (fake, registry, gate, bytes, path) = dripping().await;
    let mut reading = registry.open(&path).await;
    assert_eq!(reading.head.status, 200);
    assert_eq!(reading.head.header("content-length"), Some("300000"));
    assert_eq!(reading.head.header("entrepot-cache"), Some("miss"));
    gate.let_pass(1);
    let first = reading.read(PIECE).await;
    assert!(first == bytes[..PIECE]);
    assert_eq!(fake.requests().last().bytes_sent, PIECE as u64);
    gate.let_pass(2);
    let rest = reading.finish().await;
    assert!(rest.complete && rest.body == bytes[PIECE..]);
    registry.finish().await;
}

#[tokio::test]
async fn the_second_puller_tails_the_first_fill() {
    let (fake, registry, gate, bytes, path) = dripping().await;
    let mut first = registry.open(&path).await;
    gate.let_pass(1);
    first.read(PIECE).await;
    let mut second = registry.open(&path).await;
    assert_eq!(second.head.header("entrepot-cache"), Some("coalesced"));
    assert!(second.read(PIECE).await == bytes[..PIECE], "a follower begins at byte 0");
    gate.let_pass(1);
    assert!(second.read(PIECE / 2).await == bytes[PIECE..PIECE + PIECE / 2], "a follower follows");
    let third = registry.open(&path).await;
    gate.let_pass(1);
    let (first, second, third) = tokio::join!(first.finish(), second.finish(), third.finish());
    assert!(first.complete && first.body == bytes[PIECE..]);
    assert!(second.complete && second.body == bytes[PIECE + PIECE / 2..]);
    assert!(third.complete && third.body == bytes);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_fill_outlives_every_client_and_the_next_pull_is_a_hit() {
    let (mut fake, registry, gate, bytes, path) = dripping().await;
    let mut reading = registry.open(&path).await;
    gate.let_pass(1);
    reading.read(10).await;
    drop(reading);
    gate.let_pass(2);
    registry.fills_end().await;
    assert_eq!(fake.requests().len(), 1);
    fake.stop().await;
    let warm = registry.get(&path).await;
    assert_eq!((warm.status(), warm.cache(), warm.complete), (200, "hit", true));
    assert!(warm.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_fill_begins_even_if_its_client_leaves_before_the_upstream_answers() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::SlowFirstByte(gate.clone()));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    tokio::select! {
        _ = registry.open(&path) => panic!("nobody can answer yet"),
        () = fake.until(|requests| requests.len() == 1) => {}
    }
    gate.let_pass(1);
    registry.fills_end().await;
    assert_eq!(registry.get(&path).await.cache(), "hit");
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_slow_client_slows_nobody() {
    let fake = FakeUpstream::start().await;
    // More than the sockets in between can hold.
    let bytes = content(24 << 20, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let mut slow = registry.open(&path).await;
    slow.read(1).await;
    let fast = registry.get(&path).await;
    assert!(fast.complete && fast.body == bytes);
    registry.fills_end().await;
    let warm = registry.get(&path).await;
    assert_eq!(warm.cache(), "hit");
    let slow = slow.finish().await;
    assert!(slow.complete && slow.body == bytes[1..]);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn the_last_piece_waits_for_the_proof() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), SIZE - 1));
    let registry = TestRegistry::over(&fake).await;
    let mut reading = registry.open(&blob_path(REPOSITORY, &digest)).await;
    gate.let_pass(1);
    let shown = SIZE - 4096;
    assert!(reading.read(shown).await == bytes[..shown]);
    let fill = registry.registry().fills().find(&digest).expect("the fill waits for its last byte");
    assert_eq!(fill.servable_bytes(), Some(shown as u64));
    gate.let_pass(1);
    let rest = reading.finish().await;
    assert!(rest.complete && rest.body == bytes[shown..]);
    drop(fill);
    registry.finish().await;
}

#[tokio::test]
async fn blobs_around_the_size_of_the_last_piece_arrive_whole() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    for size in [0, 1, 4095, 4096, 4097, 8192] {
        let bytes = content(size, 3);
        let path = blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, bytes.clone()));
        for expected in ["miss", "hit"] {
            let answer = registry.get(&path).await;
            assert_eq!((answer.status(), answer.cache(), answer.complete), (200, expected, true), "{size} bytes");
            assert!(answer.body == bytes, "{size} bytes");
            registry.fills_end().await;
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_of_unknown_length_is_streamed_and_kept() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest).get(), Fault::Chunked);
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let cold = registry.get(&path).await;
    assert_eq!((cold.status(), cold.cache(), cold.complete), (200, "miss", true));
    assert!(cold.body == bytes);
    registry.fills_end().await;
    let warm = registry.get(&path).await;
    assert_eq!((warm.cache(), warm.header("content-length")), ("hit", Some("300000")));
    assert!(warm.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_tells_the_length_that_the_upstream_does_not() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let image = fake.push_image(REPOSITORY, "1", &[&bytes]);
    fake.fault(On::blob(&image.layers[0]).get(), Fault::Chunked);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(registry.get(&format!("/v2/{REPOSITORY}/manifests/1")).await.status(), 200);
    let cold = registry.get(&blob_path(REPOSITORY, &image.layers[0])).await;
    assert_eq!(cold.header("content-length"), Some("300000"));
    assert!(cold.complete && cold.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_partial_fill_of_an_earlier_process_is_continued_where_it_was() {
    let (fake, mut registry, gate, bytes, path) = dripping().await;
    let mut reading = registry.open(&path).await;
    gate.let_pass(2);
    reading.read(2 * PIECE).await;
    drop(reading);
    registry.kill_and_restart().await;
    assert!(registry.sums().partial >= 2 * PIECE as u64, "{:?}", registry.sums());
    fake.heal();
    let answer = registry.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
    assert_eq!(fake.requests().len(), 2);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=200000-"));
    fake.until(|requests| requests.last().bytes_sent == PIECE as u64).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_partial_fill_that_was_damaged_is_found_out_and_fetched_anew() {
    let (fake, mut registry, gate, bytes, path) = dripping().await;
    let mut reading = registry.open(&path).await;
    gate.let_pass(2);
    reading.read(2 * PIECE).await;
    drop(reading);
    registry.kill_and_restart().await;
    let fills = std::fs::read_dir(registry.store().join("staging/fills")).unwrap();
    let partial = fills.last().unwrap().unwrap().path();
    let damaged: Vec<u8> = std::fs::read(&partial).unwrap().iter().map(|byte| !byte).collect();
    std::fs::write(&partial, damaged).unwrap();
    fake.heal();
    let first = registry.get(&path).await;
    assert!(!first.looks_complete(), "a body with wrong bytes was completed");
    registry.fills_end().await;
    let second = registry.get(&path).await;
    assert!(second.complete && second.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn the_upstream_is_asked_for_bytes_as_they_are_stored() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(100, 1));
    let registry = TestRegistry::over(&fake).await;
    let call = Call::get(&blob_path(REPOSITORY, &digest)).header("accept-encoding", "zstd;q=1.0, gzip;q=0.8");
    let answer = registry.send(call).await;
    assert_eq!((answer.status(), answer.header("content-encoding")), (200, None));
    assert_eq!(fake.requests().last().header("accept-encoding"), Some("identity"));
    registry.finish().await;
}

#[tokio::test]
async fn a_fill_that_takes_too_long_ends_and_its_bytes_are_continued() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    gate.let_pass(2);
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate, PIECE));
    // Far longer than what is left of the blob takes, however busy the machine is.
    let timeout = std::time::Duration::from_secs(1);
    let builder = TestRegistry::builder().default_upstream("hub.example", &fake);
    let registry = builder.config(|config| config.cache.fill_timeout = timeout).start().await;
    let path = blob_path(REPOSITORY, &digest);
    let cut = registry.get(&path).await;
    assert!(!cut.complete && cut.body.len() <= 2 * PIECE);
    registry.fills_end().await;
    assert!(registry.sums().partial >= 2 * PIECE as u64, "what came is counted: {:?}", registry.sums());
    fake.heal();
    let answer = registry.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=200000-"));
    registry.finish().await;
}
