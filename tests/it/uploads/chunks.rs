//! The ways a blob is pushed, and the order of its chunks.

use entrepot::oci::{Algorithm, Digest};

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{append, assert_refused, begin, close, closing, digest_of};
use crate::support::raw::Raw;
use crate::support::registry::{Leftovers, TestRegistry};

async fn assert_pulls(registry: &TestRegistry, repository: &str, digest: &Digest, bytes: &[u8]) {
    let answer = registry.get(&format!("/v2/{repository}/blobs/{digest}")).await;
    assert_eq!(answer.status(), 200, "{repository}");
    assert!(answer.complete && answer.body == bytes, "{repository} gives other bytes");
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
}

#[tokio::test]
async fn a_blob_comes_out_as_it_went_in_by_one_post() {
    let registry = TestRegistry::builder().start().await;
    for (repository, bytes) in [("one", content(1, 1)), ("big", content(300_000, 2)), ("none", Vec::new())] {
        let digest = digest_of(&bytes);
        let call = Call::new("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
        let answer = registry.send(call.body(bytes.clone())).await;
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.header("location"), Some(format!("/v2/{repository}/blobs/{digest}").as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(answer.header("content-length"), Some("0"));
        assert_pulls(&registry, repository, &digest, &bytes).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_session_tells_its_place_its_name_and_how_far_it_is() {
    let registry = TestRegistry::builder().start().await;
    let answer = registry.send(Call::new("POST", "/v2/team/app/blobs/uploads/").body("")).await;
    let session = answer.header("location").unwrap().to_owned();
    let id = answer.header("docker-upload-uuid").unwrap().to_owned();
    assert_eq!((answer.status(), answer.header("range")), (202, Some("0-0")));
    assert_eq!(session, format!("/v2/team/app/blobs/uploads/{id}"));
    assert_eq!(answer.header("content-length"), Some("0"));

    let answer = append(&registry, &session, content(10, 1)).await;
    assert_eq!((answer.status(), answer.header("range")), (202, Some("0-9")));
    assert_eq!(answer.header("location"), Some(session.as_str()));
    assert_eq!(answer.header("docker-upload-uuid"), Some(id.as_str()));

    let answer = registry.get(&session).await;
    assert_eq!((answer.status(), answer.header("range")), (204, Some("0-9")));
    assert_eq!(answer.header("location"), Some(session.as_str()));
    registry.send(Call::new("DELETE", &session)).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_blob_comes_out_as_it_went_in_by_a_session() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(200_000, 7);
    let digest = digest_of(&bytes);
    // containerd: one PUT with everything. c/image: one PATCH, an empty PUT. Others: chunks, the last one in the PUT.
    let ways: [(&str, &[usize]); 4] =
        [("put", &[]), ("patch", &[200_000]), ("some", &[1, 65_536]), ("all", &[9, 199_991])];
    for (repository, patches) in ways {
        let session = begin(&registry, repository).await;
        let mut at = 0;
        for length in patches {
            let chunk = &bytes[at..at + length];
            let range = format!("{at}-{}", at + length - 1);
            let call = Call::new("PATCH", &session).header("content-range", &range).body(chunk.to_vec());
            at += length;
            let answer = registry.send(call).await;
            assert_eq!((answer.status(), answer.header("range")), (202, Some(format!("0-{}", at - 1).as_str())));
        }
        let answer = close(&registry, &session, &digest, bytes[at..].to_vec()).await;
        assert_eq!(answer.status(), 201, "{repository}: {:?}", answer.body);
        assert_eq!(answer.header("location"), Some(format!("/v2/{repository}/blobs/{digest}").as_str()));
        assert_pulls(&registry, repository, &digest, &bytes).await;
        assert_refused(&registry.get(&session).await, 404, "BLOB_UPLOAD_UNKNOWN", "a session that was closed");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_patch_in_chunked_coding_needs_no_length_and_no_type() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(150_000, 3);
    let session = begin(&registry, "docker").await;
    // docker classic sends POST, PATCH and PUT of one session over three connections.
    let mut patch = Raw::begin(registry.address(), "PATCH", &session, "transfer-encoding: chunked\r\n").await;
    for chunk in bytes.chunks(40_000) {
        patch.chunk(chunk).await;
    }
    patch.chunk(b"").await;
    let answer = patch.answer("PATCH").await;
    assert_eq!((answer.status(), answer.header("range")), (202, Some("0-149999")));
    let digest = digest_of(&bytes);
    assert_eq!(close(&registry, &session, &digest, "").await.status(), 201);
    assert_pulls(&registry, "docker", &digest, &bytes).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_post_in_chunked_coding_pushes_a_whole_blob() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(70_000, 4);
    let digest = digest_of(&bytes);
    let path = format!("/v2/app/blobs/uploads/?digest={digest}");
    let mut post = Raw::begin(registry.address(), "POST", &path, "transfer-encoding: chunked\r\n").await;
    post.chunk(&bytes).await;
    post.chunk(b"").await;
    assert_eq!(post.answer("POST").await.status(), 201);
    assert_pulls(&registry, "app", &digest, &bytes).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_chunk_out_of_order_is_told_where_to_go_on() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(30, 5);
    let session = begin(&registry, "app").await;
    append(&registry, &session, bytes[..10].to_vec()).await;
    for range in ["0-9", "5-14", "11-20", "20-29"] {
        for method in ["PATCH", "PUT"] {
            let path = if method == "PUT" { closing(&session, &digest_of(&bytes)) } else { session.clone() };
            let call = Call::new(method, &path).header("content-range", range).body(bytes[10..20].to_vec());
            let answer = registry.send(call).await;
            assert_refused(&answer, 416, "BLOB_UPLOAD_INVALID", range);
            assert_eq!(answer.header("range"), Some("0-9"), "{method} {range}");
            assert_eq!(answer.header("location"), Some(session.as_str()), "{method} {range}");
        }
    }
    let answer = registry.get(&session).await;
    assert_eq!((answer.status(), answer.header("range")), (204, Some("0-9")), "a refused chunk moved the session");
    let call = Call::new("PUT", &closing(&session, &digest_of(&bytes))).header("content-range", "10-29");
    assert_eq!(registry.send(call.body(bytes[10..].to_vec())).await.status(), 201);
    assert_pulls(&registry, "app", &digest_of(&bytes), &bytes).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_first_chunk_must_begin_at_zero() {
    let registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    let answer = registry.send(Call::new("PATCH", &session).header("content-range", "5-9").body("12345")).await;
    assert_refused(&answer, 416, "BLOB_UPLOAD_INVALID", "5-9 of an empty session");
    registry.send(Call::new("DELETE", &session)).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_chunk_whose_range_and_length_contradict_each_other_adds_nothing() {
    let registry = TestRegistry::builder().start().await;
    let session = begin(&registry, "app").await;
    append(&registry, &session, content(10, 1)).await;
    for range in ["10-18", "10-20", "10-10"] {
        let call = Call::new("PATCH", &session).header("content-range", range).body(content(10, 2));
        assert_refused(&registry.send(call).await, 400, "SIZE_INVALID", range);
    }
    for range in
        ["", "10", "-", "10-", "-19", "19-10", "bytes=10-19", "a-b", "10-19-29", "10-18446744073709551616", "+10-19"]
    {
        let call = Call::new("PATCH", &session).header("content-range", range).body(content(10, 2));
        assert_refused(&registry.send(call).await, 400, "BLOB_UPLOAD_INVALID", range);
    }
    assert_eq!(registry.get(&session).await.header("range"), Some("0-9"));
    registry.send(Call::new("DELETE", &session)).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_chunked_body_longer_or_shorter_than_its_range_is_refused() {
    let registry = TestRegistry::builder().start().await;
    for length in [5, 15] {
        let session = begin(&registry, "app").await;
        let headers = "content-range: 0-9\r\ntransfer-encoding: chunked\r\n";
        let mut patch = Raw::begin(registry.address(), "PATCH", &session, headers).await;
        patch.chunk(&content(length, 1)).await;
        patch.try_write("0\r\n\r\n").await;
        assert_refused(&patch.answer("PATCH").await, 400, "SIZE_INVALID", "a body of another length");
        // Whatever was kept, the offset that is told is the one to go on at.
        let reached: usize = registry.get(&session).await.header("range").unwrap()[2..].parse().unwrap();
        assert!(reached < 10, "more than the range says was taken: {reached}");
        registry.send(Call::new("DELETE", &session)).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn sha512_needs_no_announcement_and_may_have_one() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(100_000, 6);
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let announced = registry.send(Call::new("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512").body("")).await;
    let announced = announced.header("location").unwrap().to_owned();
    let unannounced = begin(&registry, "b").await;
    for (session, repository) in [(announced, "a"), (unannounced, "b")] {
        append(&registry, &session, bytes[..60_000].to_vec()).await;
        let answer = close(&registry, &session, &digest, bytes[60_000..].to_vec()).await;
        assert_eq!(answer.status(), 201, "{repository}: {:?}", answer.body);
        assert_pulls(&registry, repository, &digest, &bytes).await;
    }
    // An announcement binds nobody: the digest that closes the session counts.
    let answer = registry.send(Call::new("POST", "/v2/c/blobs/uploads/?digest-algorithm=sha512").body("")).await;
    let session = answer.header("location").unwrap().to_owned();
    append(&registry, &session, bytes.clone()).await;
    assert_eq!(close(&registry, &session, &digest_of(&bytes), "").await.status(), 201);
    assert_pulls(&registry, "c", &digest_of(&bytes), &bytes).await;
    registry.finish().await;
}

#[tokio::test]
async fn an_unknown_digest_algorithm_is_refused_before_a_session_opens() {
    let registry = TestRegistry::builder().start().await;
    for query in ["digest-algorithm=md5", "digest-algorithm=", "digest=md5:00", "digest=", "digest=sha256:zz"] {
        let answer = registry.send(Call::new("POST", &format!("/v2/app/blobs/uploads/?{query}")).body("x")).await;
        assert_refused(&answer, 400, "DIGEST_INVALID", query);
    }
    crate::support::push::assert_holds_nothing(&registry, "refused algorithms").await;
    registry.finish().await;
}

#[tokio::test]
async fn the_same_blob_from_two_sessions_at_once_is_kept_once() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(500_000, 8);
    let digest = digest_of(&bytes);
    let (one, other) = (begin(&registry, "one").await, begin(&registry, "other").await);
    let (first, second) =
        tokio::join!(close(&registry, &one, &digest, bytes.clone()), close(&registry, &other, &digest, bytes.clone()));
    assert_eq!((first.status(), second.status()), (201, 201));
    assert_pulls(&registry, "one", &digest, &bytes).await;
    assert_pulls(&registry, "other", &digest, &bytes).await;
    let on_disk = crate::support::registry::bytes_on_disk(&registry.store());
    assert_eq!(registry.sums().pushed, on_disk, "counted more or less than once");
    registry.finish_leaving(Leftovers::default()).await;
}
