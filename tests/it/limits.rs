//! What one client may take: connections, requests, heads, bodies that nobody wants; and who it is behind proxies.

use std::net::SocketAddr;

use entrepot::config::{Network, ProxyProtocol};

use crate::support::client::Call;
use crate::support::push::{IMAGE, push_image};
use crate::support::raw::Raw;
use crate::support::registry::{Builder, TestRegistry};

const KEPT_ALIVE: &str = "GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n";

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| Network(text.parse().unwrap())).collect()
}

fn behind(proxies: &'static str) -> Builder {
    TestRegistry::builder().config(move |config| config.http.trusted_proxies = networks(&[proxies]))
}

fn refused(registry: &TestRegistry, limit: &str) -> u64 {
    let start = format!("entrepot_refused_total{{limit=\"{limit}\"}} ");
    let metrics = registry.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn a_client_with_too_many_connections_is_closed_and_may_come_again() {
    let registry = TestRegistry::builder().config(|config| config.http.connections_per_client_max = 2).start().await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = Raw::to(registry.address()).await;
        connection.write(KEPT_ALIVE).await;
        assert!(connection.first_bytes().await.starts_with(b"HTTP/1.1 200 "));
        open.push(connection);
    }
    let mut third = Raw::to(registry.address()).await;
    third.try_write(KEPT_ALIVE).await;
    assert_eq!(third.until_closed().await, b"");
    registry.until("it is counted", |it| refused(it, "http.connections_per_client_max") == 1).await;
    for limit in [
        r#"{limit="http.connections_per_client_max"} 2"#,
        r#"{limit="http.header_bytes_max"} 65536"#,
        r#"{limit="http.header_timeout"} 10"#,
        r#"{limit="http.tls.handshake_timeout"} 10"#,
    ] {
        assert!(registry.metrics().contains(&format!("entrepot_limit{limit}")), "{limit}");
    }
    open.pop();
    let again = async { while registry.get("/v2/").await.status() != 200 {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), again).await.expect("there is room again");
    drop(open);
    registry.finish().await;
}

#[tokio::test]
async fn a_proxy_may_have_as_many_connections_as_its_clients_need() {
    let registry = behind("127.0.0.0/8").config(|config| config.http.connections_per_client_max = 1).start().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = Raw::to(registry.address()).await;
        connection.write(KEPT_ALIVE).await;
        assert!(connection.first_bytes().await.starts_with(b"HTTP/1.1 200 "));
        open.push(connection);
    }
    drop(open);
    registry.finish().await;
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let limited = |config: &mut entrepot::config::Config| {
        (config.http.requests_per_second_max, config.http.requests_burst_max) = (1, 3);
    };
    let registry = TestRegistry::builder().config(limited).start().await;
    for _ in 0..3 {
        assert_eq!(registry.get("/v2/").await.status(), 200);
    }
    // However slow this machine is, one in a second cannot keep up with this.
    let mut answer = registry.get("/v2/").await;
    while answer.status() == 200 {
        answer = registry.get("/v2/").await;
    }
    assert_eq!((answer.status(), answer.code().as_str()), (429, "TOOMANYREQUESTS"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.message().contains("http.requests_per_second_max"));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(registry.get(path).await.status(), 200, "{path} must always be answered");
    }
    assert!(refused(&registry, "http.requests_per_second_max") >= 1);
    registry.finish().await;

    let behind = behind("127.0.0.0/8").config(limited).start().await;
    let by = |client: &str| Call::get("/v2/").header("x-forwarded-for", client);
    let mut statuses = Vec::new();
    for n in 0..20 {
        statuses.push(behind.send(by("192.0.2.1")).await.status());
        assert_eq!(behind.send(by(&format!("192.0.2.{}", n + 2))).await.status(), 200, "another client");
        assert_eq!(behind.get("/v2/").await.status(), 200, "the proxy itself");
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    behind.finish().await;
}

#[tokio::test]
async fn the_admin_api_believes_a_trusted_proxy_and_nobody_else() {
    let registry = behind("127.0.0.0/8")
        .config(|config| config.http.admin_from = networks(&["127.0.0.0/8", "192.0.2.0/24"]))
        .start()
        .await;
    for (header, value, status) in [
        ("x-forwarded-for", "192.0.2.7", 200),
        ("x-forwarded-for", "198.51.100.7", 403),
        ("x-forwarded-for", "127.0.0.1, 198.51.100.7", 403),
        ("forwarded", "for=192.0.2.7", 200),
        ("forwarded", "for=_hidden", 403),
    ] {
        let answer = registry.send(Call::get("/api/v1/fills").header(header, value)).await;
        assert_eq!(answer.status(), status, "{header}: {value}");
    }
    let silent = registry.get("/api/v1/fills").await;
    assert_eq!(silent.status(), 403, "a proxy that does not say for whom it asks");
    assert!(silent.message().contains("http.trusted_proxies"), "{}", silent.message());
    registry.finish().await;
}

