//! The real binary, killed wherever something has just been kept: it starts again, and nothing is asked for twice. And what its
//! operators do with it.
#![cfg(debug_assertions)]

use std::time::Duration;

use rustix::process::Signal;

use super::PATIENCE;
use crate::support::acme::{FakeAcme, Fault};
use crate::support::process::{Process, run};
use crate::tls::{Client, NAME};

/// The clock of a process is real.
fn now() -> Duration {
    let now = entrepot::clock::Clock::System.now_ms() - 1_750_000_000_000;
    Duration::from_millis(u64::try_from(now).unwrap())
}

#[tokio::test]
async fn a_crash_at_any_moment_of_an_issuance_leaves_a_server_that_starts_and_goes_on() {
    for point in ["account kept", "order kept", "order finalized", "certificate kept"] {
        let acme = FakeAcme::start().await;
        acme.advance(now());
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "http: {{tls: {{reload_every: 20ms, acme: {{directory: \"{}\", domains: [{NAME}], accept_terms: true}}}}}}\n\
             upstreams: {{}}\n",
            acme.directory()
        );
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        let crash_at = format!("acme: {point}");
        // One that is quick is gone before its log says that it serves.
        if let Ok(process) = Process::try_serve(folder.path(), &["--crash-at", &crash_at]).await {
            acme.looks_at(process.address);
            let (code, log) = process.ended().await;
            assert_eq!(code, None, "{point}: {log:#?}");
        }

        acme.looks_nowhere();
        let process = Process::serve(folder.path(), &[]).await;
        acme.looks_at(process.address);
        let client = Client::believing(&acme.authority());
        let shown = async {
            loop {
                match client.get(process.address, "/v2/").await {
                    Ok(answer) => return answer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, shown).await.expect("a certificate is shown");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let asked = (acme.n_asked("account"), acme.n_orders(), acme.issued().len());
        assert_eq!(asked, (1, 1, 1), "{point}: accounts, orders, certificates");
        process.terminate();
        assert_eq!(process.ended().await.0, Some(0));
    }
}

#[tokio::test]
async fn sighup_has_a_failed_attempt_repeated_at_once() {
    let acme = FakeAcme::start().await;
    acme.advance(now());
    acme.fails("order", Fault::problem(400, "rejectedIdentifier"));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "http: {{tls: {{reload_every: 20ms, acme: {{directory: \"{}\", domains: [{NAME}], accept_terms: true}}}}}}\n\
         upstreams: {{}}\n",
        acme.directory()
    );
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    acme.looks_at(process.address);
    let client = Client::believing(&acme.authority());
    // By itself it would wait for two minutes at least.
    let shown = async {
        while client.connect(process.address).await.is_err() {
            if acme.n_asked("order") == 1 {
                process.signal(Signal::HUP);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("it is tried again");
    process.terminate();
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    let warned = log.iter().find(|line| line.contains("rejectedIdentifier")).expect("the failure is in the log");
    assert!(warned.contains("see that the directory issues for `http.tls.acme.domains`"), "{warned}");
}

#[tokio::test]
async fn commands_know_the_server_of_their_configuration_by_the_certificate_that_was_issued() {
    let acme = FakeAcme::start().await;
    acme.advance(now());
    let folder = tempfile::tempdir().unwrap();
    let configure = |listen: &str| {
        let text = format!(
            "http: {{listen: \"{listen}\", tls: {{acme: {{directory: \"{}\", domains: [{NAME}], accept_terms: true}}}}}}\n\
             upstreams: {{}}\n",
            acme.directory()
        );
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    };
    configure("127.0.0.1:0");
    let process = Process::serve(folder.path(), &[]).await;
    configure(&process.address.to_string());
    let early = run(folder.path(), &["gc"], &[]).await;
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("in use by another process"), "{}", early.stderr);
    acme.looks_at(process.address);
    let client = Client::believing(&acme.authority());
    let shown = async {
        while client.connect(process.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("a certificate is shown");
    let asked = run(folder.path(), &["gc"], &[]).await;
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    process.terminate();
    assert_eq!(process.ended().await.0, Some(0));
}
