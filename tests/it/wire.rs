//! What real clients do on the wire, and the answers without which they fail (docs/clients.md).

use bytes::Bytes;

use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{IMAGE, assert_refused, digest_of, push_image};
use crate::support::raw::Raw;
use crate::support::registry::{HUB, TestRegistry};
use crate::support::upstream::FakeUpstream;

/// A registry with one image, its manifest, and the layer's path.
async fn with_image() -> (TestRegistry, Bytes, Vec<u8>, String) {
    let registry = TestRegistry::builder().start().await;
    let layer = content(300_000, 1);
    let manifest = push_image(&registry, "app", "latest", &layer).await;
    let path = format!("/v2/app/blobs/{}", digest_of(&layer));
    (registry, manifest, layer, path)
}

#[tokio::test]
async fn a_tls_hello_is_told_that_this_is_http_and_the_connection_closed() {
    let registry = TestRegistry::builder().start().await;
    // docker, podman and skopeo try TLS first: whoever waits for more of a head costs them ten seconds a call.
    let mut whole = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    whole.resize(517, 7);
    for hello in [&whole[..], &whole[..11], &whole[..5], &whole[..1]] {
        let mut raw = Raw::to(registry.address()).await;
        raw.write(hello).await;
        let answer = raw.until_closed().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn nothing_is_ever_compressed() {
    let (registry, manifest, layer, blob) = with_image().await;
    for accepted in ["gzip", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5", "identity;q=0, gzip", "*"] {
        for (path, bytes) in [("/v2/app/manifests/latest", &manifest[..]), (blob.as_str(), &layer[..])] {
            let answer = registry.send(Call::get(path).header("accept-encoding", accepted)).await;
            assert_eq!((answer.status(), answer.header("content-encoding")), (200, None), "{path} {accepted}");
            assert!(answer.body == bytes, "{path} {accepted}");
            assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn accept_in_any_number_of_lines_changes_nothing() {
    let (registry, manifest, _, _) = with_image().await;
    let lines = [
        &["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", IMAGE][..],
        &["application/vnd.docker.distribution.manifest.v2+json, */*"],
        &["text/html"],
        &["nonsense;;;", ""],
        &[],
    ];
    for accept in lines {
        for method in ["GET", "HEAD"] {
            let call = accept
                .iter()
                .fold(Call::new(method, "/v2/app/manifests/latest"), |call, line| call.header("accept", line));
            let answer = registry.send(call).await;
            assert_eq!((answer.status(), answer.header("content-type")), (200, Some(IMAGE)), "{method} {accept:?}");
            assert_eq!(answer.body.len(), if method == "GET" { manifest.len() } else { 0 });
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn head_is_get_without_its_body_in_every_header() {
    let (registry, manifest, _, blob) = with_image().await;
    let by_digest = format!("/v2/app/manifests/{}", digest_of(&manifest));
    for path in ["/v2/app/manifests/latest", &by_digest, &blob] {
        let (head, get) = (registry.head(path).await, registry.get(path).await);
        assert_eq!((head.status(), head.body.len(), get.status()), (200, 0, 200), "{path}");
        assert_eq!(head.head.lasting(), get.head.lasting(), "{path}");
        assert_eq!(head.cache(), get.cache(), "{path}");
        for name in
            ["content-type", "content-length", "docker-content-digest", "docker-distribution-api-version", "etag"]
        {
            assert!(head.header(name).is_some(), "{path} has no {name}");
        }
    }
    assert_eq!(registry.head(&blob).await.header("accept-ranges"), Some("bytes"));
    registry.finish().await;
}

#[tokio::test]
async fn every_part_of_a_blob_can_be_had() {
    let (registry, _, layer, blob) = with_image().await;
    let size = layer.len();
    // (Range, the part, as `first..end`)
    let parts = [
        ("bytes=100000-", 100_000..size),
        ("bytes=0-", 0..size),
        ("bytes=0-0", 0..1),
        ("bytes=299999-", size - 1..size),
        ("bytes=10-19", 10..20),
        ("bytes=299990-999999", size - 10..size),
        ("bytes=-10", size - 10..size),
        ("bytes=-999999", 0..size),
    ];
    for (range, part) in parts {
        let answer = registry.send(Call::get(&blob).range(range)).await;
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(
            answer.header("content-range"),
            Some(format!("bytes {}-{}/{size}", part.start, part.end - 1).as_str())
        );
        assert_eq!(answer.header("content-length"), Some(part.len().to_string().as_str()), "{range}");
        assert!(answer.body == layer[part], "{range}");
    }
    for range in ["bytes=300000-", "bytes=300000-400000", "bytes=-0"] {
        let answer = registry.send(Call::get(&blob).range(range)).await;
        assert_refused(&answer, 416, "SIZE_INVALID", range);
        assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{range}");
    }
    for range in ["lines=0-1", "bytes", "bytes=a-b", "bytes=0-1,5-6", "bytes=--1", "0-10"] {
        let answer = registry.send(Call::get(&blob).range(range)).await;
        assert_eq!((answer.status(), answer.body.len()), (200, size), "{range}");
    }
    let other = registry.send(Call::get(&blob).range("bytes=10-").header("if-range", "\"sha256:other\"")).await;
    assert_eq!((other.status(), other.body.len()), (200, size), "the range of other content");
    registry.finish().await;
}

#[tokio::test]
async fn a_client_that_closes_each_connection_gets_it_closed() {
    let (registry, _, layer, blob) = with_image().await;
    let mut raw = Raw::begin(registry.address(), "GET", &blob, "connection: close\r\n").await;
    raw.try_write("").await;
    let answer = raw.until_closed().await;
    assert!(answer.ends_with(&layer));
    let head = String::from_utf8_lossy(&answer[..answer.len() - layer.len()]).to_ascii_lowercase();
    assert!(head.contains("connection: close\r\n"), "{head}");
    registry.finish().await;
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let (registry, manifest, layer, blob) = with_image().await;
    let mut raw = Raw::begin(registry.address(), "GET", "/v2/app/manifests/latest", "").await;
    raw.write(format!(
        "GET {blob} HTTP/1.1\r\nhost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    ))
    .await;
    let answers = raw.until_closed().await;
    let find = |needle: &[u8]| answers.windows(needle.len()).position(|window| window == needle);
    let (first, second) = (find(&manifest).expect("the manifest"), find(&layer).expect("the blob"));
    assert!(first < second && answers.ends_with(b"{}"));
    registry.finish().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_or_refused_unsent() {
    let registry = TestRegistry::builder().start().await;
    let bytes = content(100_000, 2);
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&bytes));
    let headers = "expect: 100-continue\r\ncontent-length: 100000\r\n";
    let mut post = Raw::begin(registry.address(), "POST", &path, headers).await;
    let interim = post.read(1000).await;
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{interim:?}");
    post.write(&bytes).await;
    assert_eq!(post.answer("POST").await.status(), 201);

    let refused = Raw::begin(registry.address(), "POST", "/v2/UPPER/blobs/uploads/", headers).await;
    assert_refused(&refused.answer("POST").await, 400, "NAME_INVALID", "a name that cannot be");
    registry.finish().await;
}

#[tokio::test]
async fn http2_without_tls_serves_the_same() {
    let (registry, manifest, layer, blob) = with_image().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    for (path, bytes) in [("/v2/app/manifests/latest", &manifest[..]), (blob.as_str(), &layer[..])] {
        let answer = client.get(registry.url(path)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
        assert_eq!(answer.headers()["docker-distribution-api-version"], "registry/2.0");
        assert!(answer.bytes().await.unwrap() == bytes, "{path}");
    }
    let bytes = content(200_000, 3);
    let path = format!("/v2/h2/blobs/uploads/?digest={}", digest_of(&bytes));
    let answer = client.post(registry.url(&path)).body(bytes.clone()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    let part = client.get(registry.url(&blob)).header("range", "bytes=-10").send().await.unwrap();
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(part.bytes().await.unwrap(), layer[layer.len() - 10..]);
    drop(client);
    registry.finish().await;
}

#[tokio::test]
async fn the_namespace_a_client_names_is_echoed_and_no_other_is_contacted() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image("library/small", "1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let layer = image.layers[0];
    for path in [format!("/v2/library/small/manifests/1?ns={HUB}"), format!("/v2/library/small/blobs/{layer}?ns={HUB}")]
    {
        for method in ["HEAD", "GET"] {
            let answer = registry.send(Call::new(method, &path)).await;
            assert_eq!((answer.status(), answer.header("oci-namespace")), (200, Some(HUB)), "{method} {path}");
        }
    }
    registry.fills_end().await;
    let before = fake.requests().len();
    for ns in ["other.example", "127.0.0.1", "", "UPPER", "..", "%00"] {
        let answer = registry.get(&format!("/v2/library/small/manifests/1?ns={ns}")).await;
        assert_refused(&answer, 404, "NAME_UNKNOWN", ns);
    }
    assert_eq!(fake.requests().len(), before);
    registry.finish().await;
}

#[tokio::test]
async fn no_page_of_another_origin_may_read_unless_it_is_configured() {
    let origin = "https://ui.example";
    let closed = TestRegistry::builder().start().await;
    let answer = closed.send(Call::get("/v2/").header("origin", origin)).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    closed.finish().await;
    let open =
        TestRegistry::builder().config(|config| config.http.cors_origins = vec![origin.to_owned()]).start().await;
    for (asked, allowed) in [(origin, Some(origin)), ("https://other.example", None)] {
        let answer = open.send(Call::get("/v2/").header("origin", asked)).await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{asked}");
        let preflight = open.send(Call::new("OPTIONS", "/v2/app/manifests/1").header("origin", asked)).await;
        assert_eq!(preflight.header("access-control-allow-origin"), allowed, "{asked}");
    }
    open.finish().await;
}
