//! Stored blobs that a repository comes to show without having brought them.

use super::error::Error;
use super::fills::Depot;
use super::room::QuotaPromise;
use super::space::Holding;
use crate::metadata::{Link, Provenance};
use crate::oci::{Digest, RepositoryName};

impl Depot {
    /// Shows a stored blob in a repository, under its quota. False if the blob is not stored. To be run to its end.
    pub async fn link(&self, repo: &RepositoryName, digest: &Digest, provenance: Provenance) -> Result<bool, Error> {
        let _promised = self.promise_link(repo, digest).await?;
        let _named = self.room.naming(digest).await;
        let now_ms = self.clock.now_ms();
        let Some(change) = self.metadata.link_blob(repo, digest, provenance, now_ms).await? else {
            return Ok(false);
        };
        if let Some(after) = Holding::of(&change.after) {
            self.room.change(change.before.as_ref().and_then(Holding::of), after);
        }
        Ok(true)
    }

    /// What a repository's quota has to have room for before it shows a stored blob. To be asked for before the blob's name is
    /// held: room may have to be made for it, and whoever makes room waits for names.
    async fn promise_link(&self, repo: &RepositoryName, digest: &Digest) -> Result<Option<QuotaPromise>, Error> {
        let Link::Unlinked(row) = self.metadata.find_link(repo, digest).await? else { return Ok(None) };
        // What is about to be shown is not what goes for it.
        let _pin = self.room.pin(*digest);
        self.room.promise_quota(repo, row.stored_bytes).await
    }

    /// [`Depot::link`] for who pulls it there. What the quota has no room for is served all the same, and whoever pulls it next has to
    /// prove again that it may.
    pub async fn link_pulled(&self, repo: &RepositoryName, digest: &Digest) -> Result<(), Error> {
        match self.link(repo, digest, Provenance::Cached).await {
            Ok(_) | Err(Error::OverQuota { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
