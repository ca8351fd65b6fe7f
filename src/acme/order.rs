//! One attempt to get a certificate: account, order, proofs, certificate. Whatever ends it, the next one goes on from what is
//! kept, and the directory is not asked for the same thing twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeStatus, ChallengeType, ExternalAccountKey, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, Problem,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::{info, warn};

use super::challenge::Proof;
use super::directory::Wire;
use super::failure::Failure;
use super::kept::{AccountRecord, Accounts, Kept, Ordered, Pending, Shelf};
use super::{Door, Options};
use crate::clock::Clock;
use crate::fault;
use crate::report::Chain;
use crate::storage::Issuance;

/// How long a directory may take over one order, in one attempt.
pub const ORDER_PATIENCE: Duration = Duration::from_mins(10);
/// An order that has come to nothing in this time comes to nothing: another one takes its place.
const ORDER_LASTS_MS: u64 = 24 * 3_600_000;
/// How soon an order is looked at again; it doubles up to the longest.
const LOOK_AFTER: Duration = Duration::from_millis(250);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(5);
/// The longest that a directory may ask us to wait between two looks.
const LOOK_AFTER_TOLD_MAX: Duration = Duration::from_mins(1);

/// What an attempt is made with.
pub(super) struct Attempt<'a> {
    pub options: &'a Options,
    pub shelf: &'a Shelf,
    pub door: &'a Arc<dyn Door>,
    pub clock: &'a Clock,
    pub wire: &'a Wire,
}

/// The proofs that are shown. Dropped, none is shown any more.
struct Shown<'a> {
    door: &'a Arc<dyn Door>,
    names: Vec<String>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| self.door.withdraw(name));
    }
}

