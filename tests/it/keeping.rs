//! Pins, lists and removals: what an operator keeps, sees and takes away, through a running server and on a store at rest.

use std::time::Duration;

use entrepot::oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::process::{Process, run};
use crate::support::push::{INDEX, index, push_image};
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Image};

const REPOSITORY: &str = "team/app";
const BLOB: usize = 256 << 10;

fn over(fake: &FakeUpstream, blobs: u64) -> Builder {
    // Room for so many layers, and for the small things beside them.
    TestRegistry::builder().default_upstream(HUB, fake).cache_max(blobs * (BLOB as u64 + 4096) + (128 << 10))
}

fn layer(seed: usize) -> Vec<u8> {
    content(BLOB, seed)
}

/// Pulls an image as clients do: tag, config, layers.
async fn pull(registry: &TestRegistry, tag: &str, image: &Image) {
    assert_eq!(registry.get(&manifest_path(REPOSITORY, tag)).await.status(), 200);
    for digest in image.layers.iter().chain([&image.config]) {
        pull_blob(registry, digest).await;
    }
}

async fn pull_blob(registry: &TestRegistry, digest: &Digest) -> Answer {
    registry.advance(Duration::from_secs(1));
    let answer = registry.get(&blob_path(REPOSITORY, digest)).await;
    assert!(answer.looks_complete(), "a full cache failed a pull");
    registry.fills_end().await;
    answer
}

/// Pulls so many other layers that everything that may go has gone.
async fn crowd_out(fake: &FakeUpstream, registry: &TestRegistry, n: usize) {
    for seed in 0..n {
        let digest = fake.push_blob(REPOSITORY, layer(1000 + seed));
        pull_blob(registry, &digest).await;
    }
}

fn is_here(registry: &TestRegistry, digest: &Digest) -> bool {
    registry.registry().depot().blobs.store().blob_path(digest).exists()
}

async fn admin(registry: &TestRegistry, method: &str, path: &str) -> Value {
    let answer = registry.send(Call::new(method, path)).await;
    assert_eq!(answer.status(), 200, "{method} {path}: {:?}", answer.body);
    answer.json()
}

#[tokio::test]
async fn a_pinned_image_stays_whatever_else_has_to_go() {
    let fake = FakeUpstream::start().await;
    let (kept, other) =
        (fake.push_image(REPOSITORY, "1", &[&layer(1)]), fake.push_image(REPOSITORY, "2", &[&layer(2)]));
    let registry = over(&fake, 3).start().await;
    pull(&registry, "1", &kept).await;
    pull(&registry, "2", &other).await;
    let pinned = admin(&registry, "PUT", &format!("/api/v1/pins?ref={REPOSITORY}:1")).await;
    assert_eq!(pinned, json!({ "reference": format!("{HUB}/{REPOSITORY}:1"), "changed": true }));
    crowd_out(&fake, &registry, 4).await;
    assert!([kept.manifest, kept.config, kept.layers[0]].iter().all(|digest| is_here(&registry, digest)));
    assert!(!is_here(&registry, &other.layers[0]));
    let listed = admin(&registry, "GET", "/api/v1/pins").await;
    assert_eq!((&listed["pins"][0]["blobs"], &listed["pins"][0]["missing_blobs"]), (&json!(3), &json!(0)), "{listed}");
    assert!(registry.metrics().contains("entrepot_pinned_bytes"));

    let freed = admin(&registry, "DELETE", &format!("/api/v1/pins?ref={REPOSITORY}:1")).await;
    assert_eq!(freed["changed"], true);
    crowd_out(&fake, &registry, 8).await;
    assert!(!is_here(&registry, &kept.layers[0]), "it is pinned no more");
    registry.finish().await;
}

#[tokio::test]
async fn what_a_pinned_tag_moves_to_is_pinned_when_it_comes_and_what_it_leaves_is_not() {
    let fake = FakeUpstream::start().await;
    let old = fake.push_image(REPOSITORY, "latest", &[&layer(1)]);
    let registry = over(&fake, 3)
        .config(|config| config.pin = vec![format!("{HUB}/team/**:lat*")])
        .revalidate_after(Duration::ZERO)
        .start()
        .await;
    pull(&registry, "latest", &old).await;
    let new = fake.push_image(REPOSITORY, "latest", &[&layer(2)]);
    pull(&registry, "latest", &new).await;
    crowd_out(&fake, &registry, 4).await;
    assert!(is_here(&registry, &new.layers[0]));
    assert!(!is_here(&registry, &old.layers[0]));
    registry.finish().await;
}

