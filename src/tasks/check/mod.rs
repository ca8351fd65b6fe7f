//! Is a store what its index says it is? Compares rows, files and sums, and says what differs; changes nothing.
//!
//! For a store at rest, or one that is served and has nothing under way: what is under way differs by its nature.

mod finding;
mod staging;

use std::collections::HashMap;

use crate::blobs::{self, Blobs};
use crate::cache::space::Sums;
use crate::metadata::{self, BlobRow, BlobState, Metadata};
use crate::oci::{Algorithm, Digest};
use crate::storage::{self, FileSize};

pub use finding::{Finding, Kind};

/// Findings beyond which a store is not looked at any further: it needs repair, not a longer list.
pub const FINDINGS_MAX: usize = 10_000;

/// How closely bytes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every file has its length.
    Lengths,
    /// Every file is read and has its digest.
    Digests,
}

/// Why a store could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index.
    #[error("checking the index")]
    Metadata(#[from] metadata::Error),
    /// A file.
    #[error("checking the blobs")]
    Blobs(#[from] blobs::Error),
    /// A folder.
    #[error("checking the store")]
    Storage(#[from] storage::Error),
}

/// What differs, at most [`FINDINGS_MAX`] and a few. `ledger` is what a running registry counts, if one runs.
pub async fn check(
    metadata: &Metadata,
    blobs: &Blobs,
    ledger: Option<Sums>,
    depth: Depth,
) -> Result<Vec<Finding>, Error> {
    let mut check = Check { metadata, blobs, findings: Vec::new() };
    for algorithm in Algorithm::ALL {
        for first in 0..=u8::MAX {
            check.folder(algorithm, first, depth).await?;
            if check.findings.len() >= FINDINGS_MAX {
                return Ok(check.findings);
            }
        }
    }
    let partial_bytes = check.staging().await?;
    check.index(ledger, partial_bytes).await?;
    Ok(check.findings)
}

struct Check<'a> {
    metadata: &'a Metadata,
    blobs: &'a Blobs,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// One folder of blobs against the rows whose files lie there.
    async fn folder(&mut self, algorithm: Algorithm, first: u8, depth: Depth) -> Result<(), Error> {
        let files = self.blobs.store().list_blob_files(algorithm, first)?;
        let mut sizes: HashMap<Digest, FileSize> = files.blobs.into_iter().collect();
        for path in files.foreign {
            self.found(Finding::Foreign { path });
        }
        for row in self.metadata.list_blobs_beginning(algorithm, first).await? {
            let size = if row.state == BlobState::Absent { None } else { sizes.remove(&row.digest) };
            match row.state {
                BlobState::Absent => {}
                BlobState::Deleting => self.found(Finding::Deleting { digest: row.digest }),
                BlobState::Present => self.present(&row, size, depth).await?,
            }
        }
        for (digest, size) in sizes {
            self.found(Finding::Unrecorded { digest, stored_bytes: size.stored_bytes });
        }
        Ok(())
    }

    async fn present(&mut self, row: &BlobRow, size: Option<FileSize>, depth: Depth) -> Result<(), Error> {
        let BlobRow { digest, pushed, .. } = *row;
        let Some(size) = size else {
            self.found(Finding::Missing { digest, pushed });
            return Ok(());
        };
        if size.length_bytes != row.size_bytes {
            let (expected_bytes, actual_bytes) = (row.size_bytes, size.length_bytes);
            self.found(Finding::Length { digest, pushed, expected_bytes, actual_bytes });
        } else if size.stored_bytes != row.stored_bytes {
            let (counted_bytes, actual_bytes) = (row.stored_bytes, size.stored_bytes);
            self.found(Finding::Space { digest, counted_bytes, actual_bytes });
        }
        if depth == Depth::Digests
            && let Some(actual) = self.blobs.digest(digest).await?.filter(|actual| *actual != digest)
        {
            self.found(Finding::Damaged { digest, pushed, actual });
        }
        Ok(())
    }

    /// The index against itself, and the ledger against both.
    async fn index(&mut self, ledger: Option<Sums>, partial_bytes: u64) -> Result<(), Error> {
        self.findings.extend(self.metadata.list_flaws(FINDINGS_MAX).await?.into_iter().map(Finding::Flaw));
        self.findings.extend(self.metadata.list_drift().await?.into_iter().map(Finding::Drift));
        let Some(sums) = ledger else { return Ok(()) };
        let totals = self.metadata.totals().await?;
        let quarantined = self.blobs.store().list_quarantined()?;
        let quarantined_bytes = quarantined.iter().map(|file| file.stored_bytes).sum();
        for (sum, kept_bytes, counted_bytes) in [
            ("cached", sums.cached, totals.cached_bytes),
            ("pushed", sums.pushed, totals.pushed_bytes),
            ("deleting", sums.deleting, totals.deleting_bytes),
            ("partial", sums.partial, partial_bytes),
            ("filling", sums.filling, 0),
            ("quarantined", sums.quarantined, quarantined_bytes),
        ] {
            if kept_bytes != counted_bytes {
                self.found(Finding::Ledger { sum, kept_bytes, counted_bytes });
            }
        }
        Ok(())
    }
}
