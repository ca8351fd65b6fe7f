//! The proof that a name leads to this port (RFC 8737): a certificate that holds what the directory wants to see.

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What is shown to whoever asks for this name by ALPN `acme-tls/1`.
#[derive(Debug)]
pub struct Proof {
    /// The name, in lower case.
    pub name: String,
    /// The certificate, signed by its own key.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivatePkcs8KeyDer<'static>,
}

impl Proof {
    pub(super) fn new(name: &str, authorization: &KeyAuthorization) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(authorization.digest().as_ref())];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { name: name.to_owned(), certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()) })
    }
}
