//! Several sources of one upstream: who is asked, who is passed by, and what is said of content when they disagree.

use std::time::Duration;

use entrepot::clock::Clock;
use entrepot::upstream::{Account, Credentials, Error, Fetch, Options, SourceOptions, Upstream};

use super::{REPOSITORY, content, options, read, reference, repository};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Guard, On, basic};

/// Two fakes with the same image, and a client of both with a clock to turn.
async fn two(change: impl FnOnce(&mut Options)) -> (FakeUpstream, FakeUpstream, Upstream, Clock) {
    let (one, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    for fake in [&one, &other] {
        fake.push_image(REPOSITORY, "1", &[b"layer"]);
    }
    let clock = Clock::manual();
    let source = |fake: &FakeUpstream| SourceOptions::anonymous(fake.base_url().parse().unwrap());
    let sources = vec![source(&one), source(&other)];
    let mut both = Options { sources, clock: clock.clone(), retries: 0, ..options(&one) };
    change(&mut both);
    (one, other, Upstream::new(both).unwrap(), clock)
}

async fn pull(upstream: &Upstream) -> Result<(), Error> {
    upstream.fetch_manifest(&repository(), &reference("1")).await.map(|_| ())
}

#[tokio::test]
async fn the_next_source_answers_when_one_fails_in_whatever_way() {
    for fault in [
        Fault::Silent,
        Fault::Hangup,
        Fault::NotHttp,
        Fault::Html,
        Fault::CutAfter(3),
        Fault::status(500),
        Fault::status(503),
        Fault::status(418),
        Fault::status(401),
        Fault::status(403),
        Fault::status(404),
        Fault::rate_limited(60),
    ] {
        let (one, other, upstream, _) = two(|options| options.first_byte_timeout = Duration::from_millis(300)).await;
        one.fault(On::any(), fault);
        pull(&upstream).await.unwrap();
        assert_eq!((one.requests().len(), other.requests().len()), (1, 1));
    }
    let (mut one, other, upstream, _) = two(|_| {}).await;
    one.stop().await;
    pull(&upstream).await.unwrap();
    assert_eq!(other.requests().len(), 1);
}

#[tokio::test]
async fn a_healthy_first_source_is_the_only_one_asked() {
    let (one, other, upstream, _) = two(|_| {}).await;
    for _ in 0..3 {
        pull(&upstream).await.unwrap();
    }
    assert_eq!((one.requests().len(), other.requests().len()), (3, 0));
}

#[tokio::test]
async fn a_source_that_failed_is_passed_by_and_its_recovery_is_noticed() {
    let (one, other, upstream, clock) = two(|_| {}).await;
    one.fault(On::any(), Fault::status(503));
    for _ in 0..5 {
        pull(&upstream).await.unwrap();
    }
    assert_eq!((one.requests().len(), other.requests().len()), (1, 5), "it costs one request, not every one");
    assert!(upstream.sources()[0].rests_until_ms.is_some());
    one.heal();
    clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        pull(&upstream).await.unwrap();
    }
    assert_eq!((one.requests().len(), other.requests().len()), (4, 5));
    assert_eq!(upstream.sources()[0].rests_until_ms, None);
}

#[tokio::test]
async fn a_silent_source_leaves_the_next_one_half_of_the_time() {
    let limits = |options: &mut Options| {
        options.first_byte_timeout = Duration::from_secs(20);
        options.answer_timeout = Duration::from_millis(800);
    };
    let (one, other, upstream, clock) = two(limits).await;
    one.fault(On::any(), Fault::Silent);
    pull(&upstream).await.unwrap();
    clock.advance(Duration::from_secs(9));
    pull(&upstream).await.unwrap();
    assert_eq!((one.requests().len(), other.requests().len()), (1, 2), "a source that costs a timeout rests longer");
}

#[tokio::test]
async fn content_is_missing_only_when_every_source_says_so() {
    for (first, second, kind) in [
        (404, 404, "not_found"),
        (404, 403, "refused"),
        (401, 404, "refused"),
        (404, 503, "status"),
        (429, 404, "rate_limited"),
        (429, 500, "status"),
        (404, 429, "rate_limited"),
    ] {
        let (one, other, upstream, _) = two(|_| {}).await;
        one.fault(On::any(), Fault::status(first));
        other.fault(On::any(), Fault::status(second));
        let error = pull(&upstream).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{first} and {second}: {error}");
    }
}

#[tokio::test]
async fn a_source_that_said_no_is_not_asked_again_while_the_other_is_retried() {
    let (one, other, upstream, _) = two(|options| options.retries = 3).await;
    one.fault(On::any(), Fault::status(404));
    other.fault(On::any().times(2), Fault::status(502));
    pull(&upstream).await.unwrap();
    assert_eq!((one.requests().len(), other.requests().len()), (1, 3));
}

#[tokio::test]
async fn a_cut_blob_goes_on_at_the_next_source() {
    let (one, other, upstream, _) = two(|_| {}).await;
    let bytes = content(100_000);
    let digest = one.push_blob(REPOSITORY, bytes.clone());
    other.push_blob(REPOSITORY, bytes.clone());
    one.fault(On::blob(&digest), Fault::CutAfter(1000));
    let stream = upstream.fetch_blob(&repository(), &digest, Fetch::Whole).await.unwrap();
    assert_eq!(stream.source().as_str(), format!("{}/", one.base_url()));
    let error = read(stream).await.unwrap_err();
    assert!(matches!(error, Error::Cut { at: 1000, .. }), "{error:?}");
    let stream = upstream.fetch_blob(&repository(), &digest, Fetch::From(1000)).await.unwrap();
    assert_eq!(stream.source().as_str(), format!("{}/", other.base_url()));
    assert_eq!(read(stream).await.unwrap(), &bytes[1000..]);
    assert_eq!(other.requests().last().header("range"), Some("bytes=1000-"));
}

#[tokio::test]
async fn pain_17_credentials_of_one_source_are_sent_there_and_nowhere_else() {
    let (one, other, upstream, _) = two(|options| {
        let who = Credentials { username: "me".to_owned(), password: "hunter2".into() };
        options.sources[0].accounts = vec![Account::Fixed(who)];
    })
    .await;
    one.guard(Guard::Basic("me", "hunter2"));
    pull(&upstream).await.unwrap();
    assert_eq!(one.requests().last().header("authorization"), Some(&*basic("me", "hunter2")), "it is sent at all");
    // The other source asks for a password, and for a token; a redirect leads there as well.
    one.fault(On::any(), Fault::RedirectTo(other.base_url().to_owned()));
    pull(&upstream).await.unwrap();
    one.heal();
    one.fault(On::any(), Fault::status(503));
    other.guard(Guard::Basic("me", "hunter2"));
    assert!(pull(&upstream).await.is_err());
    other.guard(Guard::Bearer(Bearer { credentials: Some(("me", "hunter2")), ..Bearer::default() }));
    assert!(pull(&upstream).await.is_err());
    let arrived = other.requests();
    assert!(arrived.len() >= 3 && arrived.tokens_got() == 1, "{arrived:?}");
    assert!(arrived.0.iter().all(|request| request.header("authorization").is_none()), "{arrived:?}");
}
