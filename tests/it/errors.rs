//! Malformed, overlong, traversal-shaped and contradictory requests: the specification's error, and nothing stored.

use crate::support::client::Call;
use crate::support::push::{assert_holds_nothing, assert_refused, digest_of};
use crate::support::raw::Raw;
use crate::support::registry::TestRegistry;

const NAMES: &[&str] = &[
    "UPPER",
    "a//b",
    "/a",
    "-a",
    "a-",
    "a.",
    ".a",
    "a..b",
    "..",
    ".",
    "a/../b",
    "../a",
    "a/.",
    "_a",
    "a_",
    "a___b",
    "a b+",
    "a%2fb",
    "a%2Fb",
    "%2e%2e",
    "%2e%2e/%2e%2e/etc",
    "a%252fb",
    "a%00b",
    "a%0ab",
    "%c3%a9",
    "\u{e9}",
    "a\u{202e}b",
    "\u{ff41}",
    "a\\b",
    "a:b:c/d",
    "a@b",
    "a*",
    "~a",
    "a;b",
    "a|b",
];

const DIGESTS: &[&str] = &[
    "sha256:",
    "sha256:abc",
    "sha256",
    ":",
    "latest",
    "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550",
    "sha256:g3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:..",
    "\u{e9}:\u{e9}",
];

