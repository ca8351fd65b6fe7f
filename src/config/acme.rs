//! `http.tls.acme`: who issues our certificate, as it is written and what must hold of it.

use std::{collections::HashSet, net::IpAddr, path::PathBuf, time::Duration};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize};

use super::{
    Pem, ServerTls,
    diagnose::Fault,
    sources::parse_url,
    tree::{KeyPath, Step},
    units,
    validate::{Check, is_host},
};
use crate::outbound;

/// `http.tls.acme`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// Where the server's directory is, as a URL. Must be there: nobody is asked who is not named.
    pub directory: String,
    /// The names that the certificate is for. Must be there.
    pub domains: Vec<String>,
    /// Whether whoever runs this server agrees to the terms of whoever runs the directory. Must be true.
    pub accept_terms: bool,
    /// Whom they may write to, as `mailto:` URLs. Default nobody.
    pub contact: Vec<String>,
    /// PEM file of authorities to believe about the directory, besides those of the machine. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// How long before its end a certificate is replaced. Default a third of its time.
    #[serde(with = "units::duration_or_inherited", skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<Duration>,
    /// Who we are to whoever runs the directory, if it is not for everybody. Default nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_account: Option<ExternalAccount>,
}

/// `http.tls.acme.external_account` (RFC 8555, section 7.3.4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExternalAccount {
    /// What they call us. Must be there.
    pub key_id: String,
    /// The file with the key they gave us, in base64. Must be there.
    pub key_file: Option<Pem>,
}

/// What is wrong with `http.tls.acme`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcmeFault {
    /// Two certificates.
    #[error("`acme` gets a certificate and keeps it in the store: leave out one of the two")]
    Beside,
    /// Terms nobody has agreed to.
    #[error("whoever runs the directory has terms of service: read them, and write `accept_terms: true` if you agree")]
    Terms,
    /// A directory that anybody on the way can speak for.
    #[error("must be https://, or anybody on the way decides which certificate is served")]
    Http,
    /// A name with a star.
    #[error("`{name}` is a wildcard, which cannot be proven on this port (TLS-ALPN-01): name each host")]
    Wildcard {
        /// What was written.
        name: String,
    },
    /// An address.
    #[error("`{name}` is an address: name a host whose port 443 leads here")]
    Address {
        /// What was written.
        name: String,
    },
    /// Something else than a name of a host.
    #[error("`{name}` is no name of a host; write it in lower case and without a port, such as registry.example.com")]
    Name {
        /// What was written.
        name: String,
    },
    /// The same name again.
    #[error("`{name}` is in the list already")]
    Twice {
        /// What was written.
        name: String,
    },
    /// Somebody who cannot be written to.
    #[error("`{contact}` is no address to write to, such as mailto:admin@example.com")]
    Contact {
        /// What was written.
        contact: String,
    },
    /// A key that is none.
    #[error("{} holds no key in base64", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
}

impl ExternalAccount {
    /// The key itself; `None` if the file holds none.
    pub fn key(&self) -> Option<SecretSlice<u8>> {
        let settings = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let text = self.key_file.as_ref()?.text.expose_secret().trim();
        let decoded = [&URL_SAFE, &STANDARD].map(|alphabet| GeneralPurpose::new(alphabet, settings).decode(text));
        decoded.into_iter().find_map(Result::ok).filter(|key| !key.is_empty()).map(SecretSlice::from)
    }
}

impl Check<'_> {
    /// Can a certificate be asked for?
    pub(super) fn acme(&mut self, tls: &mut ServerTls) {
        let Some(acme) = &mut tls.acme else { return };
        let base = KeyPath::of(&["http", "tls", "acme"]);
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        for (key, is_there) in [("certificate", tls.certificate.is_some()), ("key", tls.key.is_some())] {
            if is_there {
                self.refuse(KeyPath::of(&["http", "tls", key]), AcmeFault::Beside.into());
            }
        }
        if acme.directory.is_empty() {
            self.refuse(base.clone(), Fault::Missing { key: "directory" });
        } else {
            self.directory(path("directory"), &acme.directory);
        }
        if acme.domains.is_empty() {
            self.refuse(base.clone(), Fault::Missing { key: "domains" });
        }
        if !acme.accept_terms {
            self.refuse(base.clone(), AcmeFault::Terms.into());
        }
        let mut seen = HashSet::new();
        for (index, name) in acme.domains.iter().enumerate() {
            let fault =
                domain_fault(name).or_else(|| (!seen.insert(name)).then(|| AcmeFault::Twice { name: name.clone() }));
            if let Some(fault) = fault {
                self.refuse(path("domains").then(Step::Index(index)), fault.into());
            }
        }
        for (index, contact) in acme.contact.iter().enumerate() {
            let is_one = contact.strip_prefix("mailto:").is_some_and(|to| to.contains('@') && !to.contains([' ', ',']));
            if !is_one {
                let fault = AcmeFault::Contact { contact: contact.clone() };
                self.refuse(path("contact").then(Step::Index(index)), fault.into());
            }
        }
        if acme.renew_before.is_some_and(|time| time.is_zero()) {
            self.refuse(path("renew_before"), Fault::Zero);
        }
        if let Some(ca) = &mut acme.ca
            && let Some(read) = self.pem(path("ca"), ca.file.clone(), false)
        {
            *ca = read;
        }
        if let Some(account) = &mut acme.external_account {
            self.external_account(&path("external_account"), account);
        }
    }

    fn directory(&mut self, path: KeyPath, text: &str) {
        match parse_url(text) {
            Err(fault) => self.refuse(path, fault),
            Ok(url) if url.scheme() == "https" || outbound::is_loopback(&url) => {}
            Ok(_) => self.refuse(path, AcmeFault::Http.into()),
        }
    }

    fn external_account(&mut self, base: &KeyPath, account: &mut ExternalAccount) {
        if account.key_id.is_empty() {
            self.refuse(base.clone(), Fault::Missing { key: "key_id" });
        }
        let Some(file) = &mut account.key_file else {
            self.refuse(base.clone(), Fault::Missing { key: "key_file" });
            return;
        };
        let path = base.clone().then(Step::Key("key_file".to_owned()));
        let Some(text) = self.secret_in(path.clone(), &file.file) else { return };
        file.text = text;
        let file = file.file.clone();
        if account.key().is_none() {
            self.refuse(path, AcmeFault::Key { path: file }.into());
        }
    }
}

fn domain_fault(name: &str) -> Option<AcmeFault> {
    let owned = || name.to_owned();
    if name.starts_with("*.") {
        Some(AcmeFault::Wildcard { name: owned() })
    } else if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        Some(AcmeFault::Address { name: owned() })
    } else if name.contains(':') || !is_host(name) {
        Some(AcmeFault::Name { name: owned() })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_external_account_is_base64_of_either_kind() {
        let account = |text: &str| ExternalAccount {
            key_id: "us".to_owned(),
            key_file: Some(Pem { file: "key".into(), text: text.into() }),
        };
        let key = |text: &str| account(text).key().map(|key| key.expose_secret().to_vec());
        for text in ["-_8", "-_8=", "+/8", "+/8=\n", " -_8= "] {
            assert_eq!(key(text), Some(vec![0xFB, 0xFF]), "{text}");
        }
        for text in ["", "=", "a key", "-/8"] {
            assert_eq!(key(text), None, "{text}");
        }
        assert!(!format!("{:?}", account("-_8")).contains("-_8"), "a secret is printed");
    }
}
