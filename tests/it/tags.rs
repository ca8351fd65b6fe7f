//! Lists of tags: the upstream's and ours as one list, page by page, without gaps.

use crate::support::client::Answer;
use crate::support::registry::{HUB, TestRegistry, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, On};

const REPOSITORY: &str = "team/app";

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
async fn an_upstream_in_trouble_leaves_the_tags_that_are_cached() {
    for trouble in [Fault::status(500), Fault::status(401), Fault::status(404), Fault::Hangup, Fault::Html] {
        let fake = FakeUpstream::start().await;
        push_tags(&fake, &["a", "b", "c"]);
        let registry = TestRegistry::over(&fake).await;
        registry.get(&manifest_path(REPOSITORY, "b")).await;
        fake.fault(On::any(), trouble);
        assert_eq!(tags(&list(&registry, "").await), ["b"]);
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
