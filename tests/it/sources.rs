//! Several sources, rotated passwords and Docker Hub's budget, seen from the clients of a registry.

use std::fs;
use std::time::Duration;

use entrepot::config::{Identity, Source};

use crate::support::client::Call;
use crate::support::content;
use crate::support::process::Process;
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Guard, On, Request};

const REPOSITORY: &str = "library/app";

/// A registry over two sources of one upstream.
async fn over_two(one: &FakeUpstream, other: &FakeUpstream) -> TestRegistry {
    let further = Source { url: other.base_url().parse().unwrap(), identity: Identity::Anonymous };
    let builder = TestRegistry::builder().default_upstream(HUB, one);
    builder.upstreams(|upstream| upstream.further = vec![further.clone()]).start().await
}

#[tokio::test]
async fn a_blob_that_is_cut_goes_on_at_the_next_source_and_the_client_does_not_notice() {
    let (one, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let bytes = content(300_000, 1);
    let digest = one.push_blob(REPOSITORY, bytes.clone());
    other.push_blob(REPOSITORY, bytes.clone());
    one.fault(On::blob(&digest).get(), Fault::CutAfter(100_000));
    let registry = over_two(&one, &other).await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(other.requests().last().header("range"), Some("bytes=100000-"));
    assert_eq!((one.requests().blobs_got(&digest), other.requests().blobs_got(&digest)), (1, 1));
    registry.finish().await;
}

#[tokio::test]
async fn content_keeps_its_one_name_whichever_source_it_came_from() {
    let (mut one, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let image = other.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = over_two(&one, &other).await;
    one.stop().await;
    let answer = registry.get(&manifest_path(REPOSITORY, "1")).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &image.manifest_bytes[..]));
    one.restart().await;
    let by_name = registry.get(&manifest_path(&format!("{HUB}/{REPOSITORY}"), image.manifest)).await;
    assert_eq!((by_name.status(), by_name.header("entrepot-cache")), (200, Some("hit")));
    registry.finish().await;
}

#[tokio::test]
async fn pain_12_an_unchanged_tag_costs_no_counted_request_and_no_token_of_its_own() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Bearer(Bearer::default()));
    let builder = TestRegistry::builder().default_upstream(HUB, &fake).revalidate_after(Duration::from_mins(1));
    let registry = builder.start().await;
    for _ in 0..5 {
        assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.status(), 200);
        registry.advance(Duration::from_mins(1));
    }
    // Docker Hub counts GETs of manifests that it answers, and nothing else.
    let requests = fake.requests();
    let is_counted =
        |request: &&Request| request.method == "GET" && request.path.contains("/manifests/") && request.status == 200;
    let counted = requests.0.iter().filter(is_counted).count();
    assert_eq!((counted, requests.tokens_got()), (1, 1), "{requests:?}");
    registry.finish().await;
}

#[tokio::test]
async fn pain_11_a_429_does_not_fail_the_pull_of_what_is_cached_and_is_not_asked_for_again() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let builder = TestRegistry::builder().default_upstream(HUB, &fake).revalidate_after(Duration::ZERO);
    let registry = builder.start().await;
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.status(), 200);
    fake.fault(On::any(), Fault::rate_limited(3600));
    let before = fake.requests().len();
    for _ in 0..3 {
        let answer = registry.get(&manifest_path(REPOSITORY, "1")).await;
        assert_eq!((answer.status(), answer.header("entrepot-cache")), (200, Some("stale")));
        registry.advance(Duration::from_mins(1));
    }
    assert_eq!(fake.requests().len() - before, 1, "Retry-After is respected");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_configured_reaches_each_source_and_no_secret_reaches_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeUpstream::start().await;
    let images = ["1", "2"].map(|tag| fake.push_image(REPOSITORY, tag, &[b"layer"]));
    fake.guard(Guard::Basic("me", "hunter2"));
    let password = folder.path().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    let dead = "{url: 'http://127.0.0.1:1', username: you, password: hunter3}";
    let alive = format!("{{url: '{}', username: me, password_file: '{}'}}", fake.base_url(), password.display());
    let upstream = format!("{{default: true, urls: [{dead}, {alive}], retries: 0}}");
    let config = format!("storage: {{min_free: 0}}\nlog: {{level: debug}}\nupstreams:\n  {HUB}: {upstream}\n");
    fs::write(folder.path().join("config.yaml"), config).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    let answer = process.send(Call::get(&manifest_path(REPOSITORY, "1"))).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &images[0].manifest_bytes[..]));
    // The next password is used from the next request on.
    fake.guard(Guard::Basic("me", "hunter4"));
    fs::write(&password, "hunter4\n").unwrap();
    let answer = process.send(Call::get(&manifest_path(REPOSITORY, "2"))).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &images[1].manifest_bytes[..]));
    let metrics = process.send(Call::get("/metrics")).await;
    process.terminate();
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    let log = log.join("\n");
    assert!(
        log.contains("a source failed and is asked last for a while") && log.contains("http://127.0.0.1:1/"),
        "{log}"
    );
    let shown = format!("{log}\n{}", String::from_utf8_lossy(&metrics.body));
    assert!(!shown.contains("hunter") && !shown.contains("aHVudGVy"), "{shown}");
}

#[tokio::test]
async fn a_source_that_sends_wrong_bytes_is_asked_last_and_nothing_of_them_is_taken_for_the_blob() {
    let (one, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let bytes = content(300_000, 1);
    let digest = one.push_blob(REPOSITORY, bytes.clone());
    other.push_blob(REPOSITORY, bytes.clone());
    one.fault(On::blob(&digest).get(), Fault::WrongBytes);
    let registry = over_two(&one, &other).await;
    let path = blob_path(REPOSITORY, &digest);
    assert!(!registry.get(&path).await.looks_complete(), "wrong bytes looked complete");
    registry.fills_end().await;
    let again = registry.get(&path).await;
    assert!(again.looks_complete() && again.body == bytes);
    assert_eq!((one.requests().blobs_got(&digest), other.requests().blobs_got(&digest)), (1, 1));
    registry.finish().await;
}

#[tokio::test]
async fn a_wrong_manifest_is_asked_of_the_next_source_at_once() {
    let (one, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    for fake in [&one, &other] {
        fake.push_image(REPOSITORY, "1", &[b"layer"]);
    }
    let image = other.push_image(REPOSITORY, "1", &[b"layer"]);
    one.fault(On::manifest("1").get(), Fault::WrongBytes);
    let registry = over_two(&one, &other).await;
    let answer = registry.get(&manifest_path(REPOSITORY, "1")).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &image.manifest_bytes[..]));
    assert_eq!((one.requests().manifests_got("1"), other.requests().manifests_got("1")), (1, 1));
    registry.finish().await;
}

#[tokio::test]
async fn a_no_in_mid_blob_is_asked_for_once_more_before_it_ends_the_fill() {
    for no in [Fault::status(404), Fault::status(401), Fault::status(403)] {
        let fake = FakeUpstream::start().await;
        let bytes = content(300_000, 1);
        let digest = fake.push_blob(REPOSITORY, bytes.clone());
        fake.fault(On::blob(&digest).get().times(1), Fault::CutAfter(100_000));
        fake.fault(On::blob(&digest).get().times(1), no);
        let registry = TestRegistry::over(&fake).await;
        let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
        assert!(answer.looks_complete() && answer.body == bytes);
        assert_eq!(fake.requests().blobs_got(&digest), 3);
        registry.finish().await;
    }
}
