//! Which directories are asked, whom they are believed to be, and who we are to them.

use std::time::Duration;

use entrepot::config::{ExternalAccount, Pem};

use super::{advance, change, issued, registry, until_ended, until_shown};
use crate::support::acme::{FakeAcme, Fault};
use crate::support::front::{Authority, Front};

#[tokio::test]
async fn a_directory_that_leads_elsewhere_is_not_followed() {
    let acme = FakeAcme::start().await;
    let elsewhere = Front::door(acme.address()).await;
    acme.takes_orders_at(&format!("http://{}/order", elsewhere.address));
    let registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "invalid", 1).await;

    let location = format!("location: http://{}/directory\r\n", elsewhere.address);
    acme.fails("directory", Fault { status: 302, headers: location, body: String::new() });
    advance(&registry, &acme, Duration::from_mins(20));
    until_ended(&registry, "invalid", 2).await;
    assert_eq!(elsewhere.seen(), Vec::<String>::new());

    let nowhere = r#"{"newNonce": "", "newAccount": "", "newOrder": ""}"#;
    acme.fails("directory", Fault { status: 200, headers: String::new(), body: nowhere.to_owned() });
    advance(&registry, &acme, Duration::from_hours(2));
    until_ended(&registry, "invalid", 3).await;
    registry.finish().await;
}

#[tokio::test]
async fn a_private_directory_is_believed_by_its_authority_and_not_without() {
    let (acme, authority) = (FakeAcme::start().await, Authority::new());
    let front = Front::tls(acme.address(), authority.server(&["localhost"])).await;
    acme.is_called(&format!("https://localhost:{}", front.address.port()));
    let mut registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "unreachable", 1).await;

    let ca = Pem { file: "ca.pem".into(), text: authority.pem.as_str().into() };
    registry.reconfigure(|config| change(config, |acme| acme.ca = Some(ca))).await;
    acme.looks_at(registry.address());
    until_ended(&registry, "issued", 1).await;
    until_shown(&registry, &acme).await;
    registry.finish().await;
}

#[tokio::test]
async fn another_directory_is_asked_at_once_and_the_account_of_the_first_is_kept() {
    let (staging, production) = (FakeAcme::start().await, FakeAcme::start().await);
    let mut registry = issued(&staging, registry(&staging)).await;
    for (acme, directory) in [(&production, production.directory()), (&staging, staging.directory())] {
        registry.reconfigure(|config| change(config, |acme| acme.directory = directory)).await;
        acme.looks_at(registry.address());
        until_ended(&registry, "issued", 1).await;
        until_shown(&registry, acme).await;
    }
    assert_eq!((staging.n_asked("account"), production.n_asked("account"), staging.issued().len()), (1, 1, 2));
    registry.finish().await;
}

#[tokio::test]
async fn a_directory_for_its_own_customers_knows_us_by_the_key_it_gave_us() {
    let acme = FakeAcme::start().await;
    acme.is_for("customer-7", &[0xFB, 0xFF, 7]);
    let mut registry = registry(&acme).start().await;
    acme.looks_at(registry.address());
    until_ended(&registry, "refused", 1).await;

    let key_file = Some(Pem { file: "key".into(), text: "-_8H\n".into() });
    let account = ExternalAccount { key_id: "customer-7".to_owned(), key_file };
    registry.reconfigure(|config| change(config, |acme| acme.external_account = Some(account))).await;
    acme.looks_at(registry.address());
    until_ended(&registry, "issued", 1).await;
    registry.finish().await;
}

#[tokio::test]
async fn whom_the_directory_may_write_to_is_told_and_told_again_when_it_changes() {
    let acme = FakeAcme::start().await;
    let to = |name: &str| vec![format!("mailto:{name}@example.com")];
    let mut registry =
        issued(&acme, registry(&acme).config(|config| change(config, |acme| acme.contact = to("one")))).await;
    assert_eq!(acme.contacts(), [serde_json::json!(to("one"))]);
    registry.reconfigure(|config| change(config, |acme| acme.contact = to("two"))).await;
    acme.looks_at(registry.address());
    advance(&registry, &acme, super::NEAR_ITS_END);
    until_ended(&registry, "issued", 1).await;
    assert_eq!(acme.contacts(), [serde_json::json!(to("two"))]);
    registry.finish().await;
}
