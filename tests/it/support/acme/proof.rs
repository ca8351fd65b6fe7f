//! How a fake directory sees that a name leads to a port (RFC 8737, section 3): it asks for the proof and looks at all of it.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::Shared;

const PATIENCE: Duration = Duration::from_secs(10);
/// `id-pe-acmeIdentifier`.
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

/// Looks once it is known where, and notes what was seen.
pub async fn look(shared: Arc<Shared>, nth: usize, of: usize, thumbprint: String) {
    let mut ports = shared.port.subscribe();
    let port = ports.wait_for(Option::is_some).await.map(|port| *port);
    let Ok(Some(port)) = port else { return };
    let (name, token) = {
        let state = shared.lock();
        let proof = &state.orders[nth].proofs[of];
        (proof.name.clone(), proof.token.clone())
    };
    let authorization = Sha256::digest(format!("{token}.{thumbprint}").as_bytes());
    let seen = tokio::time::timeout(PATIENCE, seen(port, &name, &authorization)).await;
    shared.lock().seen(nth, of, seen.unwrap_or_else(|_| Err("it took too long".to_owned())));
}

async fn seen(port: std::net::SocketAddr, name: &str, authorization: &[u8]) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(port).await.map_err(|error| error.to_string())?;
    let sni = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(sni, stream).await.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("another protocol was agreed on".to_owned());
    }
    let shown = session.peer_certificates().and_then(<[_]>::first).ok_or("no certificate was shown")?;
    let (_, shown) = X509Certificate::from_der(shown).map_err(|error| error.to_string())?;
    let names = shown.subject_alternative_name().ok().flatten().ok_or("it is for no name")?;
    if !matches!(&names.value.general_names[..], [GeneralName::DNSName(only)] if *only == name) {
        return Err("it is for other names".to_owned());
    }
    let extensions = shown.extensions();
    let proof = extensions.iter().find(|extension| extension.oid.to_id_string() == ACME_IDENTIFIER);
    // An octet string of 32 bytes.
    let expected = [&[4, 32][..], authorization].concat();
    match proof {
        Some(proof) if proof.critical && proof.value == expected => Ok(()),
        _ => Err("it does not prove what it should".to_owned()),
    }
}

/// Whoever is asked for a proof shows what it has signed itself.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 is offered alone".to_owned()))
    }

    /// By the key alone: rustls takes no certificate with a critical extension that it does not know.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| Error::General(error.to_string()))?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
