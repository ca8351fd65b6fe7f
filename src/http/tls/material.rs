//! What handshakes are made with: a certificate, its key, and whom to believe about clients.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::certificate::Validity;
use super::{ClientCertificates, H2, HTTP_1_1, TlsOptions};

/// What the files hold, as PEM.
#[derive(Clone, Debug)]
pub struct Material {
    /// Our certificate, and the chain below its authority.
    pub certificate: String,
    /// Its key.
    pub key: SecretString,
    /// The authorities of clients' certificates; there are some if clients are asked.
    pub client_ca: Option<String>,
}

/// Why nothing can be served with some files.
#[derive(Debug, thiserror::Error)]
pub enum MaterialInvalid {
    /// No certificate is in the file.
    #[error("the file of the certificate holds none in PEM")]
    Certificate(#[source] pem::Error),
    /// Something is in the file, but no certificate.
    #[error("the certificate cannot be read: is it a whole one?")]
    Malformed,
    /// No key is in the file.
    #[error("the file of the key holds no private key in PEM")]
    Key(#[source] pem::Error),
    /// Key and certificate are of two pairs, or cannot be used.
    #[error("the certificate and the key cannot be used together: are both of the same pair?")]
    Pair(#[source] rustls::Error),
    /// No authority is in the file.
    #[error("the file of clients' authorities holds no certificate that can be used")]
    ClientCa,
    /// The authorities cannot be used.
    #[error("clients' certificates cannot be verified with these authorities")]
    Verifier(#[source] VerifierBuilderError),
}

/// What handshakes with this material are made with, and how long it is good.
pub(super) fn of(material: &Material, options: &TlsOptions) -> Result<(ServerConfig, Validity), MaterialInvalid> {
    let chain = certificates(&material.certificate).map_err(MaterialInvalid::Certificate)?;
    let leaf = chain.first().ok_or(MaterialInvalid::Certificate(pem::Error::NoItemsFound))?;
    let validity = Validity::of(leaf).ok_or(MaterialInvalid::Malformed)?;
    let key = PrivateKeyDer::from_pem_slice(material.key.expose_secret().as_bytes());
    let key = key.map_err(MaterialInvalid::Key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(options.only_tls_1_3))
        .expect("the provider has both versions");
    let builder = match (options.client_certificates, &material.client_ca) {
        (ClientCertificates::None, _) => builder.with_no_client_auth(),
        (asked, authorities) => {
            let authorities = authorities.as_deref().ok_or(MaterialInvalid::ClientCa)?;
            let is_required = asked == ClientCertificates::Require;
            builder.with_client_cert_verifier(verifier(authorities, is_required, provider)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(MaterialInvalid::Pair)?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok((config, validity))
}

/// The versions that are spoken, newest first.
pub(super) const fn versions(only_tls_1_3: bool) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static NEW: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    if only_tls_1_3 { &NEW } else { &ALL }
}

fn verifier(
    authorities: &str,
    is_required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, MaterialInvalid> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities).map_err(|_| MaterialInvalid::ClientCa)? {
        roots.add(authority).map_err(|_| MaterialInvalid::ClientCa)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(MaterialInvalid::Verifier)?;
    Ok(verifier)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}
