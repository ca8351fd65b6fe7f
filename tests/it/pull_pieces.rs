//! Large blobs in pieces: several requests at a time, every byte in its place, and one stream where parts are not to be had.

use std::time::Duration;

use entrepot::oci::Digest;

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{Builder, HUB, Leftovers, TestRegistry, blob_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const PIECE: u64 = 64 << 10;
/// Ten pieces and a bit.
const SIZE: usize = (640 << 10) + 1234;

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).upstreams(|upstream| upstream.piece_bytes = PIECE)
}

/// A fake with one large blob.
async fn with_blob() -> (FakeUpstream, Vec<u8>, Digest, String) {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    (fake, bytes, digest, blob_path(REPOSITORY, &digest))
}

/// The ranges that were asked for, in the order of their offsets; `None` is the whole.
fn ranges(fake: &FakeUpstream) -> Vec<Option<String>> {
    fake.requests().0.iter().map(|request| request.header("range").map(str::to_owned)).collect()
}

fn first_byte(range: &str) -> u64 {
    range["bytes=".len()..].split('-').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_large_blob_comes_by_several_requests_at_a_time() {
    let (fake, bytes, digest, path) = with_blob().await;
    // The first answer stands still after a byte: what comes meanwhile comes by others.
    let gate = Gate::closed();
    gate.let_pass(1);
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1));
    let registry = over(&fake).start().await;
    let mut reading = registry.open(&path).await;
    assert!(reading.read(1).await == bytes[..1]);
    // Two pieces ahead for each of four streams.
    let received = |registry: &TestRegistry| registry.registry().fills().list()[0].received_bytes;
    registry.until("the window is full", |registry| received(registry) == 1 + 8 * PIECE).await;
    let asked = ranges(&fake);
    assert_eq!(asked[0], None, "the first request is an ordinary one");
    let mut starts: Vec<u64> = asked[1..].iter().flatten().map(|range| first_byte(range)).collect();
    starts.sort_unstable();
    assert_eq!(starts, (1..9).map(|n| n * PIECE).collect::<Vec<_>>());
    assert_eq!(registry.registry().fills().find(&digest).unwrap().servable_bytes(), Some(1));
    gate.let_pass(usize::try_from(PIECE).unwrap());
    let rest = reading.finish().await;
    assert!(rest.complete && rest.body == bytes[1..]);
    registry.fills_end().await;
    let warm = registry.get(&path).await;
    assert!(warm.cache() == "hit" && warm.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn small_blobs_and_parallel_one_make_one_request() {
    for (size, parallel) in [(2 * PIECE - 1, 4), (SIZE as u64, 1)] {
        let fake = FakeUpstream::start().await;
        let bytes = content(usize::try_from(size).unwrap(), 1);
        let digest = fake.push_blob(REPOSITORY, bytes.clone());
        let registry = over(&fake).upstreams(|upstream| upstream.parallel = parallel).start().await;
        let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
        assert!(answer.looks_complete() && answer.body == bytes);
        assert_eq!(ranges(&fake), [None]);
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_send_parts_sends_the_rest_in_one_stream() {
    let odd = [
        ("the whole", Fault::NoRange),
        ("another part", Fault::ContentRange(format!("bytes 0-{}/{SIZE}", SIZE - 1))),
        ("nonsense", Fault::ContentRange("bytes x".to_owned())),
        ("a part of another blob", Fault::ContentRange(format!("bytes {PIECE}-{}/{}", 2 * PIECE - 1, SIZE + 1))),
        ("nothing", Fault::status(416)),
        ("no more connections", Fault::rate_limited(1)),
        ("trouble", Fault::status(503)),
    ];
    for (name, fault) in odd {
        let (fake, bytes, digest, path) = with_blob().await;
        let gate = Gate::closed();
        fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
        fake.fault(On::blob(&digest), fault);
        let registry = over(&fake).start().await;
        let reading = registry.open(&path).await;
        gate.let_pass(1);
        fake.until(|requests| requests.len() >= 2 && requests.last().status > 0).await;
        gate.let_pass(SIZE);
        let answer = reading.finish().await;
        assert!(answer.complete && answer.body == bytes, "{name}");
        registry.fills_end().await;
        assert!(registry.get(&path).await.cache() == "hit", "{name}");
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_that_ignored_ranges_is_not_asked_for_parts_of_the_next_blob() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    fake.fault(On::any(), Fault::NoRange);
    let registry = over(&fake).start().await;
    let reading = registry.open(&path).await;
    fake.until(|requests| requests.len() == 2 && requests.last().status > 0).await;
    gate.let_pass(SIZE);
    assert!(reading.finish().await.body == bytes);
    let next = fake.push_blob(REPOSITORY, content(SIZE, 2));
    assert!(registry.get(&blob_path(REPOSITORY, &next)).await.body == content(SIZE, 2));
    assert_eq!(fake.requests().blobs_got(&next), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_piece_that_is_cut_is_gone_on_with() {
    for (times, fault) in [(3, Fault::CutAfter(1000)), (3, Fault::ResetAfter(1000)), (2, Fault::CutAfter(0))] {
        let (fake, bytes, digest, path) = with_blob().await;
        let gate = Gate::closed();
        fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
        fake.fault(On::blob(&digest).times(times), fault);
        let registry = over(&fake).start().await;
        let reading = registry.open(&path).await;
        fake.until(|requests| requests.len() >= 2 && requests.last().status > 0).await;
        gate.let_pass(SIZE);
        let answer = reading.finish().await;
        assert!(answer.complete && answer.body == bytes);
        registry.finish().await;
    }
}

#[tokio::test]
async fn wrong_bytes_in_one_piece_never_complete_a_blob() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    fake.fault(On::blob(&digest).after(2).times(1), Fault::WrongBytes);
    let registry = over(&fake).start().await;
    let reading = registry.open(&path).await;
    fake.until(|requests| requests.len() >= 5).await;
    gate.let_pass(SIZE);
    assert!(!reading.finish().await.complete);
    registry.fills_end().await;
    assert_eq!(registry.sums().of_cache(), 0, "it was kept");
    fake.heal();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn what_was_fetched_ahead_of_a_gap_is_not_taken_for_the_front_after_a_failure() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    let mut registry = over(&fake).start().await;
    let mut reading = registry.open(&path).await;
    gate.let_pass(3);
    reading.read(3000).await;
    let received = |registry: &TestRegistry| registry.registry().fills().list()[0].received_bytes;
    registry.until("pieces came ahead", |registry| received(registry) > 3000 + 5 * PIECE).await;
    registry.kill_and_restart().await;
    assert!(registry.sums().partial > 0);
    fake.heal();
    let before = fake.requests().len();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    let first = fake.requests().0[before].header("range").map(first_byte);
    assert!(first.is_none_or(|first| first <= 3000), "gone on from {first:?}, where there was a gap before");
    registry.finish().await;
}

#[tokio::test]
async fn a_fill_stopped_in_pieces_goes_on_from_its_front() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    let mut registry = over(&fake).start().await;
    let mut reading = registry.open(&path).await;
    gate.let_pass(3);
    reading.read(3000).await;
    let received = |registry: &TestRegistry| registry.registry().fills().list()[0].received_bytes;
    registry.until("pieces came ahead", |registry| received(registry) > 3000 + 5 * PIECE).await;
    drop(reading);
    registry.restart().await;
    fake.heal();
    let before = fake.requests().len();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().0[before].header("range"), Some("bytes=3000-"));
    registry.finish_leaving(Leftovers::default()).await;
}

#[tokio::test]
async fn a_long_transfer_takes_turns_with_those_who_wait() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    let registry = over(&fake).upstreams(|upstream| upstream.connections_max = 1).start().await;
    let large = registry.open(&path).await;
    let small_bytes = content(1000, 7);
    let small_digest = fake.push_blob(REPOSITORY, small_bytes.clone());
    let small_path = blob_path(REPOSITORY, &small_digest);
    let asked = registry.get(&small_path);
    let release = async {
        // Beside a further stream of the large one. A fill that is only known is not yet in the line, and a piece that ends before
        // it is there is followed by the next one.
        let small_waits = "entrepot_transfers{upstream=\"hub.example\",state=\"waiting\"} 2";
        registry.until("the small one waits", |registry| registry.metrics().contains(small_waits)).await;
        assert_eq!(fake.requests().len(), 1, "there is one connection");
        // One piece of the large one.
        gate.let_pass(usize::try_from(PIECE).unwrap() / 1000 + 1);
        fake.until(|requests| requests.blobs_got(&small_digest) == 1).await;
    };
    let (small, ()) = tokio::join!(asked, release);
    assert!(small.looks_complete() && small.body == small_bytes);
    let large = large.finish().await;
    assert!(large.complete && large.body == bytes);
    assert_eq!(fake.requests().blobs_got(&digest), 2);
    registry.finish().await;
}

#[tokio::test]
async fn no_more_connections_are_made_than_are_allowed() {
    let fake = FakeUpstream::start().await;
    let gate = Gate::closed();
    fake.fault(On::any().get(), Fault::SlowFirstByte(gate.clone()));
    let blobs: Vec<Vec<u8>> = (0..5).map(|seed| content(1000, seed)).collect();
    let paths: Vec<String> =
        blobs.iter().map(|bytes| blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, bytes.clone()))).collect();
    let registry = over(&fake).upstreams(|upstream| upstream.connections_max = 2).start().await;
    let pulls = futures::future::join_all(paths.iter().map(|path| registry.get(path)));
    let release = async {
        registry.until("all fills are known", |registry| registry.registry().fills().len() == 5).await;
        for asked in 2..=5 {
            fake.until(|requests| requests.len() >= asked).await;
            assert_eq!(fake.requests().len(), asked);
            gate.let_pass(1);
        }
        gate.let_pass(1);
    };
    let (answers, ()) = tokio::join!(pulls, release);
    for (answer, bytes) in answers.iter().zip(&blobs) {
        assert!(answer.looks_complete() && answer.body == *bytes);
    }
    let metrics = registry.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("entrepot_transfer_wait_seconds_count{upstream=\"hub.example\",priority=\"client\"} 5"));
    registry.finish().await;
}

