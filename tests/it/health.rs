//! What orchestrators and Prometheus ask, beside the API.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::client::Call;
use crate::support::push::push_image;
use crate::support::registry::TestRegistry;
use crate::support::upstream::{FakeUpstream, Fault, On};

#[tokio::test]
async fn a_registry_that_serves_is_alive_and_ready() {
    let registry = TestRegistry::builder().start().await;
    assert_eq!(registry.get("/healthz").await.status(), 200);
    let ready = registry.get("/readyz").await;
    assert_eq!((ready.status(), ready.header("content-type")), (200, Some("application/json")));
    assert_eq!((&ready.json()["ready"], &ready.json()["problem"]), (&true.into(), &serde_json::Value::Null));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(registry.head(path).await.status(), 200, "{path}");
        let refused = registry.send(Call::new("POST", path).body("")).await;
        assert_eq!((refused.status(), refused.header("allow")), (405, Some("GET,HEAD")), "{path}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn what_is_pushed_shows_in_ready_and_metrics() {
    let registry = TestRegistry::builder().start().await;
    push_image(&registry, "app", "latest", &crate::support::content(100_000, 1)).await;
    assert_eq!(registry.get("/v2/app/manifests/latest").await.status(), 200);
    assert_eq!(registry.get("/v2/app/manifests/none").await.status(), 404);
    let ready = registry.get("/readyz").await.json();
    assert!(ready["store_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{ready}");
    assert_eq!(ready["cached_bytes"], 0);
    let metrics = registry.get("/metrics").await;
    assert!(
        metrics.header("content-type").is_some_and(|media_type| media_type.starts_with("text/plain; version=0.0.4"))
    );
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = |labels: &[&str]| {
        text.lines()
            .any(|line| line.starts_with("entrepot_requests") && labels.iter().all(|label| line.contains(label)))
    };
    assert!(counted(&["push_manifest", "201"]), "{text}");
    assert!(counted(&["pull_manifest", "200", "local"]), "{text}");
    assert!(counted(&["pull_manifest", "404"]), "{text}");
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.split(' ').count() >= 2));
    registry.finish().await;
}

#[tokio::test]
async fn the_probe_of_every_client_is_answered() {
    let registry = TestRegistry::builder().start().await;
    for path in ["/v2/", "/v2", "/v2/?account=a"] {
        let answer = registry.get(path).await;
        assert_eq!((answer.status(), answer.body.as_ref()), (200, b"{}".as_ref()), "{path}");
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_counted() {
    let fake = FakeUpstream::start().await;
    fake.fault(On::manifest("latest"), Fault::Silent);
    let registry = TestRegistry::over(&fake).await;
    let mut stream = TcpStream::connect(registry.address()).await.unwrap();
    stream.write_all(b"GET /v2/app/manifests/latest HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    fake.until(|requests| requests.len() == 1).await;
    drop(stream);
    let counted = r#"entrepot_requests_total{action="pull_manifest",outcome="none",status="none"} 1"#;
    registry.until("the request is counted", |registry| registry.metrics().contains(counted)).await;
    fake.heal();
    registry.finish().await;
}

/// Another process takes the index's lock, as a backup that hangs would: the writer cannot write, readers read.
#[tokio::test]
async fn a_registry_that_cannot_write_is_not_ready_until_it_can() {
    let registry = TestRegistry::builder().start().await;
    let file = SqliteConnectOptions::new().filename(registry.store().join("index.sqlite"));
    let mut other = file.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let held = registry.get("/readyz").await;
    assert_eq!((held.status(), &held.json()["ready"]), (503, &false.into()));
    assert!(held.json()["problem"].as_str().unwrap().contains("the index"), "{:?}", held.body);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let ready = async { while registry.get("/readyz").await.status() != 200 {} };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("it becomes ready again");
    registry.finish().await;
}

#[tokio::test]
async fn every_answer_names_how_it_was_served() {
    let registry = TestRegistry::builder().start().await;
    push_image(&registry, "app", "latest", b"layer").await;
    for path in ["/v2/", "/v2/_catalog", "/v2/app/tags/list", "/v2/app/manifests/latest"] {
        assert_eq!(registry.get(path).await.cache(), "local", "{path}");
    }
    let begun = registry.send(Call::new("POST", "/v2/app/blobs/uploads/").body("")).await;
    assert_eq!((begun.status(), begun.cache()), (202, "local"));
    let ended = registry.send(Call::new("DELETE", begun.header("location").unwrap())).await;
    assert_eq!(ended.status(), 204);
    assert!(registry.metrics().contains(r#"{action="start_upload",outcome="local",status="202"}"#));
    registry.finish().await;
}
