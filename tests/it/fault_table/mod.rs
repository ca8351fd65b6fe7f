//! Every fault of an upstream in every situation in which a client can meet it: what the client gets, what is kept, how often
//! the upstream is asked, and how long anybody waits.

mod rows;

use std::time::{Duration, Instant};

use entrepot::config::Prefetch;
use futures::{StreamExt as _, stream};

use crate::support::client::Answer;
use crate::support::registry::{HUB, Leftovers, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{Fault, Gate, On};
use rows::{End, Row, Scene, rows};

const REPOSITORY: &str = "team/app";
const TAG: &str = "1";
const LAYER_BYTES: usize = 200_000;
const MINUTE: Duration = Duration::from_mins(1);
/// Nobody waits longer for the head of an answer than a client's patience. The timeouts of the slow rows are short, so that
/// this is far below it, and far above what a busy machine adds.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Few enough that each gets a processor when its upstream's patience counts.
const ROWS_AT_A_TIME: usize = 6;

/// Runs a situation for every row, a few at a time.
async fn each<F: Future<Output = ()>>(situation: impl Fn(Row) -> F) {
    stream::iter(rows().into_iter().map(situation)).for_each_concurrent(ROWS_AT_A_TIME, |row| row).await;
}

/// A registry over the scene's upstream. Only where waiting is part of the fault are the limits on it short: elsewhere a busy
/// machine must not look like a slow upstream.
async fn registry_over(scene: &Scene, row: &Row, prefetch: Prefetch) -> TestRegistry {
    let builder = TestRegistry::builder().default_upstream(HUB, &scene.fake).revalidate_after(10 * MINUTE);
    let builder = builder.upstreams(|upstream| {
        upstream.retries = 1;
        upstream.prefetch = prefetch;
        upstream.stale_after_wait = Duration::from_secs(20);
        // Far away, so that what is promised under it is looked at in the end.
        upstream.quota_bytes = Some(64 << 20);
        if row.is_slow {
            upstream.first_byte_timeout = Duration::from_millis(1_500);
            upstream.stale_after_wait = Duration::from_millis(100);
        }
    });
    builder.start().await
}

fn tag() -> String {
    manifest_path(REPOSITORY, TAG)
}

fn layer(scene: &Scene) -> String {
    blob_path(REPOSITORY, &scene.image.layers[0])
}

/// An answer, and how long it took.
async fn timed(answer: impl Future<Output = Answer>, row: &Row) -> Answer {
    let began = Instant::now();
    let answer = answer.await;
    assert!(began.elapsed() < ANSWER_WITHIN, "{}: answered only after {:?}", row.name, began.elapsed());
    answer
}

fn assert_ends(row: &Row, answer: &Answer, end: End, bytes: &[u8]) {
    let name = row.name;
    let got = (answer.status(), answer.complete, answer.cache());
    match end {
        End::Served => {
            assert!(answer.looks_complete() && answer.body == bytes, "{name}: {got:?} of {}", answer.body.len());
        }
        End::Refused(status, code) => {
            assert_eq!(answer.status(), status, "{name}: {got:?}");
            assert_eq!(answer.code(), code, "{name}: {:?}", answer.body);
            assert!(answer.message().contains(HUB), "{name}: {:?}", answer.message());
            let says_when = answer.header("retry-after").is_some();
            assert_eq!(says_when, status == 429, "{name}: when to come again is told where it is known");
        }
        End::Broken => assert!(!answer.complete && answer.body.len() < bytes.len(), "{name}: {got:?}"),
    }
}

fn assert_asked(row: &Row, scene: &Scene, before: usize, max: usize) {
    let requests = scene.fake.requests();
    assert!(requests.len() - before <= max, "{}: asked {:#?}", row.name, &requests.0[before..]);
    assert!(max == 0 || requests.len() > before, "{}: the upstream was not even asked", row.name);
}

/// Everything is served once the upstream is well again, and nobody remembers the fault for longer than 10 s.
async fn recovers(row: &Row, scene: &mut Scene, registry: TestRegistry) {
    registry.fills_end().await;
    if !scene.heal().await {
        let partial = registry.sums().partial > 0;
        return registry.finish_leaving(Leftovers { fills: usize::from(partial), uploads: 0 }).await;
    }
    registry.advance(Duration::from_secs(10));
    let mut manifest = registry.get(&tag()).await;
    // While an upstream is in trouble nobody waits for its answer: the question is put beside the stale answer.
    let began = Instant::now();
    while manifest.cache() == "stale" && began.elapsed() < ANSWER_WITHIN {
        tokio::time::sleep(Duration::from_millis(10)).await;
        manifest = registry.get(&tag()).await;
    }
    assert!(manifest.looks_complete() && manifest.body == scene.image.manifest_bytes, "{}: after it", row.name);
    assert!(["miss", "hit", "revalidated"].contains(&manifest.cache()), "{}: {}", row.name, manifest.cache());
    let blob = registry.get(&layer(scene)).await;
    assert!(blob.looks_complete() && blob.body == scene.layer, "{}: the blob after it", row.name);
    // Fetched ahead, it may have broken off, and what came of it waits to be continued.
    let config = registry.get(&blob_path(REPOSITORY, &scene.image.config)).await;
    assert!(config.looks_complete(), "{}: the config after it", row.name);
    registry.finish().await;
}

#[tokio::test]
async fn a_tag_of_which_nothing_is_cached() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        scene.go_wrong().await;
        let path = tag();
        let (answer, ()) = tokio::join!(timed(registry.get(&path), &row), scene.let_go_on(1));
        assert_ends(&row, &answer, row.manifest.0, &scene.image.manifest_bytes);
        assert_asked(&row, &scene, 0, row.manifest.1);
        assert_eq!(registry.sums().of_cache() > 0, row.manifest.0 == End::Served, "{}: what is kept", row.name);
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}

