//! TLS on the port: both versions of HTTP, certificates that change while serving, and clients that show some.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use entrepot::config::{ClientCertificates, TlsVersion};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::support::client::Call;
use crate::support::content;
use crate::support::front::Authority;
use crate::support::process::Process;
use crate::support::raw::Raw;
use crate::support::registry::{Builder, TestRegistry, blob_path};

pub const NAME: &str = "registry.lan";
const PATIENCE: Duration = Duration::from_secs(20);
/// So that some of it is unread when the server has read enough to refuse.
const MORE_THAN_ONE_READ: usize = 48 * 1024;

/// Files of a pair, and the authority that clients believe.
pub struct Pair {
    pub authority: Authority,
    folder: TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let pair = Self { authority: Authority::new(), folder: TempDir::new().unwrap() };
        pair.renew();
        pair
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    /// Writes another pair of the same authority. Returns its certificate.
    fn renew(&self) -> CertificateDer<'static> {
        let (certificate, key) = self.authority.identity(&[NAME]);
        replace(&self.path("server.key"), &key);
        replace(&self.path("server.crt"), &certificate);
        replace(&self.path("clients.crt"), &self.authority.pem);
        CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
    }

    fn registry(&self) -> Builder {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        TestRegistry::builder().config(|config| {
            config.http.tls.certificate = Some(certificate);
            config.http.tls.key = Some(key);
            config.http.tls.reload_every = Duration::from_millis(10);
        })
    }

    pub fn asking_for_certificates(&self, asked: ClientCertificates) -> Builder {
        let authorities = self.path("clients.crt");
        self.registry().config(|config| {
            config.http.tls.client_ca = Some(authorities);
            config.http.tls.client_certificates = asked;
        })
    }

    fn client(&self) -> Client {
        Client::believing(&self.authority.pem)
    }
}

/// As programs that renew certificates do it: never half a file.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// How a client does its handshake.
#[derive(Clone)]
pub struct Client {
    authority: String,
    identity: Option<(String, String)>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<&'static [u8]>,
}

impl Client {
    /// One that believes this authority, in PEM, and has nothing to show.
    pub fn believing(authority: &str) -> Self {
        Self { authority: authority.to_owned(), identity: None, versions: vec![&TLS12, &TLS13], alpn: vec![] }
    }

    pub fn offers(self, alpn: Vec<&'static [u8]>) -> Self {
        Self { alpn, ..self }
    }

    pub fn shows(mut self, identity: (String, String)) -> Self {
        self.identity = Some(identity);
        self
    }

    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let connecting = TlsConnector::from(self.config()).connect(ServerName::try_from(NAME).unwrap(), stream);
        tokio::time::timeout(PATIENCE, connecting).await.expect("the handshake ends")
    }

    fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// The whole answer to one GET over HTTP/1.1, or why there is none: TLS 1.3 tells of a refused certificate only when
    /// the client reads.
    pub async fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the answer ends")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The certificate that the server shows.
    pub async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// A client of both versions of HTTP that is not of our making.
fn reqwest(pair: &Pair, registry: &TestRegistry, http1_only: bool) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(pair.authority.pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([root]).resolve(NAME, registry.address()).no_proxy();
    if http1_only { builder.http1_only() } else { builder }.build().unwrap()
}

pub fn url(registry: &TestRegistry, path: &str) -> String {
    format!("https://{NAME}:{}{path}", registry.address().port())
}

