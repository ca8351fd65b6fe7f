//! The audit log: who did what, from where, by which rule; and that it holds no secret and stops nobody.

use std::path::{Path, PathBuf};
use std::time::Duration;

use entrepot::config::{Audit, Network, Retention};
use rustix::process::Signal;
use serde_json::Value;

use super::*;
use crate::support::process::{Process, run};
use crate::support::push::{IMAGE, digest_of, image};
use crate::support::registry::{blob_path, folder, manifest_path};

/// What is in the file, once nobody writes it any more.
fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("there is an audit log");
    for secret in [PASSWORD, "guessed wrong", "entrepot_robot_", "entrepot_refresh_", "Bearer", "eyJ"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

/// `event decision rule identity status`.
fn short(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let words = [text("event"), text("decision"), text("rule"), text("identity"), event["status"].to_string()];
    words.join(" ")
}

async fn audited(auth: Auth, pulls: bool) -> (TestRegistry, PathBuf, tempfile::TempDir) {
    let place = folder();
    let path = place.path().join("audit.log");
    let mut registry = secured(auth).await;
    let audit = Audit { path: path.clone(), pulls, ..Audit::default() };
    registry.reconfigure(|config| config.audit = audit).await;
    (registry, path, place)
}

#[tokio::test]
async fn each_event_tells_who_did_what_and_which_rule_decided() {
    let mut rules = public();
    rules.rules[0].immutable = vec!["v*".to_owned()];
    let (registry, path, _place) = audited(rules, false).await;
    let manifest = image(b"{}", &[]).to_string();
    let blob = digest_of("{}");
    let upload = format!("/v2/team-a/app/blobs/uploads/?digest={blob}");
    let put = |tag: &str| {
        Call::new("PUT", &manifest_path("team-a/app", tag)).header("content-type", IMAGE).body(manifest.clone())
    };
    let mount = format!("/v2/team-a/other/blobs/uploads/?mount={blob}&from=team-a/app");
    for (call, status) in [
        (as_user(Call::new("POST", &upload).body("{}"), "alice"), 201),
        (as_user(put("latest"), "alice"), 201),
        (as_user(put("latest"), "bob"), 403),
        (put("latest"), 401),
        (put("latest").header("authorization", &basic("alice", "guessed wrong")), 401),
        (as_user(put("v1"), "alice"), 403),
        (as_user(Call::new("POST", &mount).body(""), "alice"), 201),
        (as_user(Call::new("DELETE", &manifest_path("team-a/app", "latest")), "alice"), 202),
        (as_user(Call::new("DELETE", &blob_path("open/app", &blob)), "bob"), 404),
        (as_user(Call::get(&manifest_path("team-a/app", "v1")), "alice"), 200),
        (Call::get("/v2/"), 401),
        (as_user(Call::get("/v2/"), "bob"), 200),
        (Call::new("PUT", "/api/v1/pins?ref=open/app:v1"), 200),
        (Call::get("/api/v1/pins"), 200),
        (Call::new("POST", "/api/v1/gc").header("origin", "https://evil.example"), 403),
    ] {
        let answer = registry.send(call).await;
        assert_eq!(answer.status(), status, "{:?}", answer.body);
    }
    robot(&registry, "ci", &["pull"], &["open/**"]).await;
    ask_token(&registry, Some("alice"), &["repository:team-a/app:pull"]).await;
    ask_token(&registry, None, &["repository:open/app:pull"]).await;
    let registry = registry.pause().await;
    let events = events(&path);
    let told: Vec<String> = events.iter().map(short).collect();
    assert_eq!(
        told,
        [
            "audit_opened allowed - entrepot null",
            "push_blob allowed auth.rules[0] user:alice 201",
            "push_manifest allowed auth.rules[0] user:alice 201",
            "push_manifest denied closed user:bob 403",
            "push_manifest denied closed anonymous 401",
            "push_manifest denied password anonymous 401",
            "push_manifest denied immutable user:alice 403",
            "mount_blob allowed auth.rules[0] user:alice 201",
            "delete_manifest allowed auth.rules[0] user:alice 202",
            "delete_blob allowed default user:bob 404",
            "login allowed - user:bob 200",
            "pin allowed http.admin_from anonymous 200",
            "sweep denied web_page anonymous 403",
            "create_robot allowed http.admin_from anonymous 201",
            "token allowed - user:alice 200",
            "token allowed - anonymous 200",
        ]
    );
    let pushed = &events[2];
    let text = |key: &str| pushed[key].as_str().unwrap_or_default();
    assert_eq!((text("repository"), text("reference"), text("client")), ("team-a/app", "latest", "127.0.0.1"));
    assert_eq!((text("digest"), text("method")), (digest_of(&manifest).to_string().as_str(), "PUT"));
    assert!(text("time").ends_with('Z') && text("request_id").contains('-'), "{pushed}");
    assert_eq!((&events[5]["claimed"], &events[3]["claimed"]), (&"alice".into(), &Value::Null));
    assert_eq!((&events[7]["from"], &events[7]["digest"]), (&"team-a/app".into(), &blob.to_string().into()));
    assert_eq!((&events[11]["reference"], &events[13]["reference"]), (&"open/app:v1".into(), &"ci".into()));
    registry.resume().await.finish().await;
}

#[tokio::test]
async fn pulls_are_events_if_that_is_wanted_and_the_client_is_whom_a_trusted_proxy_names() {
    let (mut registry, path, _place) = audited(public(), true).await;
    registry.reconfigure(|config| config.http.trusted_proxies = vec![Network("127.0.0.1/32".parse().unwrap())]).await;
    let pull = Call::get(&manifest_path("open/app", "v1")).header("x-forwarded-for", "203.0.113.7");
    assert_eq!(registry.send(pull).await.status(), 200);
    let registry = registry.pause().await;
    let all = events(&path);
    let pulled = all.last().unwrap();
    assert_eq!(short(pulled), "pull_manifest allowed default anonymous 200");
    assert_eq!((&pulled["client"], &pulled["reference"]), (&"203.0.113.7".into(), &"v1".into()));
    registry.resume().await.finish().await;
}

#[tokio::test]
async fn what_the_server_deletes_by_itself_and_what_a_client_makes_long_is_written_down() {
    let (mut registry, path, _place) = audited(public(), false).await;
    let rule = Retention { repositories: "open/**".to_owned(), keep_last: Some(1), ..Retention::default() };
    registry
        .reconfigure(|config| {
            config.retention = vec![rule];
            config.push.retention_every = Duration::from_secs(1);
        })
        .await;
    registry.advance(Duration::from_secs(1));
    let put = Call::new("PUT", &manifest_path("open/app", "v2")).header("content-type", IMAGE);
    let manifest = registry.get(&manifest_path("open/app", "v1")).await.body;
    assert_eq!(registry.send(as_user(put.body(manifest), "bob")).await.status(), 201);
    let (name, tag) = ("open/app".parse().unwrap(), "v1".parse().unwrap());
    let gone = async {
        while registry.metadata().find_tag(&name, &tag).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("retention is applied");
    let long = Call::get("/v2/").header("authorization", &basic(&"x".repeat(5000), "guessed wrong"));
    assert_eq!(registry.send(long).await.status(), 401);
    let registry = registry.pause().await;
    let all = events(&path);
    let event = |name: &str| all.iter().find(|event| event["event"] == name).unwrap();
    let deleted = event("retention_delete");
    assert_eq!(short(deleted), "retention_delete allowed retention open/** entrepot null");
    assert_eq!((&deleted["repository"], &deleted["reference"]), (&"open/app".into(), &"v1".into()));
    assert_eq!(event("login")["claimed"].as_str().map(str::len), Some(300));
    registry.resume().await.finish().await;
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_is_told_of_and_stops_nobody() {
    let mut registry = secured(public()).await;
    registry.reconfigure(|config| config.audit.path = "/dev/full".into()).await;
    assert_eq!(ask_token(&registry, Some("alice"), &["repository:team-a/app:pull"]).await.status(), 200);
    let ready = async {
        loop {
            let ready = registry.get("/readyz").await;
            if ready.json()["warning"].as_str().is_some_and(|warning| warning.contains("audit log")) {
                break ready;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(20), ready).await.expect("somebody is told");
    assert_eq!(ready.status(), 200, "it serves");
    let metrics = String::from_utf8(registry.get("/metrics").await.body.to_vec()).unwrap();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("entrepot_audit_events_lost_total "));
    assert!(lost.is_some_and(|lost| lost != "0"), "{lost:?}");
    registry.finish().await;
}

#[tokio::test]
async fn the_file_is_opened_again_on_sighup_and_a_server_without_it_does_not_start() {
    let place = folder();
    let write = |path: &str| {
        let config = format!("upstreams: {{}}\nstorage: {{min_free: 0}}\naudit: {{path: {path}}}\n");
        std::fs::write(place.path().join("config.yaml"), config).unwrap();
    };
    write("missing/audit.log");
    let refused = run(place.path(), &["serve", "--listen", "127.0.0.1:0"], &[]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("audit.path"), "{}", refused.stderr);
    write("audit.log");
    let process = Process::serve(place.path(), &[]).await;
    let (path, moved) = (place.path().join("audit.log"), place.path().join("audit.log.1"));
    std::fs::rename(&path, &moved).unwrap_or_else(|error| panic!("the file is there from the start: {error}"));
    process.signal(Signal::HUP);
    let reopened = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reopened).await.expect("the file is opened again");
    let deleted = process.send(Call::new("POST", "/api/v1/gc")).await;
    assert_eq!(deleted.status(), 200);
    process.terminate();
    process.ended().await;
    assert_eq!(short(events(&path).last().unwrap()), "sweep allowed http.admin_from anonymous 200");
}
