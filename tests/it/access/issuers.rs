//! Issuers of jobs' tokens: whose keys are asked for, how often, and what happens when they do not come.

use std::time::Duration;

use entrepot::config::Oidc;
use serde_json::{Value, json};

use super::oidc::{changed, claims, message, provider, pull, pull_with, trusting, with_providers};
use super::{auth, basic, secured};
use crate::support::client::Call;
use crate::support::issuer::FakeIssuer;
use crate::support::registry::TestRegistry;
use crate::support::signer::Signer;

#[tokio::test]
async fn a_new_key_of_the_issuer_counts_after_one_question_and_strangers_cause_no_more() {
    let (registry, issuer, first) = trusting().await;
    let right = claims(&registry, &issuer);
    assert_eq!(pull(&registry, &first.token(&right)).await.status(), 200);
    registry.advance(Duration::from_secs(31));
    let second = Signer::new("EdDSA", "two");
    issuer.shows(&[second.jwk()]);
    assert_eq!(pull(&registry, &second.token(&right)).await.status(), 200, "asked for again");
    assert_eq!(issuer.n_asked_for_keys(), 2);
    assert_eq!(pull(&registry, &first.token(&right)).await.status(), 401, "the old one is gone with that");
    let unknown = Signer::new("ES256", "unknown").token(&right);
    for _ in 0..10 {
        let refused = pull(&registry, &unknown).await;
        assert_eq!(refused.status(), 401);
        assert!(message(&refused).contains("no key of its issuer"), "{refused:?}");
    }
    assert_eq!(issuer.n_asked_for_keys(), 2, "it has just been asked");
    registry.advance(Duration::from_secs(31));
    let many = futures::future::join_all((0..10).map(|_| pull(&registry, &unknown))).await;
    assert!(many.iter().all(|answer| answer.status() == 401));
    assert_eq!(issuer.n_asked_for_keys(), 3, "one asks for all");
    registry.finish().await;
}

#[tokio::test]
async fn keys_are_asked_for_again_in_time_so_that_a_withdrawn_one_ends() {
    let (registry, issuer, signer) = trusting().await;
    let token = |registry: &TestRegistry| signer.token(&claims(registry, &issuer));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200);
    issuer.shows(&[Signer::new("ES256", "two").jwk()]);
    registry.advance(Duration::from_mins(59));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200);
    registry.advance(Duration::from_mins(1));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 401);
    registry.finish().await;
}

#[tokio::test]
async fn while_the_issuer_is_silent_its_kept_keys_count_for_a_day_and_then_nobody_is_called_wrong() {
    let (registry, issuer, signer) = trusting().await;
    let token = |registry: &TestRegistry| signer.token(&claims(registry, &issuer));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200);
    issuer.is_down(true);
    registry.advance(Duration::from_hours(23));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200, "kept");
    let unknown = Signer::new("ES256", "new").token(&claims(&registry, &issuer));
    let unsure = pull(&registry, &unknown).await;
    assert_eq!(unsure.status(), 503, "nobody can tell whether that is a new key: {unsure:?}");
    registry.advance(Duration::from_hours(1));
    for authorization in [format!("Bearer {}", token(&registry)), basic("ci", &token(&registry))] {
        let refused = pull_with(&registry, &authorization).await;
        assert_eq!((refused.status(), refused.json()["errors"][0]["code"].as_str()), (503, Some("UNAVAILABLE")));
        assert!(message(&refused).contains(&issuer.url()) && refused.header("retry-after").is_some(), "{refused:?}");
    }
    issuer.is_down(false);
    registry.advance(Duration::from_secs(5));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200, "and it is back");
    registry.finish().await;
}

