//! Bytes that are not their blob: out of `blobs/`, out of the index, out of the hands of whoever reads them.
//!
//! ```text
//! file → quarantine/ (durable) ─ row absent (pushed: its loss remembered) ─ readers told ─ ledger
//! ```
//! A crash after the first step leaves a row whose file is missing, which whoever opens it next finds and records likewise.

use std::sync::Arc;

use tracing::{error, warn};

use super::Room;
use crate::blobs::{Checked, Damage, ReadRate};
use crate::cache::Error;
use crate::cache::flights::to_the_end;
use crate::cache::space::Holding;
use crate::metadata::BlobRow;
use crate::oci::Digest;

/// What came of looking at a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The index does not say that it is stored.
    Absent,
    /// It is what its name says.
    Sound,
    /// It was not, and is stored no more.
    SetAside {
        /// What was wrong.
        damage: Damage,
        /// It was pushed: nobody but a client can bring it back.
        pushed: bool,
    },
}

impl Room {
    /// Compares a stored blob with its digest, and sets it aside if it is something else.
    pub(in crate::cache) async fn verify(
        self: &Arc<Self>,
        digest: Digest,
        rate: &mut ReadRate,
    ) -> Result<Verified, Error> {
        // What is being looked at is not evicted meanwhile.
        let _pin = self.pin(digest);
        let Some(row) = self.metadata.find_blob(&digest).await?.filter(BlobRow::is_present) else {
            return Ok(Verified::Absent);
        };
        let checked = self.blobs.check(digest, row.size_bytes, rate).await?;
        self.judge(digest, checked).await
    }

    /// As [`Room::verify`], by nothing but whether the file is there and how long it is.
    pub(in crate::cache) async fn verify_length(self: &Arc<Self>, digest: Digest) -> Result<Verified, Error> {
        let Some(row) = self.metadata.find_blob(&digest).await?.filter(BlobRow::is_present) else {
            return Ok(Verified::Absent);
        };
        let checked = self.blobs.check_length(digest, row.size_bytes).await?;
        self.judge(digest, checked).await
    }

    async fn judge(self: &Arc<Self>, digest: Digest, checked: Checked) -> Result<Verified, Error> {
        let Some(damage) = checked.damage else { return Ok(Verified::Sound) };
        if damage == Damage::Missing {
            // Of an unmounted disk every file is missing.
            self.blobs.assert_there().await?;
        }
        let room = Arc::clone(self);
        let set_aside = to_the_end(async move { room.set_aside(digest, damage, checked).await });
        set_aside.await.unwrap_or(Err(Error::Stopped))
    }

    async fn set_aside(&self, digest: Digest, damage: Damage, checked: Checked) -> Result<Verified, Error> {
        let _named = self.naming(&digest).await;
        let Some(row) = self.metadata.find_blob(&digest).await?.filter(BlobRow::is_present) else {
            return Ok(Verified::Absent);
        };
        let now_ms = self.clock.now_ms();
        let Some(quarantined_bytes) = self.blobs.quarantine(digest, checked, now_ms).await? else {
            // A fill or a push has put proven bytes in its place.
            return Ok(Verified::Sound);
        };
        let recorded = self.metadata.mark_lost(&digest, damage.as_str(), now_ms).await;
        // Told also if the index cannot be: the file is out of its place already.
        self.ledger().condemn(&digest);
        recorded?;
        let held = Holding::of_present(row.stored_bytes, row.pushed);
        self.ledger().quarantine(held, quarantined_bytes);
        self.metrics.damaged(if row.pushed { "pushed" } else { "cached" }, damage.as_str());
        let finding = damage.as_str();
        if row.pushed {
            error!(%digest, finding, "a pushed blob is damaged and was set aside: push it again");
        } else {
            warn!(%digest, finding, "a cached blob is damaged, was set aside and will be fetched again");
        }
        self.settle_quarantine().await?;
        Ok(Verified::SetAside { damage, pushed: row.pushed })
    }

    /// Keeps what lies in quarantine within its limit: the oldest goes first. What was pushed and is lost stays, because those
    /// bytes may be all that is left of it; they took as much space before.
    pub(super) async fn settle_quarantine(&self) -> Result<(), Error> {
        let _alone = self.quarantining.lock().await;
        let (mut stored_bytes, mut removable) = (0, Vec::new());
        for quarantined in self.blobs.list_quarantined().await? {
            stored_bytes += quarantined.stored_bytes;
            if !self.metadata.is_lost(&quarantined.digest).await? {
                removable.push(quarantined);
            }
        }
        let mut removable_bytes: u64 = removable.iter().map(|quarantined| quarantined.stored_bytes).sum();
        for quarantined in removable {
            if removable_bytes <= self.quarantine_max_bytes {
                break;
            }
            removable_bytes -= quarantined.stored_bytes;
            stored_bytes -= quarantined.stored_bytes;
            self.blobs.remove_quarantined(quarantined).await?;
        }
        self.ledger().set_quarantined(stored_bytes);
        Ok(())
    }
}
