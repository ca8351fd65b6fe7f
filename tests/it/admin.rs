//! The admin API: who gets in, and what is to be seen there.

use entrepot::config::Network;

use crate::support::client::Call;
use crate::support::registry::TestRegistry;

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
