//! Proofs that names lead to this port (TLS-ALPN-01, RFC 8737): who asks for one by ALPN is shown it, and nothing else.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::ClientHello;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ServerConfig, SupportedProtocolVersion};

/// What ALPN calls such a question (RFC 8737, section 6.2).
pub(super) const ALPN: &[u8] = b"acme-tls/1";

/// The proofs that are shown now, by name.
pub struct Challenges {
    versions: &'static [&'static SupportedProtocolVersion],
    shown: RwLock<HashMap<String, Arc<ServerConfig>>>,
}

impl Challenges {
    pub(super) fn new(versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, shown: RwLock::default() }
    }

    /// Shows this certificate to whoever asks for a proof of `name`, which is in lower case. No certificate is asked of them.
    pub fn present(
        &self,
        name: String,
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Not compared with its certificate, whose critical extension rustls does not know.
        let key = provider.key_provider.load_private_key(key.into())?;
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(self.versions)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        self.shown.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(config));
        Ok(())
    }

    /// Shows it no longer.
    pub fn withdraw(&self, name: &str) {
        self.shown.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What to make the handshake with, if this asks for a proof and for nothing else, of a name that there is one of.
    pub(super) fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn()?;
        if offered.next() != Some(ALPN) || offered.next().is_some() {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        self.shown.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(shown.keys()).finish()
    }
}
