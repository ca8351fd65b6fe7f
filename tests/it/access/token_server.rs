//! A token server that is not ours: clients are sent there, and what it has signed is what they may do.

use aws_lc_rs::hmac;
use entrepot::config::{Allowed, Anonymous, Auth, Pem, TokenServer};
use rcgen::CertificateParams;
use serde_json::{Value, json};

use super::{auth, basic, rule, secured};
use crate::support::client::{Answer, Call};
use crate::support::registry::{TestRegistry, manifest_path};
use crate::support::signer::{Signer, token_of};

const REALM: &str = "https://auth.example.com/token";

fn file(text: String) -> Pem {
    Pem { file: "keys".into(), text: text.into() }
}

/// The signer's key as a certificate has it.
fn certificate(signer: &Signer) -> String {
    CertificateParams::new(Vec::new()).unwrap().self_signed(&signer.pair).unwrap().pem()
}

/// Tokens by `signer`; alice is of team-a, to whom `team-a/` is.
pub fn with_token_server(signer: &Signer) -> Auth {
    let server = TokenServer {
        realm: REALM.to_owned(),
        service: "registry.example.com".to_owned(),
        issuer: "auth.example.com".to_owned(),
        certificate: Some(file(certificate(signer))),
        jwks: None,
    };
    Auth {
        htpasswd: None,
        token_server: Some(server),
        rules: vec![rule(&["team-a/**"], &["group:team-a"], &[Allowed::Pull, Allowed::Push, Allowed::Delete])],
        ..auth()
    }
}

/// What a right token says: alice, and these actions in `team-a/app`.
pub fn claims(registry: &TestRegistry, actions: &[&str]) -> Value {
    let now = registry.now_ms() / 1000;
    json!({
        "iss": "auth.example.com", "sub": "alice", "aud": "registry.example.com", "jti": "1",
        "iat": now, "nbf": now, "exp": now + 300,
        "access": [{ "type": "repository", "name": "team-a/app", "actions": actions }],
    })
}

fn changed(claims: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims.clone();
    claims[name] = value.into();
    claims
}

async fn send(registry: &TestRegistry, call: Call, token: &str) -> Answer {
    registry.send(call.header("authorization", &format!("Bearer {token}"))).await
}

async fn pull(registry: &TestRegistry, token: &str) -> Answer {
    send(registry, Call::get(&manifest_path("team-a/app", "v1")), token).await
}

fn message(answer: &Answer) -> String {
    answer.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn clients_are_sent_to_the_token_server_and_to_nobody_else() {
    let signer = Signer::new("ES256", "one");
    let registry = secured(with_token_server(&signer)).await;
    let expected = format!("Bearer realm=\"{REALM}\",service=\"registry.example.com\"");
    assert_eq!(registry.get("/v2/").await.header("www-authenticate"), Some(expected.as_str()));
    let refused = registry.get(&manifest_path("team-a/app", "v1")).await;
    let expected = format!("{expected},scope=\"repository:team-a/app:pull\"");
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some(expected.as_str())));
    let token = registry.get("/token?scope=repository:team-a/app:pull").await;
    assert_eq!(token.status(), 404);
    assert!(message(&token).contains(REALM), "{token:?}");
    let password = registry.send(Call::get("/v2/").header("authorization", &basic("alice", super::PASSWORD))).await;
    assert_eq!(password.status(), 401);
    registry.finish().await;
}

