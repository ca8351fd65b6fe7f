//! Looks whether stored blobs are what their names say, and forgets what is kept in memory of those that are not.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fills::Depot;
use super::flights::Flights;
use super::{Error, Memory, Verified};
use crate::blobs::ReadRate;
use crate::oci::Digest;

/// How fast a blob is read that somebody asked to be checked: a tenth of what a disk gives, and nothing to wait long for.
const ON_DEMAND_BYTES_PER_SECOND: u64 = 256 << 20;

/// The checks of one server.
pub struct Verifier {
    depot: Arc<Depot>,
    memory: Arc<Memory>,
    checks: Flights<Digest, Result<Verified, Error>>,
    /// Checks on demand run one at a time: together they would be as fast as they like.
    turn: Arc<Semaphore>,
}

impl Verifier {
    /// Over what is in the store.
    pub fn new(depot: Arc<Depot>, memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self { depot, memory, checks: Flights::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Checks a blob now, once for all who ask, and also for a client that does not wait for it.
    pub async fn verify_now(self: &Arc<Self>, digest: Digest) -> Result<Verified, Error> {
        let checked = self.checks.run(digest, || {
            let this = Arc::clone(self);
            async move {
                let _turn = this.turn.acquire().await.map_err(|_| Error::Stopped)?;
                this.verify(digest, &mut ReadRate::new(ON_DEMAND_BYTES_PER_SECOND)).await
            }
        });
        checked.await.0.unwrap_or(Err(Error::Stopped))
    }

    /// Checks a blob at the caller's rate.
    pub async fn verify(&self, digest: Digest, rate: &mut ReadRate) -> Result<Verified, Error> {
        let verified = self.depot.room.verify(digest, rate).await;
        self.forget(digest, verified)
    }

    /// Looks again at a blob whose file was found to be missing or of another length.
    pub async fn verify_length(&self, digest: Digest) -> Result<Verified, Error> {
        let verified = self.depot.room.verify_length(digest).await;
        self.forget(digest, verified)
    }

    fn forget(&self, digest: Digest, verified: Result<Verified, Error>) -> Result<Verified, Error> {
        if !matches!(verified, Ok(Verified::Sound)) {
            self.memory.forget_bytes(&digest);
        }
        verified
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}
