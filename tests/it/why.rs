//! Why a reference is answered as it is: over the admin API, by the command, and from a store at rest. What is foretold of
//! the next pull is held against the pull.

use std::time::Duration;

use entrepot::config::OnUpstream404;
use entrepot::oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::content;
use crate::support::process::{Process, run};
use crate::support::push::push_image;
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, On};

const REPOSITORY: &str = "team/app";
const MINUTE: Duration = Duration::from_mins(1);

async fn why(registry: &TestRegistry, reference: &str) -> Value {
    let answer = registry.get(&format!("/api/v1/why?ref={reference}")).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body);
    answer.json()
}

/// What is foretold for the tag, then how it was answered: status and how the cache says it was served.
async fn foretold(registry: &TestRegistry, tag: &str) -> (String, u16, String) {
    let next = why(registry, &format!("{REPOSITORY}:{tag}")).await["next"].clone();
    let pulled = registry.get(&manifest_path(REPOSITORY, tag)).await;
    if let Some(status) = next["status"].as_u64() {
        assert_eq!(status, u64::from(pulled.status()), "the refusal was not foretold: {next}");
        assert_eq!(next["code"], pulled.code(), "the refusal was not foretold: {next}");
    }
    (next["action"].as_str().unwrap().to_owned(), pulled.status(), pulled.cache().to_owned())
}

fn row(action: &str, status: u16, cache: &str) -> (String, u16, String) {
    (action.to_owned(), status, cache.to_owned())
}

#[tokio::test]
async fn what_is_foretold_is_what_happens() {
    let mut fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "v1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(foretold(&registry, "v1").await, row("fetch", 200, "miss"));
    assert_eq!(foretold(&registry, "v1").await, row("hit", 200, "hit"));
    registry.advance(11 * MINUTE);
    assert_eq!(foretold(&registry, "v1").await, row("revalidate", 200, "revalidated"));
    assert_eq!(foretold(&registry, "none").await, row("fetch", 404, "none"));
    assert_eq!(foretold(&registry, "none").await, row("refuse", 404, "none"));
    fake.stop().await;
    registry.advance(11 * MINUTE);
    assert_eq!(foretold(&registry, "v1").await, row("revalidate", 200, "stale"));
    let is_left_alone = async {
        while why(&registry, &format!("{REPOSITORY}:v1")).await["upstream"]["state"]["trouble"].is_null() {
            registry.get(&manifest_path(REPOSITORY, "v1")).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_left_alone).await.expect("an upstream that is gone is left alone");
    assert_eq!(foretold(&registry, "v1").await, row("stale", 200, "stale"));
    assert_eq!(foretold(&registry, "v2").await, row("refuse", 503, "none"));
    registry.finish().await;
}

#[tokio::test]
async fn offline_is_foretold_too() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "v1", &[b"layer"]);
    let mut registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "v1")).await;
    registry.reconfigure(|config| config.offline = true).await;
    assert_eq!(foretold(&registry, "v1").await, row("hit", 200, "hit"));
    registry.advance(11 * MINUTE);
    assert_eq!(foretold(&registry, "v1").await, row("stale", 200, "stale"));
    assert_eq!(foretold(&registry, "v2").await, row("refuse", 503, "none"));
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_that_is_forgotten_on_404_is_foretold_to_be_refused() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "v1", &[b"layer"]);
    let forget = |upstream: &mut entrepot::config::Upstream| upstream.on_upstream_404 = OnUpstream404::Forget;
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).upstreams(forget).start().await;
    registry.get(&manifest_path(REPOSITORY, "v1")).await;
    registry.advance(11 * MINUTE);
    fake.fault(On::manifest("v1"), Fault::status(404));
    assert_eq!(foretold(&registry, "v1").await, row("revalidate", 404, "none"));
    assert_eq!(foretold(&registry, "v1").await.1, 404);
    registry.finish().await;
}