#[tokio::test]
async fn what_the_token_says_may_be_done_and_no_more() {
    let signer = Signer::new("RS256", "one");
    let registry = secured(with_token_server(&signer)).await;
    let push = || Call::new("POST", "/v2/team-a/app/blobs/uploads/?digest=none").body("");
    let delete = || Call::new("DELETE", &manifest_path("team-a/app", "none"));
    let list = || Call::get("/v2/_catalog");
    for (actions, expected) in [
        (&["pull"][..], [200, 401, 401]),
        (&["pull", "push"], [200, 400, 401]),
        (&["push"], [401, 400, 401]),
        (&["delete"], [401, 401, 404]),
        (&["*"], [200, 400, 404]),
        (&["fly"], [401, 401, 401]),
        (&[], [401, 401, 401]),
    ] {
        let token = signer.token(&claims(&registry, actions));
        let found = [
            pull(&registry, &token).await.status(),
            send(&registry, push(), &token).await.status(),
            send(&registry, delete(), &token).await.status(),
        ];
        assert_eq!(found, expected, "{actions:?}");
    }
    let other = signer.token(&claims(&registry, &["pull"]));
    let refused = send(&registry, push(), &other).await;
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.starts_with(&format!("Bearer realm=\"{REALM}\"")), "{challenge}");
    assert!(
        challenge.ends_with(",scope=\"repository:team-a/app:pull,push\",error=\"insufficient_scope\""),
        "{challenge}"
    );
    let access = |access: Value| signer.token(&changed(&claims(&registry, &[]), "access", access));
    let several = access(json!([
        { "type": "repository", "name": "team-a/app", "actions": ["push"] },
        { "type": "repository", "name": "team-a/app", "actions": ["pull"] },
        { "type": "registry", "name": "catalog", "actions": ["*"] },
    ]));
    assert_eq!(pull(&registry, &several).await.status(), 200);
    assert_eq!(send(&registry, list(), &several).await.status(), 200);
    assert_eq!(send(&registry, list(), &other).await.status(), 401);
    for (what, token, status) in [
        ("another repository", access(json!([{ "type": "repository", "name": "team-a", "actions": ["*"] }])), 401),
        ("another type", access(json!([{ "type": "registry", "name": "team-a/app", "actions": ["*"] }])), 401),
        ("nothing", access(Value::Null), 401),
        ("nonsense", access(json!({ "team-a/app": "*" })), 401),
    ] {
        assert_eq!(pull(&registry, &token).await.status(), status, "{what}");
    }
    assert_eq!(send(&registry, Call::get("/v2/"), &access(Value::Null)).await.status(), 200, "docker login");
    registry.finish().await;
}

