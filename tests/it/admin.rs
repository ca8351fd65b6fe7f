//! The admin API: who gets in, and what is to be seen there.

use entrepot::config::Network;

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::{HUB, TestRegistry, blob_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| Network(text.parse().unwrap())).collect()
}

#[tokio::test]
async fn the_admin_api_is_open_to_this_machine_alone_by_default() {
    let registry = TestRegistry::builder().start().await;
    let answer = registry.get("/api/v1/fills").await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), serde_json::json!({ "fills": [] }));
    let forwarded = Call::get("/api/v1/fills").header("x-forwarded-for", "10.0.0.1");
    let refused = registry.send(forwarded).await;
    assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"), "a proxy let somebody in");
    registry.finish().await;
}

#[tokio::test]
async fn whoever_is_not_in_admin_from_is_told_which_key_says_so() {
    let registry =
        TestRegistry::builder().config(|config| config.http.admin_from = networks(&["10.0.0.0/8"])).start().await;
    let refused = registry.get("/api/v1/fills").await;
    assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"));
    assert!(refused.message().contains("http.admin_from") && refused.message().contains("127.0.0.1"), "{refused:?}");
    assert_eq!(registry.get("/v2/").await.status(), 200, "the registry itself is for everybody");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_no_endpoint_of_the_admin_api_is_told_what_is() {
    let registry = TestRegistry::builder().start().await;
    assert_eq!(registry.get("/api/v1/nothing").await.status(), 404);
    let refused = registry.send(Call::new("DELETE", "/api/v1/fills")).await;
    assert_eq!((refused.status(), refused.header("allow")), (405, Some("GET, HEAD")));
    registry.finish().await;
}

#[tokio::test]
async fn what_is_being_fetched_is_listed_with_its_readers() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob("team/app", content(200_000, 1));
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).get(), Fault::Drip(gate.clone(), 100_000));
    let registry = TestRegistry::over(&fake).await;
    let mut reading = registry.open(&blob_path("team/app", &digest)).await;
    gate.let_pass(1);
    reading.read(100_000).await;
    let listed = registry.get("/api/v1/fills").await.json();
    let fill = &listed["fills"][0];
    let named = |key: &str| fill[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((named("digest"), named("repository")), (digest.to_string(), format!("{HUB}/team/app")));
    assert_eq!((named("upstream"), named("source"), named("priority")), (HUB.into(), HUB.into(), "client".into()));
    assert_eq!((&fill["bytes"], &fill["total_bytes"], &fill["readers"]), (&100_000.into(), &200_000.into(), &1.into()));
    assert!(fill["bytes_per_second"].as_u64().is_some_and(|rate| rate > 0), "{fill}");
    assert!(named("started_at").ends_with('Z'), "{fill}");
    gate.let_pass(1);
    assert!(reading.finish().await.complete);
    registry.fills_end().await;
    assert_eq!(registry.get("/api/v1/fills").await.json(), serde_json::json!({ "fills": [] }));
    registry.finish().await;
}