#[tokio::test]
async fn what_is_cached_is_told_to_the_byte() {
    let fake = FakeUpstream::start().await;
    let (one, two) = (content(50_000, 1), content(70_000, 2));
    let image = fake.push_image(REPOSITORY, "v1", &[&one, &two]);
    let registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "v1")).await;
    registry.get(&blob_path(REPOSITORY, &image.layers[0])).await;
    registry.fills_end().await;
    let told = why(&registry, &format!("{REPOSITORY}:v1")).await;
    assert_eq!(told["reference"], format!("{HUB}/{REPOSITORY}:v1"));
    assert_eq!((&told["name"]["rule"], &told["name"]["private"]), (&json!("default"), &Value::Null));
    assert_eq!((&told["upstream"]["host"], &told["upstream"]["repository"]), (&json!(HUB), &json!(REPOSITORY)));
    assert_eq!((&told["tag"]["digest"], &told["tag"]["pushed"]), (&json!(image.manifest.to_string()), &json!(false)));
    assert_eq!(told["tag"]["lifetime"]["rule"], "revalidate_after");
    assert_eq!(told["tag"]["lifetime"]["stale_until"], Value::Null, "served for ever if the upstream fails");
    let manifest = &told["manifest"];
    assert_eq!((&manifest["here"], &manifest["here_bytes"]), (&json!(true), &json!(50_000)));
    let state = |digest: &Digest| {
        let blobs = manifest["blobs"].as_array().unwrap();
        blobs.iter().find(|blob| blob["digest"] == digest.to_string()).unwrap()["state"].clone()
    };
    assert_eq!((state(&image.layers[0]), state(&image.layers[1])), (json!("here"), json!("missing")));
    let sizes: Vec<u64> =
        manifest["blobs"].as_array().unwrap().iter().map(|blob| blob["size_bytes"].as_u64().unwrap()).collect();
    assert_eq!(manifest["missing_bytes"].as_u64().unwrap(), sizes.iter().sum::<u64>() - 50_000);
    let answers = told["upstream"]["state"]["answers"].as_array().unwrap();
    assert_eq!(answers[0]["operation"], "fetch_blob", "{answers:?}");
    assert!(answers.iter().all(|answer| answer["result"] == "ok"), "{answers:?}");
    registry.finish().await;
}

#[tokio::test]
async fn every_spelling_is_told_by_its_rule() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).upstream("ghcr.example", &fake).start().await;
    push_image(&registry, "own/app", "v1", b"layer").await;
    for (reference, rule, repository) in [
        ("app:v1", "default", "hub.example/app"),
        ("ghcr.example/app:v1", "prefix", "ghcr.example/app"),
        ("app:v1&ns=ghcr.example", "ns", "ghcr.example/app"),
        ("other.example/app:v1", "foreign_host", "other.example/app"),
        ("own/app:v1", "default", "own/app"),
    ] {
        let told = why(&registry, reference).await;
        assert_eq!(told["name"]["rule"], rule, "{reference}");
        assert_eq!(told["reference"], format!("{repository}:v1"), "{reference}");
    }
    let own = why(&registry, "own/app:v1").await;
    assert_eq!((&own["next"]["action"], &own["name"]["private"]), (&json!("local"), &json!("own/app")));
    let absent = why(&registry, "own/app:v2").await;
    assert_eq!((&absent["next"]["status"], &absent["next"]["code"]), (&json!(404), &json!("MANIFEST_UNKNOWN")));
    assert_eq!(absent["upstream"], Value::Null, "an upstream would be asked for a private name");
    for malformed in ["", "?ref=", "?ref=App", "?ref=app%3Av1%26x"] {
        let refused = registry.get(&format!("/api/v1/why{malformed}")).await;
        assert_eq!((refused.status(), refused.code().as_str()), (400, "NAME_INVALID"), "{malformed}");
    }
    let unknown = registry.get("/api/v1/why?ref=app&ns=evil.example").await;
    assert_eq!((unknown.status(), unknown.code().as_str()), (404, "NAME_UNKNOWN"));
    assert_eq!(fake.requests().len(), 0, "an explanation asked an upstream");
    registry.finish().await;
}

