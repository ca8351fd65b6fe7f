//! Parts of blobs and questions about them: of what is here, of what is coming, and of what is not here.

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{TestRegistry, blob_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 300_000;
const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_head_of_a_cold_blob_asks_for_the_head_only_and_fills_nothing() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let registry = TestRegistry::over(&fake).await;
    let head = registry.head(&blob_path(REPOSITORY, &digest)).await;
    assert_eq!((head.status(), head.header("content-length")), (200, Some("300000")));
    assert_eq!(head.header("docker-content-digest"), Some(digest.to_string().as_str()));
    let methods: Vec<String> = fake.requests().0.iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["HEAD"]);
    assert!(registry.registry().fills().is_empty());
    assert_eq!(registry.sums().of_cache(), 0);
    registry.finish().await;
}

#[tokio::test]
async fn parts_of_a_warm_blob_are_the_parts_asked_for() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let path = blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, bytes.clone()));
    let registry = TestRegistry::over(&fake).await;
    registry.get(&path).await;
    registry.fills_end().await;
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, SIZE),
        ("bytes=299999-", SIZE - 1, SIZE),
        ("bytes=299990-999999999", SIZE - 10, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=-999999999", 0, SIZE),
    ] {
        let answer = registry.send(Call::get(&path).range(range)).await;
        assert_eq!((answer.status(), answer.complete, answer.cache()), (206, true, "hit"), "{range}");
        let content_range = format!("bytes {start}-{}/{SIZE}", end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()), "{range}");
        assert!(answer.body == bytes[start..end], "{range}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn ranges_that_select_nothing_are_refused_with_the_size_warm_and_cold() {
    let fake = FakeUpstream::start().await;
    let path = blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, content(SIZE, 1)));
    let registry = TestRegistry::over(&fake).await;
    for temperature in ["cold", "warm"] {
        for range in ["bytes=300000-", "bytes=400000-500000", "bytes=-0"] {
            let answer = registry.send(Call::get(&path).range(range)).await;
            assert_eq!(answer.status(), 416, "{temperature} {range}");
            assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{temperature} {range}");
        }
        registry.fills_end().await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn ranges_of_no_meaning_here_are_ignored() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let path = blob_path(REPOSITORY, &digest);
    let registry = TestRegistry::over(&fake).await;
    for range in ["bytes=0-1,5-6", "items=0-1", "bytes=a-b", "nonsense"] {
        let answer = registry.send(Call::get(&path).range(range)).await;
        assert_eq!((answer.status(), answer.body.len()), (200, SIZE), "{range}");
    }
    let guarded = Call::get(&path).range("bytes=0-9").header("if-range", "\"another\"");
    assert_eq!(registry.send(guarded).await.status(), 200);
    let guarded = Call::get(&path).range("bytes=0-9").header("if-range", &format!("\"{digest}\""));
    assert_eq!(registry.send(guarded).await.status(), 206);
    registry.finish().await;
}

#[tokio::test]
async fn a_near_range_of_a_cold_blob_is_served_by_its_fill() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let part = registry.send(Call::get(&path).range("bytes=100000-100099")).await;
    assert_eq!((part.status(), part.cache()), (206, "miss"));
    assert!(part.complete && part.body == bytes[100_000..100_100]);
    registry.fills_end().await;
    assert_eq!(registry.get(&path).await.cache(), "hit");
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(fake.requests().last().header("range"), None);
    registry.finish().await;
}

#[tokio::test]
async fn an_open_ended_range_follows_a_fill() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 100_000));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let mut broken = registry.open(&path).await;
    gate.let_pass(1);
    broken.read(100_000).await;
    drop(broken);
    let mut resumed = Call::get(&path).range("bytes=50000-").open(registry.address()).await;
    assert_eq!((resumed.head.status, resumed.head.header("content-length")), (206, Some("250000")));
    assert_eq!(resumed.head.header("content-range"), Some("bytes 50000-299999/300000"));
    assert!(resumed.read(50_000).await == bytes[50_000..100_000]);
    let suffix = Call::get(&path).range("bytes=-10").open(registry.address()).await;
    assert_eq!(suffix.head.header("content-range"), Some("bytes 299990-299999/300000"));
    gate.let_pass(2);
    let (resumed, suffix) = tokio::join!(resumed.finish(), suffix.finish());
    assert!(resumed.complete && resumed.body == bytes[100_000..]);
    assert!(suffix.complete && suffix.body == bytes[SIZE - 10..]);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_far_range_is_asked_of_the_upstream_by_itself_while_the_fill_goes_on() {
    let fake = FakeUpstream::start().await;
    let bytes = content(20 * MIB, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get().times(1), Fault::Drip(gate.clone(), MIB));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let (start, end) = (19 * MIB, 19 * MIB + 1000);
    let part = registry.send(Call::get(&path).range(&format!("bytes={start}-{}", end - 1))).await;
    assert_eq!((part.status(), part.cache()), (206, "bypass"));
    assert_eq!(part.header("content-range"), Some(format!("bytes {start}-{}/{}", end - 1, bytes.len()).as_str()));
    assert!(part.complete && part.body == bytes[start..end]);
    assert_eq!(fake.requests().last().header("range"), Some(format!("bytes={start}-{}", end - 1).as_str()));
    assert_eq!(registry.registry().fills().len(), 1, "the fill goes on");
    gate.let_pass(20);
    registry.fills_end().await;
    let warm = registry.get(&path).await;
    assert!(warm.cache() == "hit" && warm.body == bytes);
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_far_range_gets_its_part_from_an_upstream_that_ignores_ranges() {
    let fake = FakeUpstream::start().await;
    let bytes = content(18 * MIB, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get().times(1), Fault::Drip(gate.clone(), MIB));
    fake.fault(On::blob(&digest).get(), Fault::NoRange);
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let start = 17 * MIB;
    let part = registry.send(Call::get(&path).range(&format!("bytes={start}-"))).await;
    assert_eq!(part.status(), 206);
    assert!(part.complete && part.body == bytes[start..]);
    gate.let_pass(18);
    registry.fills_end().await;
    registry.finish().await;
}

#[tokio::test]
async fn who_has_a_blob_is_told_so_without_its_bytes() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let etag = registry.get(&path).await.header("etag").unwrap().to_owned();
    registry.fills_end().await;
    for value in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let answer = registry.send(Call::get(&path).header("if-none-match", &value)).await;
        assert_eq!((answer.status(), answer.body.len()), (304, 0), "{value}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
    }
    let other = registry.send(Call::get(&path).header("if-none-match", "\"other\"")).await;
    assert_eq!(other.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_part_of_a_fill_that_fails_is_never_complete() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    fake.fault(On::blob(&digest).get(), Fault::WrongBytes);
    let registry = TestRegistry::over(&fake).await;
    let tail = registry.send(Call::get(&blob_path(REPOSITORY, &digest)).range("bytes=200000-")).await;
    assert!(!tail.complete, "the last piece was given without proof");
    registry.finish().await;
}
