//! A pull of what is here already: from the disk, without asking anybody.

use crate::support::content;
use crate::support::registry::TestRegistry;
use crate::support::upstream::FakeUpstream;

#[tokio::test]
async fn the_second_pull_is_a_hit_without_any_request_upstream() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000, 1);
    let digest = fake.push_blob("team/app", bytes.clone());
    let registry = TestRegistry::over(&fake).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let cold = registry.get(&path).await;
    assert_eq!((cold.status(), cold.cache(), cold.complete), (200, "miss", true));
    assert!(cold.body == bytes);
    registry.fills_end().await;
    let asked = fake.requests().len();
    let warm = registry.get(&path).await;
    assert_eq!((warm.status(), warm.cache(), warm.complete), (200, "hit", true));
    assert!(warm.body == bytes);
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}
