//! How sessions end without a blob, and who may not touch them.

use std::time::Duration;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{append, assert_holds_nothing, assert_refused, begin, close, digest_of};
use crate::support::raw::Raw;
use crate::support::registry::TestRegistry;

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn of_a_blob_with_another_digest_nothing_stays() {
    let registry = TestRegistry::builder().start().await;
    let (bytes, other) = (content(100_000, 1), digest_of(b"other"));
    let path = format!("/v2/app/blobs/uploads/?digest={other}");
    let answer = registry.send(Call::new("POST", &path).body(bytes.clone())).await;
    assert_refused(&answer, 400, "DIGEST_INVALID", "POST");
    assert!(answer.message().contains(&digest_of(&bytes).to_string()), "{}", answer.message());
    assert_holds_nothing(&registry, "POST").await;

    let session = begin(&registry, "app").await;
    assert_refused(&close(&registry, &session, &other, bytes.clone()).await, 400, "DIGEST_INVALID", "PUT");
    assert_holds_nothing(&registry, "PUT").await;

    let session = begin(&registry, "app").await;
    append(&registry, &session, bytes).await;
    assert_refused(&close(&registry, &session, &other, "").await, 400, "DIGEST_INVALID", "PATCH and PUT");
    assert_refused(&registry.get(&session).await, 404, "BLOB_UPLOAD_UNKNOWN", "the session");
    let absent = registry.get(&format!("/v2/app/blobs/{other}")).await;
    assert_refused(&absent, 404, "BLOB_UNKNOWN", "the blob");
    assert_holds_nothing(&registry, "PATCH and PUT").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_put_without_a_digest_or_with_a_bad_one_leaves_the_session_alone() {
    let registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    append(&registry, &session, content(10, 1)).await;
    for query in ["", "?digest=", "?digest=sha256:abc", "?digest=sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"] {
        let answer = registry.send(Call::new("PUT", &format!("{session}{query}")).body("")).await;
        assert_refused(&answer, 400, "DIGEST_INVALID", query);
    }
    assert_eq!(close(&registry, &session, &digest_of(content(10, 1)), "").await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_cancelled_session_is_gone_with_its_bytes() {
    let registry = TestRegistry::builder().start().await;
    for bytes in [0, 100_000] {
        let session = begin(&registry, "app").await;
        if bytes > 0 {
            append(&registry, &session, content(bytes, 1)).await;
        }
        let answer = registry.send(Call::new("DELETE", &session)).await;
        assert_eq!((answer.status(), answer.body.len()), (204, 0));
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let path = format!("{session}?digest={}", digest_of(b""));
            assert_refused(&registry.send(Call::new(method, &path).body("")).await, 404, "BLOB_UPLOAD_UNKNOWN", method);
        }
        assert_holds_nothing(&registry, "cancel").await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn sessions_nobody_opened_are_unknown() {
    let registry = TestRegistry::builder().start().await;
    let ids =
        [UNKNOWN, "x", "..", "%2e%2e", "a%2Fb", "00000000-0000-4000-8000-00000000000", "\u{e9}", &"f".repeat(4000)];
    for id in ids {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let path = format!("/v2/app/blobs/uploads/{id}?digest={}", digest_of(b"x"));
            let answer = registry.send(Call::new(method, &path).body("x")).await;
            assert_refused(&answer, 404, "BLOB_UPLOAD_UNKNOWN", &format!("{method} {id}"));
        }
    }
    assert_holds_nothing(&registry, "unknown sessions").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    let registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "team/app").await;
    append(&registry, &session, content(10, 1)).await;
    let id = session.rsplit_once('/').unwrap().1;
    for other in ["team/other", "app", "team"] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let path = format!("/v2/{other}/blobs/uploads/{id}?digest={}", digest_of(content(10, 1)));
            let answer = registry.send(Call::new(method, &path).body("")).await;
            assert_refused(&answer, 404, "BLOB_UPLOAD_UNKNOWN", &format!("{method} from {other}"));
        }
    }
    assert_eq!(registry.get(&session).await.header("range"), Some("0-9"));
    assert_eq!(close(&registry, &session, &digest_of(content(10, 1)), "").await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_session_takes_one_writer_at_a_time() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(20_000, 1);
    let session = begin(&registry, "app").await;
    let mut first = Raw::begin(registry.address(), "PATCH", &session, "transfer-encoding: chunked\r\n").await;
    first.chunk(&bytes[..5_000]).await;
    // The session file grows only by the one who has the right to write.
    let store = registry.store();
    registry.until("the first writer writes", |_| crate::support::registry::bytes_on_disk(&store) > 0).await;
    let second = async {
        let call = Call::new("PATCH", &session).header("content-range", "10000-19999").body(bytes[10_000..].to_vec());
        registry.send(call).await
    };
    let rest = async {
        first.chunk(&bytes[5_000..10_000]).await;
        first.chunk(b"").await;
        first.answer("PATCH").await
    };
    let (second, first) = tokio::join!(second, rest);
    assert_eq!((first.status(), first.header("range")), (202, Some("0-9999")));
    assert_eq!((second.status(), second.header("range")), (202, Some("0-19999")), "{:?}", second.body);
    assert_eq!(close(&registry, &session, &digest_of(&bytes), "").await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn a_writer_that_does_not_end_is_not_waited_for_without_limit() {
    let registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    let mut first = Raw::begin(registry.address(), "PATCH", &session, "transfer-encoding: chunked\r\n").await;
    first.chunk(&content(5_000, 1)).await;
    let store = registry.store();
    registry.until("the first writer writes", |_| crate::support::registry::bytes_on_disk(&store) > 0).await;
    let answer = append(&registry, &session, content(10, 2)).await;
    assert_refused(&answer, 409, "BLOB_UPLOAD_INVALID", "a second writer");
    first.chunk(b"").await;
    assert_eq!(first.answer("PATCH").await.header("range"), Some("0-4999"), "the second writer got in");
    registry.send(Call::new("DELETE", &session)).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_session_nobody_continues_expires_with_its_bytes() {
    let registry = TestRegistry::builder().start().await;
    let day = Duration::from_hours(24);
    let (idle, busy) = (begin(&registry, "idle").await, begin(&registry, "busy").await);
    append(&registry, &idle, content(50_000, 1)).await;
    registry.advance(Duration::from_mins(24 * 60 - 1));
    append(&registry, &busy, content(50_000, 2)).await;
    assert_eq!(registry.registry().expire_uploads(day).await.unwrap(), 0, "too early");
    registry.advance(Duration::from_mins(2));
    assert_eq!(registry.registry().expire_uploads(day).await.unwrap(), 1);
    assert_refused(&registry.get(&idle).await, 404, "BLOB_UPLOAD_UNKNOWN", "the idle one");
    assert_eq!(registry.get(&busy).await.header("range"), Some("0-49999"));
    registry.send(Call::new("DELETE", &busy)).await;
    assert_holds_nothing(&registry, "expiry").await;
    registry.finish().await;
}
