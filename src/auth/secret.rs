//! Secrets that are made here: shown once, kept as digests. They are random, so that a plain digest is enough.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

/// Random bytes in a secret.
const RANDOM_BYTES: usize = 32;
/// Random bytes in a name.
const NAME_BYTES: usize = 9;
/// Bytes of a digest that tell two secrets of one name apart.
const MARK_BYTES: usize = 6;

/// A new secret that begins with `prefix`, by which people and scanners see what it is.
pub(super) fn new_secret(prefix: &str) -> SecretString {
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut random).expect("the system has random bytes");
    format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(random)).into()
}

/// A name that no other thing has: short, because it is in every token, which is in every request.
pub(super) fn new_name() -> String {
    let mut random = [0; NAME_BYTES];
    SystemRandom::new().fill(&mut random).expect("the system has random bytes");
    BASE64_URL_SAFE_NO_PAD.encode(random)
}

/// What a token says of the secret for which it was issued, so that it ends with that: a few letters, since nobody can choose
/// them.
pub(super) fn mark_of(digest: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&digest[..digest.len().min(MARK_BYTES)])
}

/// What is kept of a secret.
pub(super) fn digest_of(secret: &SecretString) -> Vec<u8> {
    digest(&SHA256, secret.expose_secret().as_bytes()).as_ref().to_vec()
}
