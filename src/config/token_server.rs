//! `auth.token_server`: somebody else who issues the tokens, as it is written and what must hold of it.

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::{
    Pem,
    auth::Auth,
    diagnose::Fault,
    tree::{KeyPath, Step},
    validate::Check,
};

/// `auth.token_server`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenServer {
    /// Where clients get their tokens, as a URL. Must be there.
    pub realm: String,
    /// For whom the tokens are meant: what they must have in `aud`. Must be there.
    pub service: String,
    /// What the tokens have as `iss`, letter by letter. Must be there.
    pub issuer: String,
    /// PEM file of the certificates or public keys that sign them. This, or the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Pem>,
    /// File of the keys as a JSON Web Key Set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Pem>,
}

/// What is wrong with `auth.token_server`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenServerFault {
    /// Two who issue tokens.
    #[error("`token_server` says who is who and issues the tokens: leave out one of the two")]
    Beside,
    /// No key, or two sorts of them.
    #[error("needs one of `certificate` and `jwks`: the keys that sign its tokens")]
    Keys,
    /// A file without keys.
    #[error("the file holds no {0}")]
    Nothing(&'static str),
}

/// What only who issues tokens has a use for.
const BESIDE: [&str; 6] = ["htpasswd", "oidc", "realm", "service", "token_lifetime", "refresh_lifetime"];

impl Check<'_> {
    /// Is it the only one, and can its tokens be verified?
    pub(super) fn token_server(&mut self, auth: &mut Auth) {
        let Some(server) = &mut auth.token_server else { return };
        for key in BESIDE {
            let path = KeyPath::of(&["auth", key]);
            if self.has(&path) {
                self.refuse(path, TokenServerFault::Beside.into());
            }
        }
        let base = KeyPath::of(&["auth", "token_server"]);
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        for (key, text) in [("realm", &server.realm), ("service", &server.service), ("issuer", &server.issuer)] {
            if text.is_empty() {
                self.refuse(base.clone(), Fault::Missing { key });
            }
        }
        if !server.realm.is_empty() {
            self.realm(path("realm"), &server.realm);
        }
        if !server.service.is_empty() {
            self.service(path("service"), &server.service);
        }
        if server.certificate.is_some() == server.jwks.is_some() {
            self.refuse(base.clone(), TokenServerFault::Keys.into());
        }
        self.keys(path("certificate"), server.certificate.as_mut(), "certificate or public key in PEM", is_pem);
        self.keys(path("jwks"), server.jwks.as_mut(), "JSON Web Key Set", is_jwks);
    }

    fn keys(&mut self, path: KeyPath, written: Option<&mut Pem>, what: &'static str, is_one: fn(&str) -> bool) {
        let Some(written) = written else { return };
        let Some(text) = self.secret_in(path.clone(), &written.file) else { return };
        if is_one(text.expose_secret()) {
            written.text = text;
        } else {
            self.refuse(path, TokenServerFault::Nothing(what).into());
        }
    }
}

fn is_pem(text: &str) -> bool {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).any(|one| one.is_ok());
    certificates || SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()).any(|one| one.is_ok())
}

fn is_jwks(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value["keys"].is_array())
}

#[cfg(test)]
mod tests {
    use super::super::tests::from_text;

    const SERVER: &str = "realm: \"https://auth.example/token\", service: registry, issuer: auth.example";

    fn said(text: &str) -> String {
        from_text(text).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_token_server_needs_its_names_and_one_sort_of_keys() {
        let with = |server: &str| said(&format!("auth:\n  token_server: {{{server}}}\n"));
        assert_eq!(with(&format!("{SERVER}, certificate: /etc/ssl/lan.pem")), "");
        for (server, reason) in [
            (SERVER.to_owned(), "needs one of `certificate` and `jwks`"),
            (format!("{SERVER}, certificate: /etc/ssl/lan.pem, jwks: /etc/ssl/lan.pem"), "needs one of"),
            (format!("{SERVER}, certificate: /run/secrets/token"), "no certificate or public key"),
            (format!("{SERVER}, certificate: /run/secrets/lan.key"), "no certificate or public key"),
            (format!("{SERVER}, jwks: /etc/ssl/lan.pem"), "no JSON Web Key Set"),
            (format!("{SERVER}, certificate: /none"), "cannot read"),
            (SERVER.replace("service: registry", "service: \"a b\""), "must be a word"),
            (SERVER.replace("https:", "ftp:"), "the scheme `ftp` is unknown"),
            (SERVER.replace("service: registry, ", ""), "needs the key `service`"),
            (SERVER.replace(", issuer: auth.example", ""), "needs the key `issuer`"),
            ("issuer: a, service: b".to_owned(), "needs the key `realm`"),
        ] {
            assert!(with(&server).contains(reason), "{server}: {}", with(&server));
        }
    }

    #[test]
    fn two_who_issue_tokens_contradict_each_other() {
        for beside in [
            "htpasswd: /etc/entrepot/htpasswd",
            "realm: \"https://registry.example/token\"",
            "service: registry",
            "token_lifetime: 5m",
            "refresh_lifetime: 5m",
            "oidc: {ci: {issuer: \"https://a.example\", audience: a, claims: {sub: x}}}",
        ] {
            let said =
                said(&format!("auth:\n  token_server: {{{SERVER}, certificate: /etc/ssl/lan.pem}}\n  {beside}\n"));
            assert!(
                said.starts_with("config.yaml:3:") && said.contains("leave out one of the two"),
                "{beside}: {said}"
            );
        }
    }
}