#[tokio::test]
async fn an_index_is_told_with_the_platforms_that_are_here() {
    let fake = FakeUpstream::start().await;
    let (here, absent) = (fake.push_image(REPOSITORY, "a", &[b"a"]), fake.push_image(REPOSITORY, "b", &[b"b"]));
    let child = |digest: &Digest| json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [child(&here.manifest), child(&absent.manifest)] });
    let kind = entrepot::oci::ManifestKind::OciIndex;
    fake.push_manifest(REPOSITORY, Some("v1"), kind, index.to_string());
    let registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path(REPOSITORY, "v1")).await;
    registry.get(&manifest_path(REPOSITORY, here.manifest)).await;
    let told = why(&registry, &format!("{REPOSITORY}:v1")).await;
    let children = told["manifest"]["children"].as_array().unwrap();
    let states: Vec<_> = children.iter().map(|child| (child["digest"].clone(), child["here"].clone())).collect();
    let expected = [(here.manifest, true), (absent.manifest, false)];
    assert_eq!(states, expected.map(|(digest, here)| (json!(digest.to_string()), json!(here))));
    assert!(told["manifest"]["missing_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{told:#}");
    registry.finish().await;
}

#[tokio::test]
async fn the_command_asks_the_server_and_reads_the_store_when_there_is_none() {
    let fake = FakeUpstream::start().await;
    fake.push_image("library/app", "v1", &[b"layer"]);
    let folder = TempDir::new().unwrap();
    let config = format!("upstreams: {{docker.io: {{url: '{}', default: true}}}}", fake.base_url());
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let server = Process::serve(folder.path(), &[]).await;
    assert_eq!(server.send(Call::get("/v2/app/manifests/v1")).await.status(), 200);

    let url = format!("http://{}", server.address);
    let online = run(folder.path(), &["why", "app:v1", "--server", &url], &[]).await;
    assert_eq!(online.code, Some(0), "{}", online.stderr);
    for said in
        ["docker.io/library/app:v1", "the server at", "next pull  hit:", "fetch_manifest: ok", "fresh      until"]
    {
        assert!(online.stdout.contains(said), "{said:?} is not in:\n{}", online.stdout);
    }
    // Nobody listens at port 1, so the store is read, while the server has it.
    let listen = ["--listen", "127.0.0.1:1"];
    let beside = run(folder.path(), &[&["why", "app:v1", "--json"], &listen[..]].concat(), &[]).await;
    assert_eq!(beside.code, Some(0), "{}", beside.stderr);
    assert_eq!(server.send(Call::get("/v2/app/manifests/v1")).await.status(), 200);
    server.kill();

    let killed = run(folder.path(), &[&["why", "docker.io/app:v1", "--json"], &listen[..]].concat(), &[]).await;
    let told: Value = serde_json::from_str(&killed.stdout).unwrap();
    assert!(told["told_by"].as_str().unwrap().starts_with("the store at ./data"), "{told:#}");
    assert_eq!((&told["next"]["action"], &told["upstream"]["state"]), (&json!("hit"), &Value::Null));
    let text = run(folder.path(), &[&["why", "none"], &listen[..]].concat(), &[]).await;
    assert!(text.stdout.contains("next pull  fetch: fetched from docker.io"), "{}", text.stdout);
    let server = Process::serve(folder.path(), &[]).await;
    assert_eq!(server.send(Call::get("/v2/app/manifests/v1")).await.cache(), "hit", "reading it broke the store");
}

#[tokio::test]
async fn the_command_says_what_it_lacks() {
    let folder = TempDir::new().unwrap();
    let nothing = ["--listen", "127.0.0.1:1"];
    let no_store = run(folder.path(), &[&["why", "app"], &nothing[..]].concat(), &[]).await;
    assert_eq!(no_store.code, Some(1));
    assert!(no_store.stderr.contains("no server answers at http://127.0.0.1:1"), "{}", no_store.stderr);
    assert!(no_store.stderr.contains("there is no store at ./data"), "{}", no_store.stderr);
    assert!(!folder.path().join("data").exists(), "a store was made");
    let named = run(folder.path(), &["why", "app", "--server", "http://127.0.0.1:1"], &[]).await;
    assert_eq!(named.code, Some(1));
    assert!(named.stderr.contains("no server answers"), "a server that was named is to be asked: {}", named.stderr);
    let malformed = run(folder.path(), &["why", "App"], &[]).await;
    assert_eq!(malformed.code, Some(2));
}
