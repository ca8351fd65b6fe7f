//! The rules for where an upstream is, who we are there, and the way there.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    Credentials, Identity, Password, Pem, Route, Source, Tls,
    diagnose::Fault,
    raw::{RawIdentity, RawSource, RawTls},
    tree::{KeyPath, Step},
    validate::{Check, is_host},
};

/// Kinds of proxies that are spoken to.
const PROXY_SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];

impl Check<'_> {
    /// All sources, in order. Credentials beside `urls` are those of the first.
    pub(super) fn sources(
        &mut self,
        name: &str,
        url: Option<&str>,
        urls: Vec<RawSource>,
        identity: RawIdentity,
    ) -> Option<Vec<Source>> {
        let path = |key: &str| KeyPath::of(&["upstreams", name, key]);
        let has_list = self.has(&path("urls"));
        if !has_list {
            let url = self.url(path("url"), url.unwrap_or(&implied_url(name)));
            let identity = self.identity(&KeyPath::of(&["upstreams", name]), identity)?;
            return Some(vec![Source { url: url?, identity }]);
        }
        if url.is_some() {
            self.refuse(path("urls"), Fault::BothUrls);
            return None;
        }
        if urls.is_empty() {
            self.refuse(path("urls"), Fault::EmptyList);
            return None;
        }
        let n_urls = urls.len();
        let beside = self.identity(&KeyPath::of(&["upstreams", name]), identity);
        let mut sources: Vec<Source> = Vec::with_capacity(n_urls);
        for (index, written) in urls.into_iter().enumerate() {
            let at = path("urls").then(Step::Index(index));
            let key = if written.is_text { at.clone() } else { at.clone().then(Step::Key("url".to_owned())) };
            if written.url.is_none() {
                self.refuse(at.clone(), Fault::NoUrl);
            }
            let url = written.url.as_deref().and_then(|url| self.url(key, url));
            let identity = self.identity(&at, written.identity);
            let (Some(url), Some(identity)) = (url, identity) else { continue };
            if sources.iter().any(|source| source.url == url) {
                self.refuse(at, Fault::UrlTwice);
                continue;
            }
            sources.push(Source { url, identity });
        }
        if let (Some(first), Some(beside)) = (sources.first_mut(), beside?.written()) {
            if first.identity != Identity::Anonymous {
                self.refuse(path("urls").then(Step::Index(0)), Fault::TwoIdentities);
                return None;
            }
            first.identity = beside;
        }
        (sources.len() == n_urls).then_some(sources)
    }

    fn url(&mut self, path: KeyPath, written: &str) -> Option<Url> {
        match parse_url(written) {
            Ok(url) => Some(url),
            Err(fault) => {
                self.refuse(path, fault);
                None
            }
        }
    }

    /// Who we are, by the keys below `base`; one way of saying it at most.
    fn identity(&mut self, base: &KeyPath, raw: RawIdentity) -> Option<Identity> {
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        let has_password = raw.username.is_some() || raw.password.is_some() || raw.password_file.is_some();
        let ways = [
            ("username", has_password),
            ("accounts", raw.accounts.is_some()),
            ("docker_config", raw.docker_config.is_some()),
            ("credential_helper", raw.credential_helper.is_some()),
        ];
        let given: Vec<&str> = ways.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect();
        if let [first, second, ..] = given[..] {
            self.refuse(path(second), Fault::ManyIdentities { first });
            return None;
        }
        if let Some(accounts) = raw.accounts {
            if accounts.is_empty() {
                self.refuse(path("accounts"), Fault::EmptyList);
                return None;
            }
            let n_accounts = accounts.len();
            let several: Vec<Credentials> = accounts
                .into_iter()
                .enumerate()
                .filter_map(|(index, account)| {
                    let at = path("accounts").then(Step::Index(index));
                    self.credentials(&at, account.username, account.password, account.password_file.as_deref())
                })
                .collect();
            return (several.len() == n_accounts).then_some(Identity::Several(several));
        }
        if let Some(file) = raw.docker_config {
            let readable = self.secret_in(path("docker_config"), &file)?;
            if serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(readable.expose_secret()).is_err() {
                self.refuse(path("docker_config"), Fault::DockerConfig { path: file });
                return None;
            }
            return Some(Identity::DockerConfig(file));
        }
        if let Some(name) = raw.credential_helper {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || !name.chars().all(fits) {
                self.refuse(path("credential_helper"), Fault::HelperName { name });
                return None;
            }
            return Some(Identity::Helper(name));
        }
        if !has_password {
            return Some(Identity::Anonymous);
        }
        self.credentials(base, raw.username, raw.password, raw.password_file.as_deref()).map(Identity::One)
    }

    fn credentials(
        &mut self,
        base: &KeyPath,
        username: Option<String>,
        password: Option<SecretString>,
        password_file: Option<&Path>,
    ) -> Option<Credentials> {
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        let (key, fault) = match (username, password, password_file) {
            (Some(username), Some(password), None) => {
                return Some(Credentials { username, password: Password::Written(password) });
            }
            (Some(username), None, Some(file)) => {
                self.secret_in(path("password_file"), file)?;
                return Some(Credentials { username, password: Password::File(file.to_owned()) });
            }
            (Some(_), None, None) => ("username", Fault::UsernameAlone),
            (_, Some(_), Some(_)) => ("password_file", Fault::TwoPasswords),
            (None, Some(_), None) => ("password", Fault::PasswordAlone),
            (None, None, Some(_)) => ("password_file", Fault::PasswordAlone),
            (None, None, None) => {
                self.refuse(base.clone(), Fault::NoAccount);
                return None;
            }
        };
        self.refuse(path(key), fault);
        None
    }

    /// The content of a file that must have some.
    pub(super) fn secret_in(&mut self, path: KeyPath, file: &Path) -> Option<SecretString> {
        let fault = match self.read(file) {
            Err(reason) => Fault::FileUnreadable { path: file.to_owned(), reason },
            Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => Fault::FileEmpty { path: file.to_owned() },
            Ok(text) => return Some(text.into()),
        };
        self.refuse(path, fault);
        None
    }

    /// The `tls` at `base` of what is called `name`, which must speak TLS for this to mean anything.
    pub(super) fn tls(&mut self, base: &KeyPath, name: &str, raw: RawTls, speaks_tls: bool) -> Tls {
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        if !self.has(base) {
            return Tls::default();
        }
        if !speaks_tls {
            self.refuse(base.clone(), Fault::TlsOverHttp);
        }
        match (&raw.certificate, &raw.key) {
            (Some(_), None) => self.refuse(path("certificate"), Fault::CertificateAlone),
            (None, Some(_)) => self.refuse(path("key"), Fault::KeyAlone),
            _ => {}
        }
        let mut pem = |key: &str, file: Option<PathBuf>| self.pem(path(key), file?, key == "key");
        let (ca, certificate, key) = (pem("ca", raw.ca), pem("certificate", raw.certificate), pem("key", raw.key));
        if raw.insecure {
            self.warn(path("insecure"), Fault::InsecureTls { name: name.to_owned() });
        }
        Tls { ca, certificate, key, insecure: raw.insecure }
    }

    /// A PEM file with a private key, or else with certificates.
    pub(super) fn pem(&mut self, path: KeyPath, file: PathBuf, is_key: bool) -> Option<Pem> {
        let text = self.secret_in(path.clone(), &file)?;
        let bytes = text.expose_secret().as_bytes();
        let (holds_it, what) = if is_key {
            (PrivateKeyDer::from_pem_slice(bytes).is_ok(), "a private key")
        } else {
            let mut certificates = CertificateDer::pem_slice_iter(bytes).peekable();
            let holds_some = certificates.peek().is_some();
            (holds_some && certificates.all(|certificate| certificate.is_ok()), "certificates")
        };
        if holds_it {
            return Some(Pem { file, text });
        }
        self.refuse(path, Fault::NotPem { path: file, what });
        None
    }

    pub(super) fn route(&mut self, path: KeyPath, written: Option<SecretString>) -> Route {
        let Some(written) = written else { return Route::System };
        if written.expose_secret() == "none" {
            return Route::Direct;
        }
        let is_proxy = Url::parse(written.expose_secret()).is_ok_and(|url| {
            PROXY_SCHEMES.contains(&url.scheme())
                && url.has_host()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if !is_proxy {
            self.refuse(path, Fault::Proxy);
            return Route::System;
        }
        Route::Through(written)
    }

    pub(super) fn realms(&mut self, name: &str, realms: &[String]) {
        for (index, host) in realms.iter().enumerate() {
            if !is_host(host) {
                let path = KeyPath::of(&["upstreams", name, "realms"]).then(Step::Index(index));
                self.refuse(path, Fault::NotAHost { name: host.clone() });
            }
        }
    }
}

impl Identity {
    /// Itself, if it is somebody.
    fn written(self) -> Option<Self> {
        (self != Self::Anonymous).then_some(self)
    }
}

fn implied_url(name: &str) -> String {
    match name {
        // The names of Docker Hub are under docker.io, where no registry answers.
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        host => format!("https://{host}"),
    }
}

pub(super) fn parse_url(text: &str) -> Result<Url, Fault> {
    let url = Url::parse(text).map_err(|reason| Fault::Url { reason })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::UrlScheme { scheme: url.scheme().to_owned() });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::UrlCredentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::UrlQuery);
    }
    Ok(url)
}
