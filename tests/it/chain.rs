//! One registry as the upstream of another: names, lists and outages keep their meaning over both.

use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::ManifestKind;
use serde_json::json;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{IMAGE, descriptor, image};
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

const HUB: &str = "docker.io";
const QUAY: &str = "quay.io";

/// Two upstreams, a registry over both, and one over that.
async fn chain() -> (FakeUpstream, FakeUpstream, TestRegistry, TestRegistry) {
    let (hub, quay) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let near = TestRegistry::builder().default_upstream(HUB, &hub).upstream(QUAY, &quay).start().await;
    let builder = TestRegistry::builder().default_upstream(HUB, &hub).upstream(QUAY, &quay);
    let far = builder.upstreams(|upstream| {
        upstream.url = near.url("/").parse().expect("the first registry has a URL");
        upstream.send_ns = true;
    });
    let far = far.start().await;
    (hub, quay, near, far)
}

#[tokio::test]
async fn each_name_means_the_same_registry_at_both_ends() {
    let (hub, quay, near, far) = chain().await;
    let layer = content(100_000, 1);
    let of_hub = hub.push_image("library/app", "1", &[&layer, b"of the hub"]);
    let of_quay = quay.push_image("library/app", "1", &[&layer, b"of quay"]);
    for (path, ns, image) in [
        ("app", "", &of_hub),
        ("library/app", "", &of_hub),
        ("quay.io/library/app", "", &of_quay),
        ("library/app", "?ns=docker.io", &of_hub),
        ("library/app", "?ns=quay.io", &of_quay),
    ] {
        let answer = far.get(&format!("{}{ns}", manifest_path(path, "1"))).await;
        assert!(answer.status() == 200 && answer.body == image.manifest_bytes, "{path}{ns}: {:?}", answer.body);
        let blob = far.get(&format!("{}{ns}", blob_path(path, &image.layers[0]))).await;
        assert!(blob.looks_complete() && blob.body == layer, "{path}{ns}");
        let head = far.send(Call::head(&format!("{}{ns}", blob_path(path, &image.layers[1])))).await;
        assert_eq!(head.status(), 200, "{path}{ns}");
    }
    let tags = far.get("/v2/quay.io/library/app/tags/list").await;
    assert_eq!(tags.json(), json!({ "name": "quay.io/library/app", "tags": ["1"] }));
    assert_eq!((hub.requests().manifests_got("1"), quay.requests().manifests_got("1")), (1, 1));
    far.finish().await;
    near.finish().await;
}

#[tokio::test]
async fn what_was_pulled_over_both_is_served_with_neither_of_the_others() {
    let (mut hub, _quay, near, far) = chain().await;
    let layer = content(100_000, 1);
    let image = hub.push_image("team/app", "1", &[&layer]);
    for outcome in ["miss", "hit"] {
        assert_eq!(far.get(&manifest_path("team/app", "1")).await.cache(), outcome);
        assert!(far.get(&blob_path("team/app", &image.layers[0])).await.body == layer);
        far.fills_end().await;
        hub.stop().await;
    }
    near.finish().await;
    far.advance(Duration::from_hours(1));
    let answer = far.get(&manifest_path("team/app", "1")).await;
    assert_eq!((answer.status(), answer.cache()), (200, "stale"));
    far.finish().await;
}

#[tokio::test]
async fn an_outage_at_the_far_end_stays_an_outage_and_an_absence_an_absence() {
    let (mut hub, _quay, near, far) = chain().await;
    assert_eq!(far.get(&manifest_path("team/app", "none")).await.status(), 404);
    hub.stop().await;
    let paths = [manifest_path("team/app", "1"), "/v2/team/app/tags/list".to_owned()];
    let referrers = format!("/v2/team/app/referrers/{}", crate::support::push::digest_of("subject"));
    for path in paths.iter().chain([&referrers]) {
        let answer = far.get(path).await;
        assert!([502, 503, 504].contains(&answer.status()), "{path}: {}", answer.status());
    }
    far.finish().await;
    near.finish().await;
}

#[tokio::test]
async fn all_pages_of_what_is_attached_come_over_both() {
    let (_hub, quay, near, far) = chain().await;
    let subject = quay.push_image("team/app", "1", &[b"layer"]);
    for seed in 0..150 {
        let mut artifact = image(b"{}", &[]);
        artifact["subject"] = descriptor(IMAGE, &subject.manifest_bytes);
        artifact["annotations"] = json!({ "seed": seed.to_string() });
        quay.push_manifest("team/app", None, ManifestKind::OciImage, Bytes::from(artifact.to_string()));
    }
    let (mut next, mut found) = (Some(format!("/v2/team/app/referrers/{}?ns=quay.io", subject.manifest)), 0);
    while let Some(path) = next {
        let answer = far.get(&path).await;
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body);
        found += answer.json()["manifests"].as_array().expect("a list").len();
        next = answer.header("link").map(|link| link[1..].split_once('>').expect("a target").0.to_owned());
    }
    assert_eq!((found, quay.requests().referrers_listed()), (150, 1));
    far.finish().await;
    near.finish().await;
}
