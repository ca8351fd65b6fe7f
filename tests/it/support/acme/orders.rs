//! What a fake directory keeps: accounts, orders with their proofs, and what it says of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{BEGINNING_S, Fault, request};

/// What its connections share.
pub struct State {
    pub base: String,
    pub nonces: HashSet<String>,
    pub accounts: Vec<Value>,
    pub orders: Vec<Order>,
    pub issuer: Issuer<'static, KeyPair>,
    pub authority: String,
    pub now_s: i64,
    pub lifetime: Duration,
    pub is_down: bool,
    pub is_holding: bool,
    pub faults: HashMap<&'static str, VecDeque<Fault>>,
    pub elsewhere: Option<String>,
    pub external: Option<(String, Vec<u8>)>,
    pub issued: Vec<Vec<u8>>,
}

/// An order, in one of the states of RFC 8555.
pub struct Order {
    pub status: &'static str,
    pub proofs: Vec<Proof>,
    pub certificate: Option<String>,
}

/// One name of an order.
pub struct Proof {
    pub name: String,
    pub token: String,
    pub status: &'static str,
    pub error: Option<String>,
}

impl State {
    pub fn order(&self, nth: usize) -> Value {
        let (base, order) = (&self.base, &self.orders[nth]);
        let authorizations = (0..order.proofs.len()).map(|of| format!("{base}/authorization/{nth}/{of}"));
        let mut said = json!({
            "status": order.status,
            "authorizations": authorizations.collect::<Vec<_>>(),
            "finalize": format!("{base}/finalize/{nth}"),
        });
        if order.status == "valid" {
            said["certificate"] = format!("{base}/certificate/{nth}").into();
        }
        said
    }

    pub fn authorization(&self, nth: usize, of: usize) -> Value {
        let proof = &self.orders[nth].proofs[of];
        let status = if proof.status == "processing" { "pending" } else { proof.status };
        let other = json!({"type": "dns-01", "url": "x", "token": "x", "status": "pending"});
        json!({
            "status": status,
            "identifier": {"type": "dns", "value": proof.name},
            "challenges": [other, self.challenge(nth, of)],
        })
    }

    pub fn challenge(&self, nth: usize, of: usize) -> Value {
        let proof = &self.orders[nth].proofs[of];
        let url = format!("{}/challenge/{nth}/{of}", self.base);
        let mut said = json!({"type": "tls-alpn-01", "url": url, "token": proof.token, "status": proof.status});
        if let Some(error) = &proof.error {
            said["error"] = json!({"type": "urn:ietf:params:acme:error:connection", "detail": error});
        }
        said
    }

    /// A proof was looked at.
    pub fn seen(&mut self, nth: usize, of: usize, seen: Result<(), String>) {
        let order = &mut self.orders[nth];
        order.proofs[of].status = if seen.is_ok() { "valid" } else { "invalid" };
        order.proofs[of].error = seen.err();
        if order.proofs.iter().any(|proof| proof.status == "invalid") {
            order.status = "invalid";
        } else if order.proofs.iter().all(|proof| proof.status == "valid") {
            order.status = "ready";
        }
    }

    /// Makes the certificate that is asked for, if it is for the names that were ordered and nothing else.
    pub fn issue(&mut self, nth: usize, csr: &str) {
        let csr = request::decoded(csr).expect("a request in base64");
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).expect("a request that verifies");
        let ordered: Vec<_> = self.orders[nth].proofs.iter().map(|proof| proof.name.clone()).collect();
        let expected = CertificateParams::new(ordered).unwrap().subject_alt_names;
        assert_eq!(request.params.subject_alt_names, expected);
        assert!(!request.public_key.der_bytes().is_empty());
        let moment = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        // Clients, whose clocks are real, have to take what is issued in a test's far future.
        request.params.not_before = moment(BEGINNING_S);
        request.params.not_after = moment(self.now_s + i64::try_from(self.lifetime.as_secs()).unwrap());
        let certificate = request.signed_by(&self.issuer).unwrap();
        self.issued.push(certificate.der().to_vec());
        self.orders[nth].certificate = Some(format!("{}{}", certificate.pem(), self.authority));
    }
}