#[tokio::test]
async fn a_blob_of_which_nothing_is_cached() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        scene.go_wrong().await;
        let path = layer(&scene);
        let (answer, ()) = tokio::join!(timed(registry.get(&path), &row), scene.let_go_on(1));
        assert_ends(&row, &answer, row.blob.0, &scene.layer);
        registry.fills_end().await;
        assert_asked(&row, &scene, 0, row.blob.1);
        assert_eq!(registry.sums().cached > 0, row.blob.0 == End::Served, "{}: what is kept", row.name);
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_it_leaves_nothing_promised() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        scene.go_wrong().await;
        let path = layer(&scene);
        let is_asked = registry.until("the upstream is asked", |_| !scene.fake.requests().0.is_empty());
        tokio::select! {
            _ = registry.get(&path) => {}
            () = is_asked => {}
        }
        scene.let_go_on(1).await;
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_cached_and_fresh_does_not_meet_the_fault() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        let manifest = registry.get(&tag()).await.body;
        registry.get(&layer(&scene)).await;
        registry.fills_end().await;
        let before = scene.fake.requests().len();
        scene.go_wrong().await;
        for (path, bytes) in [(tag(), &manifest), (layer(&scene), &scene.layer)] {
            let answer = timed(registry.get(&path), &row).await;
            assert!(answer.looks_complete() && answer.body == *bytes, "{}: {path}", row.name);
            assert_eq!((answer.cache(), answer.header("warning")), ("hit", None), "{}: {path}", row.name);
        }
        assert_eq!(scene.fake.requests().len(), before, "{}: what is fresh was asked for", row.name);
        registry.finish().await;
    })
    .await;
}

