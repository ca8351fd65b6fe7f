//! Lists of tags: the upstream's and ours as one list, page by page, without gaps.

use std::time::Duration;

use entrepot::config::OnUpstream404;
use futures::future::join_all;

use crate::support::client::{Answer, Call};
use crate::support::registry::{HUB, TestRegistry, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const MINUTE: Duration = Duration::from_mins(1);

async fn list(registry: &TestRegistry, query: &str) -> Answer {
    registry.get(&format!("/v2/{REPOSITORY}/tags/list{query}")).await
}

fn tags(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status(), 200, "{:?}", answer.body);
    serde_json::from_value(answer.json()["tags"].clone()).unwrap()
}

/// Follows `Link` from page to page to the end.
async fn all_pages(registry: &TestRegistry, query: &str) -> Vec<String> {
    let mut all = vec![];
    let mut answer = list(registry, query).await;
    for _ in 0..100 {
        all.extend(tags(&answer));
        let Some(link) = answer.header("link") else { return all };
        let path = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
        answer = registry.get(&path).await;
    }
    panic!("there is always another page: {all:?}");
}

fn push_tags(fake: &FakeUpstream, tags: &[&str]) {
    for tag in tags {
        fake.push_image(REPOSITORY, tag, &[b"layer"]);
    }
}

#[tokio::test]
async fn the_upstreams_tags_are_listed_without_fetching_any() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a", "b", "c"]);
    let registry = TestRegistry::over(&fake).await;
    let answer = list(&registry, "").await;
    assert_eq!(tags(&answer), ["a", "b", "c"]);
    assert_eq!((answer.header("link"), answer.json()["name"].as_str()), (None, Some(REPOSITORY)));
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let fake = FakeUpstream::start().await;
    let expected = ["1.0", "1.1", "1.2", "2.0", "latest"];
    push_tags(&fake, &expected);
    let registry = TestRegistry::over(&fake).await;
    // Tags that are cached are merged in, wherever they are in the list.
    registry.get(&manifest_path(REPOSITORY, "latest")).await;
    registry.get(&manifest_path(REPOSITORY, "1.1")).await;
    for n in 1..=6 {
        assert_eq!(all_pages(&registry, &format!("?n={n}")).await, expected, "n={n}");
    }
    assert_eq!(tags(&list(&registry, "?n=2&last=1.1").await), ["1.2", "2.0"]);
    assert_eq!(tags(&list(&registry, "?last=2.0").await), ["latest"]);
    assert!(tags(&list(&registry, "?n=0").await).is_empty());
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_whose_pages_are_shorter_than_asked_leaves_no_gap() {
    let fake = FakeUpstream::start().await;
    let expected = ["a", "b", "c", "d", "e", "z"];
    push_tags(&fake, &expected);
    fake.page_max(2);
    let registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "z")).await;
    for query in ["", "?n=3", "?n=100"] {
        assert_eq!(all_pages(&registry, query).await, expected, "{query}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_list_is_asked_for_once_and_all_its_pages_come_from_it() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a", "b", "c", "d", "e"]);
    fake.page_max(2);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(all_pages(&registry, "?n=1").await, ["a", "b", "c", "d", "e"]);
    assert_eq!(fake.requests().tags_listed(), 3);
    assert_eq!(list(&registry, "").await.cache(), "hit");
    registry.finish().await;
}

