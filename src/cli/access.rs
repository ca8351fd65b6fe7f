//! From the section `auth` to what decides by it.

use std::collections::HashMap;

use tracing::{info, warn};

use super::serve::globs;
use crate::auth::{Accounts, Permission, Permissions, Policy, Rule, Standing, Who};
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
        rules: auth.rules.iter().map(rule).collect::<anyhow::Result<_>>()?,
        members_only: members_only.collect::<Result<_, _>>()?,
        anonymous,
        local: anonymous,
        authenticated: anonymous.or(permissions(&auth.authenticated)),
        admins: auth.admins.iter().map(who).collect::<anyhow::Result<_>>()?,
    };
    let users = auth.htpasswd.iter().flat_map(|htpasswd| &htpasswd.users);
    let accounts = Accounts::new(users.map(|user| (user.name.clone(), user.password.clone())));
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    for (group, members) in &auth.groups {
        for member in members {
            groups.entry(member.clone()).or_default().push(group.clone());
        }
    }
    Ok(Standing {
        policy,
        accounts,
        groups,
        is_configured: true,
        realm: auth.realm.clone(),
        service: auth.service.clone(),
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
            rules = auth.rules.len(),
            anonymous = match auth.anonymous {
                config::Anonymous::None => "none",
                config::Anonymous::Pull => "pull",
            },
            "clients sign in"
        ),
    }
}

fn rule(rule: &config::AccessRule) -> anyhow::Result<Rule> {
    Ok(Rule {
        repositories: globs(&rule.repositories)?,
        who: rule.identities.iter().map(who).collect::<anyhow::Result<_>>()?,
        allow: permissions(&rule.allow),
        immutable: globs(&rule.immutable)?,
    })
}

fn who(who: &config::Who) -> anyhow::Result<Who> {
    Ok(match who {
        config::Who::Anonymous => Who::Anonymous,
        config::Who::Authenticated => Who::Authenticated,
        config::Who::Loopback => Who::Loopback,
        config::Who::User(name) => Who::User(config::units::glob(name)?.compile_matcher()),
        config::Who::Group(group) => Who::Group(group.clone()),
    })
}

fn permissions(allowed: &[config::Allowed]) -> Permissions {
    let permission = |allowed: &config::Allowed| match allowed {
        config::Allowed::Pull => Permission::Pull,
        config::Allowed::Push => Permission::Push,
        config::Allowed::Delete => Permission::Delete,
    };
    allowed.iter().map(permission).collect()
}
