//! Warming: a reference and what a pull of it takes come into the cache before anybody pulls, by the API and by the command.

use std::path::Path;

use entrepot::oci::{Digest, ManifestKind, Platform};
use serde_json::{Value, json};

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::process::{Ended, run};
use crate::support::push::push_image;
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, Image, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 100_000;

async fn post(registry: &TestRegistry, order: Value) -> Answer {
    registry.send(call(&order)).await
}

fn call(order: &Value) -> Call {
    Call::new("POST", "/api/v1/warm").header("content-type", "application/json").body(order.to_string())
}

fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status(), 200, "{:?}", answer.body);
    let text = std::str::from_utf8(&answer.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Warms, and returns what was told last and what failed.
async fn warm(registry: &TestRegistry, order: Value) -> (Value, Vec<Value>) {
    let events = events(&post(registry, order).await);
    let failed = events.iter().filter(|event| event["event"] == "failed").cloned().collect();
    let last = events.last().unwrap().clone();
    assert_eq!(last["event"], "ended", "{events:#?}");
    (last, failed)
}

/// An index of these images, with the platforms they are for.
fn push_index(fake: &FakeUpstream, tag: &str, images: &[(&Image, &str)]) -> Digest {
    let child = |(image, platform): &(&Image, &str)| {
        let mut words = platform.split('/');
        json!({ "mediaType": image.media_type, "digest": image.manifest.to_string(), "size": image.manifest_bytes.len(),
            "platform": { "os": words.next(), "architecture": words.next(), "variant": words.next() } })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": ManifestKind::OciIndex.media_type(),
        "manifests": images.iter().map(child).collect::<Vec<_>>() });
    fake.push_manifest(REPOSITORY, Some(tag), ManifestKind::OciIndex, index.to_string())
}

#[tokio::test]
async fn a_warmed_image_is_pulled_without_its_upstream() {
    let mut fake = FakeUpstream::start().await;
    let layers: Vec<Vec<u8>> = (0..5).map(|seed| content(SIZE, seed)).collect();
    let image = fake.push_image(REPOSITORY, "1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let registry = TestRegistry::over(&fake).await;
    let order = json!({ "reference": format!("{REPOSITORY}:1") });
    let (first, failed) = warm(&registry, order.clone()).await;
    assert_eq!((&failed[..], &first["manifests"], &first["blobs"]), (&[][..], &json!(1), &json!(6)), "{first}");
    assert_eq!((&first["here_bytes"], &first["fetched_bytes"]), (&json!(0), &first["wanted_bytes"]));
    let asked = |fake: &FakeUpstream| {
        let requests = fake.requests();
        let blobs: usize = image.layers.iter().map(|layer| requests.blobs_got(layer)).sum();
        (requests.manifests_got("1"), blobs, requests.blobs_got(&image.config))
    };
    assert_eq!(asked(&fake), (1, 5, 1));
    let (again, _) = warm(&registry, order).await;
    assert_eq!((&again["here_bytes"], &again["fetched_bytes"]), (&first["wanted_bytes"], &json!(0)), "{again}");
    assert_eq!(asked(&fake), (1, 5, 1), "what is here was fetched again");
    fake.stop().await;
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.cache(), "hit");
    for (digest, bytes) in image.layers.iter().zip(&layers) {
        let answer = registry.get(&blob_path(REPOSITORY, digest)).await;
        assert!(answer.cache() == "hit" && answer.body == *bytes);
    }
    registry.finish().await;
}

