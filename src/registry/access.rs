//! Repositories of upstreams whose content is not for everyone: which they are, and who is let in.

use super::error::Error;
use super::routing::Target;
use super::{Registry, UpstreamError};
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

    /// Those of these repositories that show what they have to whoever asks.
    pub(super) fn readable_by_all(&self, mut names: Vec<RepositoryName>) -> Vec<RepositoryName> {
        names.retain(|name| !self.is_guarded(name));
        names
    }

    /// Must a client be asked for credentials before it says what it wants? Docker's and podman's clients give them to a
    /// registry only if its first answer asks for them.
    pub fn challenges(&self, ns: Option<&str>, host: Option<&str>) -> bool {
        let named = ns.and_then(|ns| ns.parse().ok());
        let named = named.or_else(|| host.and_then(|host| self.names.meant_by(host).cloned()));
        let upstream = named.as_ref().or(self.names.default.as_ref());
        upstream.is_some_and(|upstream| self.guarded.contains(upstream))
    }
}
