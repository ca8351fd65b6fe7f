use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::metadata::{self, Metadata};

const SERVICE: &str = "registry.test";
const LIFETIME: Duration = Duration::from_mins(5);

/// Tokens over an index of their own.
struct Bench {
    tokens: Tokens,
    metadata: Metadata,
    clock: Clock,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(metadata::Options::new(folder.path().join("index.sqlite"))).await.unwrap();
        let clock = Clock::manual();
        let keys = Keys::open(metadata.clone(), clock.clone()).await.unwrap();
        Self { tokens: Tokens::new(keys, clock.clone(), &Metrics::new()), metadata, clock, folder }
    }

    async fn token(&self) -> SecretString {
        self.tokens.issue(&ticket(), SERVICE, LIFETIME).await.unwrap().token
    }

    /// What the same claims signed by the same key would be, after `change`.
    async fn forged(&self, change: impl FnOnce(&mut Value, &mut Value)) -> SecretString {
        let token = self.token().await;
        let key = self.tokens.keys.current().await.unwrap();
        let (mut header, mut claims) = parts(&token);
        change(&mut header, &mut claims);
        let header: Header = serde_json::from_value(header).unwrap();
        encode(&header, &claims, &key.signing).unwrap().into()
    }

    fn verify(&self, token: &SecretString) -> Result<Arc<Ticket>, Refusal> {
        self.verify_for(token, SERVICE)
    }

    fn verify_for(&self, token: &SecretString, service: &str) -> Result<Arc<Ticket>, Refusal> {
        let token = token.expose_secret();
        self.tokens.recall(token, service).unwrap_or_else(|| self.tokens.verify(token, service))
    }

    fn refuses(&self, token: &SecretString, why: &str) {
        assert_eq!(self.verify(token), Err(Refusal::Token), "{why}");
    }
}

fn ticket() -> Ticket {
    let access = [("docker.io/library/nginx".to_owned(), Permissions::PULL), ("a".to_owned(), Permissions::ALL)];
    Ticket { subject: "user:alice".into(), access: access.into(), lists: true, ..Ticket::default() }
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn parts(token: &SecretString) -> (Value, Value) {
    let mut parts = token.expose_secret().split('.');
    (decoded(parts.next().unwrap()), decoded(parts.next().unwrap()))
}

fn encoded(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn a_token_says_what_it_was_issued_for() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let seen = bench.verify(&token).unwrap();
    assert_eq!((&seen.subject, &seen.access, seen.lists), (&ticket().subject, &ticket().access, true));
    let (header, claims) = parts(&token);
    assert_eq!((header["alg"].as_str(), header["kid"].is_string()), (Some("ES256"), true));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 300);
    assert_eq!(claims["access"][0], json!({"type": "repository", "name": "a", "actions": ["pull", "push", "delete"]}));
    let other = bench.token().await;
    assert_ne!(parts(&other).1["jti"], claims["jti"], "every token has a name of its own");
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let text = token.expose_secret();
    let (header, rest) = text.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let mut more = decoded(claims);
    more["access"][0]["name"] = json!("b");
    for (forged, why) in [
        (format!("{header}.{}.{signature}", encoded(&more)), "other claims"),
        (format!("{header}.{claims}."), "no signature"),
        (format!("{header}.{claims}"), "two parts"),
        (format!("{header}.{claims}.{signature}.{signature}"), "four parts"),
        (format!("{header}.{claims}.{}", "A".repeat(86)), "another signature"),
        (format!("{text} "), "a blank behind it"),
        (format!("{text}="), "padding"),
        (String::new(), "nothing"),
        ("...".to_owned(), "dots"),
        ("x".repeat(TOKEN_BYTES_MAX + 1), "overlong"),
    ] {
        bench.refuses(&forged.into(), why);
    }
    assert!(bench.verify(&token).is_ok());
}

#[tokio::test]
async fn none_is_no_algorithm() {
    let bench = Bench::new().await;
    let (mut header, claims) = parts(&bench.token().await);
    for none in ["none", "None", "NONE", "nOnE", ""] {
        header["alg"] = json!(none);
        let front = format!("{}.{}", encoded(&header), encoded(&claims));
        bench.refuses(&format!("{front}.").into(), "unsigned");
        bench.refuses(&front.into(), "without its last part");
    }
}

#[tokio::test]
async fn alg_confusion_does_not_turn_the_public_key_into_a_secret() {
    let bench = Bench::new().await;
    let key = bench.tokens.keys.current().await.unwrap();
    let public = key.verifying.try_get_as_bytes().unwrap().to_vec();
    let (_, claims) = parts(&bench.token().await);
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let header = Header { kid: Some(key.id.clone()), ..Header::new(algorithm) };
        let forged = encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
        bench.refuses(&forged.into(), "signed with what everybody may know");
    }
}

