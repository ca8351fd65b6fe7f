//! From the section `auth` to what decides by it.

use std::collections::HashMap;

use anyhow::Context as _;
use globset::GlobSetBuilder;
use secrecy::ExposeSecret as _;
use tracing::{info, warn};

use super::serve::globs;
use crate::auth::{
    Accounts, CertificateName, KeySet, KeysInvalid, Permission, Permissions, Policy, Provider, ProviderOptions,
    Providers, Rule, Standing, TokenServer, Who,
};
use crate::config::{self, Config};

/// What the configuration says about who may do what.
pub(super) fn standing(config: &Config) -> anyhow::Result<Standing> {
    let Some(auth) = &config.auth else { return Ok(Standing::unconfigured()) };
    let anonymous = match auth.anonymous {
        config::Anonymous::None => Permissions::NONE,
        config::Anonymous::Pull => Permissions::PULL,
    };
    let is_for_members = |upstream: &&config::Upstream| upstream.visibility == config::Visibility::Authenticated;
    let members_only = config.upstreams.iter().filter(is_for_members).map(|upstream| upstream.name.parse());
    let policy = Policy {
        rules: auth.rules.iter().map(|one| rule(auth, one)).collect::<anyhow::Result<_>>()?,
        members_only: members_only.collect::<Result<_, _>>()?,
        anonymous,
        local: anonymous,
        authenticated: anonymous.or(permissions(&auth.authenticated)),
        admins: auth.admins.iter().map(|one| who(auth, one)).collect::<anyhow::Result<_>>()?,
    };
    let users = auth.htpasswd.iter().flat_map(|htpasswd| &htpasswd.users);
    let accounts = Accounts::new(users.map(|user| (user.name.clone(), user.password.clone())));
    let providers = auth.oidc.iter().map(|(name, oidc)| provider(name, oidc)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    for (group, members) in &auth.groups {
        for member in members {
            groups.entry(member.clone()).or_default().push(group.clone());
        }
    }
    Ok(Standing {
        policy,
        accounts,
        providers: Providers::new(providers),
        certificates: auth.certificates.map(certificate_name),
        groups,
        is_configured: true,
        token_server: auth.token_server.as_ref().map(token_server).transpose()?,
        realm: auth.token_server.as_ref().map(|server| server.realm.clone()).or_else(|| auth.realm.clone()),
        service: auth.token_server.as_ref().map_or(&auth.service, |server| &server.service).clone(),
        token_lifetime: auth.token_lifetime,
        refresh_lifetime: auth.refresh_lifetime,
    })
}

/// Do both say the same about who may do what?
pub(super) fn is_the_same(one: &Config, other: &Config) -> bool {
    let visibility = |config: &Config| -> Vec<_> {
        config.upstreams.iter().map(|upstream| (upstream.name.clone(), upstream.visibility)).collect()
    };
    one.auth == other.auth && visibility(one) == visibility(other)
}

/// Says at start what the configuration comes to, since nobody should find that out by being refused, or by not being.
pub(super) fn say(config: &Config) {
    let listens_to_others = !config.http.listen.ip().is_loopback();
    match &config.auth {
        None if listens_to_others => warn!(
            "no `auth` in the configuration: everybody who reaches {} may pull; pushes and deletes are taken from this \
             machine only",
            config.http.listen
        ),
        None => info!("no `auth` in the configuration: whoever asks from this machine may pull, push and delete"),
        Some(auth) => info!(
            users = auth.htpasswd.as_ref().map_or(0, |htpasswd| htpasswd.users.len()),
            providers = auth.oidc.len(),
            rules = auth.rules.len(),
            anonymous = match auth.anonymous {
                config::Anonymous::None => "none",
                config::Anonymous::Pull => "pull",
            },
            "clients sign in"
        ),
    }
}

fn rule(auth: &config::Auth, rule: &config::AccessRule) -> anyhow::Result<Rule> {
    Ok(Rule {
        repositories: globs(&rule.repositories)?,
        who: rule.identities.iter().map(|one| who(auth, one)).collect::<anyhow::Result<_>>()?,
        allow: permissions(&rule.allow),
        immutable: globs(&rule.immutable)?,
    })
}

fn who(auth: &config::Auth, who: &config::Who) -> anyhow::Result<Who> {
    Ok(match who {
        config::Who::Anonymous => Who::Anonymous,
        config::Who::Authenticated => Who::Authenticated,
        config::Who::Loopback => Who::Loopback,
        config::Who::User(name) => Who::User(config::units::glob(name)?.compile_matcher()),
        config::Who::Certificate(name) => Who::Certificate(config::units::glob(name)?.compile_matcher()),
        config::Who::Group(group) => Who::Group(group.clone()),
        config::Who::Job(text) => {
            let (provider, subjects) = auth.jobs(text)?;
            Who::Job { provider: provider.to_owned(), subjects: config::units::text_glob(subjects)?.compile_matcher() }
        }
    })
}

fn token_server(server: &config::TokenServer) -> anyhow::Result<TokenServer> {
    let keys = match (&server.certificate, &server.jwks) {
        (Some(pem), _) => KeySet::of_pem(pem.text.expose_secret()),
        (None, Some(jwks)) => KeySet::of_jwks(jwks.text.expose_secret().as_bytes()),
        (None, None) => Err(KeysInvalid::Nothing),
    };
    let keys = keys.context("the keys of auth.token_server")?;
    Ok(TokenServer::new(server.issuer.clone(), keys))
}

const fn certificate_name(name: config::CertificateName) -> CertificateName {
    match name {
        config::CertificateName::CommonName => CertificateName::CommonName,
        config::CertificateName::Dns => CertificateName::Dns,
        config::CertificateName::Email => CertificateName::Email,
        config::CertificateName::Uri => CertificateName::Uri,
    }
}

fn provider(name: &str, oidc: &config::Oidc) -> anyhow::Result<Provider> {
    let ca = oidc.ca.as_ref().map(|ca| ca.text.expose_secret().to_owned());
    let mut claims = Vec::new();
    for (claim, config::Patterns(patterns)) in &oidc.claims {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(config::units::text_glob(pattern)?);
        }
        claims.push((claim.clone(), set.build()?));
    }
    let written = serde_json::to_string(&(oidc, &ca))?;
    let options = ProviderOptions {
        name: name.to_owned(),
        issuer: oidc.issuer.clone(),
        audience: oidc.audience.clone(),
        jwks_uri: oidc.jwks_url(),
        claims,
        identity: oidc.identity.clone(),
        ca,
        keys_lifetime: oidc.keys_lifetime,
        keys_kept_for: oidc.keys_kept_for,
        written,
    };
    Provider::new(options).with_context(|| format!("auth.oidc.{name}"))
}

fn permissions(allowed: &[config::Allowed]) -> Permissions {
    let permission = |allowed: &config::Allowed| match allowed {
        config::Allowed::Pull => Permission::Pull,
        config::Allowed::Push => Permission::Push,
        config::Allowed::Delete => Permission::Delete,
    };
    allowed.iter().map(permission).collect()
}
