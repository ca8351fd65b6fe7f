//! The index lost, damaged, or put back from a backup: what was pushed has its names again, what was cached is not fetched twice.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::support::client::Call;
use crate::support::content;
use crate::support::harm::{Harm, file_of, harm};
use crate::support::process::{Ended, Process, run_now};
use crate::support::push::{IMAGE, INDEX, digest_of, image, index, push_image};
use crate::support::registry::{TestRegistry, blob_path, folder, manifest_path};
use crate::support::upstream::FakeUpstream;

const PATIENCE: Duration = Duration::from_secs(20);

/// A command over a registry's store, which nobody serves meanwhile.
fn entrepot(store: &Path, arguments: &[&str]) -> Ended {
    let folder = store.parent().expect("a store is in a folder");
    run_now(folder, &[arguments, &["--storage-path", "store"]].concat())
}

fn remove_index(store: &Path) {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(store.join(name));
    }
}

fn assert_refused_to_start(store: &Path) {
    let start = entrepot(store, &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    assert_eq!(start.code, Some(1), "{start:?}");
    assert!(start.stderr.contains("entrepot scrub --repair"), "{start:?}");
}

#[tokio::test]
async fn a_lost_index_is_rebuilt_with_every_pushed_name_and_no_byte_is_fetched_twice() {
    let fake = FakeUpstream::start().await;
    let layer = content(300_000, 1);
    let cached = fake.push_image("team/app", "1", &[&layer]);
    let mut registry = TestRegistry::over(&fake).await;
    registry.get(&manifest_path("team/app", "1")).await;
    for digest in [&cached.config, &cached.layers[0]] {
        registry.get(&blob_path("team/app", digest)).await;
    }
    registry.fills_end().await;
    let (own, shared) = (content(200_000, 2), content(100_000, 3));
    let first = push_image(&registry, "our/app", "1", &own).await;
    let second = push_image(&registry, "our/app", "2", &shared).await;
    push_image(&registry, "our/app", "gone", &content(50_000, 4)).await;
    let both = bytes::Bytes::from(index(&[&first, &second]).to_string());
    assert_eq!(registry.push_manifest("our/app", "all", INDEX, both.clone()).await.status(), 201);
    assert_eq!(registry.push_manifest("our/app", "1", IMAGE, second.clone()).await.status(), 201);
    registry.send(Call::new("DELETE", "/v2/our/app/manifests/gone")).await;
    let asked = fake.requests().len();

    let store = registry.store();
    registry
        .reconfigure(|_| {
            remove_index(&store);
            assert_refused_to_start(&store);
            let looked = entrepot(&store, &["scrub", "--json"]);
            assert_eq!(looked.code, Some(1), "{looked:?}");
            assert!(!store.join("index.sqlite").exists(), "looking makes no index");
            let repaired = entrepot(&store, &["scrub", "--repair", "--json"]);
            assert_eq!(repaired.code, Some(0), "{repaired:?}");
            let report: serde_json::Value = serde_json::from_str(&repaired.stdout).unwrap();
            assert_eq!(report["index_rebuilt"], true, "{report}");
            let again = entrepot(&store, &["scrub"]);
            assert_eq!(again.code, Some(0), "{again:?}");
        })
        .await;

    assert_eq!(registry.get("/v2/our/app/tags/list").await.json()["tags"], json!(["1", "2", "all"]));
    for (reference, bytes) in [("1", &second), ("2", &second), ("all", &both)] {
        let answer = registry.get(&manifest_path("our/app", reference)).await;
        assert!(answer.looks_complete() && answer.body == *bytes, "{reference}: {:?}", answer.body);
    }
    assert!(registry.get(&manifest_path("our/app", digest_of(&first))).await.body == first);
    for layer in [&own, &shared] {
        let answer = registry.get(&blob_path("our/app", &digest_of(layer))).await;
        assert!(answer.looks_complete() && answer.body == *layer);
    }
    assert_eq!(registry.get("/v2/our/app/manifests/absent").await.status(), 404);
    assert_eq!(fake.requests().len(), asked, "a private name was asked of the upstream");
    assert!(registry.sums().pushed > 300_000);

    assert!(registry.get(&manifest_path("team/app", "1")).await.looks_complete());
    let got = fake.requests().blobs_got(&cached.layers[0]);
    let answer = registry.get(&blob_path("team/app", &cached.layers[0])).await;
    assert!(answer.looks_complete() && answer.body == layer);
    assert_eq!(fake.requests().blobs_got(&cached.layers[0]), got, "what was here was fetched again");
    registry.finish().await;
}

#[tokio::test]
async fn a_damaged_index_is_refused_as_it_is_and_rebuilt_on_demand() {
    let mut registry = TestRegistry::builder().start().await;
    let layer = content(100_000, 1);
    let manifest = push_image(&registry, "our/app", "1", &layer).await;
    let store = registry.store();
    let path = store.join("index.sqlite");
    for kind in ["header", "half", "empty"] {
        registry
            .reconfigure(|_| {
                let mut bytes = fs::read(&path).unwrap();
                match kind {
                    "header" => bytes[..100].fill(0x55),
                    "half" => bytes.truncate(bytes.len() / 2),
                    _ => bytes.clear(),
                }
                fs::write(&path, &bytes).unwrap();
                assert_refused_to_start(&store);
                assert!(fs::read(&path).unwrap() == bytes, "{kind}: what was left of it was changed");
                let repaired = entrepot(&store, &["scrub", "--repair"]);
                assert_eq!(repaired.code, Some(0), "{kind}: {repaired:?}");
                assert!(kind == "empty" || fs::read(store.join("quarantine/index.sqlite")).unwrap() == bytes, "{kind}");
            })
            .await;
        assert!(registry.get(&manifest_path("our/app", "1")).await.body == manifest, "{kind}");
        assert!(registry.get(&blob_path("our/app", &digest_of(&layer))).await.body == layer, "{kind}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_backup_made_while_serving_learns_at_start_what_was_pushed_since() {
    let mut registry = TestRegistry::builder().start().await;
    push_image(&registry, "our/app", "1", &content(100_000, 1)).await;
    push_image(&registry, "our/app", "old", &content(100_000, 2)).await;
    let (store, copy) = (registry.store(), registry.store().with_file_name("copy.sqlite"));
    let backup = |store: PathBuf| async move {
        tokio::task::spawn_blocking(move || entrepot(&store, &["backup", "copy.sqlite"])).await.unwrap()
    };
    let made = backup(store.clone()).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let again = backup(store.clone()).await;
    assert!(again.code == Some(1) && again.stderr.contains("exists already"), "{again:?}");
    let names: Vec<_> =
        fs::read_dir(store.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "a backup is one file: {names:?}");

    let newer = push_image(&registry, "our/app", "1", &content(100_000, 3)).await;
    push_image(&registry, "new/app", "1", &content(100_000, 4)).await;
    registry.send(Call::new("DELETE", "/v2/our/app/manifests/old")).await;
    for with_scrub in [true, false] {
        registry
            .reconfigure(|_| {
                remove_index(&store);
                fs::copy(&copy, store.join("index.sqlite")).unwrap();
                if with_scrub {
                    let repaired = entrepot(&store, &["scrub", "--repair"]);
                    assert_eq!(repaired.code, Some(0), "{repaired:?}");
                }
            })
            .await;
        assert_eq!(registry.get("/v2/our/app/tags/list").await.json()["tags"], json!(["1"]));
        assert!(registry.get(&manifest_path("our/app", "1")).await.body == newer);
        assert!(registry.get(&blob_path("our/app", &digest_of(content(100_000, 3)))).await.looks_complete());
        assert!(registry.get(&manifest_path("new/app", "1")).await.looks_complete());
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_store_at_rest_is_looked_through_and_put_right() {
    let fake = FakeUpstream::start().await;
    let cached: Vec<_> = (1..4).map(|seed| fake.push_blob("team/app", content(100_000, seed))).collect();
    let mut registry = TestRegistry::over(&fake).await;
    for digest in &cached {
        registry.get(&blob_path("team/app", digest)).await;
    }
    registry.fills_end().await;
    let lost = registry.push_blob("our/app", content(100_000, 7)).await;
    harm(&registry, &cached[0], Harm::Flip);
    harm(&registry, &cached[1], Harm::Remove);
    harm(&registry, &lost, Harm::Flip);
    let orphan = content(1000, 8);
    fs::write(file_of(&registry, &digest_of(&orphan)), &orphan).unwrap();
    let alien = file_of(&registry, &cached[2]).with_file_name("thesis.txt");
    fs::write(&alien, "mine").unwrap();
    let store = registry.store();
    registry
        .reconfigure(|_| {
            let kinds = |ended: &Ended| {
                let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
                let findings = report["findings"].as_array().unwrap().clone();
                let mut kinds: Vec<_> = findings
                    .iter()
                    .map(|found| (found["kind"].as_str().unwrap().to_owned(), found["repaired"].as_bool().unwrap()))
                    .collect();
                kinds.sort();
                kinds
            };
            let named = |kinds: &[(&str, bool)]| kinds.iter().map(|(k, r)| ((*k).to_owned(), *r)).collect::<Vec<_>>();
            let found =
                [("damaged", false), ("damaged", false), ("foreign", false), ("lost", false), ("unrecorded", false)];
            for _ in 0..2 {
                let looked = entrepot(&store, &["scrub", "--json"]);
                assert_eq!((looked.code, kinds(&looked)), (Some(1), named(&found)), "{looked:?}");
            }
            let repaired = entrepot(&store, &["scrub", "--repair", "--json"]);
            let put_right =
                [("damaged", true), ("damaged", true), ("foreign", false), ("lost", false), ("unrecorded", true)];
            assert_eq!((repaired.code, kinds(&repaired)), (Some(1), named(&put_right)), "{repaired:?}");
            fs::remove_file(&alien).unwrap();
            let again = entrepot(&store, &["scrub"]);
            assert_eq!(again.code, Some(0), "{again:?}");
        })
        .await;
    assert_eq!(registry.metadata().count_losses().await.unwrap(), 1);
    for digest in &cached {
        assert!(registry.get(&blob_path("team/app", digest)).await.looks_complete());
    }
    registry.fills_end().await;
    registry.finish().await;
}

#[tokio::test]
async fn a_store_that_is_served_is_not_repaired() {
    let registry = TestRegistry::builder().start().await;
    let store = registry.store();
    let ended = tokio::task::spawn_blocking(move || entrepot(&store, &["scrub", "--repair"])).await.unwrap();
    assert!(ended.code == Some(1) && ended.stderr.contains("in use by another process"), "{ended:?}");
    registry.finish().await;
}

/// Everything behind the beginning of each file of the index becomes nonsense, as a disk that dies leaves it.
fn spoil_index(store: &Path) {
    for (name, from) in [("index.sqlite", 4096), ("index.sqlite-wal", 32)] {
        let file = fs::File::options().write(true).open(store.join(name)).unwrap();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0xA5; len.saturating_sub(from)], from as u64).unwrap();
    }
}

#[tokio::test]
async fn an_index_that_is_damaged_while_it_serves_is_never_taken_for_an_empty_one() {
    let folder = folder();
    let store = folder.path().join("data");
    let process = Process::serve(folder.path(), &[]).await;
    let put = |path: &str, body: &[u8]| Call::new("PUT", path).header("content-type", IMAGE).body(body.to_vec());
    let config = b"{}";
    let manifest = image(config, &[]).to_string();
    let upload = format!("/v2/our/app/blobs/uploads/?digest={}", digest_of(config));
    assert_eq!(process.send(Call::new("POST", &upload).body(config.to_vec())).await.status(), 201);
    assert_eq!(process.send(put(&manifest_path("our/app", "1"), manifest.as_bytes())).await.status(), 201);

    spoil_index(&store);
    for path in ["/v2/our/app/tags/list", "/v2/_catalog", "/v2/our/app/manifests/2"] {
        let answer = process.send(Call::get(path)).await;
        assert_eq!((answer.status(), answer.code().as_str()), (500, "UNKNOWN"), "{path}");
    }
    assert_eq!(process.send(put(&manifest_path("our/app", "2"), manifest.as_bytes())).await.status(), 500);
    let told = async {
        loop {
            let ready = process.send(Call::get("/readyz")).await;
            if ready.status() == 503 {
                break ready.json()["problem"].as_str().unwrap().to_owned();
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("it says that it is not ready");
    assert!(told.contains("entrepot scrub --repair"), "{told}");
    process.terminate();
    process.ended().await;

    let repaired = run_now(folder.path(), &["scrub", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    let process = Process::serve(folder.path(), &[]).await;
    let answer = process.send(Call::get(&manifest_path("our/app", "1"))).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, manifest.as_bytes()));
    process.kill();
}
