//! Tags that are confirmed before anybody has to wait, when somebody insists, or not at all to spare the upstream.

use std::time::Duration;

use entrepot::config::TagRule;
use entrepot::oci::{Reference, RepositoryName};
use entrepot::registry::{Caller, Outcome, Target};
use futures::future::join_all;

use crate::support::client::Call;
use crate::support::registry::{Builder, HUB, TestRegistry, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const MINUTE: Duration = Duration::from_mins(1);

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).revalidate_after(10 * MINUTE)
}

fn tag() -> String {
    manifest_path(REPOSITORY, "1")
}

fn insisting() -> Call {
    Call::get(&tag()).header("cache-control", "max-age=0, no-cache")
}

/// A registry that has the tag `1`, just confirmed.
async fn with_fresh_tag(change: impl FnOnce(Builder) -> Builder) -> (FakeUpstream, TestRegistry) {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = change(over(&fake)).start().await;
    assert_eq!(registry.get(&tag()).await.cache(), "miss");
    (fake, registry)
}

async fn confirmed_ahead(registry: &TestRegistry, times: usize) {
    let counted = format!("entrepot_refreshed_ahead_total{{upstream=\"{HUB}\",result=\"ok\"}} {times}");
    registry
        .until("tags are confirmed", |registry| registry.registry().depot().metrics.render().contains(&counted))
        .await;
}

#[tokio::test]
async fn a_tag_in_demand_is_confirmed_before_its_time_is_up() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    registry.advance(8 * MINUTE);
    for _ in 0..20 {
        assert_eq!(registry.get(&tag()).await.cache(), "hit");
    }
    confirmed_ahead(&registry, 1).await;
    assert_eq!(fake.requests().manifests_headed("1"), 1);
    registry.advance(9 * MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "hit", "nobody had to wait");
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_in_demand_that_moved_is_new_for_everybody_in_time() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    let moved = fake.push_image(REPOSITORY, "1", &[b"another layer"]);
    registry.advance(9 * MINUTE);
    for _ in 0..3 {
        registry.get(&tag()).await;
    }
    confirmed_ahead(&registry, 1).await;
    registry.advance(MINUTE);
    let answer = registry.get(&tag()).await;
    assert_eq!(answer.cache(), "hit");
    assert!(answer.body == moved.manifest_bytes);
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_that_is_hardly_asked_for_is_not_confirmed_ahead() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    for _ in 0..20 {
        registry.get(&tag()).await;
    }
    registry.advance(9 * MINUTE);
    for _ in 0..2 {
        registry.get(&tag()).await;
    }
    registry.advance(MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "revalidated");
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn no_more_tags_are_confirmed_ahead_at_once_than_configured() {
    let fake = FakeUpstream::start().await;
    let gate = Gate::closed();
    let registry = over(&fake).config(|config| config.cache.refresh_ahead_max = 1).start().await;
    let paths = ["1", "2"].map(|tag| manifest_path(REPOSITORY, tag));
    for (tag, path) in ["1", "2"].iter().zip(&paths) {
        fake.push_image(REPOSITORY, tag, &[b"layer"]);
        registry.get(path).await;
    }
    registry.advance(9 * MINUTE);
    fake.fault(On::any().head(), Fault::SlowFirstByte(gate.clone()));
    for path in &paths {
        for _ in 0..5 {
            assert_eq!(registry.get(path).await.cache(), "hit");
        }
    }
    fake.until(|requests| requests.manifests_headed("1") == 1).await;
    gate.let_pass(1);
    confirmed_ahead(&registry, 1).await;
    assert_eq!(fake.requests().manifests_headed("2"), 0, "the second went out beside the first");
    registry.get(&paths[1]).await;
    fake.until(|requests| requests.manifests_headed("2") == 1).await;
    gate.let_pass(1);
    confirmed_ahead(&registry, 2).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_has_the_time_of_the_first_rule_that_fits() {
    let fake = FakeUpstream::start().await;
    let rule = |pattern: &str, minutes| TagRule { pattern: pattern.to_owned(), revalidate_after: minutes * MINUTE };
    let rules = vec![rule("nightly*", 1), rule("n*", 60)];
    let registry = over(&fake).upstreams(|upstream| upstream.tags.clone_from(&rules)).start().await;
    let outcomes = [("nightly-7", "revalidated"), ("next", "hit"), ("other", "hit")];
    for (tag, _) in outcomes {
        fake.push_image(REPOSITORY, tag, &[b"layer"]);
        registry.get(&manifest_path(REPOSITORY, tag)).await;
    }
    registry.advance(5 * MINUTE);
    for (tag, outcome) in outcomes {
        assert_eq!(registry.get(&manifest_path(REPOSITORY, tag)).await.cache(), outcome, "{tag}");
    }
    registry.advance(10 * MINUTE);
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "other")).await.cache(), "revalidated");
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "next")).await.cache(), "hit");
    registry.finish().await;
}

