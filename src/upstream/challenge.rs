//! What an upstream asks for when it answers 401: the `WWW-Authenticate` header (RFC 9110, section 11.6.1).

use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use url::Url;

/// Bytes of challenges that are looked at; a real one has a few hundred.
const LENGTH_MAX: usize = 8 * 1024;

/// The challenge to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password on every request.
    Basic,
    /// A token of the token service at `realm` (distribution-spec's token authentication).
    Bearer {
        /// Where tokens are had.
        realm: Url,
        /// What the token service knows the registry as.
        service: Option<String>,
    },
}

/// The challenge to answer among all that were sent: Bearer before Basic, because it exposes the password less often.
///
/// Malformed challenges end the header they stand in; what came before them counts. The scope in the challenge is not
/// read: only what a pull needs is ever asked for.
pub fn parse<'h>(headers: impl IntoIterator<Item = &'h str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.into_iter().filter(|header| header.len() <= LENGTH_MAX) {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(bearer) = bearer(&challenge)
            {
                return Some(bearer);
            }
        }
    }
    basic
}

/// The challenge in the headers of an answer.
pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
    parse(headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
}

fn bearer(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let value = |name: &str| {
        challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
    };
    let realm = Url::parse(&value("realm")?).ok()?;
    Some(Challenge::Bearer { realm, service: value("service") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer_at(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: Url::parse(realm).unwrap(), service: service.map(str::to_owned) }
    }

    #[test]
    fn the_challenges_of_real_registries_are_understood() {
        assert_eq!(
            parse([
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull""#
            ]),
            Some(bearer_at("https://auth.docker.io/token", Some("registry.docker.io")))
        );
        assert_eq!(
            parse([r#"bearer Realm="https://a.example/t?x=1" , scope="""#]),
            Some(bearer_at("https://a.example/t?x=1", None))
        );
        assert_eq!(parse([r#"Basic realm="Registry""#]), Some(Challenge::Basic));
    }

    #[test]
    fn bearer_is_preferred_wherever_it_stands() {
        let bearer = Some(bearer_at("https://a.example/t", None));
        assert_eq!(parse([r#"Basic realm="x", Bearer realm="https://a.example/t""#]), bearer);
        assert_eq!(parse([r#"Basic realm="x""#, r#"Negotiate, Bearer realm="https://a.example/t""#]), bearer);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for header in
            ["", "Negotiate", "Bearer", "Bearer service=\"a\"", "Bearer realm=\"/token\"", "Bearer realm=\"", "\u{e9}"]
        {
            assert_eq!(parse([header]), None, "{header:?}");
        }
        assert_eq!(parse([]), None);
        assert_eq!(parse([format!("Basic realm=\"{}\"", "x".repeat(LENGTH_MAX)).as_str()]), None);
    }

    proptest! {
        #[test]
        fn no_header_panics_the_parser(any in "\\PC{0,80}", near in "(Bearer|Basic|Digest)?[ ,=\"\\\\a-z:/]{0,60}") {
            let _ = parse([any.as_str(), near.as_str()]);
        }

        #[test]
        fn every_quoted_realm_comes_back(path in "[a-z0-9/._-]{0,30}", service in "[ -~]{0,30}") {
            let realm = format!("https://a.example/{path}");
            let quoted = service.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{realm}\", service=\"{quoted}\"");
            prop_assert_eq!(parse([header.as_str()]), Some(bearer_at(&realm, Some(&service))));
        }
    }
}