#[tokio::test]
async fn keys_are_certificates_public_keys_or_a_key_set() {
    let (rsa, ec, ed) = (Signer::new("RS256", "rsa"), Signer::new("ES256", "ec"), Signer::new("EdDSA", "ed"));
    let all = || with_token_server(&rsa);
    let with = |certificate: Option<Pem>, jwks: Option<Pem>| {
        let mut auth = all();
        let server = auth.token_server.as_mut().unwrap();
        (server.certificate, server.jwks) = (certificate, jwks);
        auth
    };
    let signers = [&rsa, &ec, &ed];
    let certificates: String = signers.iter().map(|signer| certificate(signer)).collect();
    let bare: String = signers.iter().map(|signer| signer.pair.public_key_pem()).collect();
    let set = json!({ "keys": signers.map(Signer::jwk) }).to_string();
    let mut registry = secured(all()).await;
    for (what, auth) in [
        ("certificates", with(Some(file(certificates)), None)),
        ("public keys", with(Some(file(bare)), None)),
        ("a set", with(None, Some(file(set)))),
    ] {
        registry.reconfigure(|config| config.auth = Some(auth)).await;
        for signer in signers {
            let named = signer.token(&claims(&registry, &["pull"]));
            let unnamed = signer.token_with(&json!({ "alg": signer.alg }), &claims(&registry, &["pull"]));
            for token in [named, unnamed] {
                let answer = pull(&registry, &token).await;
                assert_eq!(answer.status(), 200, "{what}, {}: {}", signer.alg, message(&answer));
            }
        }
        let other_name = ec.token_with(&json!({ "alg": "ES256", "kid": "ed" }), &claims(&registry, &["pull"]));
        let expected = if what == "a set" { 401 } else { 200 };
        assert_eq!(pull(&registry, &other_name).await.status(), expected, "{what}: names are those of a set");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_token_that_the_token_server_has_not_issued_for_us_now_is_refused() {
    let signer = Signer::new("ES256", "one");
    let registry = secured(with_token_server(&signer)).await;
    let right = claims(&registry, &["*"]);
    let now = registry.now_ms() / 1000;
    let header = |alg: &str| json!({ "typ": "JWT", "alg": alg, "kid": "one" });
    let secret =
        |bytes: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), message).as_ref().to_vec();
    let impostor = Signer::new("ES256", "one");
    let chain = json!({ "alg": "ES256", "x5c": ["MIIB"] });
    for (what, token, reason) in [
        ("expired", signer.token(&changed(&right, "exp", now - 31)), "expired"),
        ("early", signer.token(&changed(&right, "nbf", now + 31)), "not come"),
        ("another service", signer.token(&changed(&right, "aud", "other")), "audience"),
        ("another issuer", signer.token(&changed(&right, "iss", "other")), "issuer"),
        ("our own", signer.token(&changed(&right, "iss", "entrepot")), "issuer"),
        ("a strange name", signer.token(&changed(&right, "sub", "a\nb")), "`sub`"),
        ("none", token_of(&header("none"), &right, |_| Vec::new()), "must be signed by"),
        ("a secret", token_of(&header("HS256"), &right, |it| secret(&signer.public_bytes(), it)), "must be signed by"),
        (
            "a file",
            token_of(&header("HS256"), &right, |it| secret(certificate(&signer).as_bytes(), it)),
            "must be signed by",
        ),
        ("another key", impostor.token(&right), "signature"),
        ("another kind", signer.token_with(&header("RS256"), &right), "no key"),
        ("its own chain", impostor.token_with(&chain, &right), "x5c"),
    ] {
        let refused = pull(&registry, &token).await;
        assert_eq!(refused.status(), 401, "{what}: {refused:?}");
        assert!(message(&refused).contains(reason) && message(&refused).contains("auth.token_server"), "{refused:?}");
        assert!(refused.header("www-authenticate").unwrap().ends_with("error=\"invalid_token\""));
    }
    assert_eq!(pull(&registry, &signer.token(&right)).await.status(), 200, "and the right one counts");
    registry.finish().await;
}

#[tokio::test]
async fn rules_hold_for_whom_the_token_names() {
    let signer = Signer::new("EdDSA", "one");
    let mut rules = with_token_server(&signer);
    rules.groups.get_mut("team-a").unwrap().push("cert:node".to_owned());
    let mut registry = secured(rules).await;
    let of =
        |registry: &TestRegistry, subject: Value| signer.token(&changed(&claims(registry, &["*"]), "sub", subject));
    assert_eq!(pull(&registry, &of(&registry, json!("alice"))).await.status(), 200);
    for other in ["bob", "cert:node"] {
        let refused = pull(&registry, &of(&registry, json!(other))).await;
        assert_eq!(refused.status(), 403, "{other}");
        assert!(message(&refused).contains(&format!("user:{other}")), "{refused:?}");
    }
    let open = |registry: &TestRegistry, subject: Value| {
        let access = json!([{ "type": "repository", "name": "open/app", "actions": ["*"] }]);
        signer.token(&changed(&changed(&claims(registry, &[]), "access", access), "sub", subject))
    };
    let get = async |registry: &TestRegistry, subject: Value| {
        let token = open(registry, subject);
        send(registry, Call::get(&manifest_path("open/app", "v1")), &token).await.status()
    };
    assert_eq!(get(&registry, json!("bob")).await, 200, "no rule is about it");
    assert_eq!(get(&registry, json!("")).await, 401, "nobody may pull");
    let public = Auth { anonymous: Anonymous::Pull, ..with_token_server(&signer) };
    registry.reconfigure(|config| config.auth = Some(public)).await;
    assert_eq!(get(&registry, json!("")).await, 200, "now nobody may");
    assert_eq!(get(&registry, Value::Null).await, 200);
    registry.finish().await;
}