#[tokio::test]
async fn patterns_that_the_configuration_gains_and_loses_count_from_the_next_start() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[&layer(1)]);
    let mut registry = over(&fake, 3).start().await;
    pull(&registry, "1", &image).await;
    registry.reconfigure(|config| config.pin = vec![format!("{HUB}/{REPOSITORY}")]).await;
    crowd_out(&fake, &registry, 4).await;
    assert!(is_here(&registry, &image.layers[0]));
    registry.restart().await;
    crowd_out(&fake, &registry, 4).await;
    assert!(is_here(&registry, &image.layers[0]), "the same patterns as at the last start");
    registry.reconfigure(|config| config.pin.clear()).await;
    crowd_out(&fake, &registry, 8).await;
    assert!(!is_here(&registry, &image.layers[0]));
    registry.finish().await;
}

#[tokio::test]
async fn a_pinned_index_keeps_its_platforms_and_what_is_attached_to_them() {
    let registry = TestRegistry::builder().start().await;
    let image = push_image(&registry, "our/app", "amd64", b"layer").await;
    let list = index(&[&image]).to_string();
    assert_eq!(registry.push_manifest("our/app", "multi", INDEX, list.into()).await.status(), 201);
    admin(&registry, "PUT", "/api/v1/pins?ref=our/app:multi").await;
    let pin = || async { admin(&registry, "GET", "/api/v1/pins").await["pins"][0].clone() };
    assert_eq!(pin().await["blobs"], 4, "index, manifest, config, layer");
    registry.finish().await;
}

#[tokio::test]
async fn pins_beyond_the_cache_fail_no_pull_and_are_told() {
    let fake = FakeUpstream::start().await;
    let images: Vec<Image> = (0..4).map(|n| fake.push_image(REPOSITORY, &n.to_string(), &[&layer(n)])).collect();
    let registry = over(&fake, 2).config(|config| config.pin = vec![format!("{HUB}/**")]).start().await;
    for (n, image) in images.iter().enumerate() {
        pull(&registry, &n.to_string(), image).await;
    }
    assert!(is_here(&registry, &images[0].layers[0]) && is_here(&registry, &images[1].layers[0]));
    let answer = registry.get(&blob_path(REPOSITORY, &images[3].layers[0])).await;
    assert_eq!((answer.cache(), answer.looks_complete()), ("bypass", true));
    let sums = registry.sums();
    assert!(sums.of_cache() <= registry.limits().cache_max_bytes, "{sums:?}");
    registry.finish().await;
}

