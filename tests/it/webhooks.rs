//! Receivers that are told what happened: shape, signature, order, and what a receiver that fails costs others.

use std::time::Duration;

use aws_lc_rs::hmac;
use entrepot::config::{Config, HeaderValue, Retention, Route, Secret, Tls, Webhook, WebhookEvent, WebhookUrl};
use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::content;
use crate::support::process::{Process, run};
use crate::support::push::{IMAGE, digest_of, image, push_image};
use crate::support::receiver::{Receiver, Told};
use crate::support::registry::{HUB, TestRegistry, blob_path, folder, manifest_path};
use crate::support::upstream::FakeUpstream;

fn webhook(name: &str, url: &str, events: &[WebhookEvent]) -> Webhook {
    Webhook {
        name: name.to_owned(),
        url: WebhookUrl(url.parse().expect("a URL")),
        events: events.to_vec(),
        repositories: vec!["**".to_owned()],
        secret: None,
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
        retry_wait: Duration::from_millis(10),
        retry_wait_max: Duration::from_millis(50),
        expire_after: Duration::from_hours(1),
        queue_max: 100,
        tls: Tls::default(),
        route: Route::default(),
    }
}

fn all(name: &str, receiver: &Receiver) -> Webhook {
    use WebhookEvent::{Delete, Evict, Pull, Push};
    webhook(name, &receiver.url("/hook"), &[Push, Delete, Pull, Evict])
}

fn changes(name: &str, receiver: &Receiver) -> Webhook {
    webhook(name, &receiver.url("/hook"), &[WebhookEvent::Push, WebhookEvent::Delete])
}

async fn telling(webhooks: Vec<Webhook>) -> TestRegistry {
    TestRegistry::builder().config(|config: &mut Config| config.webhooks = webhooks).start().await
}

async fn push(registry: &TestRegistry, repository: &str, tag: &str) {
    push_image(registry, repository, tag, tag.as_bytes()).await;
}

/// `action tag` or `action digest`, in order.
fn short(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, key: &str| event["target"][key].as_str().map(str::to_owned);
    let what =
        |event: &Value| text(event, "tag").or_else(|| text(event, "digest")).expect("an event is about something");
    events.iter().map(|event| format!("{} {}", event["action"].as_str().expect("it has a kind"), what(event))).collect()
}

/// Does the header prove the body, to who knows the secret?
fn is_signed(told: &Told, secret: &str) -> bool {
    let signature = told.header("entrepot-signature").expect("it is signed");
    let (time, mac) = signature.split_once(",v1=").expect("time and proof");
    let time = time.strip_prefix("t=").expect("a time");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let proof = hmac::sign(&key, format!("{time}.{}", told.body).as_bytes());
    let hex: Vec<String> = proof.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.concat() == mac
}

#[tokio::test]
async fn pushes_and_deletes_are_told_in_order_in_the_shape_of_distribution_and_signed() {
    let receiver = Receiver::start().await;
    let hook = Webhook {
        secret: Some(Secret::Written("hunter2".into())),
        headers: vec![("x-team".to_owned(), HeaderValue("a".into()))],
        ..changes("ci", &receiver)
    };
    let registry = telling(vec![hook]).await;
    let manifest = push_image(&registry, "team/app", "v1", b"layer").await;
    let digest = digest_of(&manifest);
    let by_digest = format!("{}?tag=a&tag=b", manifest_path("team/app", digest));
    let put = Call::new("PUT", &by_digest).header("content-type", IMAGE).header("user-agent", "pusher/1");
    assert_eq!(registry.send(put.body(manifest.clone())).await.status(), 201);
    for path in
        [manifest_path("team/app", "a"), manifest_path("team/app", digest), blob_path("team/app", &digest_of("layer"))]
    {
        assert_eq!(registry.send(Call::new("DELETE", &path)).await.status(), 202);
    }
    assert_eq!(registry.send(Call::new("DELETE", &manifest_path("team/app", "a"))).await.status(), 404);
    receiver.until_taken(6).await;
    let events = receiver.taken();
    let digest = digest.to_string();
    let layer = digest_of("layer").to_string();
    let deletes = ["delete a".to_owned(), format!("delete {digest}"), format!("delete {layer}")];
    let pushes = ["push v1", "push a", "push b"].map(str::to_owned);
    assert_eq!(short(&events), [pushes, deletes].concat());
    let (event, size) = (&events[1], manifest.len());
    let url = registry.url(&manifest_path("team/app", &digest));
    assert_eq!(
        event["target"],
        json!({ "mediaType": IMAGE, "size": size, "length": size, "digest": digest, "repository": "team/app", "url": url, "tag": "a" })
    );
    let address = registry.address().to_string();
    let request = &event["request"];
    assert_eq!(
        (&request["addr"], &request["host"], &request["method"], &request["useragent"]),
        (&"127.0.0.1".into(), &address.into(), &"PUT".into(), &"pusher/1".into())
    );
    assert!(
        request["id"].is_string() && event["actor"] == json!({}) && event["source"]["instanceID"].is_string(),
        "{event}"
    );
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z') && event["id"] != events[2]["id"], "{event}");
    for told in receiver.told() {
        assert_eq!(told.header("content-type"), Some("application/vnd.docker.distribution.events.v1+json"));
        assert_eq!(told.header("x-team"), Some("a"));
        assert!(is_signed(&told, "hunter2") && !is_signed(&told, "other"));
    }
    registry.finish().await;
}