impl Attempt<'_> {
    /// Gets a certificate and keeps it.
    pub async fn run(&self) -> Result<Kept, Failure> {
        let account = self.account().await?;
        let (mut order, ordered) = self.order(&account).await?;
        let issued = self.bring_about(&mut order, &ordered.key).await;
        if issued.as_ref().is_err_and(|failure| !failure.leaves_the_order()) {
            self.shelf.forget(Issuance::Order).await?;
        }
        issued
    }

    /// The account at this directory, a new one if there is none.
    async fn account(&self) -> Result<Account, Failure> {
        let Options { directory, contact, .. } = self.options;
        let mut accounts: Accounts = self.shelf.read(Issuance::Account).await?;
        let contact_now: Vec<&str> = contact.iter().map(String::as_str).collect();
        let builder = Account::builder_with_http(Box::new(self.wire.clone()));
        let known = accounts.0.get_mut(directory.as_str());
        let known = known.and_then(|record| {
            let credentials = serde_json::from_value::<AccountCredentials>(record.credentials.clone());
            let credentials = credentials.inspect_err(|error| warn!(%error, "the kept account cannot be read"));
            Some((credentials.ok()?, record))
        });
        let Some((credentials, record)) = known else {
            let (account, credentials) = self.register(&contact_now).await?;
            let credentials = serde_json::to_value(credentials).map_err(instant_acme::Error::from)?;
            accounts.0.insert(directory.to_string(), AccountRecord { credentials, contact: contact.clone() });
            self.shelf.keep(Issuance::Account, &accounts).await?;
            fault::point("acme: account kept");
            info!(directory = %directory, account = account.id(), "the directory knows us from now on");
            return Ok(account);
        };
        let account = builder.from_credentials(credentials).await?;
        if record.contact != *contact {
            match account.update_contacts(&contact_now).await.map_err(Failure::from) {
                Ok(()) => record.contact.clone_from(contact),
                Err(failure) => return Err(self.forgotten(failure, accounts).await?),
            }
            self.shelf.keep(Issuance::Account, &accounts).await?;
        }
        Ok(account)
    }

    async fn register(&self, contact: &[&str]) -> Result<(Account, AccountCredentials), Failure> {
        let external = self.options.external_account.as_ref();
        let external = external.map(|(id, key)| ExternalAccountKey::new(id.clone(), key.expose_secret()));
        let new = NewAccount { contact, terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_http(Box::new(self.wire.clone()));
        Ok(builder.create(&new, self.options.directory.to_string(), external.as_ref()).await?)
    }

    /// A directory that has lost its accounts is told of us anew by the next attempt.
    async fn forgotten(&self, failure: Failure, mut accounts: Accounts) -> Result<Failure, Failure> {
        if failure.is_refusal_for("accountDoesNotExist") {
            accounts.0.remove(self.options.directory.as_str());
            self.shelf.keep(Issuance::Account, &accounts).await?;
        }
        Ok(failure)
    }

    /// The order under way, or a new one.
    async fn order(&self, account: &Account) -> Result<(Order, Ordered), Failure> {
        let pending = pending(self.shelf, self.options).await?;
        let now_ms = self.clock.now_ms();
        let is_young = |ordered: &Ordered| now_ms.abs_diff(ordered.placed_ms) < ORDER_LASTS_MS;
        if let Some(ordered) = pending.order.filter(is_young) {
            match account.order(ordered.url.clone()).await.map_err(Failure::from) {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        return Ok((order, ordered));
                    }
                }
                Err(failure) if failure.will_pass() => return Err(failure),
                Err(failure) => {
                    info!(error = %Chain(&failure), "the order under way is no more, another one takes its place");
                }
            }
        }
        let names: Vec<Identifier> = self.options.domains.iter().cloned().map(Identifier::Dns).collect();
        let order = match account.new_order(&NewOrder::new(&names)).await.map_err(Failure::from) {
            Ok(order) => order,
            Err(failure) => return Err(self.forgotten(failure, self.shelf.read(Issuance::Account).await?).await?),
        };
        let key = SecretString::from(KeyPair::generate()?.serialize_pem());
        let ordered = Ordered { url: order.url().to_owned(), key, placed_ms: now_ms };
        let pending = Pending {
            directory: self.options.directory.to_string(),
            domains: self.options.domains.clone(),
            not_before_ms: 0,
            order: Some(ordered.clone()),
        };
        self.shelf.keep(Issuance::Order, &pending).await?;
        fault::point("acme: order kept");
        Ok((order, ordered))
    }

    /// Goes from one state of the order to the next (RFC 8555, section 7.1.6), up to the certificate.
    async fn bring_about(&self, order: &mut Order, key: &SecretString) -> Result<Kept, Failure> {
        let began_ms = self.clock.now_ms();
        let mut shown = Shown { door: self.door, names: Vec::new() };
        let mut wait = LOOK_AFTER;
        loop {
            let waits_for = match order.state().status {
                OrderStatus::Pending => {
                    if shown.names.is_empty() {
                        self.prove(order, &mut shown).await?;
                    }
                    "pending"
                }
                OrderStatus::Ready => {
                    order.finalize_csr(&request(&self.options.domains, key)?).await?;
                    fault::point("acme: order finalized");
                    if order.state().status == OrderStatus::Valid {
                        continue;
                    }
                    "processing"
                }
                OrderStatus::Processing => "processing",
                OrderStatus::Valid => return self.fetch(order, key).await,
                OrderStatus::Invalid => return Err(why_invalid(order).await?),
            };
            let waited_ms = self.clock.now_ms().saturating_sub(began_ms);
            if u128::try_from(waited_ms).is_ok_and(|waited| waited >= ORDER_PATIENCE.as_millis()) {
                return Err(Failure::Slow(waits_for));
            }
            let told = self.wire.retry_after().unwrap_or_default().min(LOOK_AFTER_TOLD_MAX);
            tokio::time::sleep(wait.max(told)).await;
            wait = (wait * 2).min(LOOK_AFTER_MAX);
            order.refresh().await?;
        }
    }

    /// Shows a proof for each name that has none yet, and says so.
    async fn prove(&self, order: &mut Order, shown: &mut Shown<'_>) -> Result<(), Failure> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let mut challenge = challenge.ok_or_else(|| Failure::NoChallenge { name: name.clone() })?;
            let proof = Proof::new(&name, &challenge.key_authorization())?;
            self.door.present(proof).map_err(Failure::Showing)?;
            shown.names.push(name.clone());
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(|error| match error {
                    instant_acme::Error::Api(problem) if is_of_the_proof(&problem) => Failure::unproven(name, &problem),
                    error => error.into(),
                })?;
            }
        }
        Ok(())
    }

    async fn fetch(&self, order: &mut Order, key: &SecretString) -> Result<Kept, Failure> {
        let chain = order.certificate().await?.ok_or(Failure::Slow("processing"))?;
        let file = Kept::file(self.options.directory.as_str(), key, &chain);
        let kept = Kept::of(file.expose_secret()).map_err(Failure::Unusable)?;
        if !self.options.domains.is_subset(&kept.names) {
            return Err(Failure::Unusable("it is not for all of our names"));
        }
        if kept.not_after_s <= self.clock.now_ms() / 1000 {
            return Err(Failure::Unusable("it has ended already: is the clock right?"));
        }
        self.shelf.write(Issuance::Certificate, file).await?;
        fault::point("acme: certificate kept");
        if let Err(error) = self.shelf.forget(Issuance::Order).await {
            // The next attempt would get the same certificate again, which harms nobody.
            warn!(error = %Chain(&error), "an order that is done with cannot be removed from the store");
        }
        Ok(kept)
    }
}

/// What is kept of the order under way, if it is for what is configured.
pub(super) async fn pending(shelf: &Shelf, options: &Options) -> Result<Pending, Failure> {
    let pending: Pending = shelf.read(Issuance::Order).await?;
    let is_ours = pending.directory == options.directory.as_str() && pending.domains == options.domains;
    Ok(if is_ours { pending } else { Pending::default() })
}

/// A request for a certificate for these names, in DER.
fn request(domains: &BTreeSet<String>, key: &SecretString) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key.expose_secret())?;
    let mut params = CertificateParams::new(domains.iter().cloned().collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// The directory puts the reason into the challenge that failed, or into the order.
async fn why_invalid(order: &mut Order) -> Result<Failure, Failure> {
    let of_order = order.state().error.clone();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        let state = authorization.refresh().await?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Ok(Failure::unproven(name, problem));
        }
    }
    let nothing = Problem { r#type: None, detail: None, status: None, subproblems: Vec::new() };
    Ok(Failure::refused(&of_order.unwrap_or(nothing)))
}

/// Is this what a directory says of a proof that it could not see, rather than of the request?
fn is_of_the_proof(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next());
    kind.is_some_and(|kind| matches!(kind, "connection" | "tls" | "dns" | "unauthorized" | "incorrectResponse" | "caa"))
}