/// Every endpoint that takes a name, with that name in its place.
fn endpoints(name: &str) -> [(&'static str, String); 12] {
    let digest = digest_of(b"x");
    let id = "00000000-0000-4000-8000-000000000000";
    [
        ("GET", format!("/v2/{name}/manifests/latest")),
        ("PUT", format!("/v2/{name}/manifests/latest")),
        ("DELETE", format!("/v2/{name}/manifests/{digest}")),
        ("GET", format!("/v2/{name}/blobs/{digest}")),
        ("DELETE", format!("/v2/{name}/blobs/{digest}")),
        ("POST", format!("/v2/{name}/blobs/uploads/")),
        ("POST", format!("/v2/{name}/blobs/uploads/?digest={digest}")),
        ("GET", format!("/v2/{name}/blobs/uploads/{id}")),
        ("PATCH", format!("/v2/{name}/blobs/uploads/{id}")),
        ("PUT", format!("/v2/{name}/blobs/uploads/{id}?digest={digest}")),
        ("GET", format!("/v2/{name}/tags/list")),
        ("GET", format!("/v2/{name}/referrers/{digest}")),
    ]
}

#[tokio::test]
async fn names_outside_the_grammar_are_refused_by_every_endpoint() {
    let registry = TestRegistry::builder().start().await;
    let long = "a".repeat(256);
    for name in NAMES.iter().copied().chain([long.as_str()]) {
        let name = name.replace(' ', "%20");
        for (method, path) in endpoints(&name) {
            let answer = registry.send(Call::new(method, &path).body("x")).await;
            assert_refused(&answer, 400, "NAME_INVALID", &format!("{method} {path}"));
            assert!(answer.message().len() < 300, "{}", answer.message());
        }
    }
    assert_holds_nothing(&registry, "malformed names").await;
    registry.finish().await;
}

#[tokio::test]
async fn digests_outside_the_grammar_are_refused() {
    let registry = TestRegistry::builder().start().await;
    let long = format!("sha256:{}", "0".repeat(5000));
    for digest in DIGESTS.iter().copied().chain([long.as_str()]) {
        for (method, path) in [("GET", "blobs"), ("DELETE", "blobs"), ("GET", "referrers")] {
            let path = format!("/v2/app/{path}/{digest}");
            assert_refused(&registry.send(Call::new(method, &path)).await, 400, "DIGEST_INVALID", &path);
        }
        if digest.contains(':') {
            for method in ["GET", "DELETE"] {
                let path = format!("/v2/app/manifests/{digest}");
                assert_refused(&registry.send(Call::new(method, &path)).await, 400, "DIGEST_INVALID", &path);
            }
        }
    }
    let twice = format!("/v2/app/blobs/{}", digest_of(b"x").to_string().replace(':', "%253A"));
    assert_refused(&registry.get(&twice).await, 400, "NAME_INVALID", "encoded twice");
    assert_holds_nothing(&registry, "malformed digests").await;
    registry.finish().await;
}

#[tokio::test]
async fn tags_that_cannot_exist_do_not_exist() {
    let registry = TestRegistry::builder().start().await;
    for tag in ["-a", ".a", "..", "a@b", "a+b", "\u{e9}", "", &"a".repeat(129)] {
        let path = format!("/v2/app/manifests/{tag}");
        assert_refused(&registry.get(&path).await, 404, "MANIFEST_UNKNOWN", &path);
    }
    for tag in ["%2e%2e", "a%2fb", "%00", "%E9", "a%25"] {
        let path = format!("/v2/app/manifests/{tag}");
        assert_refused(&registry.get(&path).await, 400, "NAME_INVALID", &path);
    }
    registry.finish().await;
}

#[tokio::test]
async fn paths_of_no_endpoint_are_refused() {
    let registry = TestRegistry::builder().start().await;
    let paths = [
        "/v2/app",
        "/v2/app/",
        "/v2/app/blobs",
        "/v2/app/tags",
        "/v2/app/tags/x",
        "/v2/../etc/passwd",
        "/v2//",
        "/v2/%2e",
    ];
    for path in paths {
        let answer = registry.get(path).await;
        assert_refused(&answer, 404, "UNSUPPORTED", path);
    }
    for path in ["/v1/search?q=a", "/v1/_ping", "/etc/passwd", "/../../etc/passwd", "/v3/", "//v2/"] {
        let answer = registry.get(path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (404, "UNSUPPORTED"), "{path}: {:?}", answer.body);
    }
    registry.finish().await;
}

#[tokio::test]
async fn methods_an_endpoint_does_not_take_are_told_those_it_takes() {
    let registry = TestRegistry::builder().start().await;
    let digest = digest_of(b"x");
    let id = "00000000-0000-4000-8000-000000000000";
    let endpoints = [
        ("/v2/".to_owned(), "GET, HEAD"),
        ("/v2/_catalog".to_owned(), "GET, HEAD"),
        ("/v2/app/tags/list".to_owned(), "GET, HEAD"),
        ("/v2/app/manifests/latest".to_owned(), "GET, HEAD, PUT, DELETE"),
        (format!("/v2/app/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/app/blobs/uploads/".to_owned(), "POST"),
        (format!("/v2/app/blobs/uploads/{id}"), "GET, PATCH, PUT, DELETE"),
        (format!("/v2/app/referrers/{digest}"), "GET, HEAD"),
    ];
    for (path, allow) in endpoints {
        for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let answer = registry.send(Call::new(method, &path).body("")).await;
            assert_eq!((answer.status(), answer.header("allow")), (405, Some(allow)), "{method} {path}");
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
            if method != "HEAD" {
                assert_refused(&answer, 405, "UNSUPPORTED", &format!("{method} {path}"));
            }
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn an_error_to_head_has_the_headers_of_get_and_no_body() {
    let registry = TestRegistry::builder().start().await;
    let digest = digest_of(b"x");
    for path in [
        "/v2/app/manifests/latest".to_owned(),
        format!("/v2/app/manifests/{digest}"),
        format!("/v2/app/blobs/{digest}"),
        "/v2/app/blobs/sha256:x".to_owned(),
        "/v2/UPPER/tags/list".to_owned(),
        "/v2/nowhere".to_owned(),
        "/v2/_catalog?n=x".to_owned(),
    ] {
        let (head, get) = (registry.head(&path).await, registry.get(&path).await);
        assert!(get.status() >= 400, "{path}");
        assert_eq!((head.status(), head.body.len()), (get.status(), 0), "{path}");
        assert_eq!(head.head.lasting(), get.head.lasting(), "{path}");
        // A client of HTTP/2 takes bytes after the head for a broken answer.
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        let answer = client.head(registry.url(&path)).send().await.unwrap();
        let length = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
        assert_eq!(length, Some(get.body.len().to_string()), "{path}");
        assert_eq!(answer.bytes().await.unwrap().len(), 0, "{path}");
    }
    registry.finish().await;
}

/// What the HTTP parser itself refuses never becomes a request to the registry, so it has no error of the specification.
#[tokio::test]
async fn what_is_not_http_is_refused_and_the_connection_closed() {
    let registry = TestRegistry::builder().start().await;
    let post = "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nhost: x\r\n";
    let many = "x: y\r\n".repeat(500);
    let cases = [
        ("a NUL in the path", "GET /v2/a\0b/tags/list HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
        ("a blank in the path", "GET /v2/a b/tags/list HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
        ("a NUL in a header", "GET /v2/ HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n".to_owned()),
        ("a header without a colon", "GET /v2/ HTTP/1.1\r\nhost: x\r\nnonsense\r\n\r\n".to_owned()),
        ("a folded header", "GET /v2/ HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n".to_owned()),
        ("another protocol", "SSH-2.0-OpenSSH\r\n\r\n".to_owned()),
        ("another version", "GET /v2/ HTTP/3.7\r\nhost: x\r\n\r\n".to_owned()),
        ("a huge header", format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000))),
        ("a huge path", format!("GET /v2/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000))),
        ("many headers", format!("GET /v2/ HTTP/1.1\r\nhost: x\r\n{many}\r\n")),
        ("two lengths", format!("{post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!")),
        ("a negative length", format!("{post}content-length: -1\r\n\r\n")),
        ("a length of letters", format!("{post}content-length: five\r\n\r\nhello")),
        ("a huge length", format!("{post}content-length: 99999999999999999999\r\n\r\nhello")),
        ("a coding that does not end in chunked", format!("{post}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n")),
        ("an unknown coding", format!("{post}transfer-encoding: gzip\r\n\r\nhello")),
    ];
    for (what, request) in cases {
        let mut raw = Raw::to(registry.address()).await;
        raw.try_write(&request).await;
        let answer = String::from_utf8_lossy(&raw.until_closed().await).into_owned();
        // Of a head that is cut short the answer may be lost, because unread bytes reset the connection.
        let may_be_lost = request.len() > 60_000 && answer.is_empty();
        let refused = ["HTTP/1.1 400", "HTTP/1.1 414", "HTTP/1.1 431", "HTTP/1.1 501", "HTTP/1.1 505"];
        assert!(may_be_lost || refused.iter().any(|status| answer.starts_with(status)), "{what}: {answer:?}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: {answer:?}");
    }
    assert_holds_nothing(&registry, "what is not HTTP").await;
    assert_eq!(registry.get("/v2/").await.status(), 200);
    registry.finish().await;
}

/// RFC 9112, 6.1: such a request may be an attempt at smuggling; whoever takes it must close the connection afterwards.
#[tokio::test]
async fn a_length_beside_chunked_coding_smuggles_nothing() {
    let registry = TestRegistry::builder().start().await;
    let smuggled = "GET /v2/_catalog HTTP/1.1\r\nhost: x\r\n\r\n";
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(b"hello"));
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}",
        15 + smuggled.len()
    );
    let mut raw = Raw::to(registry.address()).await;
    raw.try_write(&request).await;
    let answer = String::from_utf8_lossy(&raw.until_closed().await).into_owned();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 201") || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(!answer.contains("repositories"), "{answer}");
    registry.finish().await;
}
