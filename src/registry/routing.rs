//! From the names that clients use to the repositories that are kept here and at upstreams. Pure.
//!
//! A request says which registry it means in one of four ways: `?ns=HOST` (containerd), the Host header, a first path
//! component (`ghcr.io/org/app`), or not at all, which means the default upstream with the local names laid over it.

use std::collections::HashMap;
use std::sync::Arc;

use globset::GlobSet;

use super::caller::Caller;
use crate::oci::{Host, RepositoryName};

/// The one registry that keeps single-component names below a namespace of their own.
const DOCKER_HUB: &str = "docker.io";

/// What a request says about the repository it means.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name in the path.
    pub name: RepositoryName,
    /// The value of `?ns=`, if there is one.
    pub ns: Option<String>,
    /// The Host header in lower case, if there is one.
    pub host: Option<Arc<str>>,
    /// Who asks; names are the same for everybody.
    pub caller: Caller,
}

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The upstream.
    pub upstream: Host,
    /// Where its content is kept here.
    pub canonical: RepositoryName,
    /// What it is called there.
    pub remote: RepositoryName,
}

/// By what a request was found to mean its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `?ns=` names an upstream.
    Namespace,
    /// The Host header means an upstream.
    Host,
    /// The name begins with an upstream.
    Prefix,
    /// The name has no host in it, so it is one of the default upstream's.
    Default,
    /// The name has no host in it, and no upstream is the default.
    NoDefault,
    /// The name begins with a host that is no upstream, which the default upstream must not hear of.
    ForeignHost,
    /// The name is too long for any upstream.
    TooLong,
}

impl Rule {
    /// The rule in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "ns",
            Self::Host => "host",
            Self::Prefix => "prefix",
            Self::Default => "default",
            Self::NoDefault => "no_default",
            Self::ForeignHost => "foreign_host",
            Self::TooLong => "too_long",
        }
    }
}

/// Where a request's repository may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// By what that was found.
    pub rule: Rule,
    /// Where a push goes.
    pub home: RepositoryName,
    /// Names under which pushed content would answer before any upstream, in order.
    pub private: Vec<RepositoryName>,
    /// The upstream's repository, if one may be asked.
    pub mirrored: Option<Mirrored>,
    /// Pushed tags first, but the upstream for the rest.
    pub overlay: bool,
    /// There is an upstream of that name, but nobody is to ask it for this repository.
    pub is_closed: bool,
    /// The upstream and what the repository is called there, also if nobody is to ask it.
    pub upstream: Option<(Host, RepositoryName)>,
}

/// Why there is no repository behind a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// `?ns=` names no configured upstream.
    #[error(
        "\"{ns}\" is no configured upstream: add it under upstreams, or take this mirror out of the client's list for it"
    )]
    Namespace {
        /// What it named.
        ns: String,
    },
    /// The name is too long once the upstream it belongs to is put before it.
    #[error("the name is too long together with its upstream {upstream}")]
    TooLong {
        /// The upstream.
        upstream: Host,
    },
    /// The name with the upstream's part taken off is no name.
    #[error("nothing is left of the name once the upstream {upstream} is taken off")]
    Empty {
        /// The upstream.
        upstream: Host,
    },
}

/// The names of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Every upstream.
    pub upstreams: Vec<Host>,
    /// The one that names without a host belong to.
    pub default: Option<Host>,
    /// Host headers that mean an upstream.
    pub hosts: HashMap<String, Host>,
    /// Names whose pushed tags come first and whose upstream answers the rest.
    pub overlay: GlobSet,
    /// Names that no upstream is asked for.
    pub local_only: GlobSet,
}

