//! What is kept in the store: accounts by their directories, what was ordered and has not come, and the certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::sign::CertifiedKey;
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::storage::{self, Issuance, Store};

/// What the first line of the certificate's file begins with: whose it is.
const DIRECTORY: &str = "directory: ";

/// The accounts, by the URLs of their directories, so that going from one to another and back makes none anew.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Accounts(pub BTreeMap<String, AccountRecord>);

/// Who we are to one directory. What it takes to say so is opaque, and secret.
#[derive(Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub credentials: serde_json::Value,
    pub contact: Vec<String>,
}

/// What was ordered and has not come.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pending {
    pub directory: String,
    pub domains: BTreeSet<String>,
    /// The directory wants to be left alone until then, Unix milliseconds.
    pub not_before_ms: i64,
    pub order: Option<Ordered>,
}

/// An order that the directory has.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Ordered {
    pub url: String,
    /// The key of the certificate to come, in PEM.
    #[serde(serialize_with = "exposed")]
    pub key: SecretString,
    /// When it was placed, Unix milliseconds.
    #[serde(default)]
    pub placed_ms: i64,
}

fn exposed<S: serde::Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// A certificate, as far as it says when to ask for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub directory: String,
    pub names: BTreeSet<String>,
    pub not_before_s: i64,
    pub not_after_s: i64,
    /// In 0..=255, another one for each certificate.
    chance: u8,
}

impl Kept {
    /// Reads the certificate's file, or says why what is in it cannot be served.
    pub fn of(text: &str) -> Result<Self, &'static str> {
        let directory = text.lines().next().and_then(|line| line.strip_prefix(DIRECTORY)).unwrap_or_default();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let chain = chain.map_err(|_| "it is not whole")?;
        let leaf = chain.first().cloned().ok_or("there is none")?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "its key is missing")?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|_| "it is not for our key")?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| "it cannot be read")?;
        let alternative = parsed.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Ok(Self {
            directory: directory.to_owned(),
            names: names.collect(),
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
            // A signature's end is as good as random.
            chance: leaf.last().copied().unwrap_or_default(),
        })
    }

    /// What a certificate's file holds.
    pub fn file(directory: &str, key: &SecretString, chain: &str) -> SecretString {
        format!("{DIRECTORY}{directory}\n{}\n{}", key.expose_secret().trim_end(), chain.trim_start()).into()
    }

    /// When it is to be replaced, Unix milliseconds: so long before its end, or when a third of its time is left, and never
    /// before half of it is over. Servers that began together do not renew together: each begins up to a hundredth of
    /// the certificate's time earlier.
    pub fn renews_ms(&self, renew_before: Option<Duration>) -> i64 {
        let whole_s = self.not_after_s.saturating_sub(self.not_before_s).max(0);
        let wanted_s = renew_before.map(|before| i64::try_from(before.as_secs()).unwrap_or(i64::MAX));
        let before_s = wanted_s.map_or(whole_s / 3, |wanted| wanted.min(whole_s / 2));
        let earlier_s = whole_s / 100 * i64::from(self.chance) / 255;
        self.not_after_s.saturating_sub(before_s).saturating_sub(earlier_s).saturating_mul(1000)
    }
}

/// The store, asked on a thread that may wait for its disk.
#[derive(Clone)]
pub(super) struct Shelf(pub Arc<Store>);

impl Shelf {
    /// What was kept as JSON. What cannot be read is as good as nothing: it is asked for again.
    pub async fn read<T: DeserializeOwned + Default>(&self, which: Issuance) -> Result<T, storage::Error> {
        let Some(bytes) = self.bytes(which).await? else { return Ok(T::default()) };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(file = %which.path(self.0.root()).display(), %error, "what ACME left in the store cannot be read");
            T::default()
        }))
    }

    pub async fn keep(&self, which: Issuance, record: &impl Serialize) -> Result<(), storage::Error> {
        self.write(which, serde_json::to_string(record).expect("records have text keys").into()).await
    }

    pub async fn write(&self, which: Issuance, text: SecretString) -> Result<(), storage::Error> {
        let store = Arc::clone(&self.0);
        let written = spawn_blocking(move || store.keep_issuance(which, text.expose_secret().as_bytes()));
        written.await.expect("writing does not panic")
    }

    pub async fn forget(&self, which: Issuance) -> Result<(), storage::Error> {
        let store = Arc::clone(&self.0);
        spawn_blocking(move || store.forget_issuance(which)).await.expect("removing does not panic")
    }

    /// The certificate, if there is one that can be served.
    pub async fn certificate(&self) -> Result<Option<Kept>, storage::Error> {
        let Some(bytes) = self.bytes(Issuance::Certificate).await? else { return Ok(None) };
        let text = SecretString::from(String::from_utf8_lossy(&bytes).into_owned());
        Ok(Kept::of(text.expose_secret()).inspect_err(|why| warn!(why, "the kept certificate cannot be used")).ok())
    }

    async fn bytes(&self, which: Issuance) -> Result<Option<Vec<u8>>, storage::Error> {
        let store = Arc::clone(&self.0);
        spawn_blocking(move || store.read_issuance(which)).await.expect("reading does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 24 * 3600;

    fn kept(days: i64, chance: u8) -> Kept {
        let names = BTreeSet::new();
        Kept { directory: String::new(), names, not_before_s: 0, not_after_s: days * DAY_S, chance }
    }

    #[test]
    fn a_certificate_is_replaced_when_a_third_of_its_time_is_left_or_as_configured_but_not_in_its_first_half() {
        let day = |kept: &Kept, before: Option<u64>| {
            kept.renews_ms(before.map(|days| Duration::from_hours(days * 24))) / 1000 / DAY_S
        };
        let quarter_of_a_year = kept(90, 0);
        assert_eq!(day(&quarter_of_a_year, None), 60);
        assert_eq!(day(&quarter_of_a_year, Some(10)), 80);
        assert_eq!(day(&quarter_of_a_year, Some(89)), 45);
        assert_eq!(day(&kept(6, 0), Some(30)), 3, "a short one is not renewed all the time");
        assert_eq!(day(&kept(100, 255), None), 65, "a hundredth of its time earlier");
        assert_eq!(kept(-1, 9).renews_ms(None), -DAY_S * 1000);
    }

    #[test]
    fn a_file_says_what_it_holds_and_whether_it_can_be_served() {
        let made = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            (SecretString::from(made.signing_key.serialize_pem()), made.cert.pem())
        };
        let (key, chain) = made(&["B.lan", "a.lan"]);
        let file = Kept::file("https://ca.lan/dir", &key, &chain);
        let kept = Kept::of(file.expose_secret()).unwrap();
        assert_eq!(kept.directory, "https://ca.lan/dir");
        assert_eq!(kept.names, BTreeSet::from(["a.lan".to_owned(), "b.lan".to_owned()]));
        assert!(kept.not_before_s < kept.not_after_s);
        let (other, _) = made(&["a.lan"]);
        let wrong = |text: &SecretString| Kept::of(text.expose_secret()).unwrap_err();
        assert_eq!(wrong(&Kept::file("x", &other, &chain)), "it is not for our key");
        assert_eq!(wrong(&Kept::file("x", &"".into(), &chain)), "its key is missing");
        assert_eq!(wrong(&Kept::file("x", &key, "")), "there is none");
        let half: String = file.expose_secret().chars().take(file.expose_secret().len() - 100).collect();
        assert!(Kept::of(&half).is_err());
    }
}
