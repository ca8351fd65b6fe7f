//! Jobs that sign in by the token of their CI: what counts, what does not, and what happens while its issuer is silent.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use entrepot::config::{Allowed, Auth, Oidc, Patterns};
use serde_json::{Value, json};

use super::{auth, basic, rule, secured};
use crate::support::client::{Answer, Call};
use crate::support::issuer::FakeIssuer;
use crate::support::registry::{TestRegistry, manifest_path};
use crate::support::signer::{Signer, token_of};

const AUDIENCE: &str = "https://registry.example.com";
const SUBJECT: &str = "repo:org/app:ref:refs/heads/main";

/// Jobs of `org`, as `issuer` vouches for them.
pub fn provider(issuer: &FakeIssuer) -> Oidc {
    let claims = BTreeMap::from([("repository_owner".to_owned(), Patterns(vec!["org".to_owned()]))]);
    Oidc { issuer: issuer.url(), audience: AUDIENCE.to_owned(), claims, ..Oidc::default() }
}

/// `auth` with these providers, whose jobs of `org` may do everything in `team-a/`.
pub fn with_providers(auth: Auth, providers: &[(&str, Oidc)]) -> Auth {
    let mut auth = auth;
    auth.oidc = providers.iter().map(|(name, provider)| ((*name).to_owned(), provider.clone())).collect();
    let jobs = format!("oidc:{}:repo:org/*", providers[0].0);
    auth.rules = vec![rule(&["team-a/**"], &["group:team-a", &jobs], &[Allowed::Pull, Allowed::Push, Allowed::Delete])];
    auth
}

/// What a right token says.
pub fn claims(registry: &TestRegistry, issuer: &FakeIssuer) -> Value {
    let now = registry.now_ms() / 1000;
    json!({
        "iss": issuer.url(), "sub": SUBJECT, "aud": AUDIENCE, "repository_owner": "org",
        "iat": now, "nbf": now, "exp": now + 600,
    })
}

pub fn changed(claims: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims.clone();
    claims[name] = value.into();
    claims
}

pub fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// A registry that believes the tokens of one issuer, which has one key.
pub async fn trusting() -> (TestRegistry, FakeIssuer, Signer) {
    let signer = Signer::new("ES256", "one");
    let issuer = FakeIssuer::start(&[&signer]).await;
    let registry = secured(with_providers(auth(), &[("ci", provider(&issuer))])).await;
    (registry, issuer, signer)
}

pub async fn pull_with(registry: &TestRegistry, authorization: &str) -> Answer {
    registry.send(Call::get(&manifest_path("team-a/app", "v1")).header("authorization", authorization)).await
}

pub async fn pull(registry: &TestRegistry, token: &str) -> Answer {
    pull_with(registry, &format!("Bearer {token}")).await
}

pub fn message(answer: &Answer) -> String {
    answer.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
}

const SCOPE: &str = "repository:team-a/app:pull,push";

#[tokio::test]
async fn a_job_pulls_and_pushes_with_its_token_in_every_way_a_client_shows_it() {
    let (registry, issuer, signer) = trusting().await;
    let token = signer.token(&claims(&registry, &issuer));
    assert_eq!(pull(&registry, &token).await.status(), 200, "as it is");
    for name in ["ci", "oauth2", "alice", "$oauthtoken"] {
        assert_eq!(pull_with(&registry, &basic(name, &token)).await.status(), 200, "{name}: any name will do");
    }
    let login = Call::get(&format!("/token?service=entrepot&offline_token=true&scope={SCOPE}"));
    let by_get = registry.send(login.header("authorization", &basic("ci", &token))).await;
    let form = format!("grant_type=password&service=entrepot&username=ci&password={token}&scope={SCOPE}");
    let by_post = registry.send(Call::new("POST", "/token").body(form)).await;
    for answer in [by_get, by_post] {
        assert_eq!(answer.status(), 200, "{:?}", answer.body);
        let json = answer.json();
        assert!(json.get("refresh_token").is_none(), "nothing outlives the job");
        let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
        assert_eq!(pull_with(&registry, &bearer).await.status(), 200);
        let push = Call::new("POST", "/v2/team-a/app/blobs/uploads/?digest=none").body("");
        let pushed = registry.send(push.header("authorization", &bearer)).await;
        assert_eq!(pushed.status(), 400, "past the gate, where a digest that is none is found");
        let delete = Call::new("DELETE", &manifest_path("team-a/app", "none")).header("authorization", &bearer);
        assert_eq!(registry.send(delete).await.status(), 401, "the token is not for that");
    }
    assert_eq!(issuer.asked(), ["/.well-known/openid-configuration", "/keys"], "once for all of them");
    registry.finish().await;
}