/// The header of version 2 for a client over IPv4.
fn introduction(client: &str) -> Vec<u8> {
    let SocketAddr::V4(client) = client.parse().unwrap() else { panic!("an address of version 4") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client.ip().octets());
    header.extend([10, 0, 0, 1]);
    header.extend(client.port().to_be_bytes());
    header.extend([1, 187]);
    header
}

#[tokio::test]
async fn the_proxy_protocol_says_whose_a_connection_is() {
    let registry = behind("127.0.0.0/8")
        .config(|config| {
            config.http.proxy_protocol = ProxyProtocol::Required;
            config.http.admin_from = networks(&["127.0.0.0/8", "192.0.2.0/24"]);
        })
        .start()
        .await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    for (header, path, status) in [
        (introduction("192.0.2.7:4711"), "/api/v1/fills", "200"),
        (introduction("198.51.100.7:4711"), "/api/v1/fills", "403"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), "/api/v1/fills", "200"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "/api/v1/fills", "403"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "/healthz", "200"),
    ] {
        // In two pieces, as a network may deliver it.
        let mut client = Raw::to(registry.address()).await;
        client.write(&header[..5]).await;
        client.write([&header[5..], request(path).as_bytes()].concat()).await;
        let answer = String::from_utf8(client.until_closed().await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{header:?} {path}: {answer}");
    }
    let mut without = Raw::to(registry.address()).await;
    without.write(request("/healthz")).await;
    assert_eq!(without.until_closed().await, b"");
    registry.until("it is counted", |it| refused(it, "http.proxy_protocol") == 1).await;
    registry.finish().await;

    let stranger =
        behind("10.0.0.0/8").config(|config| config.http.proxy_protocol = ProxyProtocol::Required).start().await;
    let mut client = Raw::to(stranger.address()).await;
    client.try_write([&introduction("192.0.2.7:1")[..], request("/healthz").as_bytes()].concat()).await;
    assert_eq!(client.until_closed().await, b"");
    stranger.until("it is counted", |it| refused(it, "http.proxy_protocol") == 1).await;
    stranger.finish().await;
}

#[tokio::test]
async fn a_body_that_nobody_wants_holds_nothing() {
    let registry = TestRegistry::builder().start().await;
    push_image(&registry, "team/app", "v1", b"layer").await;
    let digest = crate::support::push::digest_of(b"layer");
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/_catalog".to_owned()),
        ("GET", "/v2/team/app/tags/list".to_owned()),
        ("GET", "/v2/team/app/manifests/v1".to_owned()),
        ("GET", format!("/v2/team/app/blobs/{digest}")),
        ("GET", format!("/v2/team/app/referrers/{digest}")),
        ("DELETE", "/v2/team/app/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/team/app/blobs/{digest}")),
        ("POST", "/v2/team/app/blobs/uploads/?mount=no-digest".to_owned()),
        ("POST", "/v2/nothing".to_owned()),
        ("GET", "/api/v1/fills".to_owned()),
        ("GET", "/healthz".to_owned()),
        ("GET", "/readyz".to_owned()),
        ("GET", "/metrics".to_owned()),
        ("POST", "/metrics".to_owned()),
        ("GET", "/nothing".to_owned()),
    ] {
        let framing = "transfer-encoding: chunked\r\n";
        let mut client = Raw::begin(registry.address(), method, &path, framing).await;
        // It may have hung up already.
        client.try_write("15\r\na body that never ends\r\n").await;
        let answer = client.until_closed().await;
        assert!(answer.starts_with(b"HTTP/1.1 "), "{method} {path}: {:?}", String::from_utf8_lossy(&answer));
    }
    registry.finish().await;
}

#[tokio::test]
async fn heads_that_contradict_themselves_are_refused_and_counted() {
    let registry = TestRegistry::builder().start().await;
    let long = format!("GET /v2/ HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(80 * 1024));
    let many = format!("GET /v2/ HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (status, head) in [
        ("400", "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
        ("400", "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n"),
        ("400", "GET /v2/ HTTP/1.1\r\nhost: a\r\nna me: x\r\n\r\n"),
        ("431", &long),
        ("431", &many),
    ] {
        let mut client = Raw::to(registry.address()).await;
        client.try_write(head).await;
        let answer = client.until_closed().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer} to {}", &head[..60]);
    }
    registry.until("all are counted", |registry| refused(registry, "malformed") == 5).await;
    registry.finish().await;
}

#[tokio::test]
async fn json_of_any_depth_is_refused_without_harm() {
    let registry = TestRegistry::builder().start().await;
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{open}{close}");
    let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for body in [
        nested.clone(),
        open,
        objects.clone(),
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{IMAGE}\",\"annotations\":{{\"a\":{nested}}}}}"),
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{IMAGE}\",\"config\":{nested},\"layers\":[]}}"),
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{IMAGE}\",\"layers\":{objects}}}"),
    ] {
        let push = Call::new("PUT", "/v2/team/app/manifests/v1").header("content-type", IMAGE).body(body);
        let answer = registry.send(push).await;
        assert_eq!((answer.status(), answer.code().as_str()), (400, "MANIFEST_INVALID"), "{answer:?}");
    }
    registry.finish().await;
}
