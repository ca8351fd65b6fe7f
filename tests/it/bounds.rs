//! The bounds of the store: those that cannot hold are refused before anything is touched, the index counts as it grows, and
//! what an upload announces is taken from the disk before it comes.

use std::path::Path;
use std::time::Duration;

use entrepot::cli::serve;
use entrepot::clock::Clock;
use entrepot::config::{Config, Limit};

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{HUB, Leftovers, TestRegistry, blob_path, bytes_on_disk};
use crate::support::upstream::FakeUpstream;

/// Why a store is not opened with a configuration.
async fn refusal(store: &Path, change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::default();
    config.storage.path = store.to_owned();
    config.storage.min_free = Limit::Bytes(0);
    change(&mut config);
    match serve::open(&config, Clock::manual()).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn bounds_that_contradict_each_other_are_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let said = refusal(&store, |config| {
        (config.cache.max_size, config.storage.max_size) = (Limit::Percent(100), Limit::Bytes(1 << 20));
    })
    .await;
    assert!(said.contains("cache.max_size") && said.contains("storage.max_size"), "{said}");
    let said = refusal(&store, |config| config.storage.min_free = Limit::Percent(100)).await;
    assert!(said.contains("storage.min_free"), "{said}");
}

#[tokio::test]
async fn a_bound_below_what_is_pushed_is_refused_and_nothing_is_touched() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(2 << 20, 1);
    let digest = registry.push_blob("our/app", bytes.clone()).await;
    let store = registry.store();
    let registry = registry.pause().await;
    let said = refusal(&store, |config| {
        (config.cache.max_size, config.storage.max_size) = (Limit::Bytes(1 << 20), Limit::Bytes(1 << 20));
    })
    .await;
    assert!(said.contains("pushed") && said.contains("storage.max_size"), "{said}");
    let registry = registry.resume().await;
    let answer = registry.get(&blob_path("our/app", &digest)).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    registry.finish().await;
}

#[tokio::test]
async fn the_default_bound_of_the_cache_gives_way_to_a_smaller_store() {
    let registry = TestRegistry::builder()
        .config(|config| {
            config.cache.max_size = Config::default().cache.max_size;
            config.storage.max_size = Limit::Bytes(64 << 20);
        })
        .start()
        .await;
    assert_eq!(registry.limits().cache_max_bytes, 64 << 20);
    registry.finish().await;
}

#[tokio::test]
async fn the_cache_makes_room_for_an_index_that_grows() {
    let fake = FakeUpstream::start().await;
    let blobs: Vec<_> = (0..6).map(|seed| fake.push_blob("team/app", content(512 << 10, seed))).collect();
    let store_max = 6 << 20;
    let registry = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = registry.cache_max(4 << 20).storage_max(store_max).start().await;
    for digest in &blobs {
        registry.get(&blob_path("team/app", digest)).await;
        registry.fills_end().await;
        registry.advance(Duration::from_secs(1));
    }
    // Sessions are rows of the index and no bytes of the store.
    for _ in 0..400 {
        assert_eq!(registry.send(Call::new("POST", "/v2/our/app/blobs/uploads/")).await.status(), 202);
    }
    registry.registry().depot().room.keep_bounds().await.unwrap();
    let sums = registry.sums();
    assert!(sums.index > 0 && sums.of_store() <= store_max, "{sums:?}");
    registry.advance(Duration::from_hours(25));
    assert_eq!(registry.registry().expire_uploads(Duration::from_hours(24)).await.unwrap(), 400);
    registry.finish().await;
}

#[tokio::test]
async fn what_an_upload_announces_is_taken_from_the_disk_before_it_comes() {
    let registry = TestRegistry::builder().start().await;
    let started = registry.send(Call::new("POST", "/v2/our/app/blobs/uploads/")).await;
    let location = started.header("location").unwrap().to_owned();
    let announced = 4 << 20;
    let sent = content(100_000, 1);
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
         content-range: 0-{}\r\ncontent-length: {announced}\r\n\r\n",
        announced - 1
    );
    let mut client = tokio::net::TcpStream::connect(registry.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, &[head.as_bytes(), &sent].concat()).await.unwrap();
    let store = registry.store();
    registry.until("the disk has it", |_| bytes_on_disk(&store) >= announced).await;
    assert!(registry.sums().uploading >= announced);
    drop(client);
    registry.until("what came is counted", |registry| registry.sums().uploading > 0).await;
    registry.finish_leaving(Leftovers { fills: 0, uploads: 1 }).await;
}
