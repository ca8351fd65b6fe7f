//! What keeps a certificate from coming, and that it comes afterwards.

use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::{NEAR_ITS_END, advance, asks_at_s, issued, registry, until_ended, until_shown};
use crate::support::acme::{FakeAcme, Fault};
use crate::support::front::Front;
use crate::support::raw::Raw;
use crate::tls::Client;

/// Longer than any wait after the first failures.
const A_WHILE: Duration = Duration::from_mins(20);
/// Directories that answer wrongly side by side: an attempt is mostly waiting.
const CASES_AT_A_TIME: usize = 7;

#[tokio::test]
async fn an_unreachable_directory_neither_stops_the_start_nor_the_old_certificate() {
    let acme = FakeAcme::start().await;
    acme.is_down(true);
    let mut registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "unreachable", 1).await;
    let client = Client::believing(&acme.authority());
    assert!(client.connect(registry.address()).await.is_err());

    acme.is_down(false);
    advance(&registry, &acme, A_WHILE);
    until_ended(&registry, "issued", 1).await;
    let before = until_shown(&registry, &acme).await;

    acme.is_down(true);
    advance(&registry, &acme, NEAR_ITS_END);
    until_ended(&registry, "unreachable", 2).await;
    registry.restart().await;
    until_ended(&registry, "unreachable", 1).await;
    assert_eq!(client.shown(registry.address()).await.to_vec(), before);
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(ready.contains("the directory cannot be reached") && ready.contains("next attempt: 20"), "{ready}");

    acme.is_down(false);
    acme.looks_at(registry.address());
    advance(&registry, &acme, A_WHILE);
    until_ended(&registry, "issued", 1).await;
    assert_ne!(until_shown(&registry, &acme).await, before);
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.contains(r#""unissued":null"#), "{ready}");
    registry.finish().await;
}