#[tokio::test]
async fn every_algorithm_with_two_keys_is_taken() {
    let signers =
        ["RS256", "PS512", "ES256", "ES384", "EdDSA"].map(|alg| Signer::new(alg, &format!("the key for {alg}")));
    let issuer = FakeIssuer::start(&signers.each_ref()).await;
    let registry = secured(with_providers(auth(), &[("ci", provider(&issuer))])).await;
    for signer in &signers {
        let answer = pull(&registry, &signer.token(&claims(&registry, &issuer))).await;
        assert_eq!(answer.status(), 200, "{}: {}", signer.alg, message(&answer));
        let unnamed = json!({ "alg": signer.alg });
        let answer = pull(&registry, &signer.token_with(&unnamed, &claims(&registry, &issuer))).await;
        assert_eq!(answer.status(), 200, "{} without a name: {}", signer.alg, message(&answer));
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_token_that_says_something_else_than_it_must_is_refused_with_the_reason() {
    let (registry, issuer, signer) = trusting().await;
    let right = claims(&registry, &issuer);
    let now = registry.now_ms() / 1000;
    for (claims, reason) in [
        (changed(&right, "aud", "https://elsewhere.example"), "audience"),
        (changed(&right, "aud", json!(["one", "two"])), "audience"),
        (without(&right, "aud"), "audience"),
        (changed(&right, "exp", now - 31), "expired"),
        (changed(&right, "exp", "soon"), "`exp`"),
        (without(&right, "exp"), "`exp`"),
        (changed(&right, "nbf", now + 31), "not come"),
        (changed(&right, "iat", now + 31), "not come"),
        (changed(&right, "repository_owner", "other"), "`repository_owner`"),
        (changed(&right, "repository_owner", "org/"), "`repository_owner`"),
        (changed(&right, "repository_owner", json!(["org"])), "`repository_owner`"),
        (without(&right, "repository_owner"), "`repository_owner`"),
        (changed(&right, "sub", ""), "`sub`"),
        (changed(&right, "sub", "a\nb"), "`sub`"),
        (changed(&right, "sub", "x".repeat(1025)), "`sub`"),
        (without(&right, "sub"), "`sub`"),
    ] {
        let token = signer.token(&claims);
        let refused = pull(&registry, &token).await;
        assert_eq!(refused.status(), 401, "{claims}");
        assert!(message(&refused).contains(reason) && message(&refused).contains("auth.oidc.ci"), "{refused:?}");
        assert!(refused.header("www-authenticate").unwrap().ends_with("error=\"invalid_token\""));
        assert_eq!(pull_with(&registry, &basic("ci", &token)).await.status(), 401, "{claims}");
        let asks = Call::get("/token?scope=repository:open/app:pull").header("authorization", &basic("ci", &token));
        assert_eq!(registry.send(asks).await.status(), 401, "{claims}: nor is it nobody");
    }
    for claims in [
        changed(&right, "aud", json!(["one", AUDIENCE])),
        changed(&right, "exp", now - 29),
        changed(&right, "nbf", now + 29),
        without(&without(&right, "nbf"), "iat"),
        changed(&right, "exp", json!(1_750_000_000.5)),
    ] {
        assert_eq!(pull(&registry, &signer.token(&claims)).await.status(), 200, "{claims}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_token_that_the_issuer_has_not_signed_is_refused() {
    let (registry, issuer, signer) = trusting().await;
    let right = claims(&registry, &issuer);
    let header = |alg: &str| json!({ "typ": "JWT", "alg": alg, "kid": "one" });
    let secret =
        |bytes: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), message).as_ref().to_vec();
    let impostor = Signer::new("ES256", "one");
    let cut = signer.token(&right);
    let (message_part, signature) = cut.rsplit_once('.').unwrap();
    let other_claims = signer.token(&changed(&right, "sub", "repo:org/other"));
    let swapped = format!("{}.{signature}", other_claims.rsplit_once('.').unwrap().0);
    for (what, token) in [
        ("none", token_of(&header("none"), &right, |_| Vec::new())),
        ("None", token_of(&header("None"), &right, |_| Vec::new())),
        ("a secret", token_of(&header("HS256"), &right, |message| secret(&signer.public_bytes(), message))),
        ("a document", token_of(&header("HS256"), &right, |message| secret(signer.jwk().to_string().as_bytes(), message))),
        ("another key", impostor.token(&right)),
        ("another kind of key", signer.token_with(&header("RS256"), &right)),
        ("another curve", signer.token_with(&header("ES384"), &right)),
        ("no signature", format!("{message_part}.")),
        ("somebody's signature", swapped),
        ("its own key", impostor.token_with(
            &json!({ "alg": "ES256", "kid": "one", "jwk": impostor.jwk(), "jku": format!("{}/keys", issuer.url()) }),
            &right,
        )),
        ("a condition", signer.token_with(&json!({ "alg": "ES256", "kid": "one", "crit": ["b64"] }), &right)),
        ("another issuer", signer.token(&changed(&right, "iss", "https://issuer.example"))),
        ("almost the issuer", signer.token(&changed(&right, "iss", format!("{}/", issuer.url())))),
        ("no issuer", signer.token(&without(&right, "iss"))),
        ("too much", signer.token(&changed(&right, "ballast", "x".repeat(9_000)))),
    ] {
        let refused = pull(&registry, &token).await;
        assert_eq!(refused.status(), 401, "{what}: {refused:?}");
    }
    assert_eq!(pull(&registry, &signer.token(&right)).await.status(), 200, "and the right one counts");
    registry.finish().await;
}

#[tokio::test]
async fn one_subject_of_two_issuers_is_two() {
    let (one, other) = (Signer::new("ES256", "same"), Signer::new("ES256", "same"));
    let (trusted, foreign) = (FakeIssuer::start(&[&one]).await, FakeIssuer::start(&[&other]).await);
    let providers = [("ci", provider(&trusted)), ("lab", provider(&foreign))];
    let registry = secured(with_providers(auth(), &providers)).await;
    assert_eq!(pull(&registry, &one.token(&claims(&registry, &trusted))).await.status(), 200);
    let refused = pull(&registry, &other.token(&claims(&registry, &foreign))).await;
    assert_eq!(refused.status(), 403);
    assert!(message(&refused).contains(&format!("oidc:lab:{SUBJECT}")), "{refused:?}");
    assert_eq!(pull(&registry, &other.token(&claims(&registry, &trusted))).await.status(), 401, "nor by its key");
    registry.finish().await;
}

#[tokio::test]
async fn two_audiences_of_one_issuer_are_two_providers() {
    let signer = Signer::new("ES256", "one");
    let issuer = FakeIssuer::start(&[&signer]).await;
    let any = BTreeMap::from([("sub".to_owned(), Patterns(vec!["*".to_owned()]))]);
    let lab = Oidc { audience: "lab".to_owned(), claims: any, identity: "actor".to_owned(), ..provider(&issuer) };
    let registry = secured(with_providers(auth(), &[("ci", provider(&issuer)), ("lab", lab)])).await;
    let right = claims(&registry, &issuer);
    assert_eq!(pull(&registry, &signer.token(&right)).await.status(), 200);
    let of_lab = changed(&changed(&right, "aud", "lab"), "actor", "mona");
    let refused = pull(&registry, &signer.token(&of_lab)).await;
    assert_eq!(refused.status(), 403);
    assert!(message(&refused).contains("oidc:lab:mona"), "another claim is who it is: {refused:?}");
    registry.finish().await;
}

#[tokio::test]
async fn a_job_may_what_rules_groups_and_admins_say_of_it() {
    let signer = Signer::new("ES256", "one");
    let issuer = FakeIssuer::start(&[&signer]).await;
    let mut rules = with_providers(auth(), &[("ci", provider(&issuer))]);
    rules.rules = vec![rule(&["team-a/**"], &["group:team-a"], &[Allowed::Pull])];
    rules.groups.get_mut("team-a").unwrap().push(format!("oidc:ci:{SUBJECT}"));
    rules.admins.push("oidc:ci:repo:org/admin".parse().unwrap());
    let registry = secured(rules).await;
    let right = claims(&registry, &issuer);
    assert_eq!(pull(&registry, &signer.token(&right)).await.status(), 200, "it is in the group");
    let other = signer.token(&changed(&right, "sub", "repo:org/other"));
    assert_eq!(pull(&registry, &other).await.status(), 403);
    let admin = signer.token(&changed(&right, "sub", "repo:org/admin"));
    let fills = |token: &str| {
        let call = Call::get("/api/v1/fills").header("x-forwarded-for", "203.0.113.7");
        registry.send(call.header("authorization", &format!("Bearer {token}")))
    };
    assert_eq!(fills(&admin).await.status(), 200);
    assert_eq!(fills(&other).await.status(), 403);
    registry.finish().await;
}

#[tokio::test]
async fn what_a_job_gets_ends_with_its_token_and_with_its_provider() {
    let (mut registry, issuer, signer) = trusting().await;
    let get = async |registry: &TestRegistry, exp_s: i64| {
        let claims = changed(&claims(registry, &issuer), "exp", registry.now_ms() / 1000 + exp_s);
        let call = Call::get(&format!("/token?scope={SCOPE}"));
        let json = registry.send(call.header("authorization", &basic("ci", &signer.token(&claims)))).await.json();
        (json["expires_in"].as_u64(), format!("Bearer {}", json["token"].as_str().unwrap()))
    };
    assert_eq!(get(&registry, 3600).await.0, Some(300), "no longer than any other token");
    let (expires_in, short) = get(&registry, 90).await;
    assert_eq!(expires_in, Some(90), "no longer than its own");
    assert_eq!(pull_with(&registry, &short).await.status(), 200);
    registry.advance(Duration::from_secs(101));
    assert_eq!(pull_with(&registry, &short).await.status(), 401, "over, with what two clocks may differ by");
    let (_, token) = get(&registry, 600).await;
    let narrower = || {
        let claims = BTreeMap::from([("repository_owner".to_owned(), Patterns(vec!["nobody".to_owned()]))]);
        with_providers(auth(), &[("ci", Oidc { claims, ..provider(&issuer) })])
    };
    registry.reconfigure(|config| config.auth = Some(with_providers(auth(), &[("ci", provider(&issuer))]))).await;
    assert_eq!(pull_with(&registry, &token).await.status(), 200, "the same provider");
    registry.reconfigure(|config| config.auth = Some(narrower())).await;
    assert_eq!(pull_with(&registry, &token).await.status(), 401, "another one of that name");
    registry.reconfigure(|config| config.auth = Some(auth())).await;
    assert_eq!(pull_with(&registry, &token).await.status(), 401, "none");
    registry.finish().await;
}
