//! Nobody but the configured upstreams is ever contacted, whatever a client or a manifest names.

use bytes::Bytes;
use entrepot::oci::ManifestKind;
use serde_json::json;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{IMAGE, descriptor, digest_of};
use crate::support::registry::{TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

#[tokio::test]
async fn foreign_layer_urls_are_never_followed() {
    let (fake, stranger) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let (config, layer) = (b"{}".to_vec(), content(10_000, 1));
    let digest = stranger.push_blob("layer", layer.clone());
    fake.push_blob("team/app", config.clone());
    let mut foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &layer);
    foreign["urls"] = json!([format!("{}/v2/layer/blobs/{digest}", stranger.base_url())]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": IMAGE, "layers": [foreign],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    });
    let manifest = Bytes::from(manifest.to_string());
    fake.push_manifest("team/app", Some("v1"), ManifestKind::OciImage, manifest.clone());
    let registry = TestRegistry::over(&fake).await;
    assert_eq!(registry.get(&manifest_path("team/app", "v1")).await.status(), 200);
    assert_eq!(registry.get(&blob_path("team/app", &digest)).await.status(), 404);
    assert_eq!(registry.head(&blob_path("team/app", &digest)).await.status(), 404);
    // Nor when it is pushed here, where such a layer need not be.
    registry.push_blob("own/app", config).await;
    let pushed = registry.push_manifest("own/app", "v1", IMAGE, manifest).await;
    assert_eq!(pushed.status(), 201, "{:?}", pushed.body);
    assert_eq!(stranger.requests().len(), 0, "the URL of a descriptor was followed");
    registry.finish().await;
}

#[tokio::test]
async fn no_header_and_no_parameter_leads_to_a_stranger() {
    let (fake, stranger) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let layer = content(1_000, 1);
    stranger.push_image("team/app", "v1", &[&layer]);
    let registry = TestRegistry::over(&fake).await;
    let place = stranger.address().to_string();
    let digest = digest_of(&layer);
    for path in [manifest_path("team/app", "v1"), blob_path("team/app", &digest), "/v2/team/app/tags/list".to_owned()] {
        for (header, value) in [
            ("host", place.clone()),
            ("x-forwarded-host", place.clone()),
            ("forwarded", format!("host={place}")),
            ("x-forwarded-server", place.clone()),
            ("x-original-url", format!("http://{place}{path}")),
            ("referer", format!("http://{place}/")),
        ] {
            let answer = registry.send(Call::get(&path).header(header, &value)).await;
            assert_eq!(answer.status(), 404, "{path} with {header}");
        }
        let mark = if path.contains('?') { '&' } else { '?' };
        for ns in [place.clone(), format!("http://{place}"), format!("{place}%2F"), format!("me@{place}")] {
            let answer = registry.get(&format!("{path}{mark}ns={ns}")).await;
            assert!(matches!(answer.status(), 400 | 404), "{path} with ns={ns}: {}", answer.status());
        }
        // The request line of a proxy's client.
        let answer = registry.get(&format!("http://{place}{path}")).await;
        assert_eq!(answer.status(), 404);
        // A host as the first part of the name.
        let prefixed = path.replacen("/v2/", &format!("/v2/{place}/"), 1);
        let answer = registry.get(&prefixed).await;
        let has_tags = answer.status() == 200 && answer.json()["tags"].as_array().is_none_or(|tags| !tags.is_empty());
        assert!(!has_tags, "{prefixed}: {answer:?}");
    }
    let mount = format!("/v2/own/app/blobs/uploads/?mount={digest}&from={place}/team/app");
    let started = registry.send(Call::new("POST", &mount).body("")).await;
    assert_eq!(started.status(), 202, "nothing to mount, so it may be uploaded: {:?}", started.body);
    let session = started.header("location").unwrap().to_owned();
    assert_eq!(registry.send(Call::new("DELETE", &session)).await.status(), 204);
    assert_eq!(stranger.requests().len(), 0, "a stranger was contacted");
    registry.finish().await;
}
