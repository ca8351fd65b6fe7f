//! Redirects: where they lead, what goes along, and what stays behind.

use entrepot::upstream::{Error, Fetch, Nonsense};

use super::{REPOSITORY, client, content, fetch_whole, read, reference, repository};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Guard, On};

#[tokio::test]
async fn a_blob_is_fetched_from_where_it_lies_without_the_token() {
    let (fake, cdn) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    cdn.push_blob(REPOSITORY, bytes.clone());
    fake.guard(Guard::Bearer(Bearer::default()));
    fake.fault(On::blob(&digest), Fault::RedirectTo(cdn.base_url().to_owned()));
    let upstream = client(&fake);
    assert_eq!(fetch_whole(&upstream, &digest).await.unwrap(), bytes);
    assert_eq!(upstream.head_blob(&repository(), &digest).await.unwrap().size_bytes, Some(1000));
    let stream = upstream.fetch_blob(&repository(), &digest, Fetch::From(400)).await.unwrap();
    assert_eq!((stream.start, stream.total_bytes), (400, Some(1000)));
    assert_eq!(read(stream).await.unwrap(), &bytes[400..]);

    assert!(fake.requests().last().header("authorization").is_some());
    let arrived = cdn.requests();
    assert_eq!(arrived.len(), 3);
    for request in &arrived.0 {
        assert_eq!((request.header("authorization"), request.query.as_str()), (None, "signature=secret"));
    }
    assert_eq!(arrived.0.iter().map(|request| request.method.as_str()).collect::<Vec<_>>(), ["GET", "HEAD", "GET"]);
    assert_eq!(arrived.last().header("range"), Some("bytes=400-"));
}

#[tokio::test]
async fn a_token_that_was_left_behind_does_not_return() {
    let (fake, cdn) = (FakeUpstream::start().await, FakeUpstream::start().await);
    fake.push_image(REPOSITORY, "1", &[]);
    fake.guard(Guard::Bearer(Bearer::default()));
    fake.fault(On::manifest("1"), Fault::RedirectTo(cdn.base_url().to_owned()));
    cdn.fault(On::any(), Fault::Redirect(format!("{}/v2/{REPOSITORY}/manifests/back", fake.base_url())));
    let error = client(&fake).head_manifest(&repository(), &reference("1")).await.unwrap_err();
    assert_eq!(error.kind(), "refused");
    let requests = fake.requests();
    assert_eq!((requests.manifests_headed("back"), requests.last().header("authorization")), (1, None));
}

#[tokio::test]
async fn a_challenge_from_where_a_redirect_led_is_not_answered() {
    let (fake, cdn) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let digest = fake.push_blob(REPOSITORY, "blob");
    fake.fault(On::blob(&digest), Fault::RedirectTo(cdn.base_url().to_owned()));
    cdn.guard(Guard::Bearer(Bearer::default()));
    let error = fetch_whole(&client(&fake), &digest).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 401, .. }), "{error:?}");
    assert_eq!((cdn.requests().len(), cdn.requests().tokens_got()), (1, 0));
    let text = format!("{error} {error:?}");
    assert!(text.contains(cdn.base_url()) && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_redirect_within_the_upstream_keeps_the_token() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[]);
    fake.guard(Guard::Bearer(Bearer::default()));
    fake.fault(On::manifest("1"), Fault::Redirect(format!("/v2/{REPOSITORY}/manifests/{}", image.manifest)));
    let manifest = client(&fake).fetch_manifest(&repository(), &reference("1")).await.unwrap();
    assert_eq!(manifest.bytes, image.manifest_bytes);
}

#[tokio::test]
async fn redirects_that_lead_nowhere_are_nonsense_and_not_repeated() {
    let fake = FakeUpstream::start().await;
    let there = |tag: &str| format!("{}/v2/{REPOSITORY}/manifests/{tag}", fake.base_url());
    fake.fault(On::manifest("self"), Fault::Redirect(there("self")));
    fake.fault(On::manifest("ping"), Fault::Redirect(there("pong")));
    fake.fault(On::manifest("pong"), Fault::Redirect(there("ping")));
    fake.fault(On::manifest("lost"), Fault::status(307));
    fake.fault(On::manifest("file"), Fault::Redirect("file:///etc/passwd".to_owned()));
    for step in 0..6 {
        fake.fault(On::manifest(&format!("step{step}")), Fault::Redirect(there(&format!("step{}", step + 1))));
    }
    for (tag, expected, requests) in [
        ("self", Nonsense::RedirectLoop, 1),
        ("ping", Nonsense::RedirectLoop, 2),
        ("lost", Nonsense::RedirectTarget, 1),
        ("file", Nonsense::RedirectTarget, 1),
        ("step0", Nonsense::RedirectsExceeded { max: 5 }, 6),
    ] {
        let before = fake.requests().len();
        let error = client(&fake).fetch_manifest(&repository(), &reference(tag)).await.unwrap_err();
        assert!(matches!(&error, Error::Nonsense { what, .. } if *what == expected), "{tag}: {error:?}");
        assert_eq!(fake.requests().len() - before, requests, "{tag}");
    }
}
