//! Sessions that go on after their client, or the registry, went away.

use crate::support::client::{Answer, Call};
use crate::support::content;
use crate::support::push::{append, assert_refused, begin, close, digest_of};
use crate::support::raw::Raw;
use crate::support::registry::{TestRegistry, bytes_on_disk};

/// The number of bytes that the answer about a session tells.
fn reached(answer: &Answer) -> usize {
    assert_eq!(answer.status(), 204, "{:?}", answer.body);
    let range = answer.header("range").expect("a session tells how far it is");
    range.strip_prefix("0-").and_then(|last| last.parse::<usize>().ok()).expect("the range begins at zero") + 1
}

#[tokio::test]
async fn a_client_gone_in_mid_chunk_goes_on_at_the_very_byte() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(1_000_000, 1);
    for headers in ["content-length: 1000000\r\n", "transfer-encoding: chunked\r\n"] {
        let repository = if headers.starts_with('c') { "length" } else { "chunked" };
        let session = begin(&registry, repository).await;
        let mut patch = Raw::begin(registry.address(), "PATCH", &session, headers).await;
        if repository == "length" {
            patch.write(&bytes[..400_000]).await;
        } else {
            patch.chunk(&bytes[..400_000]).await;
        }
        drop(patch);
        // Waits for the broken request's end by itself.
        let mut offset = reached(&registry.get(&session).await);
        while offset < 400_000 {
            offset = reached(&registry.get(&session).await);
        }
        assert_eq!(offset, 400_000, "{repository}");
        let call =
            Call::new("PATCH", &session).header("content-range", "400000-999999").body(bytes[400_000..].to_vec());
        assert_eq!(registry.send(call).await.header("range"), Some("0-999999"), "{repository}");
        assert_eq!(close(&registry, &session, &digest_of(&bytes), "").await.status(), 201, "{repository}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_session_outlives_the_registry() {
    let mut registry = TestRegistry::builder().start().await;
    let bytes = content(900_000, 2);
    let session = begin(&registry, "app").await;
    append(&registry, &session, bytes[..300_000].to_vec()).await;
    registry.restart().await;
    assert_eq!(reached(&registry.get(&session).await), 300_000);
    assert!(registry.sums().uploading >= 300_000, "the session's bytes are not counted any more");
    append(&registry, &session, bytes[300_000..600_000].to_vec()).await;
    registry.kill_and_restart().await;
    assert_eq!(reached(&registry.get(&session).await), 600_000);
    let answer = close(&registry, &session, &digest_of(&bytes), bytes[600_000..].to_vec()).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body);
    registry.finish().await;
}

#[tokio::test]
async fn a_session_without_a_byte_outlives_the_registry_too() {
    let mut registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    registry.kill_and_restart().await;
    assert_eq!(registry.get(&session).await.status(), 204, "an acknowledged session is gone");
    let bytes = content(1000, 3);
    assert_eq!(close(&registry, &session, &digest_of(&bytes), bytes).await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_sha512_session_outlives_the_registry() {
    use entrepot::oci::{Algorithm, Digest};
    let mut registry = TestRegistry::builder().start().await;
    let bytes = content(200_000, 4);
    let answer = registry.send(Call::new("POST", "/v2/app/blobs/uploads/?digest-algorithm=sha512").body("")).await;
    let session = answer.header("location").unwrap().to_owned();
    append(&registry, &session, bytes[..100_000].to_vec()).await;
    registry.restart().await;
    append(&registry, &session, bytes[100_000..].to_vec()).await;
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    assert_eq!(close(&registry, &session, &digest, "").await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_registry_killed_in_mid_chunk_tells_what_it_has() {
    let mut registry = TestRegistry::builder().start().await;
    let bytes = content(1_000_000, 5);
    let session = begin(&registry, "app").await;
    append(&registry, &session, bytes[..100_000].to_vec()).await;
    let before = bytes_on_disk(&registry.store());
    let mut patch = Raw::begin(registry.address(), "PATCH", &session, "content-length: 900000\r\n").await;
    patch.write(&bytes[100_000..600_000]).await;
    let store = registry.store();
    registry.until("some of it is written", |_| bytes_on_disk(&store) > before).await;
    registry.kill_and_restart().await;
    let offset = reached(&registry.get(&session).await);
    assert!((100_000..=600_000).contains(&offset), "{offset} bytes");
    let answer = close(&registry, &session, &digest_of(&bytes), bytes[offset..].to_vec()).await;
    assert_eq!(answer.status(), 201, "what is on disk is not what was sent: {:?}", answer.body);
    drop(patch);
    registry.finish().await;
}

#[tokio::test]
async fn an_expired_session_stays_expired_over_a_restart() {
    let mut registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    append(&registry, &session, content(1000, 6)).await;
    registry.restart().await;
    registry.advance(std::time::Duration::from_hours(25));
    let day = std::time::Duration::from_hours(24);
    assert_eq!(registry.registry().expire_uploads(day).await.unwrap(), 1, "its age is forgotten by a restart");
    registry.restart().await;
    assert_refused(&registry.get(&session).await, 404, "BLOB_UPLOAD_UNKNOWN", "the session");
    registry.finish().await;
}
