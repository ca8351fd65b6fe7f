//! TLS of the port: what handshakes are made with, how that is replaced while serving, and how a handshake goes.
//!
//! A connection keeps what its handshake was made with; only new ones see a replaced certificate. Nothing here reads a
//! file: the command line does, and looks again when they change.

mod certificate;
mod challenge;
mod material;

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{Acceptor, ClientHello, ResolvesServerCertUsingSni};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

pub use certificate::{Left, PeerCertificate, Validity};
pub use challenge::Challenges;
pub use material::{Material, MaterialInvalid};

use super::connection::Connection;
use super::opening;
use crate::metrics::Metrics;

/// What ALPN calls HTTP/2 (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What holds for every handshake, whatever the certificate.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Refuse TLS 1.2 too; older versions are never spoken.
    pub only_tls_1_3: bool,
    /// How long a client may take, its first byte and its turn included.
    pub handshake_timeout: Duration,
    /// Handshakes at a time.
    pub handshakes_max: usize,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// They may, and a wrong one is refused.
    Request,
    /// They must.
    Require,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailed {
    /// Slower than it may be.
    #[error("the handshake did not end within {0:?}")]
    TimedOut(Duration),
    /// The two did not agree, or the connection broke.
    #[error("the handshake failed")]
    Broken(#[from] io::Error),
    /// There is nothing to show yet, which the client was told.
    #[error("no certificate has been issued yet")]
    Unissued(#[source] io::Error),
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    /// Reads and writes what is in it.
    pub stream: TlsStream<Connection>,
    /// Both agreed on HTTP/2.
    pub is_http2: bool,
    /// Who the client proved to be.
    pub certificate: Option<PeerCertificate>,
}

/// What came of a connection.
#[derive(Debug)]
pub enum Accepted {
    /// A client.
    Client(Box<Secured>),
    /// Whoever issues certificates has seen that a name leads here, which was all it wanted.
    Proven,
}

/// How TLS is doing, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// When our certificate is good; `None` while there is none.
    pub validity: Option<Validity>,
    /// Why what is in the files now is not used, if it is not.
    pub problem: Option<String>,
    /// Why whoever should issue the next one has not, if that is so.
    pub unissued: Option<String>,
}

/// TLS of one port.
pub struct Tls {
    options: TlsOptions,
    current: RwLock<Current>,
    challenges: Challenges,
    handshakes: Semaphore,
    metrics: Metrics,
}

struct Current {
    config: Arc<ServerConfig>,
    status: Status,
}

/// What a handshake is made with.
enum Made {
    Ours(Arc<ServerConfig>),
    /// Nothing but an alert comes of it.
    Unissued(Arc<ServerConfig>),
}

impl Tls {
    /// TLS with these files.
    pub fn new(material: &Material, options: TlsOptions, metrics: Metrics) -> Result<Self, MaterialInvalid> {
        let tls = Self::unissued(options, metrics);
        tls.take(material)?;
        Ok(tls)
    }

    /// TLS that has nothing to show yet: until [`Tls::replace`], clients are refused by an alert.
    pub fn unissued(options: TlsOptions, metrics: Metrics) -> Self {
        let handshakes = Semaphore::new(options.handshakes_max);
        let current = RwLock::new(Current::unissued(&options));
        let challenges = Challenges::new(material::versions(options.only_tls_1_3));
        Self { options, current, challenges, handshakes, metrics }
    }

    /// Makes new handshakes with other files, or says why not; then those before them stay in use.
    pub fn replace(&self, material: &Material) -> Result<Validity, MaterialInvalid> {
        let validity = self.take(material)?;
        self.metrics.tls_reloaded("ok");
        Ok(validity)
    }

    fn take(&self, material: &Material) -> Result<Validity, MaterialInvalid> {
        let (config, validity) = material::of(material, &self.options)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.config = Arc::new(config);
        (current.status.validity, current.status.problem) = (Some(validity), None);
        self.metrics.tls_certificate_ends(validity.not_after_s);
        Ok(validity)
    }

    /// Notes how it stands with the next certificate: why it has not been issued, or that nothing is wrong.
    pub fn note_issuance(&self, problem: Option<String>) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).status.unissued = problem;
    }

    /// What whoever issues certificates is shown when it asks whether a name leads here.
    pub const fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Notes that what is in the files is not used.
    pub fn keep(&self, problem: String) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).status.problem = Some(problem);
        self.metrics.tls_reloaded("failed");
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.current.read().unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    /// Does the handshake of a connection whose client begins one.
    pub async fn accept(&self, connection: Connection) -> Result<Accepted, HandshakeFailed> {
        let limit = self.options.handshake_timeout;
        let (ended, refused) = match tokio::time::timeout(limit, self.handshake(connection)).await {
            Ok(Ok(stream)) => (Ok(stream), None),
            Ok(Err((failed, refused))) => (Err(failed), refused),
            Err(_) => (Err(HandshakeFailed::TimedOut(limit)), None),
        };
        let is_proof = |stream: &TlsStream<Connection>| stream.get_ref().1.alpn_protocol() == Some(challenge::ALPN);
        let kind = |stream: &TlsStream<Connection>| if is_proof(stream) { "challenge" } else { "ok" };
        self.metrics.tls_handshake(ended.as_ref().map_or_else(HandshakeFailed::kind, kind));
        if let Some(mut refused) = refused {
            // The alert is sent. A client that is gone needs none.
            let _ = opening::part(&mut refused).await;
        }
        let mut stream = ended?;
        if is_proof(&stream) {
            // It has seen the certificate, and may be gone.
            let _ = tokio::time::timeout(limit, stream.shutdown()).await;
            return Ok(Accepted::Proven);
        }
        let (_, session) = stream.get_ref();
        let is_http2 = session.alpn_protocol() == Some(H2);
        let certificate = session.peer_certificates().and_then(<[_]>::first).map(PeerCertificate::of);
        Ok(Accepted::Client(Box::new(Secured { stream, is_http2, certificate })))
    }

    /// Gives the connection back where there is somebody to part from.
    async fn handshake(
        &self,
        connection: Connection,
    ) -> Result<TlsStream<Connection>, (HandshakeFailed, Option<Connection>)> {
        // The hello costs nothing and may be slow; what is limited are the signatures that follow it.
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), connection);
        let hello = match (&mut hello).await {
            Ok(hello) => hello,
            Err(error) => return Err((error.into(), hello.take_io())),
        };
        let _turn = self.handshakes.acquire().await.expect("the semaphore is never closed");
        let (config, is_unissued) = match self.made(&hello.client_hello()) {
            Made::Ours(config) => (config, false),
            Made::Unissued(config) => (config, true),
        };
        hello.into_stream(config).into_fallible().await.map_err(|(error, refused)| {
            let failed = if is_unissued { HandshakeFailed::Unissued(error) } else { error.into() };
            (failed, Some(refused))
        })
    }

    /// Whoever asks to be shown a proof gets that, whether or not clients have to show certificates.
    fn made(&self, hello: &ClientHello<'_>) -> Made {
        if let Some(challenge) = self.challenges.answer(hello) {
            return Made::Ours(challenge);
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let config = Arc::clone(&current.config);
        if current.status.validity.is_some() { Made::Ours(config) } else { Made::Unissued(config) }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("options", &self.options).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl HandshakeFailed {
    /// For the metric.
    fn kind(&self) -> &'static str {
        use rustls::Error as E;
        let error = match self {
            Self::Broken(error) => error,
            Self::TimedOut(_) => return "timed_out",
            Self::Unissued(_) => return "unissued",
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
            Some(E::NoCertificatesPresented) => "no_certificate",
            Some(E::InvalidCertificate(_)) => "wrong_certificate",
            Some(E::PeerIncompatible(_)) => "incompatible",
            Some(E::AlertReceived(_)) => "refused_by_client",
            _ => "broken",
        }
    }
}

impl Current {
    /// Every handshake is refused.
    fn unissued(options: &TlsOptions) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(material::versions(options.only_tls_1_3));
        let builder = builder.expect("the provider has both versions").with_no_client_auth();
        let config = builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        Self { config: Arc::new(config), status: Status { validity: None, problem: None, unissued: None } }
    }
}
