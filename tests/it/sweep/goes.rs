//! What a sweep takes, and what it leaves.

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::support::content;
use crate::support::push::{IMAGE, INDEX, assert_holds_nothing, digest_of, image, index, push_image};
use crate::support::upstream::FakeUpstream;

#[tokio::test]
async fn a_deleted_image_gives_its_bytes_back_after_the_grace() {
    let registry = TestRegistry::builder().start().await;
    let manifest = push_image(&registry, "app", "one", &content(100_000, 1)).await;
    delete_manifest(&registry, "app", &digest_of(&manifest)).await;
    let held = registry.sums().pushed;
    assert_eq!(sweep(&registry, AS_USUAL).await.blobs, 0);
    assert_eq!(registry.sums().pushed, held, "it went without waiting");
    registry.advance(PAST_THE_GRACE);
    let swept = sweep(&registry, AS_USUAL).await;
    assert_eq!((swept.blobs, swept.freed_bytes, swept.links), (3, held, 2), "{swept:?}");
    assert_holds_nothing(&registry, "the sweep").await;
    assert_eq!(registry.metadata().totals().await.unwrap().n_blobs, 0);
    assert!(registry.metadata().find_blob(&digest_of(content(100_000, 1))).await.unwrap().is_none(), "the row stays");
    registry.finish().await;
}

#[tokio::test]
async fn what_cannot_be_removed_counts_until_it_can() {
    let registry = TestRegistry::builder().start().await;
    let (bytes, other) = (content(100_000, 1), content(50_000, 2));
    for bytes in [&bytes, &other] {
        registry.push_blob("app", bytes.clone()).await;
        delete_blob(&registry, "app", &digest_of(bytes)).await;
    }
    let held = registry.sums().pushed;
    let file = registry.registry().depot().blobs.store().blob_path(&digest_of(&bytes));
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!(swept.blobs, 1, "{swept:?}");
    let sums = registry.sums();
    assert_eq!((sums.pushed, sums.deleting, sums.deleting + swept.freed_bytes), (0, held - swept.freed_bytes, held));
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    registry.registry().depot().room.finish_leftovers().await.unwrap();
    assert_holds_nothing(&registry, "the disk took it").await;
    registry.finish().await;
}

#[tokio::test]
async fn what_another_image_or_repository_needs_stays() {
    let registry = TestRegistry::builder().start().await;
    let (shared, own) = (content(50_000, 1), content(50_000, 2));
    let one = push_image(&registry, "app", "one", &shared).await;
    let config = b"{}";
    registry.push_blob("app", &config[..]).await;
    registry.push_blob("app", own.clone()).await;
    let two = Bytes::from(image(config, &[&shared, &own]).to_string());
    assert_eq!(registry.push_manifest("app", "two", IMAGE, two.clone()).await.status(), 201);
    let elsewhere = push_image(&registry, "other", "one", &own).await;

    delete_manifest(&registry, "app", &digest_of(&one)).await;
    sweep(&registry, AT_ONCE).await;
    assert!(has_blob(&registry, "app", &digest_of(&shared)).await);
    delete_manifest(&registry, "app", &digest_of(&two)).await;
    sweep(&registry, AT_ONCE).await;
    assert!(!has_blob(&registry, "app", &digest_of(&shared)).await);
    assert!(!has_blob(&registry, "app", &digest_of(&own)).await, "a repository that has no use for it shows it");
    assert!(has_blob(&registry, "other", &digest_of(&own)).await);
    assert!(has_manifest(&registry, "other", &digest_of(&elsewhere)).await);
    registry.finish().await;
}

#[tokio::test]
async fn an_untagged_manifest_that_was_pushed_stays() {
    let registry = TestRegistry::builder().start().await;
    let manifest = push_image(&registry, "app", "latest", b"old").await;
    push_image(&registry, "app", "latest", b"new").await;
    registry.advance(PAST_THE_GRACE);
    let swept = sweep(&registry, SweepRequest { full: true, ..AT_ONCE }).await;
    assert_eq!((swept.manifests, swept.blobs), (0, 0), "{swept:?}");
    assert!(has_manifest(&registry, "app", &digest_of(&manifest)).await);
    assert!(has_blob(&registry, "app", &digest_of(b"old")).await);
    registry.finish().await;
}

#[tokio::test]
async fn a_deleted_index_takes_its_manifests_along_but_those_that_something_else_holds() {
    let registry = TestRegistry::builder().start().await;
    let alone = push_image(&registry, "app", &digest_of_image(b"alone"), b"alone").await;
    let tagged = push_image(&registry, "app", "tagged", b"tagged").await;
    let listed = push_image(&registry, "app", &digest_of_image(b"listed"), b"listed").await;
    let all = Bytes::from(index(&[&alone, &tagged, &listed]).to_string());
    let some = Bytes::from(index(&[&listed]).to_string());
    for (tag, bytes) in [("all", &all), ("some", &some)] {
        assert_eq!(registry.push_manifest("app", tag, INDEX, bytes.clone()).await.status(), 201);
    }
    delete_manifest(&registry, "app", &digest_of(&all)).await;
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!((swept.manifests, swept.blobs), (1, 4), "{swept:?}");
    assert!(!has_manifest(&registry, "app", &digest_of(&alone)).await);
    for (manifest, layer) in [(&tagged, &b"tagged"[..]), (&listed, b"listed")] {
        assert!(has_manifest(&registry, "app", &digest_of(manifest)).await);
        assert!(has_blob(&registry, "app", &digest_of(layer)).await);
    }
    registry.finish().await;
}

/// The digest that [`push_image`] will find for an image of this layer.
fn digest_of_image(layer: &[u8]) -> String {
    let config = format!("{{\"layer\":\"{}\"}}", digest_of(layer));
    digest_of(image(config.as_bytes(), &[layer]).to_string()).to_string()
}