#[tokio::test]
async fn bytes_come_no_faster_than_they_may() {
    let (fake, bytes, _, path) = with_blob().await;
    let registry = over(&fake).upstreams(|upstream| upstream.bandwidth_max_bytes = Some(2_000_000)).start().await;
    let started = std::time::Instant::now();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    // The last chunk is not waited for.
    assert!(started.elapsed() > Duration::from_millis(200), "{:?}", started.elapsed());
    registry.finish().await;
}

#[tokio::test]
async fn bytes_that_wait_for_the_pace_do_not_come_twice_when_another_stream_gets_their_part() {
    let (fake, bytes, digest, path) = with_blob().await;
    // The second chunk of the lead reaches beyond the first boundary, and waits for the pace.
    let (lead, probe) = (Gate::closed(), Gate::closed());
    fake.fault(On::blob(&digest).times(1), Fault::Drip(lead.clone(), usize::try_from(PIECE).unwrap() - 1000));
    fake.fault(On::blob(&digest).times(1), Fault::SlowFirstByte(probe.clone()));
    let registry = over(&fake).upstreams(|upstream| upstream.bandwidth_max_bytes = Some(400_000)).start().await;
    let mut reading = registry.open(&path).await;
    lead.let_pass(1);
    fake.until(|requests| requests.len() == 2).await;
    reading.read(usize::try_from(PIECE).unwrap() - 1000).await;
    lead.let_pass(SIZE);
    // Nobody can see that the chunk has arrived and waits. If it has not yet, this test shows less, but does not fail.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    probe.let_pass(1);
    let rest = reading.finish().await;
    assert!(rest.complete && rest.body == bytes[bytes.len() - rest.body.len()..]);
    registry.fills_end().await;
    assert!(registry.metrics().contains(&format!("entrepot_fill_bytes_total {SIZE}\n")), "bytes came twice");
    registry.finish().await;
}

#[tokio::test]
async fn a_part_ahead_of_the_front_waits_for_the_front() {
    let (fake, bytes, digest, path) = with_blob().await;
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 1000));
    let registry = over(&fake).start().await;
    let first = registry.open(&path).await;
    let from = 3 * usize::try_from(PIECE).unwrap();
    let part = Call::get(&path).range(&format!("bytes={from}-{}", from + 9)).open(registry.address()).await;
    assert_eq!(part.head.status, 206);
    gate.let_pass(SIZE);
    let (first, part) = tokio::join!(first.finish(), part.finish());
    assert!(first.complete && first.body == bytes && part.complete && part.body == bytes[from..from + 10]);
    registry.finish().await;
}
