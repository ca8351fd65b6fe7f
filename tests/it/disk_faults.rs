//! Every system call of the store and every change of the index fails once, whatever is being done: the client is told, nothing
//! half-done stays, and the same succeeds as soon as the disk works again.

use std::io;

use bytes::Bytes;
use entrepot::fault::inject;

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::push::{IMAGE, closing, digest_of, image};
use crate::support::registry::TestRegistry;
use crate::support::upstream::FakeUpstream;

/// Failures in one scenario beyond which it does not come to an end.
const FAULTS_MAX: usize = 120;

/// What was told to a client, and what it may rely on since.
#[derive(Default)]
struct Told {
    answers: Vec<(String, Answer)>,
    acknowledged: Vec<(String, Bytes)>,
}

impl Told {
    async fn ask(&mut self, registry: &TestRegistry, what: &str, call: Call) -> &Answer {
        let answer = registry.send(call).await;
        self.answers.push((what.to_owned(), answer));
        &self.answers.last().expect("it was just pushed").1
    }

    /// A GET that is right, or a failure that a client sees.
    async fn get(&mut self, registry: &TestRegistry, path: &str, bytes: &Bytes) {
        let answer = self.ask(registry, &format!("GET {path}"), Call::get(path)).await;
        assert!(!answer.looks_complete() || answer.body == *bytes, "wrong bytes of {path}");
    }

    fn rely_on(&mut self, path: String, bytes: &Bytes) {
        self.acknowledged.push((path, bytes.clone()));
    }

    fn is_all_well(&self) -> bool {
        self.answers.iter().all(|(_, answer)| answer.status() / 100 == 2 && answer.complete)
    }

    /// A failure is the server's own and says so in the specification's shape.
    fn assert_honest(&self, after: &str) {
        for (what, answer) in &self.answers {
            match answer.status() {
                // It broke off, which a client sees, or what should be here is not, because an earlier step failed.
                0 | 200..300 | 404 | 416 => {}
                500.. => assert!(!answer.code().is_empty(), "{what} after {after}: {:?}", answer.body),
                status => panic!("{what} after {after}: {status} {:?}", answer.body),
            }
        }
    }
}

/// Runs a scenario again and again, each time with content of its own and one more call let through before one fails.
async fn each_call_fails_once(
    registry: &TestRegistry,
    what: &str,
    error: i32,
    scenario: impl AsyncFn(&TestRegistry, usize) -> Told,
) {
    for nth in 1..FAULTS_MAX {
        let injected = inject(&registry.store(), nth..=nth, &io::Error::from_raw_os_error(error));
        let told = scenario(registry, nth).await;
        registry.fills_end().await;
        let failed = injected.failed();
        drop(injected);
        let after = format!("{what}, failing at {nth}: {failed:?}");
        told.assert_honest(&after);
        registry.registry().depot().room.finish_leftovers().await.expect("the disk works");
        registry.registry().expire_uploads(std::time::Duration::MAX).await.expect("the disk works");
        registry.assert_consistent(&after).await;
        for (path, bytes) in &told.acknowledged {
            let answer = registry.get(path).await;
            assert!(answer.looks_complete() && answer.body == *bytes, "{path} was acknowledged, after {after}");
        }
        let again = scenario(registry, nth).await;
        assert!(again.is_all_well(), "again after {after}: {:#?}", again.answers);
        registry.assert_consistent(&format!("doing again {after}")).await;
        if failed.is_empty() {
            println!("{what}: {} calls", nth - 1);
            return;
        }
    }
    panic!("{what} still fails at call {FAULTS_MAX}");
}

const EIO: i32 = 5;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