#[tokio::test]
async fn a_new_tag_is_listed_when_the_list_is_no_longer_fresh() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a"]);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(list(&registry, "").await.cache(), "miss");
    push_tags(&fake, &["b"]);
    registry.advance(MINUTE.saturating_sub(Duration::from_millis(1)));
    assert_eq!(tags(&list(&registry, "").await), ["a"]);
    registry.advance(Duration::from_millis(1));
    let answer = list(&registry, "").await;
    assert_eq!((tags(&answer), answer.cache()), (vec!["a".to_owned(), "b".to_owned()], "revalidated"));
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_hundred_clients_that_list_ask_the_upstream_once() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a", "b"]);
    let gate = Gate::closed();
    fake.fault(On::tags(), Fault::SlowFirstByte(gate.clone()));
    let registry = TestRegistry::over(&fake).await;
    let clients = join_all((0..100).map(|_| list(&registry, "")));
    let open = async {
        fake.until(|requests| requests.len() == 1).await;
        gate.let_pass(100);
    };
    let (answers, ()) = tokio::join!(clients, open);
    assert!(answers.iter().all(|answer| tags(answer) == ["a", "b"]));
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn the_whole_list_is_served_when_the_upstream_is_down_and_after_a_restart() {
    let mut fake = FakeUpstream::start().await;
    push_tags(&fake, &["a", "b", "c"]);
    let mut registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "b")).await;
    list(&registry, "").await;
    fake.stop().await;
    registry.restart().await;
    registry.advance(MINUTE);
    for _ in 0..4 {
        let answer = list(&registry, "").await;
        assert_eq!(
            (tags(&answer).as_slice(), answer.cache()),
            (["a", "b", "c"].map(str::to_owned).as_slice(), "stale")
        );
        assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 - \"")));
    }
    registry.reconfigure(|config| config.offline = true).await;
    assert_eq!(all_pages(&registry, "?n=1").await, ["a", "b", "c"]);
    registry.finish().await;
}

#[tokio::test]
async fn a_list_too_long_to_be_kept_is_served_page_by_page() {
    let fake = FakeUpstream::start().await;
    let expected = ["a", "b", "c", "d", "e"];
    push_tags(&fake, &expected);
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = builder.config(|config| config.cache.list_entries_max = 4).start().await;
    assert_eq!(all_pages(&registry, "?n=2").await, expected);
    assert_eq!(list(&registry, "").await.cache(), "bypass");
    let metrics = registry.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("entrepot_lists_too_long_total{upstream=\"hub.example\"} 1"), "it is found out once");
    assert!(text.contains("entrepot_limit{limit=\"list_entries_max\"} 4"));
    registry.finish().await;
}

#[tokio::test]
async fn lists_beyond_their_bound_go_the_longest_unconfirmed_first() {
    let fake = FakeUpstream::start().await;
    for repository in ["team/one", "team/two"] {
        (0..10).for_each(|at| {
            fake.push_image(repository, &format!("{}-{at}", "tag".repeat(10)), &[b"layer"]);
        });
    }
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = builder.config(|config| config.cache.lists_max_bytes = 1000).start().await;
    let list = async |repository: &str| registry.get(&format!("/v2/{repository}/tags/list")).await;
    assert_eq!(list("team/one").await.cache(), "miss");
    registry.advance(Duration::from_millis(1));
    assert_eq!(list("team/two").await.cache(), "miss");
    assert_eq!((list("team/two").await.cache(), list("team/one").await.cache()), ("hit", "miss"));
    registry.finish().await;
}

