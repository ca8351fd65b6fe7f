//! What is kept beside images and looks like none: signatures, attestations, charts, modules. All of it is manifests and blobs,
//! and all of it comes through, whatever its media types are.

use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::{Digest, ManifestKind};
use serde_json::{Value, json};

use crate::support::push::{IMAGE, INDEX, descriptor, digest_of};
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "team/app";
const EMPTY: &[u8] = b"{}";

/// Something that is pulled by a tag.
struct Artifact {
    name: &'static str,
    tag: String,
    manifest: Bytes,
    blobs: Vec<Bytes>,
}

/// A manifest of a config and one layer of these types.
fn artifact(name: &'static str, tag: &str, config: (&str, &[u8]), layer: (&str, &[u8]), more: &Value) -> Artifact {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(config.0, config.1),
        "layers": [descriptor(layer.0, layer.1)],
    });
    for (key, value) in more.as_object().expect("more fields") {
        manifest[key] = value.clone();
    }
    let blobs = [config.1, layer.1].map(Bytes::copy_from_slice).to_vec();
    Artifact { name, tag: tag.to_owned(), manifest: Bytes::from(manifest.to_string()), blobs }
}

/// One of each kind, as the tools that make them push them.
fn artifacts(image: &Digest) -> Vec<Artifact> {
    let of_image = image.to_string().replace(':', "-");
    let oci_config = "application/vnd.oci.image.config.v1+json";
    let empty = "application/vnd.oci.empty.v1+json";
    let subject = json!({ "mediaType": IMAGE, "digest": image.to_string(), "size": 7 });
    let payload = json!({ "critical": { "image": { "docker-manifest-digest": image.to_string() } } }).to_string();
    vec![
        artifact(
            "a cosign signature",
            &format!("{of_image}.sig"),
            (oci_config, br#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#),
            ("application/vnd.dev.cosign.simplesigning.v1+json", payload.as_bytes()),
            &json!({}),
        ),
        artifact(
            "a cosign attestation",
            &format!("{of_image}.att"),
            (oci_config, br#"{"rootfs":{"type":"layers"}}"#),
            ("application/vnd.dsse.envelope.v1+json", br#"{"payloadType":"application/vnd.in-toto+json"}"#),
            &json!({}),
        ),
        artifact(
            "a cosign bill of materials",
            &format!("{of_image}.sbom"),
            (oci_config, br#"{"rootfs":{}}"#),
            ("text/spdx+json", br#"{"spdxVersion":"SPDX-2.3"}"#),
            &json!({}),
        ),
        artifact(
            "a notation signature",
            "notation",
            ("application/vnd.cncf.notary.signature", EMPTY),
            ("application/jose+json", br#"{"payload":"e30","signature":"AA"}"#),
            &json!({ "subject": subject, "annotations": { "io.cncf.notary.x509chain.thumbprint#S256": "[]" } }),
        ),
        artifact(
            "a Helm chart",
            "chart-1.2.3_build.4",
            ("application/vnd.cncf.helm.config.v1+json", br#"{"name":"chart","version":"1.2.3+build.4"}"#),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"\x1f\x8b\x08chart"),
            &json!({}),
        ),
        artifact(
            "a WebAssembly module",
            "module",
            ("application/vnd.wasm.config.v0+json", br#"{"os":"wasip2"}"#),
            ("application/wasm", b"\0asm\x01\0\0\0"),
            &json!({}),
        ),
        artifact(
            "an artifact without config",
            "empty",
            (empty, EMPTY),
            ("text/plain", b"just a file"),
            &json!({ "artifactType": "application/vnd.example.file" }),
        ),
    ]
}

#[tokio::test]
async fn every_kind_of_artifact_comes_through_and_is_served_without_the_upstream() {
    let mut fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let artifacts = artifacts(&image.manifest);
    for artifact in &artifacts {
        artifact.blobs.iter().for_each(|blob| {
            fake.push_blob(REPOSITORY, blob.clone());
        });
        fake.push_manifest(REPOSITORY, Some(&artifact.tag), ManifestKind::OciImage, artifact.manifest.clone());
    }
    let registry = TestRegistry::over(&fake).await;
    for outcome in ["miss", "stale"] {
        for artifact in &artifacts {
            let answer = registry.get(&manifest_path(REPOSITORY, &artifact.tag)).await;
            assert_eq!((answer.status(), answer.cache()), (200, outcome), "{}", artifact.name);
            assert!(answer.body == artifact.manifest, "{}", artifact.name);
            for bytes in &artifact.blobs {
                let blob = registry.get(&blob_path(REPOSITORY, &digest_of(bytes))).await;
                assert!(blob.looks_complete() && blob.body == *bytes, "{}", artifact.name);
            }
        }
        fake.stop().await;
        registry.advance(Duration::from_hours(1));
    }
    registry.finish().await;
}

#[tokio::test]
async fn attestations_inside_an_index_come_through_with_it() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "amd64", &[b"layer"]);
    let statement: &[u8] = br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#;
    let config: &[u8] = br#"{"architecture":"unknown","os":"unknown"}"#;
    let attestation = json!({
        "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.in-toto+json", statement)],
    });
    let attestation = Bytes::from(attestation.to_string());
    let mut entry = descriptor(IMAGE, &attestation);
    entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    entry["annotations"] = json!({
        "vnd.docker.reference.digest": image.manifest.to_string(), "vnd.docker.reference.type": "attestation-manifest",
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, &image.manifest_bytes), entry],
    });
    fake.push_blob(REPOSITORY, statement);
    fake.push_manifest(REPOSITORY, None, ManifestKind::OciImage, attestation.clone());
    fake.push_manifest(REPOSITORY, Some("1"), ManifestKind::OciIndex, index.to_string());
    let registry = TestRegistry::over(&fake).await;
    assert!(registry.get(&manifest_path(REPOSITORY, "1")).await.body == index.to_string().as_bytes());
    let pulled = registry.get(&manifest_path(REPOSITORY, digest_of(&attestation))).await;
    assert!(pulled.status() == 200 && pulled.body == attestation);
    assert!(registry.get(&blob_path(REPOSITORY, &digest_of(statement))).await.body == statement);
    registry.finish().await;
}

#[tokio::test]
async fn a_signature_is_found_whichever_way_a_client_looks_for_it() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    for artifact in artifacts(&image.manifest) {
        fake.push_manifest(REPOSITORY, Some(&artifact.tag), ManifestKind::OciImage, artifact.manifest);
    }
    let registry = TestRegistry::over(&fake).await;
    // By the tag made of the image's digest, by the referrers API, and in the list of tags.
    let tag = format!("{}.sig", image.manifest.to_string().replace(':', "-"));
    assert_eq!(registry.head(&manifest_path(REPOSITORY, &tag)).await.status(), 200);
    let filter = "artifactType=application%2Fvnd.cncf.notary.signature";
    let referrers = registry.get(&format!("/v2/{REPOSITORY}/referrers/{}?{filter}", image.manifest)).await.json();
    assert_eq!(referrers["manifests"].as_array().map(Vec::len), Some(1), "{referrers}");
    let tags = registry.get(&format!("/v2/{REPOSITORY}/tags/list")).await.json();
    assert!(tags["tags"].as_array().is_some_and(|tags| tags.contains(&json!(tag))), "{tags}");
    // The same through the canonical name, which is the same repository.
    let by_host = registry.get(&format!("/v2/{HUB}/{REPOSITORY}/referrers/{}?{filter}", image.manifest)).await;
    assert_eq!((by_host.cache(), by_host.json()), ("hit", referrers));
    registry.finish().await;
}