impl Names {
    /// Where the repository of a request may be found.
    pub fn route(&self, target: &Target) -> Result<Route, Unroutable> {
        let name = &target.name;
        if let Some(ns) = &target.ns {
            let upstream = ns.parse().ok().filter(|host| self.upstreams.contains(host));
            let upstream = upstream.ok_or_else(|| Unroutable::Namespace { ns: ns.clone() })?;
            return self.at_upstream(Rule::Namespace, &upstream, name, &[]);
        }
        if let Some(upstream) = target.host.as_ref().and_then(|host| self.meant_by(host)) {
            return self.at_upstream(Rule::Host, upstream, name, &[]);
        }
        if let Some((first, rest)) = name.split_first()
            && let Some(upstream) = self.upstreams.iter().find(|host| host.as_str() == first)
        {
            let rest = rest.parse().map_err(|_| Unroutable::Empty { upstream: upstream.clone() })?;
            return self.at_upstream(Rule::Prefix, upstream, &rest, std::slice::from_ref(name));
        }
        match &self.default {
            Some(default) if !name.starts_with_a_host() => {
                // A name too long for any upstream can still be one of ours.
                let Ok(route) = self.at_upstream(Rule::Default, default, name, &[]) else {
                    return Ok(self.local(Rule::TooLong, name));
                };
                Ok(Route { home: name.clone(), ..route })
            }
            // `registry.corp/app` with no such upstream: the default upstream has no such name, and must not hear of it.
            _ if name.starts_with_a_host() => Ok(self.local(Rule::ForeignHost, name)),
            _ => Ok(self.local(Rule::NoDefault, name)),
        }
    }

    /// Every name of the repository that a request is about, the one under which its upstream's content is kept first.
    /// The same for all spellings of one repository. Where no upstream is meant by `?ns=`, which has no route, the name that it
    /// would have there. In lower case, because there are upstreams that do not tell cases apart.
    pub fn known_as(&self, target: &Target, route: Option<&Route>) -> Vec<String> {
        let mut names = route.map_or_else(
            || {
                let of = target.ns.iter().map(|ns| format!("{ns}/{}", target.name));
                of.chain([target.name.to_string()]).collect()
            },
            |route| self.spellings(route),
        );
        for name in &mut names {
            name.make_ascii_lowercase();
        }
        names
    }

    fn spellings(&self, route: &Route) -> Vec<String> {
        let Some((upstream, remote)) = &route.upstream else { return vec![route.home.to_string()] };
        let is_default = self.default.as_ref() == Some(upstream);
        let short = remote.as_str().strip_prefix("library/").filter(|_| upstream.as_str() == DOCKER_HUB);
        let short = short.filter(|short| !short.contains('/'));
        let mut names = vec![format!("{upstream}/{remote}")];
        names.extend(short.map(|short| format!("{upstream}/{short}")));
        if is_default {
            names.push(remote.to_string());
            names.extend(short.map(str::to_owned));
        }
        names
    }

    /// The upstream that a Host header means: one configured with this port, or without any.
    pub(super) fn meant_by(&self, host: &str) -> Option<&Host> {
        let without_port = || match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => self.hosts.get(name),
            _ => None,
        };
        self.hosts.get(host).or_else(without_port)
    }

    fn local(&self, rule: Rule, name: &RepositoryName) -> Route {
        let overlay = is_among(&self.overlay, name);
        Route {
            rule,
            home: name.clone(),
            private: vec![name.clone()],
            mirrored: None,
            overlay,
            is_closed: false,
            upstream: None,
        }
    }

    /// The repository `name` of an upstream. `spelled` are further names that this client's spelling stands for.
    fn at_upstream(
        &self,
        rule: Rule,
        upstream: &Host,
        name: &RepositoryName,
        spelled: &[RepositoryName],
    ) -> Result<Route, Unroutable> {
        let too_long = |_| Unroutable::TooLong { upstream: upstream.clone() };
        let remote = if upstream.as_str() == DOCKER_HUB && name.is_single_component() {
            format!("library/{name}").parse().map_err(too_long)?
        } else {
            name.clone()
        };
        let canonical = remote.under(upstream).map_err(too_long)?;
        let is_default = self.default.as_ref() == Some(upstream);
        let mut private = spelled.to_vec();
        private.extend(is_default.then(|| name.clone()));
        private.push(canonical.clone());
        private.dedup();
        let is_closed = private.iter().any(|name| is_among(&self.local_only, name));
        let overlay = private.iter().any(|name| is_among(&self.overlay, name));
        let mirrored = Mirrored { upstream: upstream.clone(), canonical: canonical.clone(), remote: remote.clone() };
        let mirrored = (!is_closed).then_some(mirrored);
        let upstream = Some((upstream.clone(), remote));
        Ok(Route { rule, home: canonical, private, mirrored, overlay, is_closed, upstream })
    }
}

/// Most lists are empty, and a name is made ready for matching before that is looked at.
fn is_among(patterns: &GlobSet, name: &RepositoryName) -> bool {
    !patterns.is_empty() && patterns.is_match(name.as_str())
}

#[cfg(test)]
mod tests;