#[tokio::test]
async fn a_thousand_clients_of_an_expired_tag_cause_one_head_and_nothing_that_is_counted() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    registry.advance(10 * MINUTE);
    let gate = Gate::closed();
    fake.fault(On::any().head(), Fault::SlowFirstByte(gate.clone()));
    let name: RepositoryName = REPOSITORY.parse().unwrap();
    let target = Target { name, ns: None, host: None, caller: Caller::default() };
    let reference: Reference = "1".parse().unwrap();
    let pulls = join_all((0..1000).map(|_| registry.registry().pull_manifest(&target, &reference)));
    let release = async {
        fake.until(|requests| requests.manifests_headed("1") == 1).await;
        gate.let_pass(1000);
    };
    let (answers, ()) = tokio::join!(pulls, release);
    let confirmed = [Outcome::Revalidated, Outcome::Hit];
    assert!(answers.into_iter().all(|answer| confirmed.contains(&answer.unwrap().pulled.outcome)));
    let requests = fake.requests();
    assert_eq!((requests.manifests_headed("1"), requests.manifests_got("1"), requests.len()), (1, 1, 2));
    registry.finish().await;
}

#[tokio::test]
async fn a_spent_budget_makes_tags_stale_until_its_window_is_over() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    fake.header("ratelimit-limit", "100;w=21600");
    fake.header("ratelimit-remaining", "0;w=21600");
    registry.advance(10 * MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "revalidated", "this is how it comes to be known");
    for _ in 0..3 {
        registry.advance(60 * MINUTE);
        let answer = registry.get(&tag()).await;
        assert_eq!(answer.cache(), "stale");
        assert!(answer.header("warning").is_some_and(|warning| warning.contains("budget")), "{:?}", answer.head);
    }
    assert_eq!(fake.requests().len(), 2, "what was spent already was spent again");
    registry.advance(180 * MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "revalidated");
    registry.finish().await;
}

#[tokio::test]
async fn a_reserve_is_kept_for_what_is_not_cached() {
    let (fake, registry) = with_fresh_tag(|builder| builder.upstreams(|upstream| upstream.rate_reserve = 10)).await;
    fake.push_image(REPOSITORY, "2", &[b"layer"]);
    fake.header("ratelimit-remaining", "9;w=21600");
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "2")).await.cache(), "miss");
    registry.advance(10 * MINUTE);
    assert_eq!(registry.get(&tag()).await.cache(), "stale");
    fake.push_image(REPOSITORY, "3", &[b"layer"]);
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "3")).await.cache(), "miss");
    assert_eq!(fake.requests().manifests_headed("1"), 0);
    registry.finish().await;
}

#[tokio::test]
async fn whoever_insists_has_a_fresh_tag_confirmed() {
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    assert_eq!(registry.send(insisting()).await.cache(), "revalidated");
    let moved = fake.push_image(REPOSITORY, "1", &[b"another layer"]);
    assert_eq!(registry.get(&tag()).await.cache(), "hit");
    let pragma = Call::head(&tag()).header("pragma", "no-cache");
    assert_eq!(registry.send(pragma).await.header("docker-content-digest"), Some(&*moved.manifest.to_string()));
    assert!(registry.get(&tag()).await.body == moved.manifest_bytes);
    assert_eq!(fake.requests().manifests_headed("1"), 2);
    registry.finish().await;
}

#[tokio::test]
async fn whoever_insists_in_vain_is_answered_from_the_cache() {
    let (mut fake, registry) = with_fresh_tag(|builder| builder).await;
    fake.stop().await;
    let answer = registry.send(insisting()).await;
    assert_eq!((answer.status(), answer.cache()), (200, "stale"));
    assert_eq!(registry.get(&tag()).await.cache(), "hit", "it is as fresh as it was");
    registry.finish().await;
}

#[tokio::test]
async fn nobody_but_operators_may_insist() {
    let (fake, registry) = with_fresh_tag(|builder| builder.config(|config| config.http.admin_from.clear())).await;
    assert_eq!(registry.send(insisting()).await.cache(), "hit");
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
    let (fake, registry) = with_fresh_tag(|builder| builder).await;
    assert_eq!(registry.send(insisting().header("x-forwarded-for", "192.0.2.1")).await.cache(), "hit");
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}
