//! Proof of access: a blob that is stored but not linked to the repository it is asked through may be given only after
//! that repository's upstream has said that it has it. Otherwise knowing a digest would open other people's content.

use super::Source;
use super::error::Error;
use super::flights::Flights;
use crate::oci::{Digest, RepositoryName};

/// The proofs being asked for.
#[derive(Default)]
pub struct Proofs {
    flights: Flights<(RepositoryName, Digest), Result<Option<u64>, Error>>,
}

impl Proofs {
    /// Asks the upstream for the blob's head, once for all who ask at the same time. Returns the size it states, in bytes.
    pub async fn head(&self, source: &Source, digest: &Digest) -> Result<Option<u64>, Error> {
        let (source, digest) = (source.clone(), *digest);
        let key = (source.canonical.clone(), digest);
        let (answer, _) = self.flights.run(key, || async move { source.prove(&digest).await }).await;
        answer.unwrap_or(Err(Error::Stopped))
    }
}

impl std::fmt::Debug for Proofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proofs")
    }
}

impl Source {
    pub(super) async fn prove(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let head = self.upstream().head_blob(&self.remote, digest);
        Ok(self.mirror.ask("head_blob", head).await?.size_bytes)
    }
}
