//! `auth.oidc`: whose tokens are believed without a secret of ours, as it is written and what must hold of it.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};
use url::Url;

use super::{
    Pem,
    auth::{Auth, Who},
    diagnose::Fault,
    sources::parse_url,
    tree::{KeyPath, Step},
    units,
    validate::Check,
};
use crate::outbound;

/// What subjects of well-known issuers begin with: as the name of a provider it could be taken for one.
const NAMES_TAKEN: [&str; 3] = ["repo", "project_path", "system"];

/// One of `auth.oidc`, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Oidc {
    /// What its tokens have as `iss`, letter by letter; a URL, where it is asked for its keys. Must be there.
    pub issuer: String,
    /// What its tokens must have in `aud`. Must be there.
    pub audience: String,
    /// What its tokens must claim. Must be there, for an issuer has tokens for many who are none of ours.
    pub claims: Claims,
    /// The claim that becomes the subject of `oidc:PROVIDER:SUBJECT`. Default `sub`.
    pub identity: String,
    /// Where its keys are. Default what it says itself, at its own origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// PEM file of authorities to believe besides those of the machine. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// Take `http://` from another machine. Default false.
    pub insecure: bool,
    /// How long its keys count without being asked for again. Default `1h`.
    #[serde(with = "units::duration")]
    pub keys_lifetime: Duration,
    /// How long they count while it cannot be asked. Default `24h`.
    #[serde(with = "units::duration")]
    pub keys_kept_for: Duration,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            claims: Claims::default(),
            identity: "sub".to_owned(),
            jwks_uri: None,
            ca: None,
            insecure: false,
            keys_lifetime: Duration::from_hours(1),
            keys_kept_for: Duration::from_hours(24),
        }
    }
}

/// Patterns ([`units::text_glob`]) by the names of claims.
pub type Claims = std::collections::BTreeMap<String, Patterns>;

/// One pattern, or a list of which one must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Patterns(pub Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern, or a list of them")
            }

            fn visit_str<E>(self, pattern: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![pattern.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Patterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(pattern) = items.next_element()? {
                    patterns.push(pattern);
                }
                Ok(Patterns(patterns))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// What is wrong with `auth.oidc`, or with a rule about its jobs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcFault {
    /// A name that rules cannot have.
    #[error("a provider's name has letters, digits, `-`, `_` and `.` only, and is not {}", NAMES_TAKEN.join(", "))]
    Name,
    /// No claim is required.
    #[error(
        "says nothing of what a token must claim: its issuer gives tokens to anybody's jobs, for any audience; write for \
         instance `claims: {{repository_owner: my-org}}`"
    )]
    NoClaims,
    /// An issuer that anybody on the way can speak for.
    #[error("must be https://, or anybody on the way can make tokens; `insecure: true` takes http:// all the same")]
    Http,
    /// A warning: the same, wanted.
    #[error("INSECURE: whoever answers for this issuer can make tokens for anybody; use https://")]
    Insecure,
    /// Two providers that take the same tokens.
    #[error("{first} has the same issuer and audience: give one provider all the patterns, or each its own audience")]
    Same {
        /// The other provider.
        first: String,
    },
    /// A rule about jobs of nobody.
    #[error("no provider is named here: write oidc:PROVIDER:SUBJECT with one of {}", known.join(", "))]
    NoProvider {
        /// The providers there are.
        known: Vec<String>,
    },
}

impl Auth {
    /// The provider and the pattern of subjects that `oidc:…` stands for. Where there is one provider alone its name may be
    /// left out.
    pub fn jobs<'a>(&'a self, text: &'a str) -> Result<(&'a str, &'a str), OidcFault> {
        let named = text.split_once(':').and_then(|(provider, subjects)| {
            self.oidc.get_key_value(provider).map(|(provider, _)| (provider.as_str(), subjects))
        });
        let mut providers = self.oidc.keys();
        match (named, providers.next(), providers.next()) {
            (Some(named), ..) => Ok(named),
            (None, Some(only), None) => Ok((only, text)),
            _ => Err(OidcFault::NoProvider { known: self.oidc.keys().cloned().collect() }),
        }
    }
}

