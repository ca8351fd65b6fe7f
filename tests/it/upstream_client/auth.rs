//! Challenges, tokens and credentials: who is told what, and how often.

use entrepot::upstream::{Account, Credentials, Error, Options, SourceOptions, Upstream};
use futures::future::join_all;

use super::{REPOSITORY, client, content, fetch_whole, options, reference, repository};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Gate, Guard, On};

const USER: &str = "puller";
const PASSWORD: &str = "hunter2-and-more";

fn client_with_credentials(fake: &FakeUpstream) -> Upstream {
    let account = Account::Fixed(Credentials { username: USER.to_owned(), password: PASSWORD.into() });
    let url = fake.base_url().parse().unwrap();
    let sources = vec![SourceOptions { url, accounts: vec![account] }];
    Upstream::new(Options { sources, ..options(fake) }).unwrap()
}

async fn pull(upstream: &Upstream, tag: &str) -> Result<(), Error> {
    upstream.head_manifest(&repository(), &reference(tag)).await.map(|_| ())
}

async fn guarded(bearer: Bearer) -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Bearer(bearer));
    fake
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_used_from_then_on() {
    for field in ["token", "access_token"] {
        let fake = guarded(Bearer { field, expires_in: None, ..Bearer::default() }).await;
        let upstream = client(&fake);
        for _ in 0..3 {
            pull(&upstream, "1").await.unwrap();
        }
        let requests = fake.requests();
        let statuses: Vec<_> = requests.0.iter().map(|request| request.status).collect();
        assert_eq!(statuses, [401, 200, 200, 200, 200]);
        assert_eq!(requests.0[0].header("authorization"), None, "nothing is known yet");
        assert_eq!(requests.0[1].parameter("service").as_deref(), Some("fake"));
        assert_eq!(requests.0[1].parameter("scope").as_deref(), Some("repository:library/small:pull"));
        assert_eq!(requests.0[1].header("authorization"), None);
        assert_eq!(requests.tokens_got(), 1);
    }
}

#[tokio::test]
async fn credentials_go_to_the_token_service_and_not_to_the_registry() {
    let fake = guarded(Bearer { credentials: Some((USER, PASSWORD)), ..Bearer::default() }).await;
    pull(&client_with_credentials(&fake), "1").await.unwrap();
    for request in fake.requests().0 {
        let basic = request.header("authorization").is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(basic, request.path == "/token", "{request:?}");
    }
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own() {
    let fake = guarded(Bearer::default()).await;
    fake.push_image("library/other", "1", &[]);
    let upstream = client(&fake);
    pull(&upstream, "1").await.unwrap();
    upstream.head_manifest(&"library/other".parse().unwrap(), &reference("1")).await.unwrap();
    pull(&upstream, "1").await.unwrap();
    assert_eq!(fake.requests().tokens_got(), 2);
}

#[tokio::test]
async fn many_who_are_challenged_together_share_one_token_request() {
    let fake = guarded(Bearer::default()).await;
    let gate = Gate::closed();
    fake.fault(On::token(), Fault::SlowFirstByte(gate.clone()));
    let upstream = client(&fake);
    let release = async {
        // All eight stand before the token service, and only one asked it.
        fake.until(|requests| requests.0.iter().filter(|request| request.status == 401).count() == 8).await;
        fake.until(|requests| requests.tokens_got() == 1).await;
        gate.let_pass(1);
    };
    let pulls = join_all((0..8).map(|_| pull(&upstream, "1")));
    let (results, ()) = tokio::join!(pulls, release);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(fake.requests().tokens_got(), 1);
}

#[tokio::test]
async fn a_token_that_ends_early_is_renewed() {
    let fake = guarded(Bearer { uses: Some(2), ..Bearer::default() }).await;
    let digest = fake.push_blob(REPOSITORY, content(1000));
    let upstream = client(&fake);
    for _ in 0..3 {
        pull(&upstream, "1").await.unwrap();
        fetch_whole(&upstream, &digest).await.unwrap();
    }
    assert_eq!(fake.requests().tokens_got(), 3);
}

#[tokio::test]
async fn many_whose_token_ended_together_share_its_renewal() {
    let fake = guarded(Bearer { uses: Some(1), ..Bearer::default() }).await;
    let upstream = client(&fake);
    pull(&upstream, "1").await.unwrap();
    fake.guard(Guard::Bearer(Bearer::default()));
    let gate = Gate::closed();
    fake.fault(On::token(), Fault::SlowFirstByte(gate.clone()));
    let release = async {
        fake.until(|requests| requests.0.iter().filter(|request| request.status == 401).count() == 9).await;
        gate.let_pass(1);
    };
    let pulls = join_all((0..8).map(|_| pull(&upstream, "1")));
    let (results, ()) = tokio::join!(pulls, release);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(fake.requests().tokens_got(), 2);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_ends_it() {
    let fake = guarded(Bearer { uses: Some(0), ..Bearer::default() }).await;
    let error = pull(&client(&fake), "1").await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 401, .. }), "{error:?}");
    let requests = fake.requests();
    assert_eq!((requests.len(), requests.tokens_got()), (3, 1));
}