#[tokio::test]
async fn after_a_failure_the_same_event_comes_again_before_any_later_one() {
    let receiver = Receiver::start().await;
    receiver.answer_next(&[500, 429, 408, 503]);
    let registry = telling(vec![changes("ci", &receiver)]).await;
    for tag in ["one", "two", "three"] {
        push(&registry, "team/app", tag).await;
    }
    receiver.until_taken(3).await;
    assert_eq!(short(&receiver.taken()), ["push one", "push two", "push three"]);
    let told = receiver.told();
    let first: Vec<Value> = told.iter().take(5).map(|told| told.events()[0]["id"].clone()).collect();
    assert!(first.iter().all(|id| *id == first[0]), "an event keeps its id: {first:?}");
    registry.until("the queue is empty", |registry| registry.metrics().contains(r#"result="delivered"} 3"#)).await;
    assert!(registry.metrics().contains(r#"entrepot_webhook_failures_total{webhook="ci"} 4"#));
    registry.finish().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_told_after_a_kill() {
    let (receiver, folder) = (Receiver::start().await, folder());
    receiver.answer(500);
    let config = format!(
        "upstreams: {{}}\nstorage: {{min_free: 0}}\nwebhooks: {{ci: {{url: '{}', retry_wait: 1h, retry_wait_max: 1h}}}}\n",
        receiver.url("/hook")
    );
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    let upload = format!("/v2/app/blobs/uploads/?digest={}", digest_of("{}"));
    assert_eq!(process.send(Call::new("POST", &upload).body("{}")).await.status(), 201);
    for tag in ["one", "two"] {
        let put = Call::new("PUT", &manifest_path("app", tag)).header("content-type", IMAGE);
        assert_eq!(process.send(put.body(image(b"{}", &[]).to_string())).await.status(), 201);
    }
    receiver.until_told(1).await;
    process.kill();
    receiver.answer(200);
    let process = Process::serve(folder.path(), &[]).await;
    receiver.until_taken(2).await;
    assert_eq!(short(&receiver.taken()), ["push one", "push two"]);
    let ready = process.send(Call::get("/readyz")).await;
    assert_eq!((ready.status(), &ready.json()["warning"]), (200, &Value::Null));
    process.terminate();
    process.ended().await;
}

#[tokio::test]
async fn a_full_queue_loses_its_oldest_events_and_counts_them() {
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let hour = Duration::from_hours(1);
    let hook = Webhook { queue_max: 3, retry_wait: hour, retry_wait_max: hour, ..changes("ci", &receiver) };
    let mut registry = telling(vec![hook]).await;
    for tag in ["a", "b", "c", "d", "e"] {
        push(&registry, "team/app", tag).await;
    }
    let metrics = String::from_utf8(registry.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains(r#"entrepot_webhook_waiting{webhook="ci"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"entrepot_webhook_events_total{webhook="ci",result="overflowed"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"entrepot_limit{limit="webhooks.queue_max",webhook="ci"} 3"#), "{metrics}");
    receiver.until_told(1).await;
    receiver.answer(200);
    registry.restart().await;
    receiver.until_taken(3).await;
    assert_eq!(short(&receiver.taken()), ["push c", "push d", "push e"]);
    registry.finish().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_push_and_no_other_receiver() {
    let (receiver, hanging) = (Receiver::start().await, tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let dead = format!("http://{}/", hanging.local_addr().unwrap());
    let hook = Webhook { timeout: Duration::from_hours(1), ..webhook("dead", &dead, &[WebhookEvent::Push]) };
    let registry = telling(vec![hook, changes("ci", &receiver)]).await;
    for tag in ["one", "two"] {
        push(&registry, "team/app", tag).await;
    }
    receiver.until_taken(2).await;
    let ready = registry.get("/readyz").await;
    assert_eq!((ready.status(), &ready.json()["warning"]), (200, &Value::Null));
    let counts = registry.metadata().notice_counts().await.unwrap();
    assert_eq!(counts.iter().find(|counts| counts.name == "dead").unwrap().waiting.0, 2, "nothing is lost");
    registry.finish().await;
}

#[tokio::test]
async fn an_event_that_a_receiver_does_not_want_is_dropped_in_the_end_and_holds_up_nothing() {
    let receiver = Receiver::start().await;
    receiver.answer_next(&[400; 5]);
    let registry = telling(vec![changes("ci", &receiver)]).await;
    push(&registry, "team/app", "unwanted").await;
    receiver.until_told(5).await;
    push(&registry, "team/app", "wanted").await;
    receiver.until_taken(1).await;
    assert_eq!(short(&receiver.taken()), ["push wanted"]);
    assert!(registry.metrics().contains(r#"entrepot_webhook_events_total{webhook="ci",result="refused"} 1"#));
    registry.finish().await;
}

#[tokio::test]
async fn events_that_are_too_old_are_dropped() {
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let registry = telling(vec![changes("ci", &receiver)]).await;
    push(&registry, "team/app", "old").await;
    receiver.until_told(1).await;
    registry.advance(Duration::from_hours(2));
    registry.until("it is dropped", |registry| registry.metrics().contains(r#"result="expired"} 1"#)).await;
    receiver.answer(200);
    push(&registry, "team/app", "new").await;
    receiver.until_taken(1).await;
    assert_eq!(short(&receiver.taken()), ["push new"]);
    registry.finish().await;
}

#[tokio::test]
async fn each_receiver_is_told_of_what_it_wants_alone() {
    let (one, other) = (Receiver::start().await, Receiver::start().await);
    let team = Webhook { repositories: vec!["team/**".to_owned()], ..changes("team", &one) };
    let deletes = webhook("deletes", &other.url("/"), &[WebhookEvent::Delete]);
    let registry = telling(vec![team, deletes]).await;
    for repository in ["team/app", "other/app"] {
        push(&registry, repository, "v1").await;
        assert_eq!(registry.send(Call::new("DELETE", &manifest_path(repository, "v1"))).await.status(), 202);
    }
    one.until_taken(2).await;
    other.until_taken(2).await;
    assert_eq!(short(&one.taken()), ["push v1", "delete v1"]);
    let repositories: Vec<Value> = other.taken().iter().map(|event| event["target"]["repository"].clone()).collect();
    assert_eq!(repositories, ["team/app", "other/app"]);
    registry.finish().await;
}

#[tokio::test]
async fn what_operators_remove_and_what_retention_deletes_is_told_with_who_did_it() {
    let receiver = Receiver::start().await;
    let rule = Retention { repositories: "ci/**".to_owned(), keep_last: Some(1), ..Retention::default() };
    let builder = TestRegistry::builder().config(|config| {
        config.webhooks = vec![webhook("ci", &receiver.url("/"), &[WebhookEvent::Delete])];
        config.retention = vec![rule];
    });
    let registry = builder.start().await;
    push(&registry, "team/app", "v1").await;
    for tag in ["old", "new"] {
        push(&registry, "ci/app", tag).await;
        registry.advance(Duration::from_secs(1));
    }
    let long = Call::new("DELETE", "/api/v1/content?ref=team/app:v1").header("user-agent", &"x".repeat(9000));
    assert_eq!(registry.send(long).await.status(), 200);
    assert_eq!(registry.send(Call::new("PUT", "/api/v1/retention")).await.status(), 200);
    receiver.until_taken(2).await;
    let events = receiver.taken();
    assert_eq!(short(&events), ["delete v1", "delete old"]);
    assert_eq!((&events[0]["request"]["method"], &events[0]["actor"]), (&"DELETE".into(), &json!({})));
    assert!(events[0]["request"]["useragent"].as_str().is_some_and(|told| told.len() == 300), "{}", events[0]);
    assert_eq!((&events[1]["request"], &events[1]["actor"]["name"]), (&json!({}), &"entrepot".into()));
    registry.finish().await;
}

#[tokio::test]
async fn pulls_of_manifests_are_told_together_and_looks_are_not() {
    let receiver = Receiver::start().await;
    let pulls = webhook("pulls", &receiver.url("/"), &[WebhookEvent::Pull]);
    let registry = telling(vec![pulls]).await;
    push(&registry, "team/app", "v1").await;
    let path = manifest_path("team/app", "v1");
    registry.head(&path).await;
    for _ in 0..3 {
        assert_eq!(registry.get(&path).await.status(), 200);
    }
    receiver.until_taken(3).await;
    assert_eq!(short(&receiver.taken()), ["pull v1", "pull v1", "pull v1"]);
    registry.finish().await;
}

#[tokio::test]
async fn what_was_evicted_is_told_with_its_repository() {
    let (fake, receiver) = (FakeUpstream::start().await, Receiver::start().await);
    let (first, second) =
        (fake.push_blob("team/app", content(300_000, 1)), fake.push_blob("team/app", content(300_000, 2)));
    let builder = TestRegistry::builder().default_upstream(HUB, &fake).cache_max(500_000);
    let registry = builder.config(|config| config.webhooks = vec![all("ci", &receiver)]).start().await;
    for digest in [&first, &second] {
        assert_eq!(registry.get(&blob_path("team/app", digest)).await.status(), 200);
        registry.fills_end().await;
    }
    receiver.until_taken(1).await;
    let event = receiver.taken().remove(0);
    assert_eq!((&event["action"], &event["actor"]["name"]), (&"evict".into(), &"entrepot".into()));
    let target = json!({ "digest": first.to_string(), "size": 300_000, "length": 300_000, "repository": format!("{HUB}/team/app") });
    assert_eq!(event["target"], target);
    registry.finish().await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_nobody_else_is_told() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    receiver.redirect(&elsewhere.url("/"));
    let registry = telling(vec![changes("ci", &receiver)]).await;
    push(&registry, "team/app", "v1").await;
    receiver.until_told(3).await;
    assert!(elsewhere.told().is_empty());
    registry.finish().await;
}

#[tokio::test]
async fn secrets_are_in_no_log_and_in_no_check_of_the_configuration() {
    let (receiver, folder) = (Receiver::start().await, folder());
    receiver.answer(500);
    let config = format!(
        "upstreams: {{}}\nstorage: {{min_free: 0}}\nwebhooks:\n  ci:\n    url: {}\n    secret: hunter2\n    \
         retry_wait: 10ms\n    headers: {{Authorization: Bearer hunter3}}\n",
        receiver.url("/hook/hunter4?token=hunter5")
    );
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let checked = run(folder.path(), &["check-config"], &[]).await;
    assert!(checked.code == Some(0) && checked.stdout.contains("webhooks:"), "{checked:?}");
    let process = Process::serve(folder.path(), &["--log-level", "trace"]).await;
    let upload = format!("/v2/app/blobs/uploads/?digest={}", digest_of("{}"));
    assert_eq!(process.send(Call::new("POST", &upload).body("{}")).await.status(), 201);
    let put = Call::new("PUT", &manifest_path("app", "v1")).header("content-type", IMAGE);
    assert_eq!(process.send(put.body(image(b"{}", &[]).to_string())).await.status(), 201);
    receiver.until_told(3).await;
    assert_eq!(receiver.told()[0].header("authorization"), Some("Bearer hunter3"));
    let metrics = process.send(Call::get("/metrics")).await;
    process.terminate();
    let (_, log) = process.ended().await;
    assert!(log.iter().any(|line| line.contains("could not be told")), "{log:?}");
    let ours = |line: &&String| line.contains("\"target\":\"entrepot");
    let told: Vec<&String> = log.iter().filter(ours).collect();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for text in told.into_iter().chain([&checked.stdout, &checked.stderr, &metrics]) {
        assert!(!text.contains("hunter"), "{text}");
    }
}
