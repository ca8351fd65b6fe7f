//! The whole of a store looked through: every file against its name and its row, every row against its file.
//!
//! For a store that nobody serves. With `repair` what is wrong is put right as far as it can be: damaged bytes are set aside, rows
//! without bytes say so, bytes without a row get one.

use super::Error;
use super::learn::{Nameless, describe, learn_names};
use crate::blobs::{Blobs, Damage, FileSize, ReadRate};
use crate::clock::Clock;
use crate::metadata::{BlobRow, BlobState, Metadata};
use crate::oci::{Algorithm, Digest};

/// Rows that one look at the index yields.
const PAGE: usize = 500;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The index's own file.
    Index {
        /// What is wrong with it.
        problem: String,
    },
    /// A blob's bytes are others, or fewer, or not there, or cannot be read.
    Damaged {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        damage: Damage,
        /// It was pushed, and can be brought back by a push only.
        pushed: bool,
    },
    /// Sound bytes that the index does not know of.
    Unrecorded {
        /// The blob.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
    },
    /// A file among the blobs that is none.
    Foreign {
        /// Where.
        path: String,
    },
    /// Lines of the record of names that cannot be read.
    NamesUnreadable {
        /// How many.
        lines: usize,
    },
    /// A name of pushed content whose bytes are not here.
    Nameless(Nameless),
    /// The sums in the index are not those of its rows.
    Sums,
}

/// What was looked at and found.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Files among the blobs.
    pub blobs: u64,
    /// Their length.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A store being looked through.
pub struct Stocktaking<'a> {
    blobs: &'a Blobs,
    /// `None` if the index cannot be read: then files are only held against their names.
    metadata: Option<&'a Metadata>,
    clock: Clock,
    repair: bool,
    found: Inventory,
}

impl<'a> Stocktaking<'a> {
    /// Over a store and its index, which is changed only with `repair`.
    pub fn new(blobs: &'a Blobs, metadata: Option<&'a Metadata>, clock: Clock, repair: bool) -> Self {
        Self { blobs, metadata, clock, repair, found: Inventory::default() }
    }

    /// Looks at everything, as fast as the disk allows. `progress` hears of blobs and bytes now and then.
    pub async fn run(mut self, mut progress: impl FnMut(u64, u64)) -> Result<Inventory, Error> {
        for algorithm in Algorithm::ALL {
            for first in 0..=u8::MAX {
                let files = self.blobs.list_files(algorithm, first).await?;
                for (digest, size) in files.blobs {
                    self.file(digest, size).await?;
                    progress(self.found.blobs, self.found.bytes);
                }
                let foreign = files.foreign.iter().map(|path| Finding::Foreign { path: path.display().to_string() });
                self.found.findings.extend(foreign);
            }
        }
        if let Some(metadata) = self.metadata {
            self.rows(metadata).await?;
            self.names(metadata).await?;
            if self.repair && metadata.recount().await? {
                self.found.findings.push(Finding::Sums);
            }
        }
        Ok(self.found)
    }

    async fn file(&mut self, digest: Digest, file: FileSize) -> Result<(), Error> {
        self.found.blobs += 1;
        self.found.bytes += file.length_bytes;
        let row = match self.metadata {
            Some(metadata) => metadata.find_blob(&digest).await?,
            None => None,
        };
        // What is being deleted is dealt with at the next start.
        if row.as_ref().is_some_and(|row| row.state == BlobState::Deleting) {
            return Ok(());
        }
        let row = row.filter(BlobRow::is_present);
        let size_bytes = row.as_ref().map_or(file.length_bytes, |row| row.size_bytes);
        let checked = self.blobs.check(digest, size_bytes, &mut ReadRate::new(u64::MAX)).await?;
        if let Some(damage) = checked.damage {
            let pushed = row.as_ref().is_some_and(|row| row.pushed);
            self.found.findings.push(Finding::Damaged { digest, damage, pushed });
            if let Some(metadata) = self.metadata.filter(|_| self.repair) {
                self.blobs.quarantine(digest, checked, self.clock.now_ms()).await?;
                metadata.mark_lost(&digest, damage.as_str(), self.clock.now_ms()).await?;
            }
        } else if let Some(metadata) = self.metadata.filter(|_| row.is_none()) {
            self.found.findings.push(Finding::Unrecorded { digest, size_bytes: file.length_bytes });
            if self.repair {
                metadata.record_found(&describe(self.blobs, digest, file).await?).await?;
            }
        }
        Ok(())
    }

    /// Rows that say that bytes are here which are not.
    async fn rows(&mut self, metadata: &Metadata) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = metadata.list_present(after.as_ref(), PAGE).await?;
            for (digest, size_bytes) in &page {
                // Any other damage was found with the file.
                let damage = self.blobs.check_length(*digest, *size_bytes).await?.damage;
                if damage != Some(Damage::Missing) {
                    continue;
                }
                let pushed = metadata.find_blob(digest).await?.is_some_and(|row| row.pushed);
                self.found.findings.push(Finding::Damaged { digest: *digest, damage: Damage::Missing, pushed });
                if self.repair {
                    metadata.mark_lost(digest, Damage::Missing.as_str(), self.clock.now_ms()).await?;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }

    /// What the record of names knows and the index does not.
    async fn names(&mut self, metadata: &Metadata) -> Result<(), Error> {
        let Some(names) = metadata.names_to_learn().filter(|_| self.repair) else { return Ok(()) };
        if names.unreadable > 0 {
            self.found.findings.push(Finding::NamesUnreadable { lines: names.unreadable });
        }
        let nameless = learn_names(metadata, self.blobs, &names, self.clock.now_ms()).await?;
        self.found.findings.extend(nameless.into_iter().map(Finding::Nameless));
        Ok(())
    }
}
