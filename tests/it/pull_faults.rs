//! What upstreams do wrong: cuts are gone on from, wrong bytes never look complete, and every answer is an honest one.

use std::time::Duration;

use entrepot::config::{Credentials, Identity, Password};
use secrecy::SecretString;

use crate::support::content;
use crate::support::registry::{HUB, Leftovers, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Guard, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 300_000;

/// A fake with one blob, the registry over it, and the blob's bytes and path.
async fn with_blob(
    fault: impl FnOnce(&entrepot::oci::Digest) -> (On, Fault),
) -> (FakeUpstream, TestRegistry, Vec<u8>, String) {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let (on, fault) = fault(&digest);
    fake.fault(on, fault);
    let registry = TestRegistry::over(&fake).await;
    (fake, registry, bytes, blob_path(REPOSITORY, &digest))
}

#[tokio::test]
async fn a_cut_is_gone_on_from_where_it_was_and_the_client_does_not_notice() {
    for cut in [0, 1, 4_095, 4_096, 100_000, SIZE as u64 - 1] {
        let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).times(1), Fault::CutAfter(cut))).await;
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.complete, answer.cache()), (200, true, "miss"), "cut at {cut}");
        assert!(answer.body == bytes, "cut at {cut}");
        assert_eq!(fake.requests().len(), 2);
        let range = (cut > 0).then(|| format!("bytes={cut}-"));
        assert_eq!(fake.requests().last().header("range"), range.as_deref());
        fake.until(|requests| requests.last().bytes_sent == SIZE as u64 - cut).await;
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_reset_is_gone_on_from_whatever_arrived() {
    for cut in [0, 1, 4_096, 200_000, SIZE as u64 - 1] {
        let (fake, registry, bytes, path) =
            with_blob(|digest| (On::blob(digest).times(1), Fault::ResetAfter(cut))).await;
        let answer = registry.get(&path).await;
        assert!(answer.looks_complete() && answer.body == bytes, "reset at {cut}");
        let ranges: Vec<Option<String>> =
            fake.requests().0.iter().map(|request| request.header("range").map(str::to_owned)).collect();
        assert_eq!(ranges.len(), 2);
        let from = ranges[1].as_ref().map_or("0", |range| &range["bytes=".len()..range.len() - 1]);
        assert!(from.parse::<u64>().unwrap() <= cut, "reset at {cut}, gone on from {from}");
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_transfer_that_is_cut_again_and_again_ends_as_long_as_it_gains() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    // More cuts than there are retries: a byte gained resets the budget.
    fake.fault(On::blob(&digest).times(6), Fault::CutAfter(50_000));
    let registry = TestRegistry::over(&fake).await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().len(), 6);
    registry.finish().await;
}

