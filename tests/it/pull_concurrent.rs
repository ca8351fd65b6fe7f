//! Many clients at once: one transfer upstream, every byte right for everybody.

use futures::future::join_all;

use crate::support::client::Reading;
use crate::support::content;
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const CLIENTS: usize = 50;

#[tokio::test]
async fn fifty_clients_cause_one_transfer_and_all_get_every_byte() {
    let fake = FakeUpstream::start().await;
    let bytes = content(2_000_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 500_000));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let opened = join_all((0..CLIENTS).map(|_| registry.open(&path))).await;
    let outcomes: Vec<&str> = opened.iter().map(|reading| reading.head.header("entrepot-cache").unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "miss").count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "coalesced").count(), CLIENTS - 1);
    gate.let_pass(4);
    for answer in join_all(opened.into_iter().map(Reading::finish)).await {
        assert!(answer.complete && answer.body == bytes);
    }
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn clients_that_come_and_go_change_nothing_for_those_who_stay() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1_000_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 100_000));
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    let mut staying = vec![];
    for step in 1..=9 {
        let mut leaving = registry.open(&path).await;
        staying.push(registry.open(&path).await);
        gate.let_pass(1);
        leaving.read(step * 100_000 - 1).await;
        drop(leaving);
    }
    gate.let_pass(1);
    for answer in join_all(staying.into_iter().map(Reading::finish)).await {
        assert!(answer.complete && answer.body == bytes);
    }
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_failure_is_shared_and_the_next_client_tries_anew() {
    let fake = FakeUpstream::start().await;
    let bytes = content(100_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest).get(), Fault::WrongBytes);
    let registry = TestRegistry::over(&fake).await;
    let path = blob_path(REPOSITORY, &digest);
    for answer in join_all((0..CLIENTS).map(|_| registry.get(&path))).await {
        assert!(!answer.looks_complete());
    }
    registry.fills_end().await;
    fake.heal();
    for answer in join_all((0..CLIENTS).map(|_| registry.get(&path))).await {
        assert!(answer.looks_complete() && answer.body == bytes);
    }
    registry.finish().await;
}

#[tokio::test]
async fn fifty_clients_of_a_tag_cause_one_request() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let gate = Gate::closed();
    fake.fault(On::manifest("1"), Fault::SlowFirstByte(gate.clone()));
    let registry = TestRegistry::over(&fake).await;
    let path = manifest_path(REPOSITORY, "1");
    let pulls = join_all((0..CLIENTS).map(|_| registry.get(&path)));
    let release = async {
        fake.until(|requests| requests.len() == 1).await;
        gate.let_pass(1);
    };
    let (answers, ()) = tokio::join!(pulls, release);
    assert!(answers.iter().all(|answer| answer.status() == 200 && answer.body == image.manifest_bytes));
    assert_eq!(answers.iter().filter(|answer| answer.cache() == "miss").count(), 1);
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_of_two_repositories_is_transferred_once_after_each_has_proven_access() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let digest = fake.push_blob("team/one", bytes.clone());
    fake.push_blob("team/two", bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 100_000));
    let registry = TestRegistry::over(&fake).await;
    let one = registry.open(&blob_path("team/one", &digest)).await;
    let two = registry.open(&blob_path("team/two", &digest)).await;
    assert_eq!(two.head.header("entrepot-cache"), Some("coalesced"));
    let three = registry.get(&blob_path("team/three", &digest)).await;
    assert_eq!((three.status(), three.code().as_str()), (404, "BLOB_UNKNOWN"));
    gate.let_pass(3);
    let (one, two) = tokio::join!(one.finish(), two.finish());
    assert!(one.complete && one.body == bytes && two.complete && two.body == bytes);
    assert_eq!(fake.requests().blobs_got(&digest), 1);
    registry.finish().await;
}

#[tokio::test]
async fn fills_beyond_the_limit_wait_for_their_turn() {
    let fake = FakeUpstream::start().await;
    let gate = Gate::closed();
    let blobs: Vec<_> = (0..3).map(|seed| content(50_000, seed)).collect();
    let digests: Vec<_> = blobs.iter().map(|bytes| fake.push_blob(REPOSITORY, bytes.clone())).collect();
    fake.fault(On::any().get(), Fault::SlowFirstByte(gate.clone()));
    let builder = TestRegistry::builder().default_upstream("hub.example", &fake);
    let registry = builder.config(|config| config.cache.fills_max = 1).start().await;
    let paths: Vec<String> = digests.iter().map(|digest| blob_path(REPOSITORY, digest)).collect();
    let pulls = join_all(paths.iter().map(|path| registry.get(path)));
    let release = async {
        registry.until("all fills are known", |registry| registry.registry().fills().len() == 3).await;
        for asked in 1..=3 {
            fake.until(|requests| requests.len() >= asked).await;
            assert_eq!(fake.requests().len(), asked, "one waits for the other");
            gate.let_pass(1);
        }
    };
    let (answers, ()) = tokio::join!(pulls, release);
    for (answer, bytes) in answers.iter().zip(&blobs) {
        assert!(answer.complete && answer.body == *bytes);
    }
    registry.finish().await;
}
