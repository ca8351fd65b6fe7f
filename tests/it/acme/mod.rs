//! Certificates by ACME: issued, kept, renewed, while whoever issues them does what it wants.

mod crashes;
mod directories;
mod failures;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use entrepot::config::{Acme, ClientCertificates};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::acme::{FakeAcme, LIFETIME};
use crate::support::content;
use crate::support::front::Authority;
use crate::support::registry::{Builder, TestRegistry, blob_path};
use crate::tls::{Client, NAME};

const PATIENCE: Duration = Duration::from_secs(20);
/// After this a certificate is due.
const NEAR_ITS_END: Duration = LIFETIME.saturating_sub(Duration::from_hours(24));

/// A registry whose certificate comes from this directory.
fn registry(acme: &FakeAcme) -> Builder {
    let directory = acme.directory();
    TestRegistry::builder().config(|config| {
        config.http.tls.reload_every = Duration::from_millis(10);
        config.http.tls.acme =
            Some(Acme { directory, domains: vec![NAME.to_owned()], accept_terms: true, ..Acme::default() });
    })
}

fn change(registry: &mut entrepot::config::Config, change: impl FnOnce(&mut Acme)) {
    change(registry.http.tls.acme.as_mut().expect("it is configured"));
}

/// Moves both clocks on.
fn advance(registry: &TestRegistry, acme: &FakeAcme, by: Duration) {
    acme.advance(by);
    registry.advance(by);
}

/// Waits until attempts have ended so, this often.
async fn until_ended(registry: &TestRegistry, result: &str, times: usize) {
    let line = format!("entrepot_acme_attempts_total{{result=\"{result}\"}} {times}\n");
    registry.until(&line, |it| it.metrics().contains(&line)).await;
}