#[tokio::test]
async fn a_deleted_subject_takes_along_what_was_attached_to_it() {
    let registry = TestRegistry::builder().start().await;
    let subject = push_image(&registry, "app", "one", b"layer").await;
    registry.push_blob("app", &b"{}"[..]).await;
    let attach = |to: &Bytes, what: &str| {
        let mut manifest = image(b"{}", &[]);
        manifest["subject"] = json!({"mediaType": IMAGE, "digest": digest_of(to).to_string(), "size": to.len()});
        manifest["annotations"] = json!({"what": what});
        Bytes::from(manifest.to_string())
    };
    let signature = attach(&subject, "signature");
    let countersignature = attach(&signature, "countersignature");
    let tagged = attach(&subject, "tagged");
    for (reference, bytes) in [
        (digest_of(&signature).to_string(), &signature),
        (digest_of(&countersignature).to_string(), &countersignature),
        ("keep".to_owned(), &tagged),
    ] {
        assert_eq!(registry.push_manifest("app", &reference, IMAGE, bytes.clone()).await.status(), 201);
    }
    let early = sweep(&registry, AT_ONCE).await;
    assert_eq!((early.manifests, early.blobs), (0, 0), "{early:?}");
    delete_manifest(&registry, "app", &digest_of(&subject)).await;
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!(swept.manifests, 2, "{swept:?}");
    assert!(!has_manifest(&registry, "app", &digest_of(&countersignature)).await);
    assert!(has_manifest(&registry, "app", &digest_of(&tagged)).await);
    assert!(has_blob(&registry, "app", &digest_of(b"{}")).await);
    registry.finish().await;
}

#[tokio::test]
async fn pushed_bytes_that_only_the_cache_needs_become_cached() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    let layer = content(60_000, 3);
    let cached = fake.push_image("team/app", "latest", &[&layer]);
    assert_eq!(registry.get("/v2/team/app/manifests/latest").await.status(), 200);
    assert!(has_blob(&registry, "team/app", &digest_of(&layer)).await);
    let pushed = push_image(&registry, "local/app", "one", &layer).await;
    let all = registry.sums().cached + registry.sums().pushed;
    delete_manifest(&registry, "local/app", &digest_of(&pushed)).await;
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!(swept.demoted, 1, "{swept:?}");
    let sums = registry.sums();
    assert_eq!((sums.pushed, sums.cached + swept.freed_bytes), (0, all), "{swept:?}");
    let before = fake.requests().len();
    assert!(has_blob(&registry, "team/app", &digest_of(&layer)).await);
    assert_eq!(fake.requests().len(), before, "it was fetched again");
    drop(cached);
    registry.finish().await;
}

#[tokio::test]
async fn rows_of_what_was_evicted_and_is_named_by_nobody_go_too() {
    let fake = FakeUpstream::start().await;
    let registry = TestRegistry::over(&fake).await;
    fake.push_image("team/app", "latest", &[&content(60_000, 3)]);
    assert_eq!(registry.get("/v2/team/app/manifests/latest").await.status(), 200);
    assert!(has_blob(&registry, "team/app", &digest_of(content(60_000, 3))).await);
    // A client has its last byte before the fill has recorded the blob.
    registry
        .until("nobody reads or fills any more", |registry| {
            let room = &registry.registry().depot().room;
            room.n_pins() == 0 && room.sums().filling == 0
        })
        .await;
    let room = &registry.registry().depot().room;
    let everything = registry.limits().cache_max_bytes;
    let other = "docker.io/other/app".parse().unwrap();
    let all = room.reserve_for(&other, entrepot::cache::space::Class::Cached, everything).await;
    drop(all.expect("all of it is cached"));
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!((swept.manifests, swept.repositories), (1, 1), "{swept:?}");
    assert!(registry.metadata().find_blob(&digest_of(content(60_000, 3))).await.unwrap().is_none(), "{swept:?}");
    assert_eq!(swept.queued, 0, "{swept:?}");
    // It can be pulled as ever.
    assert_eq!(registry.get("/v2/team/app/manifests/latest").await.status(), 200);
    assert!(has_blob(&registry, "team/app", &digest_of(content(60_000, 3))).await);
    registry.finish().await;
}

#[tokio::test]
async fn what_is_pinned_outlives_the_index_that_held_it_and_goes_when_it_is_pinned_no_more() {
    let registry = TestRegistry::builder().start().await;
    let child = push_image(&registry, "app", &digest_of_image(b"layer"), b"layer").await;
    let all = Bytes::from(index(&[&child]).to_string());
    assert_eq!(registry.push_manifest("app", "all", INDEX, all.clone()).await.status(), 201);
    let pins = format!("/api/v1/pins?ref=app@{}", digest_of(&child));
    assert_eq!(registry.send(Call::new("PUT", &pins)).await.status(), 200);
    delete_manifest(&registry, "app", &digest_of(&all)).await;
    for request in [AT_ONCE, SweepRequest { full: true, ..AT_ONCE }] {
        assert_eq!(sweep(&registry, request).await.manifests, 0, "{request:?}");
    }
    assert!(has_manifest(&registry, "app", &digest_of(&child)).await);
    assert!(has_blob(&registry, "app", &digest_of(b"layer")).await);

    assert_eq!(registry.send(Call::new("DELETE", &pins)).await.status(), 200);
    let swept = sweep(&registry, AT_ONCE).await;
    assert_eq!((swept.manifests, swept.blobs), (1, 3), "{swept:?}");
    assert_holds_nothing(&registry, "the sweep").await;
    registry.finish().await;
}
