//! What stands between us and a fake upstream: a door that counts, TLS with authorities of our own, and proxies.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A listener on loopback. Dropped, it is gone with its connections.
pub struct Front {
    pub address: SocketAddr,
    seen: Seen,
    serving: JoinHandle<()>,
}

/// What each connection was about, in the order in which they came.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
}

impl Front {
    /// Gives every connection to `serve`.
    pub async fn new<F>(serve: impl Fn(TcpStream, Seen) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let noted = seen.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, noted.clone()));
            }
        });
        Self { address, seen, serving }
    }

    /// Passes everything on and notes each connection.
    pub async fn door(to: SocketAddr) -> Self {
        Self::new(move |mut stream, seen| async move {
            seen.note("connection");
            pass_on(&mut stream, to).await
        })
        .await
    }

    /// Ends TLS and passes on what was in it; notes whether a certificate was shown.
    pub async fn tls(to: SocketAddr, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::new(move |stream, seen| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await?;
                let is_known = stream.get_ref().1.peer_certificates().is_some();
                seen.note(if is_known { "certificate" } else { "anonymous" });
                pass_on(&mut stream, to).await
            }
        })
        .await
    }

    /// An HTTP proxy for `http://` URLs, which notes the credentials it was shown.
    pub async fn http_proxy(to: SocketAddr) -> Self {
        Self::new(move |mut stream, seen| async move {
            let head = read_head(&mut stream).await?;
            let (line, headers) = head.split_once("\r\n").unwrap_or_default();
            let credentials = headers.lines().find_map(|line| line.strip_prefix("proxy-authorization: "));
            seen.note(format!("{line} {}", credentials.unwrap_or_default()));
            // The path alone, to where the URL leads in truth.
            let path = line.split(' ').nth(1).and_then(|url| url.splitn(4, '/').nth(3)).unwrap_or_default();
            let method = line.split(' ').next().unwrap_or_default();
            let mut upstream = TcpStream::connect(to).await?;
            upstream.write_all(format!("{method} /{path} HTTP/1.1\r\n{headers}").as_bytes()).await?;
            copy_bidirectional(&mut stream, &mut upstream).await.map(|_| ())
        })
        .await
    }

    /// A SOCKS5 proxy (RFC 1928, RFC 1929) that wants a user and notes them with the name it is asked for.
    pub async fn socks_proxy(to: SocketAddr) -> Self {
        Self::new(move |mut stream, seen| async move {
            let mut methods = vec![0; 2];
            stream.read_exact(&mut methods).await?;
            let mut offered = vec![0; usize::from(methods[1])];
            stream.read_exact(&mut offered).await?;
            stream.write_all(&[5, 2]).await?;
            assert_eq!(stream.read_u8().await?, 1, "user and password");
            let (user, password) = (read_text(&mut stream).await?, read_text(&mut stream).await?);
            stream.write_all(&[1, 0]).await?;
            let mut request = [0; 4];
            stream.read_exact(&mut request).await?;
            assert_eq!(request, [5, 1, 0, 3], "a connection to a name");
            let name = read_text(&mut stream).await?;
            let port = stream.read_u16().await?;
            seen.note(format!("{user}:{password} {name}:{port}"));
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            pass_on(&mut stream, to).await
        })
        .await
    }

    /// What the connections were about.
    pub fn seen(&self) -> Vec<String> {
        self.seen.0.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass_on(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), to: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(to).await?;
    copy_bidirectional(stream, &mut upstream).await.map(|_| ())
}

pub async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn read_text(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// An authority that no machine knows.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names, and its key.
    pub fn identity(&self, names: &[&str]) -> (String, String) {
        self.issue(names, |_| {})
    }

    /// A certificate of this common name and these alternative names, and its key.
    pub fn identity_of(&self, common_name: &str, names: &[SanType]) -> (String, String) {
        self.issue(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.subject_alt_names = names.to_vec();
        })
    }

    /// The same, which ended long ago.
    pub fn identity_of_the_past(&self, names: &[&str]) -> (String, String) {
        self.issue(names, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))
    }

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A server of these names, which takes certificates of this authority but does not insist.
    pub fn server(&self, names: &[&str]) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = self.identity(names);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
    }
}
