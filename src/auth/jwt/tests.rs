use proptest::prelude::*;
use serde_json::json;

use super::*;

fn claims(value: Value) -> Claims {
    match value {
        Value::Object(claims) => claims,
        other => panic!("{other} are no claims"),
    }
}

#[test]
fn a_date_is_any_number_and_nothing_else() {
    let exp = |exp: Value| check(&claims(json!({ "iss": "i", "aud": "a", "exp": exp })), "i", "a", 0);
    assert_eq!(exp(json!(7)), Ok(7_000));
    assert_eq!(exp(json!(7.5)), Ok(7_500));
    assert_eq!(exp(json!(1e300)), Ok(i64::MAX));
    assert_eq!(exp(json!(-1e300)), Err(Fault::Expired));
    assert_eq!(exp(json!(i64::MAX)), Ok(i64::MAX));
    for other in [json!("7"), json!([7]), json!(true), json!({})] {
        assert_eq!(exp(other.clone()), Err(Fault::Claim { claim: "exp".to_owned() }), "{other}");
    }
}

#[test]
fn keys_say_which_algorithms_they_are_for() {
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let of = |keys: Value| KeySet::of_jwks(json!({ "keys": keys }).to_string().as_bytes());
    let wanted = |id: Option<&str>, algorithm| Wanted { id: id.map(str::to_owned), algorithm, has_chain: false };
    let keys = of(json!([ed])).unwrap();
    assert!(keys.has(&wanted(Some("ed"), Algorithm::EdDSA)) && keys.has(&wanted(None, Algorithm::EdDSA)));
    assert!(!keys.has(&wanted(Some("ED"), Algorithm::EdDSA)));
    for other in [Algorithm::HS256, Algorithm::ES256, Algorithm::RS256] {
        assert!(!keys.has(&wanted(Some("ed"), other)), "{other:?}");
    }
    for (name, value) in [("crv", "Ed448"), ("kty", "EC"), ("x", "AAAA"), ("x", "!"), ("use", "enc"), ("alg", "ES256")]
    {
        let mut changed = ed.clone();
        changed[name] = value.into();
        assert_eq!(of(json!([changed])).unwrap_err(), KeysInvalid::Nothing, "{name}: {value}");
    }
    assert_eq!(of(Value::from(vec![ed; 33])).unwrap_err(), KeysInvalid::Many);
    assert_eq!(KeySet::of_jwks(b"{}").unwrap_err(), KeysInvalid::Form);
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_refused(text in "[ -~]{0,64}(\\.[A-Za-z0-9_-]{0,64}){0,3}") {
        let _: Option<String> = issuer_of(&text);
        let _: Result<Wanted, Fault> = wanted(&text);
    }
}
