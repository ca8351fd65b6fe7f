//! A pull of what is here already: from the disk, without asking anybody.

use crate::support::content;
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "team/app";

#[tokio::test]
async fn the_second_pull_is_a_hit_without_any_request_upstream() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let path = blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, bytes.clone()));
    let registry = TestRegistry::over(&fake).await;
    let cold = registry.get(&path).await;
    assert_eq!((cold.status(), cold.cache(), cold.complete), (200, "miss", true));
    assert!(cold.body == bytes);
    registry.fills_end().await;
    let asked = fake.requests().len();
    let warm = registry.get(&path).await;
    assert_eq!((warm.status(), warm.cache(), warm.complete), (200, "hit", true));
    assert!(warm.body == bytes);
    assert_eq!(warm.head.lasting(), cold.head.lasting());
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}

#[tokio::test]
async fn an_image_is_pulled_after_a_restart_with_its_upstream_stopped() {
    let mut fake = FakeUpstream::start().await;
    let (first, second) = (content(70_000, 1), content(1_200_000, 2));
    let image = fake.push_image(REPOSITORY, "1", &[&first, &second]);
    let mut registry = TestRegistry::over(&fake).await;
    let blobs = [image.config, image.layers[0], image.layers[1]];
    let manifest = manifest_path(REPOSITORY, "1");
    assert!(registry.get(&manifest).await.body == image.manifest_bytes);
    for blob in &blobs {
        assert!(registry.get(&blob_path(REPOSITORY, blob)).await.looks_complete());
    }
    registry.fills_end().await;
    fake.stop().await;
    for kill in [false, true] {
        if kill {
            registry.kill_and_restart().await;
        } else {
            registry.restart().await;
        }
        let head = registry.head(&manifest).await;
        assert_eq!((head.status(), head.cache()), (200, "hit"));
        let pinned = head.header("docker-content-digest").unwrap().to_owned();
        assert!(registry.get(&manifest_path(REPOSITORY, pinned)).await.body == image.manifest_bytes);
        assert!(registry.get(&blob_path(REPOSITORY, &image.layers[0])).await.body == first);
        let large = registry.get(&blob_path(REPOSITORY, &image.layers[1])).await;
        assert_eq!((large.cache(), large.complete), ("hit", true));
        assert!(large.body == second);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_head_says_what_a_get_says() {
    let fake = FakeUpstream::start().await;
    let path = blob_path(REPOSITORY, &fake.push_blob(REPOSITORY, content(5_000, 1)));
    let registry = TestRegistry::over(&fake).await;
    registry.get(&path).await;
    registry.fills_end().await;
    let (get, head) = (registry.get(&path).await, registry.head(&path).await);
    assert_eq!(get.head.lasting(), head.head.lasting());
    assert_eq!((head.status(), head.cache(), head.body.len()), (200, "hit", 0));
    registry.finish().await;
}

#[tokio::test]
async fn a_cached_blob_whose_file_was_lost_or_cut_is_fetched_again() {
    let fake = FakeUpstream::start().await;
    let bytes = content(100_000, 1);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let path = blob_path(REPOSITORY, &digest);
    let registry = TestRegistry::over(&fake).await;
    registry.get(&path).await;
    registry.fills_end().await;
    let file = registry.registry().depot().blobs.store().blob_path(&digest);
    for (round, damage) in ["lost", "cut"].into_iter().enumerate() {
        match damage {
            "lost" => std::fs::remove_file(&file).unwrap(),
            _ => std::fs::File::options().write(true).open(&file).unwrap().set_len(50_000).unwrap(),
        }
        let answer = registry.get(&path).await;
        assert_eq!((answer.status(), answer.cache(), answer.complete), (200, "miss", true), "{damage}");
        assert!(answer.body == bytes, "{damage}");
        registry.fills_end().await;
        assert_eq!(fake.requests().blobs_got(&digest), round + 2);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_cached_manifest_whose_file_was_lost_is_fetched_again() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[]);
    let mut registry = TestRegistry::over(&fake).await;
    let path = manifest_path(REPOSITORY, "1");
    registry.get(&path).await;
    let file = registry.registry().depot().blobs.store().blob_path(&image.manifest);
    registry.restart().await;
    std::fs::remove_file(&file).unwrap();
    let answer = registry.get(&path).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body == image.manifest_bytes);
    registry.finish().await;
}
