//! When a tag's upstream is asked, how often, and what is answered when it cannot be.

use std::time::{Duration, Instant};

use entrepot::config::OnUpstream404;
use futures::future::join_all;

use crate::support::client::Answer;
use crate::support::registry::{Builder, HUB, TestRegistry, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, Image, On};

const REPOSITORY: &str = "team/app";
const MINUTE: Duration = Duration::from_mins(1);

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).revalidate_after(10 * MINUTE)
}

fn tag() -> String {
    manifest_path(REPOSITORY, "1")
}

/// A registry that has the tag `1` and whose clock says that it has to be confirmed.
async fn with_expired_tag(change: impl FnOnce(Builder) -> Builder) -> (FakeUpstream, TestRegistry, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = change(over(&fake)).start().await;
    assert_eq!(registry.get(&tag()).await.cache(), "miss");
    registry.advance(10 * MINUTE);
    (fake, registry, image)
}

fn assert_stale(answer: &Answer, image: &Image) {
    assert_eq!((answer.status(), answer.cache()), (200, "stale"));
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 - \"")), "{:?}", answer.head);
    assert!(answer.body == image.manifest_bytes);
}

/// The first answer that is not stale. An upstream that failed is asked again, but waited for only once it has answered.
async fn confirmed(registry: &TestRegistry) -> Answer {
    loop {
        let answer = registry.get(&tag()).await;
        if answer.cache() != "stale" {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_fresh_tag_costs_no_request() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = over(&fake).start().await;
    registry.get(&tag()).await;
    registry.advance((10 * MINUTE).saturating_sub(Duration::from_millis(1)));
    let answer = registry.get(&tag()).await;
    assert_eq!((answer.cache(), answer.header("warning")), ("hit", None));
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn an_expired_tag_that_did_not_move_costs_one_head() {
    let (fake, registry, image) = with_expired_tag(|builder| builder).await;
    for outcome in ["revalidated", "hit"] {
        let answer = registry.get(&tag()).await;
        assert_eq!((answer.status(), answer.cache()), (200, outcome));
        assert!(answer.body == image.manifest_bytes);
    }
    let requests = fake.requests();
    assert_eq!((requests.len(), requests.manifests_headed("1"), requests.manifests_got("1")), (2, 1, 1));
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_that_moved_costs_a_head_and_one_get_by_digest() {
    let (fake, registry, _) = with_expired_tag(|builder| builder).await;
    let moved = fake.push_image(REPOSITORY, "1", &[b"another layer"]);
    for outcome in ["miss", "hit"] {
        let answer = registry.get(&tag()).await;
        assert_eq!((answer.status(), answer.cache()), (200, outcome));
        assert!(answer.body == moved.manifest_bytes);
    }
    let requests = fake.requests();
    assert_eq!((requests.len(), requests.manifests_headed("1")), (3, 1));
    assert_eq!(requests.manifests_got(&moved.manifest.to_string()), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_that_moves_to_a_known_manifest_costs_no_get() {
    let (fake, registry, first) = with_expired_tag(|builder| builder).await;
    let second = fake.push_image(REPOSITORY, "1", &[b"another layer"]);
    assert!(registry.get(&tag()).await.body == second.manifest_bytes);
    let asked = fake.requests().len();
    fake.move_tag(REPOSITORY, "1", first.manifest);
    registry.advance(10 * MINUTE);
    assert!(registry.get(&tag()).await.body == first.manifest_bytes);
    let requests = fake.requests();
    assert_eq!((requests.len(), requests.last().method.as_str()), (asked + 1, "HEAD"));
    registry.finish().await;
}

#[tokio::test]
async fn a_hundred_connections_for_an_expired_tag_cause_one_head() {
    let (fake, registry, image) = with_expired_tag(|builder| builder).await;
    let gate = Gate::closed();
    fake.fault(On::manifest("1").head(), Fault::SlowFirstByte(gate.clone()));
    let path = tag();
    let pulls = join_all((0..100).map(|_| registry.get(&path)));
    let release = async {
        fake.until(|requests| requests.manifests_headed("1") == 1).await;
        gate.let_pass(100);
    };
    let (answers, ()) = tokio::join!(pulls, release);
    assert!(answers.iter().all(|answer| answer.status() == 200 && answer.body == image.manifest_bytes));
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_say_the_digest_is_asked_for_the_whole() {
    let (fake, registry, image) = with_expired_tag(|builder| builder).await;
    fake.header("docker-content-digest", "not said");
    let answer = registry.get(&tag()).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body == image.manifest_bytes && answer.cache() != "stale");
    assert_eq!(fake.requests().manifests_got("1"), 2);
    registry.finish().await;
}

#[tokio::test]
async fn an_immutable_tag_is_asked_for_once() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "v1.2.3", &[b"layer"]);
    let builder = over(&fake).upstreams(|upstream| upstream.immutable_tags = vec!["v*.*.*".to_owned()]);
    let registry = builder.start().await;
    let path = manifest_path(REPOSITORY, "v1.2.3");
    registry.get(&path).await;
    registry.advance(1_000_000 * MINUTE);
    let answer = registry.get(&path).await;
    assert_eq!(answer.cache(), "hit");
    assert!(answer.body == image.manifest_bytes);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn every_trouble_of_the_upstream_is_answered_from_the_cache() {
    let troubles = [
        ("401", Fault::status(401)),
        ("403", Fault::status(403)),
        ("404", Fault::status(404)),
        ("429", Fault::rate_limited(60)),
        ("500", Fault::status(500)),
        ("503", Fault::status(503)),
        ("hangup", Fault::Hangup),
        ("not HTTP", Fault::NotHttp),
        ("a web page", Fault::Html),
        ("endless redirects", Fault::Redirect("/v2/team/app/manifests/1".to_owned())),
    ];
    for (name, trouble) in troubles {
        let (fake, registry, image) = with_expired_tag(|builder| builder).await;
        fake.fault(On::any(), trouble);
        for answer in [registry.get(&tag()).await, registry.get(&tag()).await] {
            assert_eq!(answer.cache(), "stale", "{name}");
            assert_stale(&answer, &image);
        }
        let head = registry.head(&tag()).await;
        assert_eq!((head.status(), head.cache()), (200, "stale"), "{name}");
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_wrong_manifest_behind_a_moved_tag_leaves_the_cached_one() {
    for wrong in [Fault::WrongBytes, Fault::status(500), Fault::Hangup] {
        let (fake, registry, image) = with_expired_tag(|builder| builder).await;
        let moved = fake.push_image(REPOSITORY, "1", &[b"another layer"]);
        fake.fault(On::manifest(&moved.manifest.to_string()), wrong);
        assert_stale(&registry.get(&tag()).await, &image);
        fake.heal();
        assert!(confirmed(&registry).await.body == moved.manifest_bytes);
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_answered_for_from_the_cache_also_after_a_restart() {
    let (mut fake, mut registry, image) = with_expired_tag(|builder| builder).await;
    fake.stop().await;
    assert_stale(&registry.get(&tag()).await, &image);
    registry.restart().await;
    assert_stale(&registry.get(&tag()).await, &image);
    fake.restart().await;
    assert!(confirmed(&registry).await.body == image.manifest_bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_silent_upstream_is_waited_for_no_longer_than_configured() {
    let patience = Duration::from_millis(50);
    let (fake, registry, image) =
        with_expired_tag(|builder| builder.upstreams(|upstream| upstream.stale_after_wait = patience)).await;
    let gate = Gate::closed();
    fake.fault(On::manifest("1").head(), Fault::SlowFirstByte(gate.clone()));
    // The upstream answers only after the client was answered: the order is the proof.
    assert_stale(&registry.get(&tag()).await, &image);
    assert_eq!(fake.requests().last().status, 0, "the upstream was waited for");
    gate.let_pass(1);
    // The question goes on without its client, and its late answer counts.
    confirmed(&registry).await;
    assert_eq!(registry.get(&tag()).await.cache(), "hit");
    assert_eq!(fake.requests().manifests_headed("1"), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_dead_upstream_is_waited_for_once() {
    let wait = Duration::from_secs(1);
    let (fake, registry, image) =
        with_expired_tag(|builder| builder.upstreams(|upstream| upstream.stale_after_wait = wait)).await;
    fake.fault(On::any(), Fault::Silent);
    let since = Instant::now();
    assert_stale(&registry.get(&tag()).await, &image);
    assert!(since.elapsed() >= wait, "it was not waited for at all");
    let since = Instant::now();
    for _ in 0..20 {
        assert_stale(&registry.get(&tag()).await, &image);
    }
    assert!(since.elapsed() < wait, "it was waited for again: {:?}", since.elapsed());
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_is_not_served_beyond_its_stale_time() {
    let (mut fake, registry, image) =
        with_expired_tag(|builder| builder.upstreams(|upstream| upstream.stale_for = Some(60 * MINUTE))).await;
    fake.stop().await;
    assert_stale(&registry.get(&tag()).await, &image);
    registry.advance(50 * MINUTE);
    let answer = registry.get(&tag()).await;
    assert!([503, 504].contains(&answer.status()), "{}", answer.status());
    let by_digest = registry.get(&manifest_path(REPOSITORY, image.manifest)).await;
    assert_eq!((by_digest.status(), by_digest.cache()), (200, "hit"), "a digest is never stale");
    registry.finish().await;
}

#[tokio::test]
async fn not_found_is_remembered_for_a_while() {
    let fake = FakeUpstream::start().await;
    let registry = over(&fake).upstreams(|upstream| upstream.negative_ttl = MINUTE).start().await;
    for _ in 0..3 {
        let answer = registry.get(&tag()).await;
        assert_eq!((answer.status(), answer.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(fake.requests().len(), 1);
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    registry.advance(MINUTE.saturating_sub(Duration::from_millis(1)));
    assert_eq!(registry.get(&tag()).await.status(), 404);
    registry.advance(Duration::from_millis(1));
    assert!(registry.get(&tag()).await.body == image.manifest_bytes);
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn an_outage_is_not_remembered() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.fault(On::any(), Fault::status(500));
    let registry = over(&fake).start().await;
    assert_eq!(registry.get(&tag()).await.status(), 502);
    fake.heal();
    assert_eq!(registry.get(&tag()).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_refusal_is_remembered_for_a_while_as_a_refusal() {
    for status in [401, 403] {
        let fake = FakeUpstream::start().await;
        fake.push_image(REPOSITORY, "1", &[b"layer"]);
        fake.fault(On::any(), Fault::status(status));
        let registry = over(&fake).upstreams(|upstream| upstream.negative_ttl = MINUTE).start().await;
        for _ in 0..3 {
            let answer = registry.get(&tag()).await;
            assert_eq!((answer.status(), answer.code().as_str()), (404, "NAME_UNKNOWN"));
        }
        assert_eq!(fake.requests().len(), 1);
        fake.heal();
        registry.advance(MINUTE);
        assert_eq!(registry.get(&tag()).await.status(), 200);
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_that_says_when_to_come_back_is_left_alone_until_then() {
    let (fake, registry, image) = with_expired_tag(|builder| builder).await;
    fake.fault(On::any().times(1), Fault::rate_limited(60));
    for _ in 0..3 {
        assert_stale(&registry.get(&tag()).await, &image);
    }
    assert_eq!(fake.requests().len(), 2);
    registry.advance(MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "revalidated");
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_the_upstream_lost_is_asked_for_once_in_a_while_only() {
    let (fake, registry, image) = with_expired_tag(|builder| builder).await;
    fake.fault(On::manifest("1"), Fault::status(404));
    for _ in 0..3 {
        assert_stale(&registry.get(&tag()).await, &image);
    }
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_vanished_tag_is_forgotten_if_the_operator_says_so() {
    let (fake, registry, image) =
        with_expired_tag(|builder| builder.upstreams(|upstream| upstream.on_upstream_404 = OnUpstream404::Forget))
            .await;
    fake.fault(On::manifest("1"), Fault::status(404));
    for _ in 0..2 {
        let answer = registry.get(&tag()).await;
        assert_eq!((answer.status(), answer.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(registry.get(&manifest_path(REPOSITORY, image.manifest)).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_that_fails_three_times_is_left_alone_for_ten_seconds() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.fault(On::any(), Fault::status(500));
    let registry = over(&fake).upstreams(|upstream| upstream.retries = 0).start().await;
    for _ in 0..3 {
        assert_eq!(registry.get(&tag()).await.status(), 502);
    }
    assert_eq!(fake.requests().len(), 3);
    let answer = registry.get(&tag()).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), Some("10"));
    registry.advance(Duration::from_millis(9_999));
    assert_eq!(registry.get(&tag()).await.status(), 503);
    assert_eq!(fake.requests().len(), 3, "it was asked although it rests");
    fake.heal();
    registry.advance(Duration::from_millis(1));
    assert!(registry.get(&tag()).await.body == image.manifest_bytes, "the probe closes the breaker");
    assert_eq!(fake.requests().len(), 4);
    registry.finish().await;
}

#[tokio::test]
async fn a_probe_that_fails_leaves_the_upstream_alone_again() {
    let fake = FakeUpstream::start().await;
    fake.fault(On::any(), Fault::status(500));
    let registry = over(&fake).upstreams(|upstream| upstream.retries = 0).start().await;
    for _ in 0..3 {
        registry.get(&tag()).await;
    }
    registry.advance(Duration::from_secs(10));
    assert_eq!(registry.get(&tag()).await.status(), 502);
    assert_eq!(registry.get(&tag()).await.status(), 503);
    assert_eq!(fake.requests().len(), 4);
    registry.finish().await;
}

#[tokio::test]
async fn not_found_and_refusals_do_not_make_an_upstream_rest() {
    let fake = FakeUpstream::start().await;
    let registry = over(&fake).start().await;
    for n in 0..5 {
        assert_eq!(registry.get(&manifest_path(REPOSITORY, format!("{n}"))).await.status(), 404);
    }
    assert_eq!(fake.requests().len(), 5);
    registry.finish().await;
}

#[tokio::test]
async fn offline_asks_nobody() {
    let (fake, mut registry, image) = with_expired_tag(|builder| builder).await;
    registry.reconfigure(|config| config.offline = true).await;
    let asked = fake.requests().len();
    assert_stale(&registry.get(&tag()).await, &image);
    for path in [manifest_path(REPOSITORY, "2"), format!("/v2/{REPOSITORY}/blobs/{}", image.layers[0])] {
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (503, "UNAVAILABLE"));
        assert!(answer.message().contains("offline"), "{}", answer.message());
    }
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}
