//! Tokens: what a token service is sent and what it answers (distribution-spec's token authentication, OAuth 2.0).

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The lifetime of a token that does not name its own (the specification's default).
const LIFETIME_DEFAULT: Duration = Duration::from_mins(1);

/// No token is believed to live longer.
const LIFETIME_MAX: Duration = Duration::from_hours(12);

/// A tenth of its lifetime, at most this, is taken off a token: it must still be good when it arrives.
const MARGIN_MAX: Duration = Duration::from_secs(30);

/// An access token.
pub struct Token {
    pub secret: SecretString,
    lifetime: Duration,
}

/// The body of a request that exchanges an identity token for an access token (RFC 6749, section 6).
pub fn refresh_form(service: Option<&str>, scope: &str, identity_token: &SecretString) -> SecretString {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("client_id", "entrepot")
        .append_pair("scope", scope)
        .append_pair("refresh_token", identity_token.expose_secret());
    form.finish().into()
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number by the specification; services were seen to send others.
    expires_in: Option<serde_json::Value>,
}

/// Reads `token` or `access_token`, and `expires_in` seconds less a margin.
pub fn read(body: &[u8]) -> Option<Token> {
    let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
    let fits = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let secret = SecretString::from(answer.token.filter(fits).or(answer.access_token.filter(fits))?);
    let seconds = answer.expires_in.and_then(|value| value.as_f64()).filter(|seconds| *seconds > 0.0);
    // Cut down before it becomes a `Duration`, which would not hold every number JSON can write.
    let stated = seconds.map(|seconds| Duration::from_secs_f64(seconds.min(LIFETIME_MAX.as_secs_f64())));
    let lifetime = stated.unwrap_or(LIFETIME_DEFAULT);
    Some(Token { secret, lifetime: lifetime.saturating_sub((lifetime / 10).min(MARGIN_MAX)) })
}

/// Tokens live as long as each says.
pub struct ByLifetime;

impl<K> Expiry<K, Arc<Token>> for ByLifetime {
    fn expire_after_create(&self, _: &K, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lifetime)
    }

    fn expire_after_update(&self, _: &K, token: &Arc<Token>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(token.lifetime)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> Option<(String, Duration)> {
        super::read(body.as_bytes()).map(|token| (token.secret.expose_secret().to_owned(), token.lifetime))
    }

    #[test]
    fn both_names_of_the_token_are_read_and_a_margin_is_taken_off() {
        let seconds = |n| Duration::from_secs(n);
        assert_eq!(read(r#"{"token":"a","expires_in":300}"#), Some(("a".to_owned(), seconds(270))));
        assert_eq!(read(r#"{"access_token":"b"}"#), Some(("b".to_owned(), seconds(54))));
        assert_eq!(read(r#"{"token":"","access_token":"b","expires_in":"x"}"#), Some(("b".to_owned(), seconds(54))));
        assert_eq!(
            read(r#"{"token":"a","expires_in":1e300}"#),
            Some(("a".to_owned(), LIFETIME_MAX.saturating_sub(MARGIN_MAX)))
        );
        assert_eq!(read(r#"{"token":"a","expires_in":-5}"#), Some(("a".to_owned(), seconds(54))));
    }

    #[test]
    fn answers_without_a_usable_token_are_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"token":null}"#,
            r#"{"token":""}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":1}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_of_a_token_service_panics(value in "\\PC{0,40}", seconds: f64) {
            let _ = read(&value);
            let _ = read(&format!("{{\"token\":\"t\",\"expires_in\":{seconds:?}}}"));
        }
    }
}