#[tokio::test]
async fn both_versions_of_http_carry_blobs_over_tls() {
    let pair = Pair::new();
    let registry = pair.registry().start().await;
    let bytes = content(3 << 20, 1);
    let digest = entrepot::oci::Digest::of(entrepot::oci::Algorithm::Sha256, &bytes);
    for (http1_only, version) in [(true, reqwest::Version::HTTP_11), (false, reqwest::Version::HTTP_2)] {
        let client = reqwest(&pair, &registry, http1_only);
        let push = url(&registry, &format!("/v2/app/blobs/uploads/?digest={digest}"));
        let pushed = client.post(push).body(bytes.clone()).send().await.unwrap();
        assert_eq!((pushed.status().as_u16(), pushed.version()), (201, version));
        let pulled = client.get(url(&registry, &blob_path("app", &digest))).send().await.unwrap();
        assert_eq!(pulled.version(), version);
        assert!(pulled.bytes().await.unwrap() == bytes, "other bytes arrived");
    }
    assert!(registry.metrics().contains(r#"entrepot_tls_handshakes_total{result="ok"} 2"#), "{}", registry.metrics());
    registry.finish().await;
}

#[tokio::test]
async fn alpn_chooses_http2_only_where_the_client_speaks_it() {
    let pair = Pair::new();
    let registry = pair.registry().start().await;
    for (offered, chosen) in
        [(vec![], None), (vec![&b"http/1.1"[..]], Some(&b"http/1.1"[..])), (vec![b"http/1.1", b"h2"], Some(b"h2"))]
    {
        let stream = Client { alpn: offered, ..pair.client() }.connect(registry.address()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
    registry.finish().await;
}

#[tokio::test]
async fn each_port_tells_who_speaks_the_other_protocol() {
    let pair = Pair::new();
    let secure = pair.registry().start().await;
    for request in ["GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Raw::to(secure.address()).await;
        client.write(request).await;
        let answer = String::from_utf8(client.until_closed().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    }
    secure.finish().await;
    let plain = TestRegistry::builder().start().await;
    let refused = pair.client().connect(plain.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData, "{refused}");
    plain.finish().await;
}

#[tokio::test]
async fn a_changed_pair_is_for_new_connections_and_cuts_no_transfer() {
    let pair = Pair::new();
    let registry = pair.registry().start().await;
    let client = pair.client();
    let before = client.shown(registry.address()).await;
    let bytes = content(8 << 20, 2);
    let digest = entrepot::oci::Digest::of(entrepot::oci::Algorithm::Sha256, &bytes);
    let pushing = reqwest(&pair, &registry, true);
    let push = url(&registry, &format!("/v2/app/blobs/uploads/?digest={digest}"));
    assert_eq!(pushing.post(push).body(bytes.clone()).send().await.unwrap().status(), 201);

    let mut running = client.connect(registry.address()).await.unwrap();
    let head = format!("GET {} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n", blob_path("app", &digest));
    running.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 1000];
    running.read_exact(&mut begun).await.unwrap();

    let after = pair.renew();
    while client.shown(registry.address()).await != after {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(before, after);
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, running.read_to_end(&mut rest)).await.unwrap().unwrap();
    let whole = [&begun[..], &rest].concat();
    assert!(whole.ends_with(&bytes), "the transfer that was running ended early");
    registry.finish().await;
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_not_taken_and_is_told_of() {
    let pair = Pair::new();
    let registry = pair.registry().start().await;
    let client = pair.client();
    let before = client.shown(registry.address()).await;
    let (_, key_of_another) = pair.authority.identity(&[NAME]);
    replace(&pair.path("server.key"), &key_of_another);
    registry
        .until("the failure is counted", |it| it.metrics().contains(r#"tls_reloads_total{result="failed"} 1"#))
        .await;
    assert_eq!(client.shown(registry.address()).await, before);
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(ready.contains("are both of the same pair?") && ready.contains("certificate_ends"), "{ready}");

    let after = pair.renew();
    registry.until("the next pair is taken", |it| it.metrics().contains(r#"tls_reloads_total{result="ok"} "#)).await;
    assert_eq!(client.shown(registry.address()).await, after);
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.contains(r#""problem":null,"ready":true"#) || ready.contains(r#""tls":{"#), "{ready}");
    assert!(!ready.contains("same pair"), "{ready}");
    registry.finish().await;
}

#[tokio::test]
async fn a_required_certificate_must_be_shown_be_trusted_and_be_in_its_time() {
    let pair = Pair::new();
    let registry = pair.asking_for_certificates(ClientCertificates::Require).start().await;
    let robot = pair.authority.identity(&["robot.lan"]);
    let stranger = Authority::new().identity(&["robot.lan"]);
    let expired = pair.authority.identity_of_the_past(&["robot.lan"]);
    for versions in [vec![&TLS12], vec![&TLS13]] {
        let client = Client { versions, ..pair.client() };
        let answer = client.clone().shows(robot.clone()).get(registry.address(), "/v2/").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for (case, refused) in [
            ("none", client.clone()),
            ("of a stranger", client.clone().shows(stranger.clone())),
            ("expired", client.clone().shows(expired.clone())),
        ] {
            let answer = refused.get(registry.address(), "/v2/").await;
            assert!(answer.is_err(), "{case}: {answer:?}");
        }
    }
    let counted = |it: &TestRegistry| {
        it.metrics().contains(r#"tls_handshakes_total{result="no_certificate"} 2"#)
            && it.metrics().contains(r#"tls_handshakes_total{result="wrong_certificate"} 4"#)
    };
    registry.until("all are counted", counted).await;
    registry.finish().await;
}

/// All that the server sends to a client that ends its handshake and asks in one breath, before it can know that its
/// handshake failed.
fn everything_said_to_a_hasty_client(client: &Client, address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut session = ClientConnection::new(client.config(), ServerName::try_from(NAME).unwrap()).unwrap();
    session.write_tls(&mut socket)?;
    while session.is_handshaking() {
        session.read_tls(&mut socket)?;
        session.process_new_packets().unwrap();
    }
    session.writer().write_all(&vec![b'x'; MORE_THAN_ONE_READ])?;
    let mut breath = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut breath)?;
    }
    socket.write_all(&breath)?;
    let mut said = Vec::new();
    socket.read_to_end(&mut said)?;
    Ok(said)
}

#[tokio::test]
async fn a_refused_client_hears_why_whatever_it_has_sent_meanwhile() {
    let pair = Pair::new();
    let registry = pair.asking_for_certificates(ClientCertificates::Require).start().await;
    let (client, address) = (Client { versions: vec![&TLS13], ..pair.client() }, registry.address());
    let said = tokio::task::spawn_blocking(move || everything_said_to_a_hasty_client(&client, address)).await.unwrap();
    assert!(!said.expect("the connection is closed, not reset").is_empty());

    let mut client = Raw::to(registry.address()).await;
    client.write([b"PUT /v2/ HTTP/1.1\r\n\r\n", &vec![b'x'; MORE_THAN_ONE_READ][..]].concat()).await;
    assert!(String::from_utf8_lossy(&client.until_closed().await).contains("speaks TLS"));
    registry.finish().await;
}

#[tokio::test]
async fn a_requested_certificate_may_be_absent_but_not_wrong() {
    let pair = Pair::new();
    let registry = pair.asking_for_certificates(ClientCertificates::Request).start().await;
    let client = pair.client();
    assert!(client.get(registry.address(), "/v2/").await.unwrap().starts_with("HTTP/1.1 200 "));
    let robot = client.clone().shows(pair.authority.identity(&["robot.lan"]));
    assert!(robot.get(registry.address(), "/v2/").await.unwrap().starts_with("HTTP/1.1 200 "));
    let stranger = client.shows(Authority::new().identity(&["robot.lan"]));
    assert!(stranger.get(registry.address(), "/v2/").await.is_err());
    registry.finish().await;
}

/// A hello of TLS 1.1 as its clients send it: the record, the message, the version, random bytes, two suites of that time.
fn hello_of_tls_1_1() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 4, 0xC0, 0x13, 0x00, 0x2F], &[1, 0]].concat();
    let length = u16::try_from(body.len()).unwrap();
    let message = [&[1, 0][..], &length.to_be_bytes(), &body].concat();
    [&[0x16, 3, 1][..], &(length + 4).to_be_bytes(), &message].concat()
}

#[tokio::test]
async fn old_versions_are_refused_with_an_alert() {
    let pair = Pair::new();
    let only_new = pair.registry().config(|config| config.http.tls.min_version = TlsVersion::V1_3).start().await;
    let of_1_2 = Client { versions: vec![&TLS12], ..pair.client() };
    let refused = of_1_2.connect(only_new.address()).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    Client { versions: vec![&TLS13], ..pair.client() }.connect(only_new.address()).await.unwrap();
    only_new.finish().await;

    let registry = pair.registry().start().await;
    of_1_2.connect(registry.address()).await.unwrap();
    let mut client = Raw::to(registry.address()).await;
    client.write(hello_of_tls_1_1()).await;
    let answer = client.until_closed().await;
    // A record with an alert, which is fatal (RFC 8446, section 6).
    assert!(matches!(answer[..], [0x15, _, _, 0, 2, 2, _]), "{answer:?}");
    registry.finish().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended() {
    let pair = Pair::new();
    let registry =
        pair.registry().config(|config| config.http.tls.handshake_timeout = Duration::from_millis(50)).start().await;
    for beginning in [&[0x16][..], &hello_of_tls_1_1()[..20]] {
        let mut client = Raw::to(registry.address()).await;
        client.write(beginning).await;
        assert_eq!(client.until_closed().await, b"");
    }
    let counted = |it: &TestRegistry| it.metrics().contains(r#"tls_handshakes_total{result="timed_out"} 2"#);
    registry.until("both are counted", counted).await;
    registry.finish().await;
}

#[tokio::test]
async fn sighup_reads_the_pair_anew_and_without_tls_harms_nobody() {
    let pair = Pair::new();
    let folder = TempDir::new().unwrap();
    let text = format!(
        "http: {{tls: {{certificate: {}, key: {}, reload_every: 0s}}}}\nupstreams: {{}}\n",
        pair.path("server.crt").display(),
        pair.path("server.key").display()
    );
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    let client = pair.client();
    let before = client.shown(process.address).await;
    let after = pair.renew();
    assert_eq!(client.shown(process.address).await, before);
    process.signal(Signal::HUP);
    let changed = async {
        while client.shown(process.address).await != after {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("the new pair is shown");
    process.terminate();
    assert_eq!(process.ended().await.0, Some(0));

    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.yaml"), "upstreams: {}").unwrap();
    let plain = Process::serve(folder.path(), &[]).await;
    plain.signal(Signal::HUP);
    assert_eq!(plain.send(Call::get("/v2/")).await.status(), 200);
    plain.terminate();
    assert_eq!(plain.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_refused_at_the_start() {
    let pair = Pair::new();
    let (_, key_of_another) = pair.authority.identity(&[NAME]);
    replace(&pair.path("server.key"), &key_of_another);
    let folder = TempDir::new().unwrap();
    let text = format!(
        "http: {{tls: {{certificate: {}, key: {}}}}}\nupstreams: {{}}\n",
        pair.path("server.crt").display(),
        pair.path("server.key").display()
    );
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    let ended = crate::support::process::run(folder.path(), &["serve", "--listen", "127.0.0.1:0"], &[]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("are both of the same pair?"), "{}", ended.stderr);
}
