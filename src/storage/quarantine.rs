//! Bytes that are not what their name says: moved out of the way, so that nobody reads them, and kept for whoever wants to know.

use std::path::PathBuf;

use super::{Error, Inspection, Store, fs, keys};
use crate::oci::Digest;

/// What lies in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// What it should have been.
    pub digest: Digest,
    /// When it was found to be something else, Unix milliseconds.
    pub found_ms: i64,
    /// Disk space it takes, in bytes.
    pub stored_bytes: u64,
    path: PathBuf,
}

impl Store {
    /// Opens a committed blob to be read through; `None` if its file is not there.
    pub fn inspect(&self, digest: &Digest) -> Result<Option<Inspection>, Error> {
        Inspection::open(&self.blob_path(digest))
    }

    /// Moves a blob's file into quarantine; durable when it returns. Whoever has it open reads on. `None` if there is no file.
    pub fn quarantine(&self, digest: &Digest, found_ms: i64) -> Result<Option<Quarantined>, Error> {
        let (from, path) = (self.blob_path(digest), keys::quarantined(&self.root, digest, found_ms));
        let Some(stored_bytes) = fs::path_allocated_bytes(&from) else { return Ok(None) };
        fs::rename(&from, &path)?;
        fs::sync_folder(&keys::quarantine(&self.root))?;
        fs::sync_folder(from.parent().unwrap_or(&self.root))?;
        Ok(Some(Quarantined { digest: *digest, found_ms, stored_bytes, path }))
    }

    /// What lies in quarantine, the oldest first. Names that are not ours are passed over.
    pub fn list_quarantined(&self) -> Result<Vec<Quarantined>, Error> {
        let mut found: Vec<Quarantined> = fs::list(&keys::quarantine(&self.root))?
            .into_iter()
            .filter_map(|path| {
                let (found_ms, digest) = keys::parse_quarantined(path.file_name()?.to_str()?)?;
                let stored_bytes = fs::path_allocated_bytes(&path)?;
                Some(Quarantined { digest, found_ms, stored_bytes, path })
            })
            .collect();
        found.sort_by_key(|quarantined| (quarantined.found_ms, quarantined.digest));
        Ok(found)
    }

    /// Removes what lies in quarantine.
    pub fn remove_quarantined(&self, quarantined: &Quarantined) -> Result<(), Error> {
        fs::remove(&quarantined.path)
    }
}