#[tokio::test]
async fn a_repository_that_the_upstream_lost_is_listed_or_forgotten_as_configured() {
    for (on_404, expected) in [(OnUpstream404::Serve, 200), (OnUpstream404::Forget, 404)] {
        let fake = FakeUpstream::start().await;
        push_tags(&fake, &["a"]);
        let builder = TestRegistry::builder().default_upstream(HUB, &fake);
        let registry = builder.upstreams(|upstream| upstream.on_upstream_404 = on_404).start().await;
        list(&registry, "").await;
        fake.fault(On::any(), Fault::status(404));
        registry.advance(MINUTE);
        for _ in 0..2 {
            assert_eq!(list(&registry, "").await.status(), expected);
        }
        assert_eq!(fake.requests().len(), 2, "an absence is remembered");
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_in_trouble_leaves_the_tags_that_are_cached() {
    for trouble in [Fault::status(500), Fault::status(401), Fault::status(404), Fault::Hangup, Fault::Html] {
        let fake = FakeUpstream::start().await;
        push_tags(&fake, &["a", "b", "c"]);
        let registry = TestRegistry::over(&fake).await;
        registry.get(&manifest_path(REPOSITORY, "b")).await;
        fake.fault(On::any(), trouble);
        let answer = list(&registry, "").await;
        assert_eq!((tags(&answer), answer.cache()), (vec!["b".to_owned()], "stale"));
        assert!(answer.header("warning").is_some(), "that there may be more is told");
        registry.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_in_trouble_with_nothing_cached_is_an_honest_error() {
    for (trouble, status, code) in [
        (Fault::status(404), 404, "NAME_UNKNOWN"),
        (Fault::status(401), 404, "NAME_UNKNOWN"),
        (Fault::rate_limited(3), 429, "TOOMANYREQUESTS"),
        (Fault::status(500), 502, "UNAVAILABLE"),
        (Fault::Html, 502, "UNAVAILABLE"),
        (Fault::Hangup, 504, "UNAVAILABLE"),
    ] {
        let fake = FakeUpstream::start().await;
        fake.fault(On::any(), trouble);
        let registry = TestRegistry::over(&fake).await;
        let answer = list(&registry, "").await;
        assert_eq!((answer.status(), answer.code().as_str()), (status, code));
        assert!(answer.message().contains(HUB));
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_catalog_names_what_is_here_and_asks_nobody() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a"]);
    let registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "a")).await;
    registry.push_blob("our/app", "pushed").await;
    let asked = fake.requests().len();
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!([format!("{HUB}/{REPOSITORY}"), "our/app"]));
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}

#[tokio::test]
async fn that_there_was_no_tag_is_no_answer_while_the_upstream_cannot_say() {
    let mut fake = FakeUpstream::start().await;
    push_tags(&fake, &["a"]);
    fake.delete_tag(REPOSITORY, "a");
    let registry = TestRegistry::over(&fake).await;
    assert!(tags(&list(&registry, "").await).is_empty());
    fake.stop().await;
    registry.advance(Duration::from_hours(1));
    let answer = list(&registry, "").await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "UNAVAILABLE"), "an outage was an empty list");
    registry.finish().await;
}

#[tokio::test]
async fn a_later_page_that_is_not_found_is_trouble_and_no_absence() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a", "b", "c", "d"]);
    fake.page_max(2);
    fake.fault(On::tags().after(1), Fault::status(404));
    let registry = TestRegistry::over(&fake).await;
    let answer = list(&registry, "").await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "UNAVAILABLE"));
    fake.heal();
    assert_eq!(tags(&list(&registry, "").await), ["a", "b", "c", "d"], "the no of a page was remembered for the list");
    registry.finish().await;
}

#[tokio::test]
async fn who_insists_has_a_fresh_list_asked_for_again() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a"]);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(tags(&list(&registry, "").await), ["a"]);
    push_tags(&fake, &["b"]);
    assert_eq!(tags(&list(&registry, "").await), ["a"], "it is fresh");
    let path = format!("/v2/{REPOSITORY}/tags/list");
    let insisting = registry.send(Call::get(&path).header("cache-control", "no-cache")).await;
    assert_eq!((insisting.cache(), tags(&insisting)), ("revalidated", vec!["a".to_owned(), "b".to_owned()]));
    registry.finish().await;
}

#[tokio::test]
async fn a_budget_that_is_nearly_spent_is_not_spent_on_a_list_that_is_kept() {
    let fake = FakeUpstream::start().await;
    push_tags(&fake, &["a"]);
    fake.header("ratelimit-limit", "100;w=21600");
    fake.header("ratelimit-remaining", "5;w=21600");
    let reserve = |upstream: &mut entrepot::config::Upstream| upstream.rate_reserve = 10;
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).upstreams(reserve).start().await;
    assert_eq!(tags(&list(&registry, "").await), ["a"]);
    registry.advance(Duration::from_hours(1));
    let answer = list(&registry, "").await;
    assert_eq!((answer.cache(), tags(&answer)), ("stale", vec!["a".to_owned()]));
    assert_eq!(fake.requests().tags_listed(), 1);
    registry.finish().await;
}