impl Check<'_> {
    /// Can the providers be asked, and told apart?
    pub(super) fn providers(&mut self, auth: &mut Auth) {
        let mut taken: Vec<(String, String, String)> = Vec::new();
        for (name, provider) in &mut auth.oidc {
            let base = KeyPath::of(&["auth", "oidc", name]);
            if !is_provider(name) {
                self.refuse(base.clone(), OidcFault::Name.into());
            }
            self.provider(&base, provider);
            let same =
                taken.iter().find(|(_, issuer, audience)| (issuer, audience) == (&provider.issuer, &provider.audience));
            if let Some((first, ..)) = same {
                self.refuse(base, OidcFault::Same { first: first.clone() }.into());
            }
            taken.push((name.clone(), provider.issuer.clone(), provider.audience.clone()));
        }
    }

    fn provider(&mut self, base: &KeyPath, provider: &mut Oidc) {
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        for (key, text) in [("issuer", &provider.issuer), ("audience", &provider.audience)] {
            if text.is_empty() {
                self.refuse(base.clone(), Fault::Missing { key });
            }
        }
        if provider.identity.is_empty() {
            self.refuse(base.clone(), Fault::Missing { key: "identity" });
        }
        for (key, url) in [("issuer", Some(&provider.issuer)), ("jwks_uri", provider.jwks_uri.as_ref())] {
            if let Some(url) = url.filter(|url| !url.is_empty()) {
                self.issuer(path(key), url, provider.insecure);
            }
        }
        if provider.claims.is_empty() {
            self.refuse(base.clone(), OidcFault::NoClaims.into());
        }
        for (claim, Patterns(patterns)) in &provider.claims {
            let path = path("claims").then(Step::Key(claim.clone()));
            if patterns.is_empty() {
                self.refuse(path.clone(), Fault::EmptyList);
            }
            for pattern in patterns {
                self.text_glob(path.clone(), pattern);
            }
        }
        for (key, time) in [("keys_lifetime", provider.keys_lifetime), ("keys_kept_for", provider.keys_kept_for)] {
            if time.is_zero() {
                self.refuse(path(key), Fault::Zero);
            }
        }
        if let Some(ca) = &mut provider.ca
            && let Some(read) = self.pem(path("ca"), ca.file.clone(), false)
        {
            *ca = read;
        }
    }

    fn issuer(&mut self, path: KeyPath, text: &str, is_insecure: bool) {
        match parse_url(text) {
            Err(fault) => self.refuse(path, fault),
            Ok(url) if url.scheme() == "https" || outbound::is_loopback(&url) => {}
            Ok(_) if is_insecure => self.warn(path, OidcFault::Insecure.into()),
            Ok(_) => self.refuse(path, OidcFault::Http.into()),
        }
    }

    /// A rule's word on jobs.
    pub(super) fn jobs(&mut self, path: KeyPath, auth: &Auth, who: &Who) {
        let Who::Job(text) = who else { return };
        match auth.jobs(text) {
            Ok((_, subjects)) => self.text_glob(path, subjects),
            Err(fault) => self.refuse(path, fault.into()),
        }
    }

    fn text_glob(&mut self, path: KeyPath, pattern: &str) {
        if let Err(error) = units::text_glob(pattern) {
            self.refuse(path, Fault::Pattern { pattern: pattern.to_owned(), reason: error.kind().clone() });
        }
    }
}

fn is_provider(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_part) && !NAMES_TAKEN.contains(&name)
}

impl Oidc {
    /// Where its keys are, if that is configured.
    pub fn jwks_url(&self) -> Option<Url> {
        self.jwks_uri.as_deref().and_then(|url| Url::parse(url).ok())
    }
}

#[cfg(test)]
mod tests;