#[tokio::test]
async fn an_image_whose_layer_was_evicted_refetches_that_layer_only() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[&layer(1), &layer(2)]);
    let registry = over(&fake, 3).start().await;
    pull(&registry, "1", &image).await;
    // Everything but the first layer was read since.
    for digest in [&image.layers[1], &image.config] {
        assert_eq!(pull_blob(&registry, digest).await.cache(), "hit");
    }
    crowd_out(&fake, &registry, 2).await;
    assert!(!is_here(&registry, &image.layers[0]) && is_here(&registry, &image.layers[1]));
    let before = fake.requests().len();
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.cache(), "hit");
    for digest in [&image.layers[1], &image.config] {
        assert_eq!(pull_blob(&registry, digest).await.cache(), "hit");
    }
    assert_eq!(pull_blob(&registry, &image.layers[0]).await.cache(), "miss");
    assert_eq!(fake.requests().len(), before + 1, "only the layer that went is fetched");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_kept_is_listed_and_what_is_removed_is_gone() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    pull(&registry, "1", &image).await;
    push_image(&registry, "our/app", "v1", b"ours").await;
    push_image(&registry, "our/app", "v2", b"ours too").await;
    let listed = admin(&registry, "GET", "/api/v1/content").await;
    let repositories: Vec<(&str, bool, u64)> = listed["repositories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["pushed"].as_bool().unwrap(), one["tags"].as_u64().unwrap()))
        .collect();
    let cached = format!("{HUB}/{REPOSITORY}");
    assert_eq!(repositories, [(cached.as_str(), false, 1), ("our/app", true, 2)]);
    let tags = admin(&registry, "GET", "/api/v1/content?repository=our/app").await;
    assert_eq!((&tags["tags"][0]["name"], &tags["tags"][0]["blobs"]), (&json!("v1"), &json!(3)), "{tags}");

    admin(&registry, "PUT", "/api/v1/pins?ref=our/app:v2").await;
    let refused = registry.send(Call::new("DELETE", "/api/v1/content?ref=our/app:v2")).await;
    assert_eq!((refused.status(), refused.code().as_str()), (409, "DENIED"), "{:?}", refused.body);
    let refused = registry.send(Call::new("DELETE", "/api/v1/content?repository=our/app")).await;
    assert_eq!(refused.status(), 409, "{:?}", refused.body);
    admin(&registry, "DELETE", "/api/v1/pins?ref=our/app:v2").await;

    let removed = admin(&registry, "DELETE", "/api/v1/content?ref=our/app:v1").await;
    assert_eq!(removed["removed"], "our/app:v1");
    assert_eq!(registry.get(&manifest_path("our/app", "v1")).await.status(), 404);
    assert_eq!(registry.get(&manifest_path("our/app", "v2")).await.status(), 200);
    let removed = admin(&registry, "DELETE", "/api/v1/content?repository=our/app").await;
    assert_eq!(removed["manifests"], 2);
    assert_eq!(registry.get(&manifest_path("our/app", "v2")).await.status(), 404);
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/content?repository=our/app")).await.status(), 404);
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/content?ref=team/none:1")).await.status(), 404);
    registry.finish().await;
}

#[tokio::test]
async fn the_commands_reach_a_server_and_a_store_at_rest() {
    let fake = FakeUpstream::start().await;
    fake.push_image("library/app", "v1", &[b"layer"]);
    let folder = TempDir::new().unwrap();
    let config =
        format!("storage: {{min_free: 0}}\nupstreams:\n  docker.io: {{url: \"{}\", default: true}}\n", fake.base_url());
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let server = Process::serve(folder.path(), &["--config", "config.yaml"]).await;
    assert_eq!(server.send(Call::get("/v2/app/manifests/v1")).await.status(), 200);
    let at = format!("http://{}", server.address);
    let said = |arguments: Vec<String>| {
        let folder = folder.path().to_owned();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let ended = run(&folder, &arguments, &[]).await;
            assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
            ended.stdout
        }
    };
    let with = |words: &str, last: [&str; 2]| -> Vec<String> {
        let words = words.split(' ').chain(["--config", "config.yaml"]).chain(last);
        words.map(str::to_owned).collect()
    };
    let online = ["--server", at.as_str()];
    assert_eq!(said(with("pin app:v1", online)).await, "docker.io/library/app:v1 is pinned\n");
    assert!(said(with("pin --list", online)).await.contains("docker.io/library/app:v1  command"), "online");
    assert!(said(with("ls", online)).await.contains("docker.io/library/app"), "online");
    assert!(said(with("ls docker.io/**", online)).await.contains("docker.io/library/app:v1  cached pinned"), "online");
    server.kill();

    // Nobody listens at port 1, so the store itself is opened.
    let offline = ["--listen", "127.0.0.1:1"];
    assert!(said(with("pin --list", offline)).await.contains("docker.io/library/app:v1  command"), "offline");
    assert!(said(with("ls --json", offline)).await.contains("\"docker.io/library/app\""), "offline");
    assert_eq!(said(with("pin app:v1 --remove", offline)).await, "docker.io/library/app:v1 is pinned no more\n");
    assert_eq!(said(with("rm app:v1", offline)).await, "removed docker.io/library/app:v1\n");
    assert!(!said(with("ls **", offline)).await.contains(":v1"), "offline");
    let nothing = run(folder.path(), &["rm", "app", "--config", "config.yaml"], &[]).await;
    assert!(nothing.code == Some(1) && nothing.stderr.contains("say which tag"), "{}", nothing.stderr);
    assert_eq!(run(folder.path(), &["pin"], &[]).await.code, Some(2), "nothing is named");
}
