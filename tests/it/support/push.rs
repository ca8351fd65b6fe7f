//! Pushing as clients do it, and what every refusal must look like.

use bytes::Bytes;
use entrepot::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use super::client::{Answer, Call};
use super::registry::TestRegistry;

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

pub fn digest_of(bytes: impl AsRef<[u8]>) -> Digest {
    Digest::of(Algorithm::Sha256, bytes.as_ref())
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes).to_string(), "size": bytes.len() })
}

/// An OCI image manifest.
pub fn image(config: &[u8], layers: &[&[u8]]) -> Value {
    let layers: Vec<Value> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", config);
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers })
}

/// An OCI index of these manifests.
pub fn index(manifests: &[&[u8]]) -> Value {
    let manifests: Vec<Value> = manifests.iter().map(|manifest| descriptor(IMAGE, manifest)).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// Opens an upload session. Returns where it is.
pub async fn begin(registry: &TestRegistry, repository: &str) -> String {
    let answer = registry.send(Call::new("POST", &format!("/v2/{repository}/blobs/uploads/")).body("")).await;
    assert_eq!(answer.status(), 202, "{:?}", answer.body);
    answer.header("location").expect("a session has a place").to_owned()
}

pub async fn append(registry: &TestRegistry, session: &str, bytes: impl Into<Bytes>) -> Answer {
    registry.send(Call::new("PATCH", session).header("content-type", "application/octet-stream").body(bytes)).await
}

/// Closes a session with what is left of the blob. The digest's colon is escaped, as every client does.
pub async fn close(registry: &TestRegistry, session: &str, digest: &Digest, rest: impl Into<Bytes>) -> Answer {
    registry.send(Call::new("PUT", &closing(session, digest)).body(rest)).await
}

/// The session's place with the digest added to whatever query it has.
pub fn closing(session: &str, digest: &Digest) -> String {
    let mark = if session.contains('?') { '&' } else { '?' };
    format!("{session}{mark}digest={}", digest.to_string().replace(':', "%3A"))
}

/// Pushes an image of this layer under a tag or digest. Returns the manifest's bytes.
pub async fn push_image(registry: &TestRegistry, repository: &str, reference: &str, layer: &[u8]) -> Bytes {
    let config = format!("{{\"layer\":\"{}\"}}", digest_of(layer));
    registry.push_blob(repository, config.clone()).await;
    registry.push_blob(repository, layer.to_vec()).await;
    let bytes = Bytes::from(image(config.as_bytes(), &[layer]).to_string());
    let answer = registry.push_manifest(repository, reference, IMAGE, bytes.clone()).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body);
    bytes
}

/// A refusal has the specification's shape, a message of its own and the header of every answer.
///
/// docker classic repeats a refused push five times when the message is only the usual one of its code.
pub fn assert_refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status(), status, "{what}: {:?}", answer.body);
    assert_eq!(answer.code(), code, "{what}: {:?}", answer.body);
    let body = answer.json();
    let errors = body["errors"].as_array().expect("errors are a list");
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{what}: {body}");
    for error in errors {
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.split(' ').count() >= 3, "{what}: {message:?} says nothing");
        assert_ne!(message, "The operation is unsupported.", "{what}");
        let keys: Vec<&String> = error.as_object().expect("an error is an object").keys().collect();
        assert!(keys.iter().all(|key| ["code", "message", "detail"].contains(&key.as_str())), "{what}: {keys:?}");
    }
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{what}");
}

/// No bytes, no rows, no promised space: as if nobody had ever been here.
pub async fn assert_holds_nothing(registry: &TestRegistry, after: &str) {
    let sums = registry.sums();
    assert_eq!((sums.of_cache(), sums.pushed, sums.uploading), (0, 0, 0), "space is taken after {after}");
    assert_eq!(super::registry::bytes_on_disk(&registry.store()), 0, "files are left after {after}");
    let uploads = registry.metadata().list_uploads_before(i64::MAX).await.expect("the index can be read");
    assert_eq!(uploads.len(), 0, "sessions are left after {after}");
    let repositories = registry.get("/v2/_catalog").await.json();
    assert_eq!(repositories["repositories"], json!([]), "repositories are listed after {after}");
}