#[tokio::test]
async fn a_token_service_elsewhere_is_never_asked() {
    let thief = FakeUpstream::start().await;
    let realm = format!("{}/token", thief.base_url().replace("127.0.0.1", "127.0.0.2"));
    let fake = guarded(Bearer { realm: Some(format!("{realm}?secret=1")), ..Bearer::default() }).await;
    let error = pull(&client_with_credentials(&fake), "1").await.unwrap_err();
    assert!(matches!(&error, Error::RealmRefused { realm: named, .. } if named.as_str() == realm), "{error:?}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!((fake.requests().len(), thief.requests().len()), (1, 0));
}

#[tokio::test]
async fn a_token_service_on_another_port_of_the_upstream_is_asked() {
    let service = FakeUpstream::start().await;
    service.guard(Guard::Bearer(Bearer::default()));
    let realm = Some(format!("{}/token?version=1", service.base_url()));
    let fake = guarded(Bearer { realm, ..Bearer::default() }).await;
    let error = pull(&client(&fake), "1").await.unwrap_err();
    assert_eq!(error.kind(), "refused", "the other service's tokens are unknown here");
    assert_eq!(service.requests().tokens_got(), 1);
    assert_eq!(service.requests().last().parameter("version").as_deref(), Some("1"));
}

#[tokio::test]
async fn failures_of_the_token_service_are_its_own() {
    for (fault, kind, tokens_got) in [
        (Fault::status(503), "status", 4),
        (Fault::status(404), "status", 1),
        (Fault::status(403), "refused", 1),
        (Fault::rate_limited(60), "rate_limited", 1),
        (Fault::Html, "token", 1),
        (Fault::Endless, "too_large", 1),
    ] {
        let fake = guarded(Bearer::default()).await;
        fake.fault(On::token(), fault);
        let error = pull(&client(&fake), "1").await.unwrap_err();
        assert_eq!((error.kind(), fake.requests().tokens_got()), (kind, tokens_got), "{error:?}");
        assert!(error.to_string().contains("/token"), "{error}");
    }
}

#[tokio::test]
async fn a_token_service_that_recovers_is_asked_again() {
    let fake = guarded(Bearer::default()).await;
    fake.fault(On::token().times(1), Fault::status(503));
    pull(&client(&fake), "1").await.unwrap();
    assert_eq!(fake.requests().tokens_got(), 2);
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for_and_from_then_on() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake.guard(Guard::Basic(USER, PASSWORD));
    let upstream = client_with_credentials(&fake);
    pull(&upstream, "1").await.unwrap();
    pull(&upstream, "1").await.unwrap();
    let statuses: Vec<_> = fake.requests().0.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [401, 200, 200]);
}

#[tokio::test]
async fn basic_without_or_with_wrong_credentials_is_refused() {
    let fake = FakeUpstream::start().await;
    fake.guard(Guard::Basic(USER, "another"));
    let error = pull(&client(&fake), "1").await.unwrap_err();
    assert_eq!((error.kind(), fake.requests().len()), ("refused", 1));
    let error = pull(&client_with_credentials(&fake), "1").await.unwrap_err();
    assert_eq!((error.kind(), fake.requests().len()), ("refused", 3));
    assert!(!format!("{error} {error:?}").contains(PASSWORD));
}

#[tokio::test]
async fn refusals_without_a_challenge_are_refusals() {
    let fake = FakeUpstream::start().await;
    for status in [401, 403] {
        fake.heal();
        fake.fault(On::any(), Fault::status(status));
        let error = pull(&client_with_credentials(&fake), "1").await.unwrap_err();
        assert!(matches!(error, Error::Refused { status: s, .. } if s == status), "{error:?}");
    }
    assert_eq!(fake.requests().len(), 2);
}
