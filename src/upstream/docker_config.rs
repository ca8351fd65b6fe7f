//! Docker's `config.json` and the answers of its credential programs: who we are at which server. Pure.

use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::credentials::{Credentials, Secret};

/// What docker calls Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// Hosts that are Docker Hub.
const HUB_HOSTS: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// The user name that says the secret is an identity token, by docker's protocol.
const TOKEN_USER: &str = "<token>";

/// What the file knows of a server.
pub enum Found {
    /// It is written there.
    Secret(Secret),
    /// `docker-credential-NAME` knows it; if that does not, there may be something written.
    Program { name: String, otherwise: Option<Secret> },
    /// Nothing.
    Nothing,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    identitytoken: Option<SecretString>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: SecretString,
}

/// What docker calls the server at `host` (`host` or `host:port`).
pub fn server_of(host: &str) -> String {
    if HUB_HOSTS.contains(&host) { HUB.to_owned() } else { host.to_owned() }
}

/// What the file knows of a server, by docker's order: its own program, the program for all, the file. `None` if the
/// text is not such a file.
pub fn look_up(text: &SecretString, server: &str) -> Option<Found> {
    let file: File = serde_json::from_str(text.expose_secret()).ok()?;
    let wanted = plain(server);
    let entry = file.auths.into_iter().find(|(key, _)| plain(key) == wanted).and_then(|(_, entry)| entry.secret());
    let own = file.cred_helpers.into_iter().find(|(key, _)| plain(key) == wanted).map(|(_, name)| name);
    let program = own.or(file.creds_store).filter(|name| is_program_name(name));
    Some(match (program, entry) {
        (Some(name), otherwise) => Found::Program { name, otherwise },
        (None, Some(secret)) => Found::Secret(secret),
        (None, None) => Found::Nothing,
    })
}

/// Reads what a credential program printed.
pub fn read_answer(text: &SecretString) -> Option<Secret> {
    let Answer { username, secret } = serde_json::from_str(text.expose_secret()).ok()?;
    if secret.expose_secret().is_empty() {
        None
    } else if username == TOKEN_USER {
        Some(Secret::IdentityToken(secret))
    } else {
        Some(Secret::Password(Credentials { username, password: secret }))
    }
}

/// May this follow `docker-credential-`? A path may not.
pub fn is_program_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

impl Entry {
    fn secret(self) -> Option<Secret> {
        let not_empty = |secret: &SecretString| !secret.expose_secret().is_empty();
        if let Some(token) = self.identitytoken.filter(not_empty) {
            return Some(Secret::IdentityToken(token));
        }
        if let Some(auth) = self.auth.filter(not_empty) {
            let decoded = String::from_utf8(base64(auth.expose_secret())?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            // Old versions of docker padded what they encoded with zeroes.
            let password = password.trim_end_matches('\0');
            return Some(Secret::Password(Credentials { username: username.to_owned(), password: password.into() }));
        }
        let password = self.password.filter(not_empty)?;
        Some(Secret::Password(Credentials { username: self.username?, password }))
    }
}

/// A server without what its spellings differ by: `https://ghcr.io/v2/` is `ghcr.io`, and every name of Docker Hub is one.
fn plain(server: &str) -> &str {
    let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = host.split('/').next().unwrap_or(host);
    if HUB_HOSTS.contains(&host) { "docker.io" } else { host }
}

/// Decodes base64 (RFC 4648, section 4), padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut n_bits) = (0_u32, 0_u32);
    for byte in text.trim_end().trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            decoded.push((bits >> n_bits).to_le_bytes()[0]);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(found: Option<Found>) -> String {
        let secret = |secret: &Secret| match secret {
            Secret::Password(who) => format!("{}:{}", who.username, who.password.expose_secret()),
            Secret::IdentityToken(token) => format!("token {}", token.expose_secret()),
        };
        match found {
            None => "unreadable".to_owned(),
            Some(Found::Nothing) => "nothing".to_owned(),
            Some(Found::Secret(found)) => secret(&found),
            Some(Found::Program { name, otherwise }) => {
                format!("program {name}, else {}", otherwise.as_ref().map_or("nothing".to_owned(), secret))
            }
        }
    }

    fn found(text: &str, host: &str) -> String {
        shown(look_up(&text.into(), &server_of(host)))
    }

    #[test]
    fn every_spelling_of_a_server_is_found() {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6aHVudGVyMg=="},
            "ghcr.io": {"auth": "bWU6YTpi"},
            "https://quay.io/v2/": {"username": "me", "password": "x"},
            "r.lan:5000": {"identitytoken": "refresh", "auth": "MDAwOg=="},
            "empty.example": {}
        }}"#;
        for (host, expected) in [
            ("registry-1.docker.io", "me:hunter2"),
            ("docker.io", "me:hunter2"),
            ("ghcr.io", "me:a:b"),
            ("quay.io", "me:x"),
            ("r.lan:5000", "token refresh"),
            ("r.lan", "nothing"),
            ("empty.example", "nothing"),
            ("gcr.io", "nothing"),
        ] {
            assert_eq!(found(file, host), expected, "{host}");
        }
    }

    #[test]
    fn a_program_of_the_server_goes_before_the_one_for_all_and_that_before_the_file() {
        let file = r#"{"auths": {"ghcr.io": {"auth": "bWU6eA"}},
            "credHelpers": {"1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login", "bad.example": "../../bin/sh"},
            "credsStore": "pass"}"#;
        assert_eq!(found(file, "1.dkr.ecr.eu-west-1.amazonaws.com"), "program ecr-login, else nothing");
        assert_eq!(found(file, "ghcr.io"), "program pass, else me:x");
        assert_eq!(found(file, "bad.example"), "nothing");
    }

    #[test]
    fn what_is_no_such_file_is_told_apart_from_an_empty_one() {
        assert_eq!(found("{}", "ghcr.io"), "nothing");
        assert_eq!(found("", "ghcr.io"), "unreadable");
        assert_eq!(found(r#"{"auths": 1}"#, "ghcr.io"), "unreadable");
    }

    #[test]
    fn answers_of_programs_are_a_password_or_a_token() {
        let read = |text: &str| shown(read_answer(&text.into()).map(Found::Secret));
        assert_eq!(read(r#"{"ServerURL":"x","Username":"AWS","Secret":"s"}"#), "AWS:s");
        assert_eq!(read(r#"{"Username":"<token>","Secret":"s"}"#), "token s");
        assert_eq!(read(r#"{"Username":"","Secret":""}"#), "unreadable");
        assert_eq!(read("credentials not found in native keychain"), "unreadable");
    }

    proptest! {
        #[test]
        fn base64_of_any_bytes_is_read(bytes: Vec<u8>) {
            const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut text = String::new();
            for group in bytes.chunks(3) {
                let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
                for at in 0..=group.len() {
                    text.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
                }
            }
            prop_assert_eq!(base64(&text), Some(bytes));
        }

        #[test]
        fn no_file_panics_the_reader(text in "\\PC{0,60}", auth in "[ -~]{0,20}") {
            let _ = look_up(&text.clone().into(), "ghcr.io");
            let _ = look_up(&serde_json::json!({"auths": {"ghcr.io": {"auth": auth}}}).to_string().into(), "ghcr.io");
        }
    }
}
