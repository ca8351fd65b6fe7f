//! The way to an upstream: whom to believe, who we are, proxies, and how many connections it takes.

use std::sync::Arc;
use std::time::Duration;

use entrepot::upstream::{Error, Options, Route, SourceOptions, Tls, Upstream};
use futures::future::join_all;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsAcceptor;

use super::{REPOSITORY, content, fetch_whole, options, reference, repository};
use crate::support::front::{Authority, Front};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

async fn with_image() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake
}

/// A client that reaches the upstream through this front.
fn client_at(url: &str, change: impl FnOnce(&mut Options)) -> Upstream {
    let mut options = Options::new("fake.example".parse().unwrap(), url.parse().unwrap());
    options.retries = 0;
    change(&mut options);
    Upstream::new(options).unwrap()
}

fn https(front: &Front) -> String {
    format!("https://{}", front.address)
}

async fn pull(upstream: &Upstream) -> Result<(), Error> {
    upstream.fetch_manifest(&repository(), &reference("1")).await.map(|_| ())
}

#[tokio::test]
async fn pain_29_a_private_authority_is_believed_when_it_is_named() {
    let (fake, authority) = (with_image().await, Authority::new());
    let front = Front::tls(fake.address(), authority.server(&LOOPBACK)).await;
    let error = pull(&client_at(&https(&front), |_| {})).await.unwrap_err();
    assert_eq!(error.kind(), "connect", "{error}");
    let named = client_at(&https(&front), |options| options.tls.ca = Some(authority.pem.clone()));
    pull(&named).await.unwrap();
    let stranger = Authority::new();
    let other = client_at(&https(&front), |options| options.tls.ca = Some(stranger.pem));
    assert_eq!(pull(&other).await.unwrap_err().kind(), "connect");
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn insecure_believes_the_upstreams_host_and_not_where_it_leads() {
    let (fake, authority) = (with_image().await, Authority::new());
    let front = Front::tls(fake.address(), authority.server(&["elsewhere.example"])).await;
    let insecure = Tls { insecure: true, ..Tls::default() };
    let upstream = client_at(&https(&front), |options| options.tls = insecure);
    pull(&upstream).await.unwrap();
    fake.fault(On::any().times(1), Fault::RedirectTo(format!("https://localhost:{}", front.address.port())));
    let error = pull(&upstream).await.unwrap_err();
    assert_eq!(error.kind(), "connect", "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");
}

#[tokio::test]
async fn our_certificate_is_shown_to_the_upstream_and_to_nobody_else() {
    let (fake, authority) = (with_image().await, Authority::new());
    let bytes = content(100);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let front = Front::tls(fake.address(), authority.server(&LOOPBACK)).await;
    let (certificate, key) = authority.identity(&["me"]);
    let tls = Tls { ca: Some(authority.pem), identity: Some(format!("{certificate}{key}").into()), insecure: false };
    let upstream = client_at(&https(&front), |options| options.tls = tls);
    pull(&upstream).await.unwrap();
    assert_eq!(fetch_whole(&upstream, &digest).await.unwrap(), bytes);
    assert_eq!(front.seen(), ["certificate", "certificate"], "one for short questions, one for blobs");
    fake.fault(On::any().times(1), Fault::RedirectTo(format!("https://localhost:{}", front.address.port())));
    pull(&upstream).await.unwrap();
    assert_eq!(front.seen(), ["certificate", "certificate", "anonymous"]);
}

#[tokio::test]
async fn settings_that_cannot_work_are_known_at_the_start() {
    let url = "https://a.example".parse().unwrap();
    let options = Options::new("a.example".parse().unwrap(), url);
    for tls in [
        Tls { identity: Some("hunter2".into()), ..Tls::default() },
        Tls { ca: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()), ..Tls::default() },
    ] {
        let error = Upstream::new(Options { tls, ..options.clone() }).unwrap_err();
        assert_eq!(error.kind(), "setup");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let none = Options { sources: Vec::<SourceOptions>::new(), ..options };
    assert_eq!(Upstream::new(none).unwrap_err().kind(), "no_source");
}

#[tokio::test]
async fn an_http_proxy_is_asked_with_its_credentials() {
    let fake = with_image().await;
    let proxy = Front::http_proxy(fake.address()).await;
    let route = Route::Through(format!("http://me:hunter2@{}", proxy.address).into());
    let upstream = client_at("http://registry.example", |options| options.route = route);
    pull(&upstream).await.unwrap();
    let asked = format!("GET http://registry.example/v2/{REPOSITORY}/manifests/1 HTTP/1.1 Basic bWU6aHVudGVyMg==");
    assert_eq!(proxy.seen(), [asked]);
}

#[tokio::test]
async fn a_socks_proxy_resolves_the_name_and_gets_its_credentials() {
    let fake = with_image().await;
    let proxy = Front::socks_proxy(fake.address()).await;
    let route = Route::Through(format!("socks5h://me:hunter2@{}", proxy.address).into());
    let upstream = client_at("http://registry.example", |options| options.route = route);
    pull(&upstream).await.unwrap();
    assert_eq!(proxy.seen(), ["me:hunter2 registry.example:80"]);
}

#[tokio::test]
async fn a_proxy_that_is_gone_is_no_connection_and_its_password_no_news() {
    for scheme in ["http", "socks5h"] {
        let route = Route::Through(format!("{scheme}://me:hunter2@127.0.0.1:1").into());
        let upstream = client_at("https://registry.example", |options| options.route = route);
        let error = pull(&upstream).await.unwrap_err();
        assert_eq!(error.kind(), "connect", "{error}");
        assert!(!format!("{error} {error:?} {upstream:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_used_again() {
    let fake = with_image().await;
    let digest = fake.push_blob(REPOSITORY, content(100_000));
    let door = Front::door(fake.address()).await;
    let upstream = client_at(&format!("http://{}", door.address), |_| {});
    for _ in 0..5 {
        pull(&upstream).await.unwrap();
        fetch_whole(&upstream, &digest).await.unwrap();
    }
    assert_eq!((fake.requests().len(), door.seen().len()), (10, 2), "one for short questions, one for blobs");
}

#[tokio::test]
async fn short_questions_share_one_http2_connection_and_blobs_have_their_own() {
    let authority = Authority::new();
    let mut config = authority.server(&LOOPBACK);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let front = Front::new(move |stream, seen| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await?;
            let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
            seen.note(String::from_utf8_lossy(&protocol));
            let answer = service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from("{}"))))
            });
            let connection = TokioIo::new(stream);
            // A client that goes away ends it.
            let _ = if protocol == b"h2" {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(connection, answer)
                    .await
            } else {
                hyper::server::conn::http1::Builder::new().serve_connection(connection, answer).await
            };
            Ok(())
        }
    })
    .await;
    let upstream = client_at(&https(&front), |options| options.tls.ca = Some(authority.pem));
    pull(&upstream).await.unwrap();
    assert!(join_all((0..20).map(|_| pull(&upstream))).await.iter().all(Result::is_ok));
    assert_eq!(front.seen(), ["h2"]);
    let digest = entrepot::oci::Digest::of(entrepot::oci::Algorithm::Sha256, b"{}");
    assert_eq!(fetch_whole(&upstream, &digest).await.unwrap(), b"{}");
    assert_eq!(front.seen(), ["h2", "http/1.1"]);
}