#[tokio::test]
async fn rate_limit_is_waited_for() {
    let acme = FakeAcme::start().await;
    acme.fails("order", Fault::problem(429, "rateLimited").retry_after(36_000));
    let mut registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    let until_s = registry.now_ms() / 1000 + 36_000;
    until_ended(&registry, "rate_limited", 1).await;
    registry.until("it is said when", |it| asks_at_s(it) == Some(until_s)).await;

    // Longer than we would wait ourselves, and in another process.
    advance(&registry, &acme, Duration::from_hours(9));
    registry.restart().await;
    acme.looks_at(registry.address());
    registry.until("that is known after a restart", |it| asks_at_s(it) == Some(until_s)).await;
    assert_eq!(acme.n_asked("order"), 1, "it was asked before its time");

    advance(&registry, &acme, Duration::from_hours(1));
    until_ended(&registry, "issued", 1).await;
    assert_eq!(acme.n_asked("order"), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_name_that_does_not_lead_here_is_told_with_what_to_do_and_another_order_is_made_later() {
    let acme = FakeAcme::start().await;
    let registry = issued(&acme, registry(&acme)).await;
    let before = until_shown(&registry, &acme).await;
    let somebody_else = Front::new(|_stream, _| async { Ok(()) }).await;
    acme.looks_at(somebody_else.address);
    advance(&registry, &acme, NEAR_ITS_END);
    until_ended(&registry, "unproven", 1).await;
    let client = Client::believing(&acme.authority());
    let ready = client.get(registry.address(), "/readyz").await.unwrap();
    assert!(ready.contains("could not see that registry.lan leads here (connection)"), "{ready}");
    assert!(ready.contains("have port 443 of the name lead to `http.listen`"), "{ready}");
    assert_eq!(client.shown(registry.address()).await.to_vec(), before);

    acme.looks_at(registry.address());
    advance(&registry, &acme, A_WHILE);
    until_ended(&registry, "issued", 2).await;
    assert_eq!(acme.n_orders(), 3, "an order that failed is no good any more");
    registry.finish().await;
}

#[tokio::test]
async fn a_nonce_that_is_refused_is_replaced_in_the_same_attempt() {
    let acme = FakeAcme::start().await;
    for endpoint in ["account", "order", "finalize"] {
        acme.fails(endpoint, Fault::problem(400, "badNonce"));
    }
    let registry = issued(&acme, registry(&acme)).await;
    assert!(!registry.metrics().contains(r#"attempts_total{result="refused"}"#), "{}", registry.metrics());
    assert_eq!((acme.n_orders(), acme.n_asked("finalize")), (1, 2));
    registry.finish().await;
}

#[tokio::test]
async fn whatever_a_directory_answers_is_a_failure_with_a_name_and_the_certificate_comes_later() {
    let html = Fault { status: 500, headers: String::new(), body: "<h1>oops</h1>".to_owned() };
    let nothing = Fault { status: 200, headers: String::new(), body: "{}".to_owned() };
    let endless = Fault { status: 200, headers: String::new(), body: "x".repeat(300 * 1024) };
    let cases = [
        ("directory", html.clone(), "invalid"),
        ("directory", nothing.clone(), "invalid"),
        ("directory", endless, "invalid"),
        ("nonce", html.clone(), "invalid"),
        ("account", Fault::problem(400, "invalidContact"), "refused"),
        ("order", html.clone(), "invalid"),
        ("order", Fault::problem(400, "rejectedIdentifier"), "refused"),
        ("order", nothing, "invalid"),
        ("challenge", Fault::problem(403, "unauthorized"), "unproven"),
        ("look", html.clone(), "invalid"),
        ("finalize", Fault::problem(500, "serverInternal"), "refused"),
        ("finalize", html.clone(), "invalid"),
        ("certificate", html, "invalid"),
        ("certificate", Fault { status: 200, headers: String::new(), body: "nothing".to_owned() }, "unusable"),
    ];
    let each = stream::iter(cases).for_each_concurrent(CASES_AT_A_TIME, async |(endpoint, fault, result)| {
        let acme = FakeAcme::start().await;
        println!("{endpoint}: {}", fault.status);
        acme.fails(endpoint, fault);
        let registry = registry(&acme).start().await;
        acme.looks_at(registry.address());
        until_ended(&registry, result, 1).await;
        advance(&registry, &acme, A_WHILE);
        until_ended(&registry, "issued", 1).await;
        until_shown(&registry, &acme).await;
        registry.finish().await;
    });
    each.await;
}

#[tokio::test]
async fn an_order_that_is_stuck_is_gone_on_with_by_later_attempts_and_later_processes() {
    let acme = FakeAcme::start().await;
    acme.holds_orders(true);
    let mut registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    registry.until("it is processing", |_| acme.n_asked("finalize") == 1).await;
    registry.until("it is waited for", |_| acme.n_asked("look") > 1).await;
    advance(&registry, &acme, entrepot::acme::ORDER_PATIENCE);
    until_ended(&registry, "slow", 1).await;
    registry.kill_and_restart().await;
    acme.holds_orders(false);
    until_ended(&registry, "issued", 1).await;
    until_shown(&registry, &acme).await;
    assert_eq!((acme.n_orders(), acme.n_asked("finalize"), acme.n_asked("account")), (1, 1, 1));
    registry.finish().await;
}

#[tokio::test]
async fn a_kept_certificate_that_is_damaged_is_replaced_and_stops_no_start() {
    let acme = FakeAcme::start().await;
    let mut registry = issued(&acme, registry(&acme)).await;
    let path = registry.store().join("acme/certificate.pem");
    let whole = std::fs::read_to_string(&path).unwrap();
    for (nth, damaged) in [whole[..whole.len() / 2].to_owned(), String::new(), "\0".repeat(99)].into_iter().enumerate()
    {
        acme.looks_nowhere();
        registry = registry.pause().await;
        std::fs::write(&path, damaged).unwrap();
        registry = registry.resume().await;
        assert!(Client::believing(&acme.authority()).connect(registry.address()).await.is_err());
        acme.looks_at(registry.address());
        until_ended(&registry, "issued", 1).await;
        until_shown(&registry, &acme).await;
        assert_eq!(acme.n_orders(), nth + 2);
    }
    registry.finish().await;
}

#[tokio::test]
async fn what_else_is_kept_and_damaged_is_asked_for_anew() {
    let acme = FakeAcme::start().await;
    let mut registry = issued(&acme, registry(&acme)).await;
    for (nth, damaged) in ["{", "[]", "{\"DIRECTORY\": {\"credentials\": {}, \"contact\": []}}"].iter().enumerate() {
        acme.looks_nowhere();
        registry = registry.pause().await;
        std::fs::write(registry.store().join("acme/account.json"), damaged.replace("DIRECTORY", &acme.directory()))
            .unwrap();
        std::fs::write(registry.store().join("acme/order.json"), damaged).unwrap();
        registry = registry.resume().await;
        acme.looks_at(registry.address());
        advance(&registry, &acme, NEAR_ITS_END);
        until_ended(&registry, "issued", 1).await;
        assert_eq!(acme.n_asked("account"), nth + 2);
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_directory_that_has_lost_our_account_learns_of_us_anew() {
    let acme = FakeAcme::start().await;
    let registry = issued(&acme, registry(&acme)).await;
    acme.forgets_accounts();
    advance(&registry, &acme, NEAR_ITS_END);
    until_ended(&registry, "refused", 1).await;
    advance(&registry, &acme, A_WHILE);
    until_ended(&registry, "issued", 2).await;
    assert_eq!(acme.n_asked("account"), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_client_that_is_refused_for_want_of_a_certificate_hears_it_and_plain_http_is_told_of_tls() {
    let acme = FakeAcme::start().await;
    let registry = registry(&acme).start().await;
    let mut client = Raw::to(registry.address()).await;
    client.write("GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = String::from_utf8(client.until_closed().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    registry.finish().await;
}
