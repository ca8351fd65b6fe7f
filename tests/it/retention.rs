//! Retention: what goes of what was pushed by the rules of the configuration, and what stays whatever they say.

use std::time::Duration;

use entrepot::config::Retention;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::process::{Process, run};
use crate::support::push::{INDEX, digest_of, index, push_image};
use crate::support::registry::{Builder, HUB, TestRegistry, manifest_path};
use crate::support::upstream::FakeUpstream;

const CI: &str = "ci/app";
const DAY: Duration = Duration::from_hours(24);

fn keeping(rule: Retention) -> Builder {
    let rule = Retention { repositories: "ci/**".to_owned(), ..rule };
    TestRegistry::builder().config(|config| config.retention = vec![rule])
}

async fn push(registry: &TestRegistry, tags: &[&str]) {
    for tag in tags {
        registry.advance(Duration::from_mins(1));
        push_image(registry, CI, tag, tag.as_bytes()).await;
    }
}

/// What the rules would delete, or did.
async fn expired(registry: &TestRegistry, method: &str) -> Vec<String> {
    let answer = registry.send(Call::new(method, "/api/v1/retention")).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body);
    let told: Value = answer.json();
    assert_eq!(told["deleted"], method == "PUT");
    let mut names = Vec::new();
    for one in told["expired"].as_array().unwrap() {
        assert!(one["rule"] == "ci/**" && !one["why"].as_str().unwrap().is_empty(), "{one}");
        names.push(one["reference"].as_str().unwrap().to_owned());
    }
    names
}

async fn status(registry: &TestRegistry, tag: &str) -> u16 {
    registry.head(&manifest_path(CI, tag)).await.status()
}

#[tokio::test]
async fn a_dry_run_tells_what_the_run_then_deletes() {
    let registry = keeping(Retention { keep_last: Some(2), keep_tags: vec!["v*".to_owned()], ..Retention::default() });
    let registry = registry.start().await;
    push(&registry, &["v1", "a", "b", "c"]).await;
    push_image(&registry, "our/app", "a", b"of no rule").await;
    assert_eq!(expired(&registry, "GET").await, ["ci/app:a"]);
    assert_eq!(status(&registry, "a").await, 200, "a dry run deletes nothing");
    assert_eq!(expired(&registry, "PUT").await, ["ci/app:a"]);
    assert_eq!(status(&registry, "a").await, 404);
    for tag in ["v1", "b", "c"] {
        assert_eq!(status(&registry, tag).await, 200, "{tag}");
    }
    assert!(expired(&registry, "PUT").await.is_empty());
    registry.finish().await;
}

#[tokio::test]
async fn what_is_pulled_stays_also_over_a_restart() {
    let rule = Retention { keep_pulled_within: Some(7 * DAY), ..Retention::default() };
    let mut registry = keeping(rule).start().await;
    push(&registry, &["used", "unused"]).await;
    registry.advance(5 * DAY);
    assert_eq!(registry.get(&manifest_path(CI, "used")).await.status(), 200);
    registry.restart().await;
    registry.advance(5 * DAY);
    assert_eq!(expired(&registry, "PUT").await, ["ci/app:unused"]);
    assert_eq!(status(&registry, "used").await, 200);
    registry.finish().await;
}

#[tokio::test]
async fn untagged_manifests_go_after_their_time_but_not_the_platforms_of_an_index() {
    let registry = keeping(Retention { delete_untagged_after: Some(7 * DAY), ..Retention::default() }).start().await;
    let moved = push_image(&registry, CI, "latest", b"one").await;
    push_image(&registry, CI, "latest", b"two").await;
    let platform = push_image(&registry, CI, "amd64", b"three").await;
    let list = index(&[&platform]).to_string();
    assert_eq!(registry.push_manifest(CI, "multi", INDEX, list.into()).await.status(), 201);
    let tag = Call::new("DELETE", &manifest_path(CI, "amd64"));
    assert_eq!(registry.send(tag).await.status(), 202);
    registry.advance(6 * DAY);
    assert!(expired(&registry, "GET").await.is_empty());
    registry.advance(2 * DAY);
    assert_eq!(expired(&registry, "PUT").await, [format!("ci/app@{}", digest_of(&moved))]);
    assert_eq!(status(&registry, &digest_of(&moved).to_string()).await, 404);
    assert_eq!(status(&registry, &digest_of(&platform).to_string()).await, 200);
    registry.finish().await;
}

#[tokio::test]
async fn pins_and_what_was_cached_are_beyond_every_rule() {
    let fake = FakeUpstream::start().await;
    fake.push_image("team/app", "1", &[b"layer"]);
    let everything = Retention { repositories: "**".to_owned(), keep_last: Some(0), ..Retention::default() };
    let registry = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = registry.config(|config| config.retention = vec![everything]).start().await;
    assert_eq!(registry.get(&manifest_path("team/app", "1")).await.status(), 200);
    push(&registry, &["kept", "gone"]).await;
    assert_eq!(registry.send(Call::new("PUT", "/api/v1/pins?ref=ci/app:kept")).await.status(), 200);
    let answer = registry.send(Call::new("PUT", "/api/v1/retention")).await.json();
    assert_eq!(answer["expired"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!((status(&registry, "kept").await, status(&registry, "gone").await), (200, 404));
    assert_eq!(registry.get(&manifest_path("team/app", "1")).await.cache(), "hit");
    registry.finish().await;
}

#[tokio::test]
async fn the_command_tells_and_deletes_online_and_at_rest() {
    let folder = TempDir::new().unwrap();
    let config = "storage: {min_free: 0}\nupstreams: {}\nretention: [{repositories: \"ci/**\", keep_last: 0}]\n";
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let server = Process::serve(folder.path(), &["--config", "config.yaml"]).await;
    let manifest = index(&[]).to_string();
    for tag in ["a", "b"] {
        let push = Call::new("PUT", &manifest_path(CI, tag)).header("content-type", INDEX).body(manifest.clone());
        assert_eq!(server.send(push).await.status(), 201);
    }
    let at = format!("http://{}", server.address);
    let base = ["retention", "--config", "config.yaml"];
    let told = run(folder.path(), &[&base[..], &["--dry-run", "--server", &at]].concat(), &[]).await;
    assert!(told.stdout.contains("ci/app:a") && told.stdout.ends_with("2 would be deleted\n"), "{told:?}");
    server.kill();
    let offline = ["--listen", "127.0.0.1:1"];
    let told = run(folder.path(), &[&base[..], &["--dry-run"], &offline[..]].concat(), &[]).await;
    assert!(told.stdout.ends_with("2 would be deleted\n"), "{told:?}");
    let done = run(folder.path(), &[&base[..], &offline[..]].concat(), &[]).await;
    assert!(done.stdout.ends_with("2 deleted\n"), "{done:?}");
    let done = run(folder.path(), &[&base[..], &offline[..]].concat(), &[]).await;
    assert!(done.stdout.ends_with("0 deleted\n"), "{done:?}");
}
