//! Outages: what is tried again, how often, and for how long.

use std::time::Duration;

use entrepot::upstream::{Error, Nonsense, Options, Upstream, Wait};
use tokio::net::TcpListener;

use super::{REPOSITORY, client, content, fetch_whole, options, reference, repository};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

async fn with_image() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake
}

async fn pull(upstream: &Upstream) -> Result<(), Error> {
    upstream.fetch_manifest(&repository(), &reference("1")).await.map(|_| ())
}

#[tokio::test]
async fn a_transient_failure_is_tried_again() {
    for fault in [
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::status(408),
        Fault::Hangup,
    ] {
        let fake = with_image().await;
        fake.fault(On::any().times(3), fault);
        pull(&client(&fake)).await.unwrap();
        assert_eq!(fake.requests().manifests_got("1"), 4);
    }
}

#[tokio::test]
async fn retries_end() {
    let fake = with_image().await;
    fake.fault(On::any(), Fault::Status(503, vec![("retry-after", "30".to_owned())]));
    let error = pull(&client(&fake)).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 503, .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    assert_eq!(fake.requests().len(), 4);
}

#[tokio::test]
async fn what_will_not_change_is_not_tried_again() {
    let fake = with_image().await;
    for status in [400, 404, 405, 410, 451, 501] {
        fake.heal();
        fake.fault(On::any(), Fault::status(status));
        let before = fake.requests().len();
        assert!(!pull(&client(&fake)).await.unwrap_err().is_transient());
        assert_eq!(fake.requests().len() - before, 1, "{status}");
    }
}

#[tokio::test]
async fn a_rate_limit_is_respected() {
    let fake = with_image().await;
    fake.fault(On::any().times(1), Fault::rate_limited(60));
    let error = pull(&client(&fake)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), ("rate_limited", Some(Duration::from_mins(1))));
    assert_eq!(fake.requests().len(), 1);
    fake.fault(On::any().times(1), Fault::rate_limited(0));
    pull(&client(&fake)).await.unwrap();
}

#[tokio::test]
async fn a_blob_is_retried_until_its_head_came() {
    let fake = FakeUpstream::start().await;
    let bytes = content(10);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest).get().times(2), Fault::status(502));
    assert_eq!(fetch_whole(&client(&fake), &digest).await.unwrap(), bytes);
    assert_eq!(fake.requests().blobs_got(&digest), 3);
}

#[tokio::test]
async fn only_the_request_that_was_meant_fails() {
    let fake = with_image().await;
    fake.fault(On::manifest("1").head().after(1).times(1), Fault::status(404));
    let upstream = client(&fake);
    let head = async || upstream.head_manifest(&repository(), &reference("1")).await.is_ok();
    assert_eq!((head().await, head().await, head().await), (true, false, true));
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_no_connection_and_its_return_is_noticed() {
    let mut fake = with_image().await;
    let upstream = client(&fake);
    pull(&upstream).await.unwrap();
    fake.stop().await;
    let error = pull(&upstream).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.is_transient());
    fake.restart().await;
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_silent_upstream_ends_at_the_first_byte_limit() {
    let fake = with_image().await;
    fake.fault(On::any(), Fault::Silent);
    let limits = Options { first_byte_timeout: Duration::from_millis(200), retries: 1, ..options(&fake) };
    let error = pull(&Upstream::new(limits).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: Wait::FirstByte, .. }), "{error:?}");
}

#[tokio::test]
async fn an_operation_ends_at_its_own_limit_whatever_it_waits_for() {
    let fake = with_image().await;
    fake.fault(On::any(), Fault::Silent);
    let limits = Options { answer_timeout: Duration::from_millis(200), ..options(&fake) };
    let error = pull(&Upstream::new(limits).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: Wait::Answer, .. }), "{error:?}");
}

#[tokio::test]
async fn a_slow_first_byte_is_waited_for() {
    let fake = with_image().await;
    let gate = Gate::closed();
    fake.fault(On::any(), Fault::SlowFirstByte(gate.clone()));
    let upstream = client(&fake);
    let release = async {
        fake.until(|requests| requests.len() == 1).await;
        gate.let_pass(1);
    };
    let (pulled, ()) = tokio::join!(pull(&upstream), release);
    pulled.unwrap();
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_cancelled_pull_leaves_the_client_usable() {
    let fake = with_image().await;
    fake.fault(On::any().times(1), Fault::Silent);
    let upstream = client(&fake);
    tokio::select! {
        result = pull(&upstream) => panic!("a silent upstream answered: {result:?}"),
        () = fake.until(|requests| requests.len() == 1) => {}
    }
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_nonsense() {
    let fake = with_image().await;
    fake.fault(On::any(), Fault::NotHttp);
    let error = pull(&client(&fake)).await.unwrap_err();
    assert!(matches!(error, Error::Nonsense { what: Nonsense::Http, .. }), "{error:?}");
}

#[tokio::test]
async fn a_listener_that_never_accepts_tls_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let limits = Options::new("fake.example".parse().unwrap(), url);
    let limits = Options { connect_timeout: Duration::from_millis(200), retries: 0, ..limits };
    let error = pull(&Upstream::new(limits).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: Wait::Connection, .. }), "{error:?}");
}
