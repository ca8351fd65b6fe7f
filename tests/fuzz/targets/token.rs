//! Tokens and key sets of others: no text panics whoever reads it, and what a known key has not signed is no token.
#![no_main]

use std::sync::LazyLock;

use entrepot::auth::{KeySet, TokenServer};
use libfuzzer_sys::fuzz_target;

/// RFC 8037, appendix A.2.
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

static SERVER: LazyLock<TokenServer> = LazyLock::new(|| {
    TokenServer::new("issuer".to_owned(), KeySet::of_jwks(KEYS.as_bytes()).expect("the key can be read"))
});

fuzz_target!(|text: &str| {
    assert!(SERVER.verify(text, "service", 0).is_err());
    // The parts of a token are seldom found by chance.
    let mut parts = text.splitn(3, '.');
    let mut encoded = || base64url(parts.next().unwrap_or_default().as_bytes());
    let token = format!("{}.{}.{}", encoded(), encoded(), encoded());
    assert!(SERVER.verify(&token, "service", 0).is_err());
    let _ = KeySet::of_jwks(text.as_bytes());
    let _ = KeySet::of_pem(text);
});

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}