async fn push_blob(told: &mut Told, registry: &TestRegistry, repository: &str, bytes: &Bytes) {
    let digest = digest_of(bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    if told.ask(registry, "POST a blob", Call::new("POST", &path).body(bytes.clone())).await.status() == 201 {
        told.rely_on(format!("/v2/{repository}/blobs/{digest}"), bytes);
    }
}

async fn put_manifest(told: &mut Told, registry: &TestRegistry, repository: &str, tag: &str, bytes: &Bytes) {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let put = Call::new("PUT", &path).header("content-type", IMAGE).body(bytes.clone());
    if told.ask(registry, "PUT a manifest", put).await.status() == 201 {
        told.rely_on(path, bytes);
    }
}

#[tokio::test]
async fn pulls_fail_honestly_and_succeed_afterwards() {
    let fake = FakeUpstream::start().await;
    // Less than what is pulled in all, so that pulls evict.
    let registry = TestRegistry::builder()
        .default_upstream("hub.example", &fake)
        .cache_max(300_000)
        .upstreams(|upstream| upstream.piece_bytes = 32 << 10)
        .start()
        .await;
    let pull = async |registry: &TestRegistry, n: usize| {
        let (tag, layer) = (format!("v{n}"), Bytes::from(content(100_000, n)));
        let image = fake.push_image("library/app", &tag, &[&layer]);
        let mut told = Told::default();
        told.get(registry, &format!("/v2/library/app/manifests/{tag}"), &image.manifest_bytes).await;
        told.get(registry, &format!("/v2/library/app/blobs/{}", image.layers[0]), &layer).await;
        registry.fills_end().await;
        told
    };
    each_call_fails_once(&registry, "a cold pull", EIO, pull).await;
    let mut large = (1..4).map(|n| Bytes::from(content(20_000, 1000 + n)));
    let warm: Vec<Bytes> = large.by_ref().collect();
    let digests: Vec<_> = warm.iter().map(|bytes| fake.push_blob("library/app", bytes.clone())).collect();
    let pull = async |registry: &TestRegistry, _: usize| {
        let mut told = Told::default();
        for (digest, bytes) in digests.iter().zip(&warm) {
            told.get(registry, &format!("/v2/library/app/blobs/{digest}"), bytes).await;
        }
        told
    };
    assert!(pull(&registry, 0).await.is_all_well());
    each_call_fails_once(&registry, "a warm pull", EIO, pull).await;
    registry.finish().await;
}

#[tokio::test]
async fn pushes_fail_honestly_and_succeed_afterwards() {
    let registry = TestRegistry::builder().start().await;
    let whole = async |registry: &TestRegistry, n: usize| {
        let mut told = Told::default();
        push_blob(&mut told, registry, "app", &content(50_000, n).into()).await;
        told
    };
    each_call_fails_once(&registry, "a push in one request", EIO, whole).await;
    let chunked = async |registry: &TestRegistry, n: usize| {
        let (mut told, bytes) = (Told::default(), Bytes::from(content(50_000, 200 + n)));
        let start = Call::new("POST", "/v2/app/blobs/uploads/").body("");
        let answer = told.ask(registry, "POST", start).await;
        let Some(location) = answer.header("location").map(str::to_owned) else { return told };
        told.ask(registry, "PATCH", Call::new("PATCH", &location).body(bytes.slice(..30_000))).await;
        // A chunk that failed may be in the file or not: the client asks.
        let offset = told.ask(registry, "GET the session", Call::get(&location)).await;
        if offset.status() != 204 {
            registry.send(Call::new("DELETE", &location)).await;
            return told;
        }
        let reached = offset.header("range").map_or(0, |range| range[2..].parse::<usize>().unwrap());
        let reached = if reached == 0 { 0 } else { reached + 1 };
        let put = Call::new("PUT", &closing(&location, &digest_of(&bytes))).body(bytes.slice(reached..));
        match told.ask(registry, "PUT", put).await.status() {
            201 => told.rely_on(format!("/v2/app/blobs/{}", digest_of(&bytes)), &bytes),
            // Nobody goes on with it.
            _ => drop(registry.send(Call::new("DELETE", &location)).await),
        }
        told
    };
    each_call_fails_once(&registry, "a push in chunks", EIO, chunked).await;
    registry.finish().await;
}

#[tokio::test]
async fn manifests_mounts_and_deletes_fail_honestly_and_succeed_afterwards() {
    let registry = TestRegistry::builder().start().await;
    let layer = Bytes::from(content(10_000, 1));
    let digest = registry.push_blob("app", layer.clone()).await;
    let manifest = |n: usize| {
        let config = Bytes::from(format!("{{\"n\":{n}}}"));
        let manifest = Bytes::from(image(&config, &[&layer]).to_string());
        (config, manifest)
    };
    let put = async |registry: &TestRegistry, n: usize| {
        let (mut told, (config, manifest)) = (Told::default(), manifest(n));
        push_blob(&mut told, registry, "app", &config).await;
        put_manifest(&mut told, registry, "app", &format!("v{n}"), &manifest).await;
        told
    };
    each_call_fails_once(&registry, "a manifest", EIO, put).await;
    let mount = async |registry: &TestRegistry, n: usize| {
        let (mut told, repository) = (Told::default(), format!("other{n}"));
        let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from=app");
        let answer = told.ask(registry, "mount", Call::new("POST", &path).body("")).await;
        match (answer.status(), answer.header("location").map(str::to_owned)) {
            (201, _) => told.rely_on(format!("/v2/{repository}/blobs/{digest}"), &layer),
            // It could not be read, so its bytes are asked for.
            (202, Some(session)) => {
                registry.send(Call::new("DELETE", &session)).await;
            }
            _ => {}
        }
        told
    };
    each_call_fails_once(&registry, "a mount", EIO, mount).await;
    let delete = async |registry: &TestRegistry, n: usize| {
        let (mut told, (config, manifest)) = (Told::default(), manifest(1000 + n));
        push_blob(&mut told, registry, "app", &config).await;
        put_manifest(&mut told, registry, "app", "gone", &manifest).await;
        for reference in ["gone".to_owned(), digest_of(&manifest).to_string()] {
            let path = format!("/v2/app/manifests/{reference}");
            told.ask(registry, "DELETE", Call::new("DELETE", &path)).await;
        }
        told.acknowledged.clear();
        told
    };
    each_call_fails_once(&registry, "a delete", EIO, delete).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_disk_that_refuses_everything_fails_no_cold_pull_and_is_used_again_when_it_works() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    let (erofs, emfile) = (30, 24);
    for (n, error) in [EIO, erofs, emfile].into_iter().enumerate() {
        let bytes = Bytes::from(content(100_000, n));
        let path = format!("/v2/library/app/blobs/{}", fake.push_blob("library/app", bytes.clone()));
        let injected = inject(&registry.store(), 1..=usize::MAX, &io::Error::from_raw_os_error(error));
        let answer = registry.get(&path).await;
        assert!(answer.looks_complete() && answer.body == bytes, "{error}: {}", answer.status());
        assert_eq!(answer.cache(), "bypass");
        let mut told = Told::default();
        push_blob(&mut told, &registry, "app", &bytes).await;
        assert!(!told.is_all_well());
        told.assert_honest("everything");
        let unready = async { while registry.get("/readyz").await.status() != 503 {} };
        tokio::time::timeout(PATIENCE, unready).await.expect("it says that it is not ready");
        drop(injected);
        let ready = async { while registry.get("/readyz").await.status() != 200 {} };
        tokio::time::timeout(PATIENCE, ready).await.expect("it becomes ready again");
        registry.registry().expire_uploads(std::time::Duration::MAX).await.expect("the disk works");
        registry.assert_consistent(&format!("error {error}")).await;
        assert!(registry.get(&path).await.body == bytes);
        registry.fills_end().await;
        assert_eq!(registry.get(&path).await.cache(), "hit");
        push_blob(&mut told, &registry, "app", &bytes).await;
        registry.assert_consistent(&format!("error {error}, healed")).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_store_to_the_next() {
    let mut registry = TestRegistry::builder().start().await;
    let bytes = Bytes::from(content(10_000, 1));
    let digest = registry.push_blob("app", bytes.clone()).await;
    for nth in 1..FAULTS_MAX {
        let (failed_to, failed) = std::sync::mpsc::channel();
        let store = registry.store();
        let fail = move || {
            let injected = inject(&store, nth..=nth, &io::Error::from_raw_os_error(EIO));
            let heal: Box<dyn FnOnce()> = Box::new(move || failed_to.send(injected.failed()).expect("it is received"));
            heal
        };
        registry.try_to_open(fail).await;
        let failed = failed.recv().expect("it was sent");
        registry.assert_consistent(&format!("a start, failing at {nth}: {failed:?}")).await;
        assert!(registry.get(&format!("/v2/app/blobs/{digest}")).await.body == bytes);
        if failed.is_empty() {
            return registry.finish().await;
        }
    }
    panic!("a start still fails at call {FAULTS_MAX}");
}