#[tokio::test]
async fn of_an_index_the_platforms_that_are_asked_for_come() {
    let fake = FakeUpstream::start().await;
    let own = Platform::of_this_machine().to_string();
    let layers = [content(SIZE, 1), content(SIZE, 2), content(SIZE, 3)];
    let images: Vec<Image> = (0..3).map(|at| fake.push_image(REPOSITORY, &format!("p{at}"), &[&layers[at]])).collect();
    push_index(&fake, "1", &[(&images[0], &own), (&images[1], "linux/s390x"), (&images[2], "linux/arm/v6")]);
    let registry = TestRegistry::over(&fake).await;
    let got = || images.iter().map(|image| fake.requests().blobs_got(&image.layers[0])).collect::<Vec<_>>();
    let reference = format!("{REPOSITORY}:1");
    let (ended, failed) = warm(&registry, json!({ "reference": reference })).await;
    assert_eq!((failed.len(), &ended["manifests"], got()), (0, &json!(2), vec![1, 0, 0]));
    let (_, failed) = warm(&registry, json!({ "reference": reference, "platforms": ["linux/arm/v7"] })).await;
    assert_eq!((failed.len(), got()), (0, vec![1, 0, 1]), "ARM takes the next lower variant");
    let (_, failed) = warm(&registry, json!({ "reference": reference, "platforms": ["linux/riscv64"] })).await;
    let message = failed[0]["message"].as_str().unwrap();
    assert!(message.contains("linux/riscv64") && message.contains("linux/s390x"), "{message}");
    assert_eq!(got(), [1, 0, 1]);
    let (ended, failed) = warm(&registry, json!({ "reference": reference, "platforms": ["all"] })).await;
    assert_eq!((failed.len(), &ended["manifests"], got()), (0, &json!(4), vec![1, 1, 1]));
    registry.finish().await;
}

#[tokio::test]
async fn refresh_has_a_fresh_tag_confirmed_and_says_when_it_cannot_be() {
    let mut fake = FakeUpstream::start().await;
    let old = fake.push_image(REPOSITORY, "1", &[b"old"]);
    let registry = TestRegistry::over(&fake).await;
    let order = json!({ "reference": format!("{REPOSITORY}:1"), "refresh": true });
    warm(&registry, order.clone()).await;
    let new = fake.push_image(REPOSITORY, "2", &[b"new"]);
    fake.move_tag(REPOSITORY, "1", new.manifest);
    let (_, failed) = warm(&registry, json!({ "reference": format!("{REPOSITORY}:1") })).await;
    assert_eq!((failed.len(), fake.requests().blobs_got(&new.layers[0])), (0, 0), "it is fresh");
    warm(&registry, order.clone()).await;
    assert_eq!(fake.requests().blobs_got(&new.layers[0]), 1);
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.body, new.manifest_bytes);
    assert_ne!(old.manifest, new.manifest);
    fake.stop().await;
    let (ended, failed) = warm(&registry, order).await;
    assert_eq!((failed.len(), &ended["failed"], &ended["blobs"]), (1, &json!(1), &json!(2)), "{failed:?}");
    assert!(failed[0]["advice"].as_str().unwrap().contains("entrepot why"), "{failed:?}");
    registry.finish().await;
}