#[tokio::test]
async fn a_transfer_that_gains_nothing_ends_and_what_came_is_continued_later() {
    let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).times(1), Fault::CutAfter(100_000))).await;
    fake.fault(On::any(), Fault::CutAfter(0));
    let cut = registry.get(&path).await;
    assert!(!cut.complete && bytes.starts_with(&cut.body));
    registry.fills_end().await;
    assert!(registry.sums().partial >= 100_000);
    fake.heal();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=100000-"));
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_that_ignores_the_range_is_skipped_to_where_the_cut_was() {
    let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).times(1), Fault::CutAfter(150_000))).await;
    fake.fault(On::any(), Fault::NoRange);
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=150000-"));
    assert_eq!(fake.requests().last().status, 200);
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_that_answers_with_another_part_never_completes_a_blob() {
    let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).times(1), Fault::CutAfter(150_000))).await;
    fake.fault(On::any(), Fault::ContentRange("bytes 0-299999/300000".to_owned()));
    let answer = registry.get(&path).await;
    assert!(!answer.looks_complete() && bytes.starts_with(&answer.body));
    registry.fills_end().await;
    fake.heal();
    let answer = registry.get(&path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn wrong_bodies_never_look_complete_and_nothing_of_them_is_kept() {
    let faults = [
        ("other bytes", Fault::WrongBytes),
        ("one byte less announced", Fault::LengthOff(-1)),
        ("a web page", Fault::Html),
        ("half of it", Fault::LengthOff(-150_000)),
        ("nothing announced", Fault::LengthOff(-300_000)),
    ];
    for (name, fault) in faults {
        let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).get(), fault)).await;
        let wrong = registry.get(&path).await;
        assert!(!wrong.looks_complete(), "{name} looked complete");
        registry.fills_end().await;
        let sums = registry.sums();
        assert_eq!(sums.of_cache(), 0, "{name} was kept");
        fake.heal();
        let right = registry.get(&path).await;
        assert!(right.looks_complete() && right.body == bytes, "after {name}");
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_body_shorter_than_announced_never_looks_complete() {
    let (fake, registry, bytes, path) = with_blob(|digest| (On::blob(digest).get(), Fault::LengthOff(5))).await;
    let short = registry.get(&path).await;
    assert!(!short.looks_complete());
    registry.fills_end().await;
    fake.heal();
    let right = registry.get(&path).await;
    assert!(right.looks_complete() && right.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_body_longer_or_shorter_than_its_descriptor_says_is_refused() {
    for fault in [Fault::Endless, Fault::Chunked] {
        let fake = FakeUpstream::start().await;
        let layer = content(SIZE, 1);
        let image = fake.push_image(REPOSITORY, "1", &[&layer]);
        let truncated = matches!(fault, Fault::Chunked);
        let digest = image.layers[0];
        fake.fault(On::blob(&digest).get(), fault);
        let registry = TestRegistry::over(&fake).await;
        registry.get(&manifest_path(REPOSITORY, "1")).await;
        let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
        // Without a length announced by the upstream the descriptor's counts; right bytes of that length are right.
        assert_eq!(answer.looks_complete(), truncated);
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_body_without_end_fills_no_more_than_the_cache_and_leaves_nothing() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    fake.fault(On::blob(&digest).get(), Fault::Endless);
    let builder = TestRegistry::builder().default_upstream(HUB, &fake).cache_max(40 << 20);
    let registry = builder.start().await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(!answer.complete);
    assert!(answer.body.len() <= 40 << 20);
    registry.finish().await;
}

#[tokio::test]
async fn a_passing_failure_is_retried_inside() {
    for status in [500, 502, 503, 504] {
        let fake = FakeUpstream::start().await;
        let layer = content(SIZE, 1);
        let image = fake.push_image(REPOSITORY, "1", &[&layer]);
        let failing = || Fault::status(status);
        fake.fault(On::manifest("1").times(1), failing());
        fake.fault(On::blob(&image.layers[0]).times(1), failing());
        let registry = TestRegistry::over(&fake).await;
        assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.status(), 200, "{status}");
        let answer = registry.get(&blob_path(REPOSITORY, &image.layers[0])).await;
        assert!(answer.looks_complete() && answer.body == layer, "{status}");
        registry.finish().await;
    }
}

#[tokio::test]
async fn every_refusal_of_an_upstream_becomes_an_honest_answer() {
    let rows = [
        (Fault::status(401), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
        (Fault::status(403), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
        (Fault::status(404), 404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"),
        (Fault::rate_limited(7), 429, "TOOMANYREQUESTS", "TOOMANYREQUESTS"),
        (Fault::status(418), 502, "UNAVAILABLE", "UNAVAILABLE"),
        (Fault::status(500), 502, "UNAVAILABLE", "UNAVAILABLE"),
        (Fault::status(503), 502, "UNAVAILABLE", "UNAVAILABLE"),
        (Fault::NotHttp, 502, "UNAVAILABLE", "UNAVAILABLE"),
        (Fault::Hangup, 504, "UNAVAILABLE", "UNAVAILABLE"),
    ];
    for (fault, status, of_manifest, of_blob) in rows {
        let fake = FakeUpstream::start().await;
        let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
        fake.fault(On::any(), fault);
        let registry = TestRegistry::over(&fake).await;
        let manifest = registry.get(&manifest_path(REPOSITORY, "1")).await;
        assert_eq!((manifest.status(), manifest.code().as_str()), (status, of_manifest));
        let blob = registry.get(&blob_path(REPOSITORY, &image.layers[0])).await;
        assert_eq!((blob.status(), blob.code().as_str()), (status, of_blob));
        for answer in [&manifest, &blob] {
            assert!(answer.message().contains(HUB), "{}", answer.message());
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
            assert_eq!(answer.header("www-authenticate"), None, "a challenge is never relayed");
        }
        let retry_after = (status == 429).then_some("7");
        assert_eq!((manifest.header("retry-after"), blob.header("retry-after")), (retry_after, retry_after));
        assert_eq!(registry.head(&blob_path(REPOSITORY, &image.layers[0])).await.status(), status);
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_refusal_names_the_upstream_and_its_status() {
    for (refusal, text) in [(401, "401"), (403, "403")] {
        let (_fake, registry, _, path) = with_blob(|_| (On::any(), Fault::status(refusal))).await;
        let answer = registry.get(&path).await;
        assert!(answer.message().contains(HUB) && answer.message().contains(text), "{}", answer.message());
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_never_a_not_found() {
    let (mut fake, registry, _, path) = with_blob(|_| (On::any(), Fault::status(500))).await;
    fake.stop().await;
    for path in [path, manifest_path(REPOSITORY, "1")] {
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (504, "UNAVAILABLE"));
        assert!(answer.message().contains(HUB));
    }
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_that_stays_silent_is_given_up() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    fake.fault(On::any(), Fault::Silent);
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = builder
        .upstreams(|upstream| {
            upstream.first_byte_timeout = Duration::from_millis(50);
            upstream.retries = 0;
        })
        .start()
        .await;
    for path in [blob_path(REPOSITORY, &digest), manifest_path(REPOSITORY, "1")] {
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (504, "UNAVAILABLE"));
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_body_that_stands_still_is_asked_for_anew_from_there() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = crate::support::upstream::Gate::closed();
    gate.let_pass(1);
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate, 100_000));
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry =
        builder.upstreams(|upstream| upstream.no_progress_timeout = Duration::from_millis(200)).start().await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=100000-"));
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_that_the_upstream_does_not_have_leaves_nothing_behind() {
    let fake = FakeUpstream::start().await;
    let digest = FakeUpstream::start().await.push_blob(REPOSITORY, content(SIZE, 1));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    for answer in [registry.get(&path).await, registry.head(&path).await] {
        assert_eq!(answer.status(), 404);
    }
    registry.finish_leaving(Leftovers { fills: 0, uploads: 0 }).await;
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_the_credentials() {
    let (fake, second) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    second.push_blob(REPOSITORY, bytes.clone());
    fake.guard(Guard::Basic("me", "hunter2"));
    fake.fault(On::blob(&digest), Fault::RedirectTo(second.base_url().to_owned()));
    // The second host's connection breaks too: the way there is gone again, from the first one on.
    second.fault(On::blob(&digest).times(1), Fault::CutAfter(100_000));
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = builder
        .upstreams(|upstream| {
            let password = Password::Written(SecretString::from("hunter2"));
            upstream.identity = Identity::One(Credentials { username: "me".to_owned(), password });
        })
        .start()
        .await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert!(fake.requests().last().header("authorization").is_some());
    assert!(second.requests().0.iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(second.requests().last().header("range"), Some("bytes=100000-"));
    assert_eq!(second.requests().last().query, "signature=secret");
    registry.finish().await;
}

#[tokio::test]
async fn a_token_that_expires_in_mid_pull_is_replaced() {
    let fake = FakeUpstream::start().await;
    let bytes = content(SIZE, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.guard(Guard::Bearer(Bearer { uses: Some(1), ..Bearer::default() }));
    fake.fault(On::blob(&digest).times(2), Fault::CutAfter(100_000));
    let registry = TestRegistry::over(&fake).await;
    let answer = registry.get(&blob_path(REPOSITORY, &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert_eq!(fake.requests().tokens_got(), 3);
    assert_eq!(fake.requests().last().header("range"), Some("bytes=200000-"));
    registry.finish().await;
}

#[tokio::test]
async fn a_wrong_manifest_is_refused_and_not_kept() {
    for (name, fault) in [
        ("other bytes", Fault::WrongBytes),
        ("a web page", Fault::Html),
        ("an endless one", Fault::Endless),
        ("one byte less", Fault::LengthOff(-1)),
    ] {
        let fake = FakeUpstream::start().await;
        let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
        fake.fault(On::any(), fault);
        let registry = TestRegistry::over(&fake).await;
        for reference in ["1".to_owned(), image.manifest.to_string()] {
            let answer = registry.get(&manifest_path(REPOSITORY, reference)).await;
            assert_eq!((answer.status(), answer.code().as_str()), (502, "UNAVAILABLE"), "{name}");
            assert!(answer.message().contains(HUB), "{name}: {}", answer.message());
        }
        assert_eq!(registry.sums().of_cache(), 0, "{name} was kept");
        fake.heal();
        assert!(registry.get(&manifest_path(REPOSITORY, "1")).await.body == image.manifest_bytes, "after {name}");
        registry.finish().await;
    }
}
