//! Repositories of upstreams whose content is not for everyone: which they are, and who is let in.

use std::sync::Arc;

use super::error::Error;
use super::routing::Target;
use super::{Caller, Registry, Sight, UpstreamError};
use crate::cache::{self, Probe, Source};
use crate::oci::RepositoryName;

impl Registry {
    pub(super) async fn admit(&self, target: &Target, source: Source, probe: Probe) -> Result<Source, Error> {
        let unauthorized = || Error::Unauthorized { name: target.name.clone() };
        let credentials = target.caller.credentials.as_ref().ok_or_else(unauthorized)?;
        let name = source.canonical.clone();
        self.access.admit(source, credentials, probe).await.map_err(|error| match error {
            cache::Error::Upstream { source: UpstreamError::Refused { status: 401, .. }, .. } => unauthorized(),
            error => Error::cache(&name)(error),
        })
    }

    /// Is the repository one of an upstream whose content is not for everyone?
    pub(super) fn is_guarded(&self, name: &RepositoryName) -> bool {
        super::is_guarded(&self.guarded, name)
    }

    /// Those of these repositories that show what they have to whoever asks, and that this one may see.
    pub(super) fn readable(&self, names: &[RepositoryName], sight: &Sight) -> Vec<RepositoryName> {
        names.iter().filter(|name| !self.is_guarded(name) && sight.sees(name)).cloned().collect()
    }

    /// Is there an upstream whose content is not for everyone?
    pub const fn guards_anything(&self) -> bool {
        !self.guarded.is_empty()
    }

    /// Are the caller's credentials meant for an upstream that guards what it has, rather than for us?
    pub fn relays_credentials(&self, target: &Target) -> bool {
        let Ok(located) = self.names.locate(target) else { return false };
        let route = &located.route;
        self.is_guarded(route.mirrored.as_ref().map_or(&route.home, |mirrored| &mirrored.canonical))
    }

    /// Every name of the repository that a request is about, the one it is kept under first, whether there is such a
    /// repository or not: what rules about names are held against, so that no spelling gets around them.
    pub fn known_as(&self, target: &Target) -> Arc<[String]> {
        self.names.known_as(target)
    }

    /// The same for a repository by the name under which it is kept here.
    pub fn known_by(&self, name: &RepositoryName) -> Arc<[String]> {
        let caller = Caller::default();
        self.names.known_as(&Target { name: name.clone(), ns: None, host: None, caller })
    }

    /// Must a client be asked for credentials before it says what it wants? Docker's and podman's clients give them to a
    /// registry only if its first answer asks for them.
    pub fn challenges(&self, ns: Option<&str>, host: Option<&str>) -> bool {
        let named = ns.and_then(|ns| ns.parse().ok());
        let named = named.or_else(|| host.and_then(|host| self.names.names().meant_by(host).cloned()));
        let upstream = named.as_ref().or(self.names.names().default.as_ref());
        upstream.is_some_and(|upstream| self.guarded.contains(upstream))
    }
}
