//! The check of all stored blobs beside the requests.

use std::time::Duration;

use entrepot::oci::Digest;

use crate::support::client::Call;
use crate::support::content;
use crate::support::harm::{Harm, harm};
use crate::support::push::{digest_of, push_image};
use crate::support::registry::{Builder, TestRegistry, blob_path};
use crate::support::upstream::FakeUpstream;

const DAY: Duration = Duration::from_hours(24);

/// Reads as fast as it can.
fn scrubbing(builder: Builder) -> Builder {
    builder.config(|config| config.storage.scrub_rate_max_bytes = 1 << 40)
}

/// Waits for the end of a pass that began now or later.
async fn pass_ends(registry: &TestRegistry) {
    let began = registry.now_ms();
    let is_over = || async {
        let pass = registry.metadata().scrub().await.unwrap();
        pass.is_some_and(|pass| pass.started_ms >= began && pass.ended_ms.is_some())
    };
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while !is_over().await {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the pass ends");
}

#[tokio::test]
async fn a_pass_finds_what_is_harmed_and_reports_what_cannot_be_fetched_again() {
    let fake = FakeUpstream::start().await;
    let cached: Vec<Digest> = (1..4).map(|seed| fake.push_blob("team/app", content(200_000, seed))).collect();
    let builder = TestRegistry::builder().default_upstream("hub.example", &fake);
    let mut registry = scrubbing(builder).start().await;
    pass_ends(&registry).await;
    for digest in &cached {
        registry.get(&blob_path("team/app", digest)).await;
    }
    registry.fills_end().await;
    let layer = content(200_000, 9);
    push_image(&registry, "our/app", "1", &layer).await;
    harm(&registry, &cached[1], Harm::Flip);
    harm(&registry, &digest_of(&layer), Harm::Flip);
    registry.advance(29 * DAY);
    registry.restart().await;
    assert_eq!(registry.get("/api/v1/scrub").await.json()["state"], "waiting");
    // While it is stopped, so that one process does the whole pass and counts all of it.
    let registry = registry.pause().await;
    registry.advance(DAY);
    let registry = registry.resume().await;
    pass_ends(&registry).await;

    let shown = registry.get("/api/v1/scrub").await.json();
    assert_eq!(shown["state"], "waiting", "{shown}");
    assert_eq!((&shown["pass"]["checked_blobs"], &shown["pass"]["damaged_blobs"]), (&6.into(), &2.into()), "{shown}");
    assert_eq!((&shown["lost_blobs"], &shown["lost"][0]["repository"]), (&1.into(), &"our/app".into()), "{shown}");
    assert_eq!(shown["lost"][0]["digest"], digest_of(&layer).to_string());
    assert_eq!(shown["lost"][0]["finding"], "digest");
    let ready = registry.get("/readyz").await;
    assert_eq!((ready.status(), &ready.json()["ready"]), (200, &true.into()), "it serves all that is sound");
    assert!(ready.json()["warning"].as_str().unwrap().contains("/api/v1/scrub"), "{}", ready.json());
    let metrics = registry.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("entrepot_lost_blobs 1"), "{metrics}");
    assert!(metrics.contains("entrepot_scrubbed_blobs_total 6"), "{metrics}");

    registry.push_blob("our/app", layer.clone()).await;
    assert_eq!(registry.get("/api/v1/scrub").await.json()["lost_blobs"], 0);
    assert_eq!(registry.get("/readyz").await.json()["warning"], serde_json::Value::Null);
    assert!(registry.get(&blob_path("team/app", &cached[1])).await.looks_complete());
    registry.finish().await;
}

#[tokio::test]
async fn a_pass_goes_on_where_it_was_after_a_restart_and_keeps_its_rate() {
    let fake = FakeUpstream::start().await;
    // Slow enough that it is under way for the whole test, fast enough that it gets somewhere.
    let builder = TestRegistry::builder().config(|config| config.storage.scrub_rate_max_bytes = 3 << 20);
    let builder = builder.default_upstream("hub.example", &fake);
    let mut registry = builder.config(|config| config.storage.scrub_every = DAY).start().await;
    pass_ends(&registry).await;
    let mut digests = Vec::new();
    for seed in 1..=60 {
        digests.push(registry.push_blob("our/app", content(100_000, seed)).await);
    }
    digests.sort();
    registry.advance(DAY);
    registry.restart().await;
    let position = |registry: &TestRegistry| registry.registry().depot().metadata.clone();
    let checked = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("entrepot_scrubbed_blobs_total ")).unwrap_or("x 0");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    registry.until("some blobs are checked", |registry| checked(&registry.metrics()) >= 3.0).await;
    assert_eq!(registry.get("/api/v1/scrub").await.json()["state"], "running");
    registry.restart().await;
    let kept = position(&registry).scrub().await.unwrap().unwrap();
    assert!(kept.ended_ms.is_none() && kept.checked_blobs >= 3, "{kept:?}");
    assert!(kept.checked_blobs < 60, "60 blobs of 100 kB in no time at 3 MiB a second");
    let at = digests.iter().position(|digest| Some(*digest) == kept.position).expect("it is one of them");
    assert_eq!(at as u64 + 1, kept.checked_blobs, "in the order of digests, none twice");
    // What it has passed is not looked at again in this pass; pulls go on meanwhile.
    let answer = registry.send(Call::get(&blob_path("our/app", &digests[0]))).await;
    assert!(answer.looks_complete());
    registry.finish().await;
}

#[tokio::test]
async fn switched_off_it_reads_nothing() {
    let registry = TestRegistry::builder().start().await;
    registry.push_blob("our/app", content(1000, 1)).await;
    let shown = registry.get("/api/v1/scrub").await.json();
    assert_eq!((&shown["state"], &shown["pass"]), (&"off".into(), &serde_json::Value::Null));
    registry.finish().await;
}
