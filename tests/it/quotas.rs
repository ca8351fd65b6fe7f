//! Quotas: what repositories may hold together, met by evicting what they have cached, and by refusing what does not fit.

use std::time::Duration;

use entrepot::config::RepositoryQuota;
use entrepot::oci::{Algorithm, Digest};
use futures::future::join_all;

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path};
use crate::support::upstream::FakeUpstream;

const BLOB: usize = 256 << 10;
/// What such a blob is promised: its blocks and one more.
const PROMISED: u64 = BLOB as u64 + 4096;

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake)
}

fn quota(builder: Builder, repositories: &str, max_size_bytes: u64) -> Builder {
    let quota = RepositoryQuota { repositories: repositories.to_owned(), max_size_bytes };
    builder.config(|config| config.quotas.push(quota))
}

async fn pull(registry: &TestRegistry, repository: &str, digest: &Digest) -> Answer {
    registry.advance(Duration::from_secs(1));
    let answer = registry.get(&blob_path(repository, digest)).await;
    assert!(answer.looks_complete(), "a quota failed a pull");
    registry.fills_end().await;
    answer
}

async fn push(registry: &TestRegistry, repository: &str, bytes: &[u8]) -> Answer {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    registry.send(Call::new("POST", &path).body(bytes.to_vec())).await
}

fn here(registry: &TestRegistry, blobs: &[Digest]) -> Vec<usize> {
    let store = |digest: &Digest| registry.registry().depot().blobs.store().blob_path(digest).exists();
    (0..blobs.len()).filter(|n| store(&blobs[*n])).collect()
}

