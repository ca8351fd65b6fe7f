//! What lies in a store, as the file system has it: for whoever compares it with the index. Nothing here changes a file.

use std::path::PathBuf;

use super::{Error, Store, fs, keys};
use crate::oci::{Algorithm, Digest, UploadId};

/// A file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSize {
    /// Its length.
    pub length_bytes: u64,
    /// Disk space it takes.
    pub stored_bytes: u64,
    /// When it was last written, Unix milliseconds.
    pub written_ms: i64,
}

/// The files of one folder of blobs.
#[derive(Debug, Default)]
pub struct BlobFiles {
    /// Those named by a digest that belongs there.
    pub blobs: Vec<(Digest, FileSize)>,
    /// Those that no version of this program puts there.
    pub foreign: Vec<PathBuf>,
}

/// The files in `staging/`.
#[derive(Debug, Default)]
pub struct StagedFiles {
    /// Fills, by their blob.
    pub fills: Vec<(Digest, FileSize)>,
    /// Records of how far a fill has come without a gap.
    pub fronts: Vec<PathBuf>,
    /// Upload sessions.
    pub uploads: Vec<(UploadId, FileSize)>,
    /// Small blobs on their way in.
    pub puts: Vec<PathBuf>,
    /// What no version of this program puts there.
    pub foreign: Vec<PathBuf>,
}

impl Store {
    /// The blobs whose digest begins with this byte: one folder. What vanishes meanwhile is not listed.
    pub fn list_blob_files(&self, algorithm: Algorithm, first: u8) -> Result<BlobFiles, Error> {
        let mut found = BlobFiles::default();
        for path in fs::list(&keys::blob_folder(&self.root, algorithm, first))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digest = format!("{}:{name}", algorithm.as_str()).parse().ok();
            match digest.filter(|digest| self.blob_path(digest) == path) {
                Some(digest) => found.blobs.extend(fs::path_size(&path).map(|size| (digest, size))),
                None => found.foreign.push(path),
            }
        }
        Ok(found)
    }

    /// A blob's file, whatever the index says of it.
    pub fn find_blob_file(&self, digest: &Digest) -> Option<FileSize> {
        fs::path_size(&self.blob_path(digest))
    }

    /// What is on its way in, or was left behind by something that ended.
    pub fn list_staged(&self) -> Result<StagedFiles, Error> {
        let mut found = StagedFiles::default();
        for path in fs::list(&self.root.join("staging/fills"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if keys::of_front(&path).is_some() {
                found.fronts.push(path);
            } else if let Some(digest) = keys::parse_digest(name) {
                found.fills.extend(fs::path_size(&path).map(|size| (digest, size)));
            } else {
                found.foreign.push(path);
            }
        }
        for path in fs::list(&self.root.join("staging/uploads"))? {
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            match id {
                Some(id) => found.uploads.extend(fs::path_size(&path).map(|size| (id, size))),
                None => found.foreign.push(path),
            }
        }
        found.puts = fs::list(&self.root.join("staging/puts"))?;
        Ok(found)
    }
}
