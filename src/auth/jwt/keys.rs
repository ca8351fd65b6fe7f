//! The keys of somebody who signs tokens, each with the algorithms it may be used with: a token chooses among these only.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Wanted;

/// Keys of one issuer; more are refused, because a token that names none is held against each.
pub const KEYS_MAX: usize = 32;

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysInvalid {
    /// It is no set of keys.
    #[error("it is no JSON Web Key Set (RFC 7517, section 5)")]
    Form,
    /// Too many.
    #[error("it has more than {KEYS_MAX} keys")]
    Many,
    /// None is of a kind that is taken.
    #[error("it has no key to verify signatures with: RSA, EC P-256 or P-384, or Ed25519")]
    Nothing,
}

/// A key.
#[derive(Clone)]
struct Key {
    /// The name that its owner has given to it.
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    verifying: DecodingKey,
}

/// All the keys of an issuer.
#[derive(Clone)]
pub struct KeySet(Vec<Key>);

/// What is read of a key (RFC 7517, section 4; RFC 7518, section 6). A secret has no field here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of other kinds, and for other uses, are passed over.
    pub fn of_jwks(json: &[u8]) -> Result<Self, KeysInvalid> {
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<serde_json::Value>,
        }
        let Jwks { keys } = serde_json::from_slice(json).map_err(|_| KeysInvalid::Form)?;
        if keys.len() > KEYS_MAX {
            return Err(KeysInvalid::Many);
        }
        let known = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.key());
        Self::of(known.collect())
    }

    /// Reads certificates and public keys in PEM. Nothing is asked of the certificates but their keys, which have no names: any
    /// name will do in a token.
    pub fn of_pem(pem: &str) -> Result<Self, KeysInvalid> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(|certificate| {
            let certificate = certificate.ok()?;
            let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
            key_of(certificate.public_key())
        });
        let bare = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()).filter_map(|key| {
            let key = key.ok()?;
            key_of(&SubjectPublicKeyInfo::from_der(&key).ok()?.1)
        });
        Self::of(certificates.chain(bare).collect())
    }

    fn of(keys: Vec<Key>) -> Result<Self, KeysInvalid> {
        match keys.len() {
            0 => Err(KeysInvalid::Nothing),
            n if n > KEYS_MAX => Err(KeysInvalid::Many),
            _ => Ok(Self(keys)),
        }
    }

    /// Is the key that a token asks for one of these?
    pub fn has(&self, wanted: &Wanted) -> bool {
        self.fitting(wanted).next().is_some()
    }

    /// The keys that may have signed it: a name is compared where there are two.
    pub(super) fn fitting<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a DecodingKey> {
        let is_named = |key: &Key| match (&key.id, &wanted.id) {
            (Some(id), Some(wanted)) => id == wanted,
            _ => true,
        };
        let fits = move |key: &&Key| is_named(key) && key.algorithms.contains(&wanted.algorithm);
        self.0.iter().filter(fits).map(|key| &key.verifying)
    }
}

/// A key as certificates have it (RFC 5280, section 4.1.2.7).
fn key_of(info: &SubjectPublicKeyInfo<'_>) -> Option<Key> {
    let bytes = &info.subject_public_key.data;
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let (algorithms, verifying) = match (info.parsed().ok()?, curve) {
        (PublicKey::RSA(_), _) => (RSA.to_vec(), DecodingKey::from_rsa_der(bytes)),
        (PublicKey::EC(_), Some(curve)) if curve == OID_EC_P256 => {
            (vec![Algorithm::ES256], DecodingKey::from_ec_der(bytes))
        }
        (PublicKey::EC(_), Some(curve)) if curve == OID_NIST_EC_P384 => {
            (vec![Algorithm::ES384], DecodingKey::from_ec_der(bytes))
        }
        _ if info.algorithm.algorithm == OID_SIG_ED25519 => (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(bytes)),
        _ => return None,
    };
    Some(Key { id: None, algorithms, verifying })
}

impl Jwk {
    fn key(self) -> Option<Key> {
        let is_for_signatures = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !is_for_signatures {
            return None;
        }
        let bytes = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
            (x.len() == length && y.len() == length).then(|| DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat()))
        };
        let (algorithms, verifying) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (RSA.to_vec(), DecodingKey::from_rsa_raw_components(&bytes(&self.n)?, &bytes(&self.e)?)),
            ("EC", Some("P-256")) => (vec![Algorithm::ES256], point(32)?),
            ("EC", Some("P-384")) => (vec![Algorithm::ES384], point(48)?),
            ("OKP", Some("Ed25519")) => {
                let public = bytes(&self.x).filter(|public| public.len() == 32)?;
                (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&public))
            }
            _ => return None,
        };
        let is_named = |algorithm: &Algorithm| self.alg.as_ref().is_none_or(|alg| *alg == format!("{algorithm:?}"));
        let algorithms: Vec<Algorithm> = algorithms.into_iter().filter(is_named).collect();
        (!algorithms.is_empty()).then_some(Key { id: self.kid, algorithms, verifying })
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, &key.algorithms))).finish()
    }
}