#[tokio::test]
async fn a_cached_tag_that_has_to_be_confirmed() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        let known = registry.get(&tag()).await.body;
        registry.get(&layer(&scene)).await;
        registry.fills_end().await;
        registry.advance(10 * MINUTE);
        let before = scene.fake.requests().len();
        scene.go_wrong().await;
        let answer = timed(registry.get(&tag()), &row).await;
        let (outcome, asked_max) = row.expired;
        assert!(answer.looks_complete() && answer.cache() == outcome, "{}: {:?}", row.name, answer.head);
        let expected = if outcome == "miss" { &scene.image.manifest_bytes } else { &known };
        assert!(answer.body == *expected, "{}: a stale tag is the known one, a moved one the new", row.name);
        assert_eq!(answer.header("warning").is_some(), outcome == "stale", "{}: {:?}", row.name, answer.head);
        assert_eq!(registry.get(&layer(&scene)).await.cache(), "hit", "{}: the blob", row.name);
        // A client that does not wait leaves the question to the server, which goes on to ask.
        if !row.is_slow {
            assert_asked(&row, &scene, before, asked_max);
        }
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}

/// What nobody has asked for yet meets the fault: whoever asks for it later is not worse off.
#[tokio::test]
async fn layers_that_are_fetched_ahead() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::OnPull).await;
        let manifest = registry.get(&tag()).await.body;
        for ahead in [&scene.image.layers[0], &scene.image.config] {
            scene.fake.fault(On::blob(ahead), Fault::Silent);
        }
        // The first layer is what starts it.
        let first = registry.get(&blob_path(REPOSITORY, &scene.image.layers[1])).await;
        assert!(first.looks_complete(), "{}: what the client asked for", row.name);
        let ahead = (scene.image.layers[0], scene.image.config);
        scene.fake.until(|seen| seen.blobs_got(&ahead.0) == 1 && seen.blobs_got(&ahead.1) == 1).await;
        scene.break_off().await;
        let before = scene.fake.requests().len();
        scene.let_go_on(before + 1).await;
        registry.fills_end().await;
        let asked = scene.fake.requests().len() - before;
        assert!(asked <= 2 * row.blob.1 + 4, "{}: nobody waits, and yet it was asked {asked} times", row.name);
        for (path, bytes) in [(tag(), &manifest), (blob_path(REPOSITORY, &scene.image.layers[1]), &first.body)] {
            let answer = timed(registry.get(&path), &row).await;
            assert!(
                answer.looks_complete() && answer.cache() == "hit" && answer.body == *bytes,
                "{}: {path}",
                row.name
            );
        }
        // A tag that moved meanwhile is looked after when its time is up.
        registry.advance(10 * MINUTE);
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}

#[tokio::test]
async fn a_blob_that_is_on_its_way() {
    each(async |row: Row| {
        let mut scene = Scene::set(&row).await;
        let registry = registry_over(&scene, &row, Prefetch::Off).await;
        let first = Gate::closed();
        scene.fake.fault(On::any(), Fault::Drip(first.clone(), 100_000));
        let mut reading = {
            let path = layer(&scene);
            let (reading, ()) = tokio::join!(registry.open(&path), async { first.let_pass(1) });
            reading
        };
        let begun = reading.read(100_000).await;
        assert!(begun == scene.layer[..100_000], "{}: what came before", row.name);
        let before = scene.fake.requests().len();
        scene.break_off().await;
        let (rest, ()) = tokio::join!(timed(reading.finish(), &row), scene.let_go_on(before + 1));
        assert_eq!(rest.head.status, 200, "{}", row.name);
        let (end, asked_max) = row.mid_blob;
        assert_eq!(rest.complete, end == End::Served, "{}: {} bytes more", row.name, rest.body.len());
        assert!(
            !rest.complete || scene.layer[100_000..] == rest.body,
            "{}: wrong bytes were sent as the whole",
            row.name
        );
        registry.fills_end().await;
        assert_asked(&row, &scene, before, asked_max);
        assert_eq!(registry.sums().cached > 0, end == End::Served, "{}: what is kept", row.name);
        recovers(&row, &mut scene, registry).await;
    })
    .await;
}
