//! Rules of the section `auth`.

use std::time::Duration;

use super::{
    ClientCertificates, Config, Visibility, Who,
    auth::{AccessRule, Auth, Htpasswd, parse_htpasswd},
    diagnose::Fault,
    tree::{KeyPath, Step},
    units,
    validate::Check,
};

/// Docker's clients renew a token that says less as if it were one minute old.
const TOKEN_LIFETIME_MIN: Duration = Duration::from_mins(1);
/// The keys that sign tokens are kept for two days longer than they sign.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_hours(24);

impl Check<'_> {
    /// Who may do what, and whether there is somebody to sign in.
    pub(super) fn access(&mut self, config: &mut Config) {
        if config.auth.is_none() {
            for upstream in &config.upstreams {
                if upstream.visibility == Visibility::Authenticated {
                    self.refuse(KeyPath::of(&["upstreams", &upstream.name, "visibility"]), Fault::NoAccounts);
                }
            }
        }
        let Some(auth) = &mut config.auth else { return };
        if let Some(htpasswd) = &mut auth.htpasswd {
            self.users(htpasswd);
        }
        self.tokens(auth);
        if auth.certificates.is_some() && config.http.tls.client_certificates == ClientCertificates::None {
            self.refuse(KeyPath::of(&["auth", "certificates"]), Fault::NoCertificates);
        }
        self.providers(auth);
        self.token_server(auth);
        let auth = &*auth;
        let has_group = |who: &Who| if let Who::Group(group) = who { auth.groups.contains_key(group) } else { true };
        for (index, who) in auth.admins.iter().enumerate() {
            let path = KeyPath::of(&["auth", "admins"]).then(Step::Index(index));
            self.who(&path, who, has_group(who));
            self.jobs(path.clone(), auth, who);
            if matches!(who, Who::Anonymous | Who::Loopback) {
                self.refuse(path, Fault::EverybodyAdmin);
            }
        }
        for (index, rule) in auth.rules.iter().enumerate() {
            let path = KeyPath::of(&["auth", "rules"]).then(Step::Index(index));
            let identities = path.clone().then(Step::Key("identities".to_owned()));
            self.rule(path, rule);
            for (index, who) in rule.identities.iter().enumerate() {
                let path = identities.clone().then(Step::Index(index));
                self.who(&path, who, has_group(who));
                self.jobs(path, auth, who);
            }
        }
    }

    fn users(&mut self, htpasswd: &mut Htpasswd) {
        let path = htpasswd.file.clone();
        let read = self.read(&path).map_err(|reason| Fault::FileUnreadable { path: path.clone(), reason });
        let users = read.and_then(|text| parse_htpasswd(&text).map_err(|fault| Fault::Htpasswd { path, fault }));
        match users {
            Ok(users) => htpasswd.users = users,
            Err(fault) => self.refuse(KeyPath::of(&["auth", "htpasswd"]), fault),
        }
    }

    fn tokens(&mut self, auth: &Auth) {
        if auth.token_lifetime < TOKEN_LIFETIME_MIN {
            self.refuse(KeyPath::of(&["auth", "token_lifetime"]), Fault::ShortToken);
        }
        if auth.token_lifetime > TOKEN_LIFETIME_MAX {
            self.refuse(KeyPath::of(&["auth", "token_lifetime"]), Fault::LongToken);
        }
        if auth.refresh_lifetime < TOKEN_LIFETIME_MIN {
            self.refuse(KeyPath::of(&["auth", "refresh_lifetime"]), Fault::ShortToken);
        }
        if let Some(realm) = &auth.realm {
            self.realm(KeyPath::of(&["auth", "realm"]), realm);
        }
        self.service(KeyPath::of(&["auth", "service"]), &auth.service);
    }

    /// Where clients are sent for tokens.
    pub(super) fn realm(&mut self, path: KeyPath, realm: &str) {
        let fault = match url::Url::parse(realm) {
            Err(reason) => Fault::Url { reason },
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                Fault::UrlScheme { scheme: url.scheme().to_owned() }
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => Fault::UrlQuery,
            Ok(_) => return,
        };
        self.refuse(path, fault);
    }

    /// What stands between quotes in a challenge.
    pub(super) fn service(&mut self, path: KeyPath, service: &str) {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/".contains(&byte);
        if service.is_empty() || !service.bytes().all(is_word) {
            self.refuse(path, Fault::Service);
        }
    }

    fn rule(&mut self, path: KeyPath, rule: &AccessRule) {
        let at = |key: &str| path.clone().then(Step::Key(key.to_owned()));
        self.globs(&at("repositories"), &rule.repositories);
        self.globs(&at("immutable"), &rule.immutable);
        if rule.repositories.is_empty() {
            self.refuse(path, Fault::Missing { key: "repositories" });
        } else if rule.identities.is_empty() && !rule.allow.is_empty() {
            self.refuse(path, Fault::AllowedToNobody);
        } else if rule.identities.is_empty() && rule.immutable.is_empty() {
            self.refuse(path, Fault::IdleRule);
        }
    }

    fn who(&mut self, path: &KeyPath, who: &Who, is_group: bool) {
        if let Who::User(name) | Who::Certificate(name) = who
            && let Err(error) = units::glob(name)
        {
            let fault = Fault::Pattern { pattern: name.clone(), reason: error.kind().clone() };
            self.refuse(path.clone(), fault);
        }
        if let Who::Group(group) = who
            && !is_group
        {
            self.refuse(path.clone(), Fault::NoGroup { group: group.clone() });
        }
    }
}