#[tokio::test]
async fn refresh_does_not_take_a_remembered_no_for_an_answer() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(registry.get(&manifest_path(REPOSITORY, "1")).await.status(), 404);
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let reference = format!("{REPOSITORY}:1");
    let (_, failed) = warm(&registry, json!({ "reference": reference })).await;
    assert_eq!(failed.len(), 1, "the no is remembered");
    let (_, failed) = warm(&registry, json!({ "reference": reference, "refresh": true })).await;
    assert_eq!(failed.len(), 0, "{failed:?}");
    registry.finish().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_what_to_do_and_the_rest_comes() {
    let fake = FakeUpstream::start().await;
    let layers: Vec<Vec<u8>> = (0..3).map(|seed| content(SIZE, seed)).collect();
    let image = fake.push_image(REPOSITORY, "1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    fake.fault(On::blob(&image.layers[1]).get(), Fault::WrongBytes);
    let registry = TestRegistry::over(&fake).await;
    let (ended, failed) = warm(&registry, json!({ "reference": format!("{REPOSITORY}:1") })).await;
    assert_eq!((&ended["blobs"], &ended["blobs_wanted"], failed.len()), (&json!(3), &json!(4), 1), "{failed:?}");
    let text = |key: &str| failed[0][key].as_str().unwrap().to_owned();
    assert_eq!(text("part"), format!("blob {}", image.layers[1]));
    assert!(text("message").contains(HUB) && !text("advice").is_empty(), "{failed:?}");
    let (_, failed) = warm(&registry, json!({ "reference": "team/none:1" })).await;
    assert!(failed[0]["advice"].as_str().unwrap().contains("the name and the tag"), "{failed:?}");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_attached_comes_along() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let (signature, config) = (fake.push_blob(REPOSITORY, content(500, 9)), fake.push_blob(REPOSITORY, "{}"));
    let large = fake.push_blob(REPOSITORY, content(5 << 20, 10));
    let blob = |digest: &Digest, size: usize| json!({ "mediaType": "a/b", "digest": digest.to_string(), "size": size });
    let attached = json!({ "schemaVersion": 2, "mediaType": image.media_type, "config": blob(&config, 2),
        "layers": [blob(&signature, 500), blob(&large, 5 << 20)], "subject": blob(&image.manifest, image.manifest_bytes.len()) });
    let attached = fake.push_manifest(REPOSITORY, None, ManifestKind::OciImage, attached.to_string());
    let registry = TestRegistry::over(&fake).await;
    let (ended, failed) = warm(&registry, json!({ "reference": format!("{REPOSITORY}:1") })).await;
    assert_eq!((failed.len(), &ended["manifests"], &ended["blobs"]), (0, &json!(2), &json!(4)), "{ended}");
    assert_eq!(registry.get(&manifest_path(REPOSITORY, attached)).await.cache(), "hit");
    let requests = fake.requests();
    assert_eq!((requests.blobs_got(&signature), requests.blobs_got(&large)), (1, 0), "only what is small comes along");
    registry.finish().await;
}

#[tokio::test]
async fn clients_go_before_what_is_warmed() {
    let fake = FakeUpstream::start().await;
    let layers: Vec<Vec<u8>> = (0..3).map(|seed| content(SIZE, seed)).collect();
    let image = fake.push_image(REPOSITORY, "1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let wanted = fake.push_blob(REPOSITORY, content(SIZE, 99));
    let gate = Gate::closed();
    // Whichever of the first two has the turn holds it until a client waits too.
    for blob in [&image.config, &image.layers[0]] {
        fake.fault(On::blob(blob).get(), Fault::SlowFirstByte(gate.clone()));
    }
    let one_at_a_time = |upstream: &mut entrepot::config::Upstream| {
        upstream.connections_max = 1;
        upstream.prefetch_max = 2;
    };
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).upstreams(one_at_a_time).start().await;
    let warming = post(&registry, json!({ "reference": format!("{REPOSITORY}:1") }));
    let client = async {
        registry.until("two of it are begun", |registry| registry.registry().fills().len() == 2).await;
        let release = async {
            let both_wait = "entrepot_transfers{upstream=\"hub.example\",state=\"waiting\"} 2";
            registry.until("a client waits too", |registry| registry.metrics().contains(both_wait)).await;
            gate.let_pass(2);
        };
        let path = blob_path(REPOSITORY, &wanted);
        tokio::join!(registry.get(&path), release).0
    };
    let (warmed, answer) = tokio::join!(warming, client);
    assert!(answer.looks_complete() && events(&warmed).last().unwrap()["failed"] == 0);
    let order: Vec<String> = fake.requests().0.iter().map(|request| request.path.clone()).collect();
    let at = |digest: &Digest| order.iter().position(|path| path.ends_with(&digest.to_string())).unwrap();
    let behind = [at(&image.config).max(at(&image.layers[0])), at(&image.layers[1]), at(&image.layers[2])];
    assert!(behind.iter().all(|place| at(&wanted) < *place), "{order:#?}");
    registry.finish().await;
}

#[tokio::test]
async fn who_goes_away_leaves_nothing_running_but_what_was_begun() {
    let fake = FakeUpstream::start().await;
    let layers: Vec<Vec<u8>> = (0..6).map(|seed| content(SIZE, seed)).collect();
    let image = fake.push_image(REPOSITORY, "1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let gate = Gate::closed();
    fake.fault(On::blob(&image.config).get(), Fault::SlowFirstByte(gate.clone()));
    let registry = TestRegistry::builder()
        .default_upstream(HUB, &fake)
        .upstreams(|upstream| upstream.prefetch_max = 1)
        .start()
        .await;
    let reading = call(&json!({ "reference": format!("{REPOSITORY}:1") })).open(registry.address()).await;
    fake.until(|requests| requests.blobs_got(&image.config) == 1).await;
    drop(reading);
    let logged = "entrepot_requests_total{action=\"warm\"";
    registry.until("the server has seen it go", |registry| registry.metrics().contains(logged)).await;
    gate.let_pass(1);
    registry.fills_end().await;
    assert_eq!(registry.get(&blob_path(REPOSITORY, &image.config)).await.cache(), "hit", "what was begun ended");
    assert!(image.layers.iter().all(|layer| fake.requests().blobs_got(layer) == 0), "it went on for nobody");
    registry.finish().await;
}

#[tokio::test]
async fn an_image_that_the_cache_cannot_hold_is_said_to_be_too_large() {
    let fake = FakeUpstream::start().await;
    let layers: Vec<Vec<u8>> = (0..4).map(|seed| content(SIZE, seed)).collect();
    let image = fake.push_image(REPOSITORY, "1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).cache_max(3 * SIZE as u64).start().await;
    let (_, failed) = warm(&registry, json!({ "reference": format!("{REPOSITORY}:1") })).await;
    assert!(failed[0]["message"].as_str().unwrap().contains("cache.max_size"), "{failed:?}");
    assert_eq!(fake.requests().blobs_got(&image.layers[0]), 0);
    registry.finish().await;
}

#[tokio::test]
async fn what_was_pushed_here_is_warm_and_what_no_page_may_order_is_refused() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    push_image(&registry, "own/app", "v1", b"layer").await;
    let (ended, failed) = warm(&registry, json!({ "reference": "own/app:v1" })).await;
    assert_eq!((failed.len(), &ended["failed"], fake.requests().len()), (0, &json!(0), 0));
    let order = json!({ "reference": "own/app:v1" }).to_string();
    let plain = Call::new("POST", "/api/v1/warm").header("content-type", "text/plain").body(order);
    assert_eq!(registry.send(plain).await.status(), 400, "a page could have sent this");
    for malformed in [json!({}), json!({ "reference": "App" }), json!({ "reference": "app", "platforms": ["linux"] })] {
        assert_eq!(post(&registry, malformed).await.status(), 400);
    }
    registry.finish().await;
}

async fn command(registry: &TestRegistry, folder: &Path, arguments: &[&str]) -> Ended {
    let server = registry.url("");
    run(folder, &[&["warm", "--server", &server], arguments].concat(), &[]).await
}

#[tokio::test]
async fn the_command_warms_what_it_is_given_and_fails_if_anything_does() {
    let fake = FakeUpstream::start().await;
    for tag in ["1", "2", "3"] {
        fake.push_image(REPOSITORY, tag, &[&content(SIZE, tag.len())]);
    }
    let registry = TestRegistry::over(&fake).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list"), format!("# ours\n{REPOSITORY}:2\n\n{REPOSITORY}:3 # too\n")).unwrap();
    let one = format!("{REPOSITORY}:1");
    let ended = command(&registry, folder.path(), &[&one, "--from", "list"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.matches(" warm ").count(), 3, "{}", ended.stdout);
    assert!(!ended.stderr.contains('\r'), "there is no terminal: {}", ended.stderr);
    let ended = command(&registry, folder.path(), &[&one, "team/none:1"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("team/none:1") && ended.stderr.contains("1 of 2 references"), "{}", ended.stderr);
    let ended = command(&registry, folder.path(), &[&one, "--json"]).await;
    let last: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["reference"]), (&json!("ended"), &json!(one)), "{}", ended.stdout);
    registry.finish().await;
}

#[tokio::test]
async fn the_command_says_that_it_needs_a_server() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    let folder = tempfile::tempdir().unwrap();
    let server = registry.url("");
    registry.finish().await;
    let ended = run(folder.path(), &["warm", "app:1", "--server", &server], &[]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("entrepot serve") && ended.stderr.contains(&server), "{}", ended.stderr);
    for usage in [&["warm"][..], &["warm", "App"], &["warm", "app", "--platform", "linux"]] {
        assert_eq!(run(folder.path(), usage, &[]).await.code, Some(2), "{usage:?}");
    }
    assert_eq!(run(folder.path(), &["warm", "--from", "nothing"], &[]).await.code, Some(1));
}