#[tokio::test]
async fn somebody_elses_key_is_not_believed_whatever_name_it_bears() {
    let bench = Bench::new().await;
    let ours = bench.tokens.keys.current().await.unwrap();
    let theirs = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let (_, claims) = parts(&bench.token().await);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"});
    for kid in [Some(ours.id.clone()), Some("other".to_owned()), Some("../../etc/passwd".to_owned()), None] {
        let header = Header { kid, ..Header::new(Algorithm::ES256) };
        let forged = encode(&header, &claims, &EncodingKey::from_ec_der(theirs.as_ref())).unwrap();
        bench.refuses(&forged.into(), "their signature");
        let mut with_key = serde_json::to_value(&header).unwrap();
        with_key["jwk"] = jwk.clone();
        let header: Header = serde_json::from_value(with_key).unwrap();
        let forged = encode(&header, &claims, &EncodingKey::from_ec_der(theirs.as_ref())).unwrap();
        bench.refuses(&forged.into(), "their signature, and their key with it");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_also_when_it_was_verified_before() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    assert!(bench.verify(&token).is_ok());
    bench.clock.advance(LIFETIME + Duration::from_secs(9));
    assert!(bench.verify(&token).is_ok(), "clocks may differ a little");
    bench.clock.advance(Duration::from_secs(2));
    bench.refuses(&token, "expired");
    for exp in [json!(-1), json!(0), json!(i64::MAX), json!("never"), Value::Null] {
        bench.refuses(&bench.forged(|_, claims| claims["exp"] = exp).await, "an odd end");
    }
    let endless = bench.forged(|_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))).await;
    bench.refuses(&endless, "without end");
}

#[tokio::test]
async fn a_token_that_is_not_yet_valid_is_refused_until_it_is() {
    let bench = Bench::new().await;
    let later = bench.forged(|_, claims| claims["nbf"] = json!(claims["nbf"].as_i64().unwrap() + 60)).await;
    bench.refuses(&later, "not yet valid");
    bench.clock.advance(Duration::from_secs(55));
    assert!(bench.verify(&later).is_ok());
    let ever = bench.forged(|_, claims| drop(claims.as_object_mut().unwrap().remove("nbf"))).await;
    bench.refuses(&ever, "valid from no time on");
}

#[tokio::test]
async fn a_wrong_issuer_or_audience_is_refused() {
    let bench = Bench::new().await;
    for (key, value) in [
        ("iss", json!("somebody")),
        ("iss", json!("")),
        ("iss", Value::Null),
        ("iss", json!(["entrepot-not"])),
        ("aud", json!("other.test")),
        ("aud", json!([])),
        ("aud", json!("")),
        ("aud", Value::Null),
    ] {
        bench.refuses(&bench.forged(|_, claims| claims[key] = value.clone()).await, &format!("{key} {value}"));
    }
    let token = bench.token().await;
    assert!(bench.verify(&token).is_ok());
    assert_eq!(bench.verify_for(&token, "other.test"), Err(Refusal::Token), "it is remembered for one service");
}

#[tokio::test]
async fn the_key_before_goes_on_verifying_and_then_is_forgotten() {
    let bench = Bench::new().await;
    let day = Duration::from_hours(24);
    let first = bench.tokens.keys.current().await.unwrap().id.clone();
    bench.clock.advance(Duration::from_mins(30 * 24 * 60 - 1));
    let last = bench.token().await;
    assert_eq!(parts(&last).0["kid"], json!(first));
    bench.clock.advance(Duration::from_mins(1));
    let next = bench.token().await;
    assert_ne!(parts(&next).0["kid"], json!(first), "a month is over");
    assert!(bench.verify(&last).is_ok() && bench.verify(&next).is_ok());
    bench.clock.advance(day * 30);
    bench.token().await;
    let kept: Vec<String> = bench.metadata.list_signing_keys().await.unwrap().into_iter().map(|key| key.id).collect();
    assert!(kept.len() == 2 && !kept.contains(&first), "{kept:?}");
    assert!(bench.tokens.keys.find(&first).is_none());
}

#[tokio::test]
async fn tokens_outlive_the_process_because_keys_do() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let keys = Keys::open(bench.metadata.clone(), bench.clock.clone()).await.unwrap();
    let next = Tokens::new(keys, bench.clock.clone(), &Metrics::new());
    assert!(next.verify(token.expose_secret(), SERVICE).is_ok());
    assert_eq!(bench.metadata.list_signing_keys().await.unwrap().len(), 1);
    assert!(bench.folder.path().exists());
}

#[tokio::test]
async fn keys_are_made_once_however_many_want_one() {
    let bench = Bench::new().await;
    let made = futures::future::join_all((0..8).map(|_| bench.tokens.keys.current())).await;
    let first = made[0].as_ref().unwrap().id.clone();
    assert!(made.iter().all(|key| key.as_ref().is_ok_and(|key| key.id == first)));
}