#[tokio::test]
async fn one_waits_for_an_issuer_that_hangs_and_the_others_go_by_the_keys_they_know() {
    let (registry, issuer, signer) = trusting().await;
    let token = |registry: &TestRegistry| signer.token(&claims(registry, &issuer));
    assert_eq!(pull(&registry, &token(&registry)).await.status(), 200);
    issuer.hangs(true);
    registry.advance(Duration::from_hours(2));
    let n_asked = issuer.asked().len();
    let late = token(&registry);
    let waiting = pull(&registry, &late);
    let others = async {
        registry.until("the issuer is asked", |_| issuer.asked().len() > n_asked).await;
        for _ in 0..3 {
            assert_eq!(pull(&registry, &late).await.status(), 200);
        }
        assert_eq!(issuer.asked().len(), n_asked + 1, "one asks");
        issuer.is_down(true);
        issuer.hangs(false);
    };
    let (first, ()) = tokio::join!(waiting, others);
    assert_eq!(first.status(), 200, "and at last it goes by them too");
    registry.finish().await;
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_lets_nobody_in_and_is_left_alone_for_a_while() {
    let (registry, issuer, signer) = trusting().await;
    issuer.is_down(true);
    let token = signer.token(&claims(&registry, &issuer));
    for _ in 0..5 {
        assert_eq!(pull(&registry, &token).await.status(), 503);
        let asks = Call::get("/token?scope=repository:open/app:pull").header("authorization", &basic("ci", &token));
        assert_eq!(registry.send(asks).await.status(), 503, "nor is it nobody");
    }
    let n_asked = issuer.asked().len();
    assert!(n_asked <= 2, "the client tries a connection once more, and that is all: {n_asked}");
    issuer.is_down(false);
    registry.advance(Duration::from_secs(5));
    assert_eq!(pull(&registry, &token).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn an_issuer_that_answers_with_something_else_gives_no_keys_and_leads_nowhere() {
    let (registry, issuer, signer) = trusting().await;
    let elsewhere = FakeIssuer::start(&[&signer]).await;
    let discovery = "/.well-known/openid-configuration";
    let right = || json!({ "issuer": issuer.url(), "jwks_uri": format!("{}/keys", issuer.url()) });
    let to_elsewhere = format!("location: {}{discovery}\r\n", elsewhere.url());
    let to_its_keys = format!("location: {}/keys\r\n", elsewhere.url());
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let many: Vec<Value> = (0..33).map(|_| signer.jwk()).collect();
    let ballast = " ".repeat(256 * 1024);
    for (what, path, status, headers, body) in [
        ("a redirect", discovery, 302, to_elsewhere.as_str(), String::new()),
        ("redirected keys", "/keys", 307, &to_its_keys, String::new()),
        ("another issuer", discovery, 200, "", changed(&right(), "issuer", elsewhere.url()).to_string()),
        (
            "almost the issuer",
            discovery,
            200,
            "",
            changed(&right(), "issuer", format!("{}/", issuer.url())).to_string(),
        ),
        (
            "keys elsewhere",
            discovery,
            200,
            "",
            changed(&right(), "jwks_uri", format!("{}/keys", elsewhere.url())).to_string(),
        ),
        ("keys in a file", discovery, 200, "", changed(&right(), "jwks_uri", "file:///etc/passwd").to_string()),
        ("no document", discovery, 200, "", "[]".to_owned()),
        ("no page", discovery, 404, "", right().to_string()),
        ("a long document", discovery, 200, "", format!("{ballast}{}", right())),
        ("long keys", "/keys", 200, "", format!("{ballast}{keys}")),
        ("many keys", "/keys", 200, "", json!({ "keys": many }).to_string()),
        ("no keys", "/keys", 200, "", json!({ "keys": [] }).to_string()),
        (
            "a secret",
            "/keys",
            200,
            "",
            json!({ "keys": [{ "kty": "oct", "kid": "one", "k": "c2VjcmV0" }] }).to_string(),
        ),
        (
            "keys for other uses",
            "/keys",
            200,
            "",
            json!({ "keys": [changed(&signer.jwk(), "use", "enc")] }).to_string(),
        ),
        (
            "keys of other algorithms",
            "/keys",
            200,
            "",
            json!({ "keys": [changed(&signer.jwk(), "alg", "HS256")] }).to_string(),
        ),
    ] {
        issuer.discovers(&right());
        issuer.shows(&[signer.jwk()]);
        issuer.replies(path, status, headers, body);
        let answer = pull(&registry, &signer.token(&claims(&registry, &issuer))).await;
        assert_eq!(answer.status(), 503, "{what}: {answer:?}");
        registry.advance(Duration::from_secs(5));
    }
    assert_eq!(elsewhere.asked(), Vec::<String>::new(), "nobody else is contacted");
    issuer.shows(&[json!({ "kty": "strange" }), json!("nonsense"), signer.jwk()]);
    issuer.discovers(&right());
    let answer = pull(&registry, &signer.token(&claims(&registry, &issuer))).await;
    assert_eq!(answer.status(), 200, "what is strange beside a good key does no harm: {answer:?}");
    registry.finish().await;
}

#[tokio::test]
async fn keys_may_be_elsewhere_if_the_configuration_says_so() {
    let signer = Signer::new("ES256", "one");
    let (issuer, keys) = (FakeIssuer::start(&[]).await, FakeIssuer::start(&[&signer]).await);
    let provider = Oidc { jwks_uri: Some(format!("{}/keys", keys.url())), ..provider(&issuer) };
    let registry = secured(with_providers(auth(), &[("ci", provider)])).await;
    assert_eq!(pull(&registry, &signer.token(&claims(&registry, &issuer))).await.status(), 200);
    assert_eq!((issuer.asked(), keys.asked()), (vec![], vec!["/keys".to_owned()]));
    registry.finish().await;
}