/// Waits until the certificate that was issued last is shown. Returns it.
async fn until_shown(registry: &TestRegistry, acme: &FakeAcme) -> Vec<u8> {
    let client = Client::believing(&acme.authority());
    let shown = async {
        loop {
            if let Ok(stream) = client.connect(registry.address()).await {
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                if acme.issued().last() == Some(&shown) {
                    return shown;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("the certificate is shown")
}

/// A registry that has its certificate.
async fn issued(acme: &FakeAcme, builder: Builder) -> TestRegistry {
    let registry = builder.start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "issued", 1).await;
    until_shown(&registry, acme).await;
    registry
}

/// When a certificate is asked for next, as the metrics have it.
fn asks_at_s(registry: &TestRegistry) -> Option<i64> {
    let metrics = registry.metrics();
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix("entrepot_acme_next_attempt_timestamp_seconds ")?.parse().ok())
}

#[tokio::test]
async fn a_fresh_server_gets_its_certificate_and_serves_it() {
    let acme = FakeAcme::start().await;
    let registry = registry(&acme).start().await;
    let client = Client::believing(&acme.authority());
    // Nobody has looked for the proof yet.
    let refused = client.connect(registry.address()).await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    let counted = |it: &TestRegistry| it.metrics().contains(r#"tls_handshakes_total{result="unissued"} 1"#);
    registry.until("the refusal is counted", counted).await;

    acme.looks_at(registry.address());
    let shown = until_shown(&registry, &acme).await;
    assert_eq!(acme.issued(), [shown]);
    let answer = client.get(registry.address(), "/v2/").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.contains(r#""unissued":null"#) && ready.contains(r#""certificate_ends":"20"#), "{ready}");
    let counted = |it: &TestRegistry| it.metrics().contains(r#"tls_handshakes_total{result="challenge"} 1"#);
    registry.until("the proof is counted", counted).await;
    let ends = registry.now_ms() / 1000 + i64::try_from(LIFETIME.as_secs()).unwrap();
    assert!(registry.metrics().contains(&format!("entrepot_tls_certificate_ends_timestamp_seconds {ends}")));

    let folder = registry.store().join("acme");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["account.json", "certificate.pem"]);
    registry.finish().await;
}

#[tokio::test]
async fn a_restart_serves_the_kept_certificate_without_asking() {
    let acme = FakeAcme::start().await;
    let mut registry = issued(&acme, registry(&acme)).await;
    let (before, asked) = (until_shown(&registry, &acme).await, acme.asked());
    registry.restart().await;
    assert_eq!(until_shown(&registry, &acme).await, before);
    registry.until("it has looked what there is to do", |it| asks_at_s(it).is_some()).await;
    let asks_at_s = asks_at_s(&registry).unwrap();
    let third = i64::try_from(LIFETIME.as_secs() / 3).unwrap();
    let due_in_s = asks_at_s - registry.now_ms() / 1000;
    assert!((third..=2 * third + 1).contains(&due_in_s), "{due_in_s} s");
    assert_eq!(acme.asked(), asked, "it was asked all the same");
    registry.finish().await;
}

#[tokio::test]
async fn a_certificate_near_its_end_is_renewed_without_dropping_connections() {
    let acme = FakeAcme::start().await;
    let registry = issued(&acme, registry(&acme)).await;
    let before = until_shown(&registry, &acme).await;
    let client = Client::believing(&acme.authority());
    let bytes = content(8 << 20, 2);
    let digest = entrepot::oci::Digest::of(entrepot::oci::Algorithm::Sha256, &bytes);
    let root = reqwest::Certificate::from_pem(acme.authority().as_bytes()).unwrap();
    let pushing = reqwest::Client::builder().tls_certs_only([root]).resolve(NAME, registry.address()).no_proxy();
    let push = format!("https://{NAME}:{}/v2/app/blobs/uploads/?digest={digest}", registry.address().port());
    let pushed = pushing.build().unwrap().post(push).body(bytes.clone()).send().await.unwrap();
    assert_eq!(pushed.status(), 201);

    let mut running = client.connect(registry.address()).await.unwrap();
    let head = format!("GET {} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n", blob_path("app", &digest));
    running.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 1000];
    running.read_exact(&mut begun).await.unwrap();

    advance(&registry, &acme, NEAR_ITS_END);
    until_ended(&registry, "issued", 2).await;
    assert_ne!(until_shown(&registry, &acme).await, before);
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, running.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!([&begun[..], &rest].concat().ends_with(&bytes), "the transfer that was running ended early");
    assert_eq!(acme.n_asked("account"), 1, "the account is the same");
    registry.finish().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_as_long_before_its_end_as_configured() {
    let acme = FakeAcme::start().await;
    let days = |days: u64| Duration::from_hours(days * 24);
    let builder = registry(&acme).config(|config| change(config, |acme| acme.renew_before = Some(days(700))));
    let registry = issued(&acme, builder).await;
    let (ends_s, asks_at_s) = (registry.now_ms() / 1000 + 60 * 365 * 86_400, asks_at_s(&registry).unwrap());
    let before = (ends_s - asks_at_s) / 86_400;
    // And up to a hundredth of its time earlier.
    assert!((700..=700 + 219).contains(&before), "{before} days");
    registry.finish().await;
}

#[tokio::test]
async fn other_names_are_asked_for_at_once_and_the_certificate_for_those_before_is_shown_meanwhile() {
    let acme = FakeAcme::start().await;
    let mut registry = issued(&acme, registry(&acme)).await;
    let before = until_shown(&registry, &acme).await;
    acme.looks_nowhere();
    let names = || vec![NAME.to_owned(), "mirror.lan".to_owned()];
    registry.reconfigure(|config| change(config, |acme| acme.domains = names())).await;
    assert_eq!(Client::believing(&acme.authority()).shown(registry.address()).await.to_vec(), before);
    acme.looks_at(registry.address());
    until_ended(&registry, "issued", 1).await;
    assert_ne!(until_shown(&registry, &acme).await, before);
    assert_eq!(acme.n_orders(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_challenge_is_answered_where_clients_must_show_certificates_and_they_still_must() {
    let (acme, authority) = (FakeAcme::start().await, Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let client_ca = folder.path().join("clients.crt");
    std::fs::write(&client_ca, &authority.pem).unwrap();
    let builder = registry(&acme).config(|config| {
        config.http.tls.client_ca = Some(client_ca);
        config.http.tls.client_certificates = ClientCertificates::Require;
    });
    let registry = builder.start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "issued", 1).await;
    let client = Client::believing(&acme.authority());
    let robot = client.clone().shows(authority.identity(&["robot.lan"]));
    let known = async {
        loop {
            if let Ok(answer) = robot.get(registry.address(), "/v2/").await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, known).await.expect("the certificate is taken");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(client.get(registry.address(), "/v2/").await.is_err(), "nobody was asked for a certificate");
    registry.finish().await;
}

#[tokio::test]
async fn whoever_asks_for_a_proof_that_nobody_waits_for_gets_none_and_no_registry_either() {
    let acme = FakeAcme::start().await;
    let registry = issued(&acme, registry(&acme)).await;
    let asking = |alpn| Client::believing(&acme.authority()).offers(alpn);
    let refused = asking(vec![b"acme-tls/1"]).connect(registry.address()).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let both = asking(vec![b"acme-tls/1", b"http/1.1"]).connect(registry.address()).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    registry.finish().await;
}
