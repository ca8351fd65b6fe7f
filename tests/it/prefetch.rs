//! Layers before they are asked for: only for who pulls, only what it will want, and never in anybody's way.

use entrepot::cache::Priority;
use entrepot::config::Prefetch;
use entrepot::oci::{Digest, ManifestKind};

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, Image, On};

const REPOSITORY: &str = "team/app";
const SIZE: usize = 50_000;

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).upstreams(|upstream| upstream.prefetch = Prefetch::OnPull)
}

fn layers(n: usize, seed: usize) -> Vec<Vec<u8>> {
    (0..n).map(|at| content(SIZE, seed + at)).collect()
}

fn push_image(fake: &FakeUpstream, tag: &str, layers: &[Vec<u8>]) -> Image {
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    fake.push_image(REPOSITORY, tag, &layers)
}

async fn get_layer(registry: &TestRegistry, digest: &Digest) {
    assert!(registry.get(&blob_path(REPOSITORY, digest)).await.looks_complete());
}

#[tokio::test]
async fn the_first_layer_of_a_pulled_image_brings_the_others() {
    let fake = FakeUpstream::start().await;
    let layers = layers(6, 1);
    let image = push_image(&fake, "1", &layers);
    let registry = over(&fake).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    get_layer(&registry, &image.layers[0]).await;
    fake.until(|requests| image.layers.iter().chain([&image.config]).all(|blob| requests.blobs_got(blob) == 1)).await;
    registry.fills_end().await;
    for (digest, bytes) in image.layers.iter().zip(&layers).skip(1) {
        let answer = registry.get(&blob_path(REPOSITORY, digest)).await;
        assert!(answer.cache() == "hit" && answer.body == *bytes);
    }
    let metrics = registry.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains("entrepot_prefetched_total{upstream=\"hub.example\",result=\"committed\"} 6"),
        "{metrics}"
    );
    registry.finish().await;
}

#[tokio::test]
async fn who_only_looks_starts_nothing() {
    let fake = FakeUpstream::start().await;
    let image = push_image(&fake, "1", &layers(3, 1));
    let registry = over(&fake).start().await;
    let (by_tag, layer) = (manifest_path(REPOSITORY, "1"), blob_path(REPOSITORY, &image.layers[0]));
    // A HEAD promises nothing, whatever is asked after it.
    registry.head(&by_tag).await;
    get_layer(&registry, &image.layers[1]).await;
    registry.get(&by_tag).await;
    registry.get(&manifest_path(REPOSITORY, image.manifest)).await;
    registry.get(&blob_path(REPOSITORY, &image.config)).await;
    registry.head(&layer).await;
    let part = registry.send(Call::get(&layer).range("bytes=0-9")).await;
    assert_eq!(part.status(), 206);
    registry.fills_end().await;
    assert_eq!(fake.requests().blobs_got(&image.layers[2]), 0);
    registry.finish().await;
}

#[tokio::test]
async fn other_platforms_are_not_fetched() {
    let fake = FakeUpstream::start().await;
    let (ours, theirs) = (push_image(&fake, "ours", &layers(3, 1)), push_image(&fake, "theirs", &layers(3, 11)));
    let child = |image: &Image| serde_json::json!({"mediaType": image.media_type, "digest": image.manifest.to_string(), "size": image.manifest_bytes.len()});
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": ManifestKind::OciIndex.media_type(), "manifests": [child(&ours), child(&theirs)]
    });
    fake.push_manifest(REPOSITORY, Some("1"), ManifestKind::OciIndex, index.to_string());
    let registry = over(&fake).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    registry.get(&manifest_path(REPOSITORY, ours.manifest)).await;
    get_layer(&registry, &ours.layers[0]).await;
    fake.until(|requests| ours.layers.iter().all(|layer| requests.blobs_got(layer) == 1)).await;
    registry.fills_end().await;
    let requests = fake.requests();
    assert!(theirs.layers.iter().all(|layer| requests.blobs_got(layer) == 0));
    assert_eq!(requests.manifests_got(&theirs.manifest.to_string()), 0);
    registry.finish().await;
}

