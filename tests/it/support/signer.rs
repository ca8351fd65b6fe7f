//! Keys that sign tokens as an issuer does it: by the cryptographic library itself, so that whatever reads them is held
//! against something else.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _,
};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A key and the algorithm it is used with.
pub struct Signer {
    pub alg: &'static str,
    pub kid: String,
    pub pair: KeyPair,
}

impl Signer {
    pub fn new(alg: &'static str, kid: &str) -> Self {
        let kind = match alg {
            "ES256" => &PKCS_ECDSA_P256_SHA256,
            "ES384" => &PKCS_ECDSA_P384_SHA384,
            "EdDSA" => &PKCS_ED25519,
            "RS256" | "PS512" => &PKCS_RSA_SHA256,
            other => panic!("no key for {other}"),
        };
        Self { alg, kid: kid.to_owned(), pair: KeyPair::generate_for(kind).expect("a key can be made") }
    }

    /// The public key, as an issuer shows it.
    pub fn jwk(&self) -> Value {
        let mut jwk = json!({ "kid": self.kid, "use": "sig", "alg": self.alg });
        let spki = self.pair.subject_public_key_info();
        let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).expect("a public key can be read");
        let raw = &spki.subject_public_key.data;
        match spki.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(key)) => {
                let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
                (jwk["kty"], jwk["n"], jwk["e"]) = ("RSA".into(), encoded(modulus), encoded(key.exponent));
            }
            _ if self.alg == "EdDSA" => {
                (jwk["kty"], jwk["crv"], jwk["x"]) = ("OKP".into(), "Ed25519".into(), encoded(raw));
            }
            _ => {
                let (x, y) = raw[1..].split_at((raw.len() - 1) / 2);
                let curve = if self.alg == "ES256" { "P-256" } else { "P-384" };
                (jwk["kty"], jwk["crv"], jwk["x"], jwk["y"]) = ("EC".into(), curve.into(), encoded(x), encoded(y));
            }
        }
        jwk
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "typ": "JWT", "alg": self.alg, "kid": self.kid }), claims)
    }

    /// Signed as it should be, whatever the header says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        token_of(header, claims, |message| self.sign(message))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let (pkcs8, random) = (self.pair.serialize_der(), SystemRandom::new());
        let by_curve = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).unwrap().sign(&random, message).unwrap();
        match self.alg {
            "ES256" => by_curve(&ECDSA_P256_SHA256_FIXED_SIGNING).as_ref().to_vec(),
            "ES384" => by_curve(&ECDSA_P384_SHA384_FIXED_SIGNING).as_ref().to_vec(),
            "EdDSA" => Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap().sign(message).as_ref().to_vec(),
            _ => {
                let pair = RsaKeyPair::from_pkcs8(&pkcs8).unwrap();
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if self.alg == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA512 };
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public key as whoever mistakes it for a shared secret has it.
    pub fn public_bytes(&self) -> Vec<u8> {
        match self.alg {
            "ES256" => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pair.serialize_der());
                pair.unwrap().public_key().as_ref().to_vec()
            }
            _ => self.pair.subject_public_key_info(),
        }
    }
}

/// A token of any header, claims and signature.
pub fn token_of(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn encoded(bytes: &[u8]) -> Value {
    BASE64_URL_SAFE_NO_PAD.encode(bytes).into()
}
