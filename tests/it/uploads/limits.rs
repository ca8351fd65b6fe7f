//! Sessions and pushes beyond what there is room for.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{INDEX, append, assert_holds_nothing, assert_refused, begin, close, digest_of, index};
use crate::support::raw::Raw;
use crate::support::registry::{HUB, TestRegistry};
use crate::support::upstream::FakeUpstream;

#[tokio::test]
async fn sessions_beyond_the_limit_are_told_to_come_back() {
    let registry = TestRegistry::builder().config(|config| config.push.sessions_max = 2).start().await;
    let (first, second) = (begin(&registry, "a").await, begin(&registry, "b").await);
    let refused = registry.send(Call::new("POST", "/v2/c/blobs/uploads/").body("")).await;
    assert_refused(&refused, 429, "TOOMANYREQUESTS", "the third");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() > 0));
    registry.send(Call::new("DELETE", &first)).await;
    let third = begin(&registry, "c").await;
    for session in [second, third] {
        registry.send(Call::new("DELETE", &session)).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn sessions_opened_at_once_do_not_slip_past_the_limit() {
    let registry = TestRegistry::builder().config(|config| config.push.sessions_max = 3).start().await;
    let posts = (0..24).map(|at| registry.send(Call::new("POST", &format!("/v2/r{at}/blobs/uploads/")).body("")));
    let answers = join_all(posts).await;
    let opened: Vec<&str> = answers.iter().filter_map(|answer| answer.header("location")).collect();
    assert_eq!(opened.len(), 3, "{:?}", answers.iter().map(crate::support::client::Answer::status).collect::<Vec<_>>());
    for session in opened {
        registry.send(Call::new("DELETE", session)).await;
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_push_beyond_the_stores_bound_is_refused_before_its_first_byte() {
    let registry = TestRegistry::builder().storage_max(2 << 20).cache_max(1 << 20).start().await;
    let bytes = content(4 << 20, 1);
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&bytes));
    let refused = registry.send(Call::new("POST", &path).body(bytes.clone())).await;
    assert_refused(&refused, 507, "STORAGE_FULL", "POST");
    assert!(refused.header("retry-after").is_some(), "POST");
    assert_holds_nothing(&registry, "a refused POST").await;

    let session = begin(&registry, "app").await;
    let refused = append(&registry, &session, bytes.clone()).await;
    assert_refused(&refused, 507, "STORAGE_FULL", "PATCH");
    assert!(refused.header("retry-after").is_some(), "PATCH");
    assert_eq!(registry.get(&session).await.status(), 204, "the client may make room and go on");
    registry.send(Call::new("DELETE", &session)).await;
    assert_holds_nothing(&registry, "a refused PATCH").await;
    // The room is there again for what fits.
    registry.push_blob("app", content(500_000, 2)).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_push_of_unknown_length_ends_where_the_room_ends() {
    let registry = TestRegistry::builder().storage_max(32 << 20).cache_max(1 << 20).start().await;
    let session = begin(&registry, "app").await;
    let mut patch = Raw::begin(registry.address(), "PATCH", &session, "transfer-encoding: chunked\r\n").await;
    let piece = content(1 << 20, 1);
    for _ in 0..40 {
        let head = format!("{:x}\r\n", piece.len());
        patch.try_write([head.as_bytes(), &piece, b"\r\n"].concat()).await;
    }
    // The registry answers and closes while the client still sends; what it said may be lost on the way.
    let answer = String::from_utf8_lossy(&patch.until_closed().await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 507"), "{answer}");
    let on_disk = crate::support::registry::bytes_on_disk(&registry.store());
    assert!(on_disk <= 32 << 20, "the bound was passed: {on_disk}");
    registry.send(Call::new("DELETE", &session)).await;
    assert_holds_nothing(&registry, "a push without end").await;
    registry.finish().await;
}

#[tokio::test]
async fn of_a_post_whose_client_goes_away_nothing_stays() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(100_000, 1);
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&bytes));
    let mut post = Raw::begin(registry.address(), "POST", &path, "content-length: 100000\r\n").await;
    post.write(&bytes[..60_000]).await;
    let store = registry.store();
    registry.until("bytes arrive", |_| crate::support::registry::bytes_on_disk(&store) > 0).await;
    drop(post);
    // Nobody was told the name of this session, so nobody could ever continue or cancel it.
    registry.until("its space is given back", |registry| registry.sums().uploading == 0).await;
    registry.until("its file is removed", |_| crate::support::registry::bytes_on_disk(&store) == 0).await;
    registry.finish().await;
}

#[tokio::test]
async fn of_a_post_whose_http2_stream_is_reset_nothing_stays() {
    let registry = TestRegistry::builder().start().await;
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(b"never sent in full"));
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().expect("a client");
    let piece = futures::stream::once(async { Ok::<_, std::io::Error>(content(50_000, 1)) });
    let endless = reqwest::Body::wrap_stream(piece.chain(futures::stream::pending()));
    let post = tokio::spawn(client.post(registry.url(&path)).body(endless).send());
    let store = registry.store();
    registry.until("bytes arrive", |_| crate::support::registry::bytes_on_disk(&store) > 0).await;
    post.abort();
    // The request is dropped wherever it is, so its session cannot be removed there and then: it is the next to expire.
    let removing = async {
        while registry.sums().uploading > 0 {
            registry.registry().expire_uploads(Duration::from_hours(24)).await.expect("sessions can be removed");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), removing).await.expect("its space is given back");
    assert_holds_nothing(&registry, "a reset stream").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_manifest_beyond_the_stores_bound_is_refused() {
    let registry = TestRegistry::builder().storage_max(1 << 20).cache_max(1 << 20).start().await;
    let bytes = Bytes::from(index(&[]).to_string() + &" ".repeat(1 << 20));
    let refused = registry.push_manifest("app", "latest", INDEX, bytes).await;
    assert_refused(&refused, 507, "STORAGE_FULL", "a manifest");
    assert!(refused.header("retry-after").is_some());
    assert_holds_nothing(&registry, "a refused manifest").await;
    registry.finish().await;
}

#[tokio::test]
async fn a_cached_blob_that_is_pushed_is_never_evicted() {
    let fake = FakeUpstream::start().await;
    let blob = |seed| content(300_000, seed);
    let digests: Vec<_> = (1..=4).map(|seed| fake.push_blob("library/app", blob(seed))).collect();
    let registry =
        TestRegistry::builder().default_upstream(HUB, &fake).cache_max(700_000).storage_max(64 << 20).start().await;
    let path = |at: usize| format!("/v2/library/app/blobs/{}", digests[at]);
    assert_eq!(registry.get(&path(0)).await.status(), 200);
    registry.fills_end().await;
    assert!(registry.sums().cached > 0 && registry.sums().pushed == 0);

    let session = begin(&registry, "team/own").await;
    assert_eq!(close(&registry, &session, &digests[0], blob(1)).await.status(), 201);
    assert_eq!(registry.sums().cached, 0, "a blob both cached and pushed is pushed");
    // Each of these is older than the next, and the first is older than all.
    for at in 1..4 {
        assert_eq!(registry.get(&path(at)).await.status(), 200);
        registry.fills_end().await;
    }
    registry.until("victims are gone", |registry| registry.sums().deleting == 0).await;
    assert!(registry.sums().of_cache() <= 700_000);
    let answer = registry.get(&format!("/v2/team/own/blobs/{}", digests[0])).await;
    assert!(answer.looks_complete() && answer.body == blob(1));
    assert_eq!(answer.cache(), "local");
    registry.finish().await;
}
