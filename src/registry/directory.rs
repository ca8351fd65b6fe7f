//! Where the repositories of requests are, remembered: a fleet asks for the same few thousand names again and again, and
//! working out one of them anew costs more than the rest of its answer from memory.
//!
//! Nothing but the configuration decides, which a registry has one of, so nothing remembered is ever wrong.

use std::sync::Arc;

use quick_cache::Equivalent;

use super::routing::{Names, Route, Target, Unroutable};
use crate::metrics::Metrics;
use crate::near::{ALWAYS, Near};
use crate::oci::RepositoryName;

/// Repositories remembered at most, by all threads together, each by every spelling that clients use.
const LOCATED_MAX: usize = 8192;
/// The longest `?ns=` and the longest host of a request that is remembered: no real one is longer.
const WORD_BYTES_MAX: usize = 255;

/// Where the repository of a request is, and what it is called.
#[derive(Debug)]
pub struct Located {
    /// Where it may be found.
    pub route: Route,
    /// All its names: see [`Names::known_as`].
    pub known_as: Arc<[String]>,
}

/// The names of the configuration, and what they made of requests lately.
#[derive(Debug)]
pub struct Directory {
    names: Names,
    located: Near<Spelling, Arc<Located>>,
}

/// What a request says about its repository.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Spelling {
    name: RepositoryName,
    ns: Option<String>,
    host: Option<Arc<str>>,
}

/// The same, as the request has it.
#[derive(Hash)]
struct Spelled<'a> {
    name: &'a RepositoryName,
    ns: Option<&'a str>,
    host: Option<&'a str>,
}

impl Equivalent<Spelling> for Spelled<'_> {
    fn equivalent(&self, known: &Spelling) -> bool {
        *self.name == known.name && self.ns == known.ns.as_deref() && self.host == known.host.as_deref()
    }
}

impl Directory {
    /// These names, of which nobody has asked yet.
    pub fn new(names: Names, metrics: &Metrics) -> Self {
        metrics.limit("repositories_located_max", LOCATED_MAX as u64);
        Self { names, located: Near::new(LOCATED_MAX) }
    }

    /// The names themselves.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Where the repository of a request is.
    pub fn locate(&self, target: &Target) -> Result<Arc<Located>, Unroutable> {
        let Target { name, ns, host, .. } = target;
        let spelled = Spelled { name, ns: ns.as_deref(), host: host.as_deref() };
        if let Some(located) = self.located.get(&spelled, ALWAYS) {
            return Ok(located);
        }
        let route = self.names.route(target)?;
        let known_as = self.names.known_as(target, Some(&route)).into();
        let located = Arc::new(Located { route, known_as });
        if [spelled.ns, spelled.host].into_iter().flatten().all(|word| word.len() <= WORD_BYTES_MAX) {
            let spelling = Spelling { name: name.clone(), ns: ns.clone(), host: host.clone() };
            self.located.put(spelling, Arc::clone(&located), ALWAYS);
        }
        Ok(located)
    }

    /// Every name of the repository of a request: see [`Names::known_as`].
    pub fn known_as(&self, target: &Target) -> Arc<[String]> {
        let located = self.locate(target);
        located.map_or_else(|_| self.names.known_as(target, None).into(), |located| Arc::clone(&located.known_as))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Caller;

    fn target(ns: Option<&str>, host: Option<&str>) -> Target {
        let (ns, host) = (ns.map(str::to_owned), host.map(Into::into));
        Target { name: "org/app".parse().unwrap(), ns, host, caller: Caller::default() }
    }

    #[test]
    fn what_is_remembered_is_what_was_worked_out_and_of_that_spelling_alone() {
        let hosts = ["docker.io", "ghcr.io"].map(|host| host.parse().unwrap());
        let names = Names {
            upstreams: hosts.to_vec(),
            default: Some(hosts[0].clone()),
            hosts: [("gh.corp".to_owned(), hosts[1].clone())].into(),
            ..Names::default()
        };
        let long = "h".repeat(WORD_BYTES_MAX + 1);
        let directory = Directory::new(names.clone(), &Metrics::new());
        let asked = [
            target(None, None),
            target(Some("ghcr.io"), None),
            target(None, Some("ghcr.io")),
            target(None, Some("gh.corp")),
            target(None, Some(&long)),
        ];
        for _ in 0..2 {
            for target in &asked {
                let located = directory.locate(target).unwrap();
                assert_eq!(located.route, names.route(target).unwrap(), "{target:?}");
                assert_eq!(*directory.known_as(target), names.known_as(target, Some(&located.route)), "{target:?}");
            }
        }
        let name = &asked[0].name;
        let is_remembered =
            |host: &str| directory.located.get(&Spelled { name, ns: None, host: Some(host) }, ALWAYS).is_some();
        assert!(is_remembered("gh.corp"));
        assert!(!is_remembered(&long), "nobody fills the memory with a long host");
        let unknown = target(Some("other.io"), None);
        assert!(directory.locate(&unknown).is_err());
        assert_eq!(*directory.known_as(&unknown), ["other.io/org/app", "org/app"]);
    }
}