#[tokio::test]
async fn what_a_repository_used_least_recently_goes_for_its_own_quota_alone() {
    let fake = FakeUpstream::start().await;
    let ours: Vec<Digest> = (0..4).map(|seed| fake.push_blob("team/app", content(BLOB, seed))).collect();
    let other = fake.push_blob("other/app", content(BLOB, 9));
    let registry = quota(over(&fake), &format!("{HUB}/team/**"), 2 * PROMISED).start().await;
    pull(&registry, "other/app", &other).await;
    for digest in &ours[..2] {
        pull(&registry, "team/app", digest).await;
    }
    assert_eq!(pull(&registry, "team/app", &ours[0]).await.cache(), "hit");
    pull(&registry, "team/app", &ours[2]).await;
    assert_eq!(here(&registry, &ours), [0, 2]);
    assert_eq!(here(&registry, &[other]), [0], "what is under no quota went for one");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_here_for_others_counts_under_the_quota_of_whoever_pulls_it_next() {
    let fake = FakeUpstream::start().await;
    let blobs: Vec<Digest> = (0..3).map(|seed| fake.push_blob("other/app", content(BLOB, seed))).collect();
    for seed in 0..3 {
        fake.push_blob("team/app", content(BLOB, seed));
    }
    let large = fake.push_blob("other/app", content(4 * BLOB, 9));
    fake.push_blob("team/app", content(4 * BLOB, 9));
    let registry = quota(over(&fake), &format!("{HUB}/team/**"), 2 * PROMISED).start().await;
    for digest in blobs.iter().chain([&large]) {
        pull(&registry, "other/app", digest).await;
    }
    for digest in &blobs {
        assert_eq!(pull(&registry, "team/app", digest).await.cache(), "hit");
    }
    let held = async || registry.metadata().quota_bytes(&format!("the quota of {HUB}/team/**")).await.unwrap();
    assert!((1..=2 * PROMISED).contains(&held().await), "{} bytes are held", held().await);
    assert_eq!(here(&registry, &blobs), [1, 2], "what was used least recently went for it");
    assert_eq!(
        pull(&registry, "team/app", &large).await.cache(),
        "hit",
        "what fits under no quota is served all the same"
    );
    assert!(held().await <= 2 * PROMISED, "{} bytes are held", held().await);
    assert_eq!(here(&registry, &[large]), [0]);
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_has_its_quota_and_what_does_not_fit_is_passed_through() {
    let fake = FakeUpstream::start().await;
    let small = fake.push_blob("team/app", content(BLOB, 1));
    let large = fake.push_blob("team/app", content(4 * BLOB, 2));
    let registry = over(&fake).upstreams(|upstream| upstream.quota_bytes = Some(2 * PROMISED)).start().await;
    pull(&registry, "team/app", &small).await;
    assert_eq!(pull(&registry, "team/app", &large).await.cache(), "bypass");
    assert_eq!(here(&registry, &[small, large]), [0], "nothing goes for what would not fit anyway");
    registry.registry().depot().room.report_quotas().await.unwrap();
    let metrics = registry.metrics();
    assert!(
        metrics
            .contains(&format!("entrepot_quota_max_bytes{{quota=\"the quota of upstream {HUB}\"}} {}", 2 * PROMISED)),
        "{metrics}"
    );
    registry.finish().await;
}

#[tokio::test]
async fn a_push_beyond_the_quota_is_refused_by_its_name_and_leaves_nothing() {
    let registry = quota(TestRegistry::builder(), "team/**", 2 * PROMISED).start().await;
    assert_eq!(push(&registry, "team/a", &content(BLOB, 1)).await.status(), 201);
    assert_eq!(push(&registry, "team/b", &content(BLOB / 2, 2)).await.status(), 201);
    let refused = push(&registry, "team/b", &content(BLOB, 3)).await;
    assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"), "{:?}", refused.body);
    assert!(refused.message().contains("the quota of team/**"), "{}", refused.message());
    assert_eq!(push(&registry, "our/app", &content(BLOB, 3)).await.status(), 201, "others are under no quota");
    let mount =
        format!("/v2/team/b/blobs/uploads/?mount={}&from=our/app", Digest::of(Algorithm::Sha256, &content(BLOB, 3)));
    let refused = registry.send(Call::new("POST", &mount).body("")).await;
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (403, "DENIED"),
        "a mount counts as well: {:?}",
        refused.body
    );
    let first = Digest::of(Algorithm::Sha256, &content(BLOB, 1));
    assert_eq!(registry.send(Call::new("DELETE", &blob_path("team/a", &first))).await.status(), 202);
    assert_eq!(push(&registry, "team/b", &content(BLOB, 3)).await.status(), 201, "what is deleted does not count");
    registry.finish().await;
}

#[tokio::test]
async fn pushes_at_once_do_not_pass_a_quota_together() {
    let registry = quota(TestRegistry::builder(), "team/**", 4 * PROMISED).start().await;
    let blobs: Vec<Vec<u8>> = (0..8).map(|seed| content(BLOB, seed)).collect();
    let answers = join_all(blobs.iter().map(|bytes| push(&registry, "team/app", bytes))).await;
    let accepted = answers.iter().filter(|answer| answer.status() == 201).count();
    assert!(accepted <= 4 && accepted > 0, "{accepted} were accepted");
    assert!(answers.iter().all(|answer| matches!(answer.status(), 201 | 403)), "{answers:?}");
    let held = registry.metadata().quota_bytes("the quota of team/**").await.unwrap();
    assert!(held <= 4 * PROMISED, "{held} bytes are held");
    registry.finish().await;
}

#[tokio::test]
async fn quotas_that_the_configuration_gains_count_what_is_there() {
    let mut registry = TestRegistry::builder().start().await;
    assert_eq!(push(&registry, "team/app", &content(BLOB, 1)).await.status(), 201);
    let quota = RepositoryQuota { repositories: "team/**".to_owned(), max_size_bytes: PROMISED };
    registry.reconfigure(|config| config.quotas = vec![quota]).await;
    assert_eq!(push(&registry, "team/app", &content(BLOB, 2)).await.status(), 403);
    registry.reconfigure(|config| config.quotas.clear()).await;
    assert_eq!(push(&registry, "team/app", &content(BLOB, 2)).await.status(), 201);
    registry.finish().await;
}