#[tokio::test]
async fn questions_wait_for_their_turn_and_blobs_do_not() {
    let fake = with_image().await;
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::manifest("1").get(), Fault::SlowFirstByte(gate.clone()));
    let upstream = Upstream::new(Options { connections_max: 1, ..options(&fake) }).unwrap();
    let beside = async {
        fake.until(|requests| requests.len() == 1).await;
        assert_eq!(fetch_whole(&upstream, &digest).await.unwrap(), bytes);
        assert_eq!(fake.requests().manifests_got("1"), 1, "the second question went out beside the first");
        gate.let_pass(2);
    };
    let (first, second, ()) = tokio::join!(pull(&upstream), pull(&upstream), beside);
    first.unwrap();
    second.unwrap();
    assert_eq!(fake.requests().manifests_got("1"), 2);
}

#[tokio::test]
async fn a_question_that_gets_no_turn_says_so() {
    let fake = with_image().await;
    fake.fault(On::any(), Fault::Drip(Gate::closed(), 10));
    let limits =
        Options { connections_max: 1, first_byte_timeout: Duration::from_millis(300), retries: 0, ..options(&fake) };
    let upstream = Upstream::new(limits).unwrap();
    let hold = pull(&upstream);
    let ask = async {
        fake.until(|requests| requests.len() == 1).await;
        pull(&upstream).await.unwrap_err()
    };
    tokio::select! {
        held = hold => panic!("the manifest that drips came to an end: {held:?}"),
        error = ask => assert_eq!(error.kind(), "busy", "{error}"),
    }
}
