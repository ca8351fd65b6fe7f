//! The fills under way, as an operator sees them.

use std::time::Duration;

use entrepot::cache::Priority;
use sqlx::{Connection as _, Executor as _};

use crate::support::content;
use crate::support::registry::{HUB, TestRegistry, blob_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 300_000;
const PIECE: usize = 100_000;

#[tokio::test]
async fn a_fill_tells_how_far_it_is_and_who_follows_it() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), PIECE));
    let registry = TestRegistry::over(&fake).await;
    assert!(registry.registry().fills().list().is_empty());
    let path = blob_path(REPOSITORY, &digest);
    let mut first = registry.open(&path).await;
    let second = registry.open(&path).await;
    gate.let_pass(1);
    first.read(PIECE).await;
    let [view] = &registry.registry().fills().list()[..] else { panic!("one fill is under way") };
    assert_eq!((view.digest, view.repository.as_str()), (digest, "hub.example/team/app"));
    assert_eq!((view.upstream.as_str(), view.source.as_str()), (HUB, HUB));
    assert_eq!((view.received_bytes, view.total_bytes), (PIECE as u64, Some(SIZE as u64)));
    assert_eq!((view.readers, view.pieces, view.priority), (2, 1, Priority::Client));
    assert!(view.bytes_per_second > 0);
    assert_eq!(view.started_ms, registry.registry().depot().clock.now_ms());
    drop(second);
    registry.until("the second reader is gone", |registry| registry.registry().fills().list()[0].readers == 1).await;
    gate.let_pass(2);
    first.finish().await;
    registry.fills_end().await;
    assert!(registry.registry().fills().list().is_empty());
    registry.finish().await;
}

#[tokio::test]
async fn a_commit_that_outlasts_the_time_limit_of_its_fill_is_counted_all_the_same() {
    const LIMIT: Duration = Duration::from_millis(300);
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(SIZE, 1));
    let builder = TestRegistry::builder().default_upstream(HUB, &fake);
    let registry = builder.config(|config| config.cache.fill_timeout = LIMIT).start().await;
    // Somebody else writes to the index, so that the file has its name and the row has to wait.
    let index = format!("sqlite://{}", registry.store().join("index.sqlite").display());
    let mut writer = sqlx::SqliteConnection::connect(&index).await.unwrap();
    writer.execute("BEGIN IMMEDIATE").await.unwrap();
    let path = blob_path(REPOSITORY, &digest);
    let reading = registry.get(&path);
    let held = async {
        let hex = digest.hex();
        let named = registry.store().join("blobs/sha256").join(&hex[..2]).join(&hex);
        registry.until("the file has its name", |_| named.exists()).await;
        let ended = tokio::time::timeout(2 * LIMIT, registry.fills_end()).await;
        assert!(ended.is_err(), "the fill ended between the file's name and its row");
        writer.execute("ROLLBACK").await.unwrap();
    };
    let (answer, ()) = tokio::join!(reading, held);
    assert!(answer.looks_complete());
    registry.fills_end().await;
    assert_eq!(registry.get(&path).await.cache(), "hit");
    registry.finish().await;
}
