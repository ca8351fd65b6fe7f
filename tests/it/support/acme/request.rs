//! What clients of a fake directory send: requests, and what is signed in them (RFC 7515, as RFC 8555 narrows it down).

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::front::read_head;

/// A request.
pub struct Asked {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

impl Asked {
    pub async fn read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let head = read_head(stream).await?;
        let mut words = head.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        if method == "POST" {
            assert!(head.to_lowercase().contains("content-type: application/jose+json"), "{head}");
        }
        assert!(head.contains("entrepot/"), "the client says who it is: {head}");
        Ok(Self { method, path, body })
    }

    pub fn parts(&self) -> Vec<&str> {
        self.path.trim_start_matches('/').split('/').collect()
    }

    /// The endpoint it is for: new orders are told from those that are looked at.
    pub fn endpoint(&self) -> String {
        match &self.parts()[..] {
            ["order", _] => "look".to_owned(),
            parts => parts[0].to_owned(),
        }
    }
}

/// A request's content, whose signature is good.
pub struct Signed {
    pub nonce: String,
    pub url: String,
    pub jwk: Value,
    pub payload: Value,
}

pub fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// Header, payload, what the signature is over, and the signature.
fn opened(jws: &Value) -> Option<(Value, Vec<u8>, String, Vec<u8>)> {
    let (protected, payload) = (jws["protected"].as_str()?, jws["payload"].as_str()?);
    let header = serde_json::from_slice(&decoded(protected)?).ok()?;
    Some((header, decoded(payload)?, format!("{protected}.{payload}"), decoded(jws["signature"].as_str()?)?))
}

impl Signed {
    /// `None` if it is malformed, badly signed, or of nobody known.
    pub fn read(body: &[u8], accounts: &[Value]) -> Option<Self> {
        let (header, payload, over, signature) = opened(&serde_json::from_slice(body).ok()?)?;
        let known = || {
            let nth: usize = header["kid"].as_str()?.rsplit('/').next()?.parse().ok()?;
            accounts.get(nth).map(|account| account["jwk"].clone())
        };
        let jwk = if header["jwk"].is_object() { header["jwk"].clone() } else { known()? };
        let (x, y) = (decoded(jwk["x"].as_str()?)?, decoded(jwk["y"].as_str()?)?);
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4][..], &x, &y].concat());
        key.verify(over.as_bytes(), &signature).ok()?;
        assert_eq!(header["alg"], "ES256");
        let payload = if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).ok()? };
        let text = |key: &str| header[key].as_str().map(str::to_owned);
        Some(Self { nonce: text("nonce")?, url: text("url")?, jwk, payload })
    }

    /// The thumbprint of the key that it is signed with (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let jwk = &self.jwk;
        let text = json!({"crv": jwk["crv"], "kty": jwk["kty"], "x": jwk["x"], "y": jwk["y"]}).to_string();
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()))
    }

    /// Does it bind its key to this external account (RFC 8555, section 7.3.4)?
    pub fn is_bound_to(&self, id: &str, key: &[u8], url: &str) -> bool {
        let Some((header, payload, over, tag)) = opened(&self.payload["externalAccountBinding"]) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let bound: Value = serde_json::from_slice(&payload).unwrap_or_default();
        header == json!({"alg": "HS256", "kid": id, "url": url})
            && hmac::verify(&key, over.as_bytes(), &tag).is_ok()
            && (&bound["x"], &bound["y"]) == (&self.jwk["x"], &self.jwk["y"])
    }
}