#[tokio::test]
async fn prefetch_waits_for_clients_and_who_asks_for_it_moves_it_up() {
    let fake = FakeUpstream::start().await;
    let layers = layers(3, 1);
    let image = push_image(&fake, "1", &layers);
    let alone = fake.push_blob(REPOSITORY, content(SIZE, 99));
    let gate = Gate::closed();
    fake.fault(On::blob(&image.layers[0]).get(), Fault::SlowFirstByte(gate.clone()));
    let registry = over(&fake).upstreams(|upstream| upstream.connections_max = 1).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    let (first_path, alone_path) = (blob_path(REPOSITORY, &image.layers[0]), blob_path(REPOSITORY, &alone));
    let last_path = blob_path(REPOSITORY, &image.layers[2]);
    let priority = |registry: &TestRegistry, digest: &Digest| {
        let views = registry.registry().fills().list();
        views.into_iter().find(|view| view.digest == *digest).map(|view| view.priority)
    };
    let first = registry.get(&first_path);
    // Asked for last, and by clients: they pass what was begun for nobody.
    let others = async {
        registry.until("the rest is begun", |registry| registry.registry().fills().len() == 4).await;
        assert_eq!(priority(&registry, &image.layers[2]), Some(Priority::Prefetch));
        let release = async {
            registry
                .until("both are wanted", |registry| {
                    [&alone, &image.layers[2]].iter().all(|digest| priority(registry, digest) == Some(Priority::Client))
                })
                .await;
            let all_wait = "entrepot_transfers{upstream=\"hub.example\",state=\"waiting\"} 4";
            registry.until("all of them wait", |registry| registry.metrics().contains(all_wait)).await;
            gate.let_pass(1);
        };
        tokio::join!(registry.get(&alone_path), registry.get(&last_path), release)
    };
    let (first, (one, two, ())) = tokio::join!(first, others);
    assert!([&first, &one, &two].iter().all(|answer| answer.looks_complete()));
    assert_eq!(two.cache(), "coalesced");
    registry.fills_end().await;
    let order: Vec<String> = fake.requests().0.iter().map(|request| request.path.clone()).collect();
    let at = |digest: &Digest| order.iter().position(|path| path.ends_with(&digest.to_string())).unwrap();
    assert!(at(&image.layers[2]) < at(&image.layers[1]) && at(&alone) < at(&image.layers[1]), "{order:#?}");
    registry.finish().await;
}

#[tokio::test]
async fn a_rate_limit_ends_the_prefetch_of_an_image() {
    let fake = FakeUpstream::start().await;
    let image = push_image(&fake, "1", &layers(8, 1));
    for layer in &image.layers[1..] {
        fake.fault(On::blob(layer).get(), Fault::rate_limited(60));
    }
    fake.fault(On::blob(&image.config).get(), Fault::rate_limited(60));
    let registry = over(&fake).upstreams(|upstream| upstream.prefetch_max = 1).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    get_layer(&registry, &image.layers[0]).await;
    fake.until(|requests| requests.blobs_got(&image.config) == 1).await;
    registry.fills_end().await;
    let asked: usize = image.layers[1..].iter().map(|layer| fake.requests().blobs_got(layer)).sum();
    assert_eq!(asked, 0, "it went on after the first refusal");
    registry.finish().await;
}

#[tokio::test]
async fn an_image_too_large_for_the_cache_is_left_to_its_clients() {
    let fake = FakeUpstream::start().await;
    let image = push_image(&fake, "1", &layers(4, 1));
    let registry = over(&fake).cache_max(6 * SIZE as u64).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    get_layer(&registry, &image.layers[0]).await;
    registry.fills_end().await;
    assert_eq!(fake.requests().blobs_got(&image.layers[1]), 0);
    registry.finish().await;
}

#[tokio::test]
async fn prefetch_can_be_switched_off() {
    let fake = FakeUpstream::start().await;
    let image = push_image(&fake, "1", &layers(2, 1));
    let registry = over(&fake).upstreams(|upstream| upstream.prefetch = Prefetch::Off).start().await;
    registry.get(&manifest_path(REPOSITORY, "1")).await;
    get_layer(&registry, &image.layers[0]).await;
    registry.fills_end().await;
    assert_eq!(fake.requests().blobs_got(&image.layers[1]), 0);
    registry.finish().await;
}
