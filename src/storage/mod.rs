//! Bytes under keys on the local file system: the layout of a store, its marker and its lock.
//!
//! Writing follows one order everywhere: bytes into a file of `staging/`, fsync, rename to the final name, fsync of the
//! folder. A crash before the rename leaves a staging file, which start-up removes or continues; after it, the blob.

mod front;
mod fs;
mod inspection;
mod issuance;
mod keys;
mod listing;
mod marker;
mod names;
mod quarantine;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault;
use crate::oci::{Digest, UploadId};

pub use front::FrontRecord;
pub use fs::{FileSystemSize, allocated_bytes, publish};
pub use inspection::Inspection;
pub use issuance::Issuance;
pub use listing::{BlobFiles, FileSize, StagedFiles};
pub use quarantine::Quarantined;

/// Why the store could not do something. Every variant names the path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done: `opening`, `renaming`, …
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process serves this store.
    #[error("the store {} is in use by another process: stop it, or choose another storage.path", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// A folder with other things in it.
    #[error("{} is not empty and is no entrepot store (it has no entrepot.json): choose an empty folder as storage.path", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// There is no store, and none may be made.
    #[error("there is no store at {} and storage.create is false: is its disk mounted?", path.display())]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// There is no store to look through.
    #[error("there is no store at {} (storage.path)", path.display())]
    NoStore {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The marker is damaged or of another program.
    #[error("{} is not the marker of an entrepot store: {reason}", path.display())]
    Marker {
        /// The marker file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A store of a later version.
    #[error("the store {} has format {found}, this version knows format {known}: use the version that wrote it", path.display())]
    Format {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The folder that was opened is somewhere else, or gone.
    #[error("the store {} is not what was opened there: is its disk unmounted, or was it moved? Put it back, or start anew", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Blobs are there but the index that says what they are is not.
    #[error(
        "the store {} has lost its index {}: run `entrepot scrub --repair`, which rebuilds it from what is stored, \
         or put a backup in its place",
        path.display(),
        index.display()
    )]
    IndexMissing {
        /// The store.
        path: PathBuf,
        /// The file that should be there.
        index: PathBuf,
    },
}

impl Error {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    /// Did the disk fail to give bytes that it should have?
    pub fn is_damage(&self) -> bool {
        let errno = match self {
            Self::Io { source, .. } => rustix::io::Errno::from_io_error(source),
            _ => None,
        };
        // EUCLEAN and EBADMSG: the file system's own checksums say so.
        matches!(errno, Some(rustix::io::Errno::IO | rustix::io::Errno::UCLEAN | rustix::io::Errno::BADMSG))
    }

    /// Did it fail because the file system is full?
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded)
    }
}

/// An open store. One process at a time has it; dropping it gives the lock back.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// The kernel releases the lock with the file, also when the process is killed.
    lock: File,
    names: names::NameFile,
}

/// What start-up found in `staging/fills`.
#[derive(Debug, Clone, Copy)]
pub struct PartialFill {
    /// The blob that was being fetched.
    pub digest: Digest,
    /// Disk space it takes, in bytes.
    pub stored_bytes: u64,
}

fn has_index(root: &Path) -> bool {
    fs::path_size(&keys::index(root)).is_some_and(|size| size.length_bytes > 0)
}

/// Removes an unfinished file, if there is one.
pub fn discard(partial: &Path) -> Result<(), Error> {
    fs::remove(partial)
}

impl Store {
    /// Opens the store at `root`, making it if the folder is missing or empty and `create` allows that.
    pub fn open(root: &Path, create: bool) -> Result<Self, Error> {
        let state = marker::read(root)?;
        if state == marker::State::Empty && !create {
            return Err(Error::Missing { path: root.to_owned() });
        }
        fs::create_folders(root, &[root.to_owned()])?;
        let lock = fs::lock(&keys::lock(root))?.ok_or_else(|| Error::Locked { path: root.to_owned() })?;
        match state {
            marker::State::Ours if !has_index(root) => {
                return Err(Error::IndexMissing { path: root.to_owned(), index: keys::index(root) });
            }
            // An earlier release made none.
            marker::State::Ours => fs::create_folders(root, &[keys::quarantine(root), keys::naming_folder(root)])?,
            marker::State::Empty => fs::create_folders(root, &keys::folders(root))?,
        }
        fault::point("start: store opened");
        Ok(Self { root: root.to_owned(), lock, names: names::NameFile::default() })
    }

    /// Opens a store to look through it or to mend it, whatever became of its index. It must be one.
    pub fn open_unserved(root: &Path) -> Result<Self, Error> {
        if !root.exists() || marker::read(root)? == marker::State::Empty {
            return Err(Error::NoStore { path: root.to_owned() });
        }
        let lock = fs::lock(&keys::lock(root))?.ok_or_else(|| Error::Locked { path: root.to_owned() })?;
        fs::create_folders(root, &[keys::quarantine(root), keys::naming_folder(root)])?;
        Ok(Self { root: root.to_owned(), lock, names: names::NameFile::default() })
    }

    /// Is there an index? An empty file is none: the database would take it for a new one.
    pub fn has_index(&self) -> bool {
        has_index(&self.root)
    }

    /// Writes the marker, once the index exists too: a crash before this leaves a folder that the next start takes for new.
    /// A store that has one is left alone: it must open on a full disk too.
    pub fn mark_complete(&self) -> Result<(), Error> {
        if keys::marker(&self.root).exists() { Ok(()) } else { marker::write(&self.root) }
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of the index of a store that is not open here; `None` if there is none.
    pub fn index_at(root: &Path) -> Option<PathBuf> {
        Some(keys::index(root)).filter(|index| index.exists())
    }

    /// The file of the index.
    pub fn index_path(&self) -> PathBuf {
        keys::index(&self.root)
    }

    /// The file of a committed blob.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        keys::blob(&self.root, digest)
    }

    /// The file a fill writes.
    pub fn fill_path(&self, digest: &Digest) -> PathBuf {
        keys::fill(&self.root, digest)
    }

    /// The file an upload session writes.
    pub fn upload_path(&self, id: &UploadId) -> PathBuf {
        keys::upload(&self.root, id)
    }

    /// A new file for a small blob on its way in.
    pub fn put_path(&self) -> PathBuf {
        keys::put(&self.root)
    }

    /// Makes staged bytes durable, under their staging name.
    pub fn sync(&self, file: &File, staged: &Path) -> Result<(), Error> {
        fs::sync(file, staged)?;
        fault::point("blob: synced");
        Ok(())
    }

    /// Makes durable staged bytes a blob: a note that this is under way, rename, fsync of the folder. Returns the disk space
    /// the blob takes, in bytes. A crash before the rename leaves the staging file; after it, a blob that the index may not
    /// name yet, which the note leads the next start to: [`Store::list_noted`]. The note is on the disk before the new name
    /// is, because file systems keep the order of such changes. Whoever records the blob calls [`Store::forget_note`] then.
    pub fn name(&self, file: &File, staged: &Path, digest: &Digest) -> Result<u64, Error> {
        let target = self.blob_path(digest);
        fs::create(&keys::naming(&self.root, digest))?;
        fault::point("blob: noted");
        fs::rename(staged, &target)?;
        fault::point("blob: named");
        fs::sync_folder(target.parent().unwrap_or(&self.root))?;
        fault::point("blob: durable");
        allocated_bytes(file, &target)
    }

    /// The index has the blob, or its file is gone.
    pub fn forget_note(&self, digest: &Digest) -> Result<(), Error> {
        fs::remove(&keys::naming(&self.root, digest))
    }

    /// Blobs that got their names, without anybody having noted that the index has them too. Files with foreign names are
    /// removed.
    pub fn list_noted(&self) -> Result<Vec<Digest>, Error> {
        let mut found = Vec::new();
        for path in fs::list(&keys::naming_folder(&self.root))? {
            match path.file_name().and_then(|name| name.to_str()).and_then(keys::parse_digest) {
                Some(digest) => found.push(digest),
                None => fs::remove(&path)?,
            }
        }
        Ok(found)
    }

    /// Opens a file for reading; `None` if it is not there.
    pub fn open_read(&self, path: &Path) -> Result<Option<File>, Error> {
        fs::open_read(path)
    }

    /// Opens a staging file for writing, making it if need be, and says how many bytes are in it.
    pub fn open_staging(&self, path: &Path) -> Result<(File, u64), Error> {
        fs::open_staging(path)
    }

    /// Takes disk blocks for `length_bytes` without changing the file's length, so that a later write cannot run out of
    /// space. False if the file system cannot do this: it is left to fail at the write.
    pub fn preallocate(&self, file: &File, path: &Path, length_bytes: u64) -> Result<bool, Error> {
        fs::preallocate(file, path, length_bytes)
    }

    /// Gives back the blocks that were taken for a file and lie beyond its end.
    pub fn trim(&self, file: &File, path: &Path) -> Result<(), Error> {
        fs::trim(file, path)
    }

    /// Removes a file; that it is gone already is fine.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        fs::remove(path)
    }

    /// Begins to record how much of a staged file has no gap.
    pub fn record_front(&self, staged: &Path, front_bytes: u64) -> Result<FrontRecord, Error> {
        FrontRecord::create(staged, front_bytes)
    }

    /// The staged file has no gap any more.
    pub fn forget_front(&self, staged: &Path) -> Result<(), Error> {
        fs::remove(&keys::front(staged))
    }

    /// Cuts a staged file down to what has no gap, if that was recorded.
    pub fn settle_front(&self, file: &File, staged: &Path) -> Result<(), Error> {
        front::settle(file, staged)
    }

    /// Removes a staged file and what is recorded of it.
    pub fn remove_staged(&self, staged: &Path) -> Result<(), Error> {
        fs::remove(staged)?;
        fs::remove(&keys::front(staged))
    }

    /// Is the folder still the one that was opened? Where it is not, what is missing says nothing, and nothing must be removed.
    pub fn assert_there(&self) -> Result<(), Error> {
        let path = keys::lock(&self.root);
        let is_there = fs::identity(&path)? == Some(fs::identity_of(&self.lock, &path)?);
        if is_there { Ok(()) } else { Err(Error::Gone { path: self.root.clone() }) }
    }

    /// Tries whether the store is still there and takes bytes.
    pub fn try_write(&self) -> Result<(), Error> {
        self.assert_there()?;
        let probe = self.put_path();
        let tried = fs::open_staging(&probe).and_then(|(file, _)| fs::write_at(&file, &probe, 0, &[0; 512]));
        fs::remove(&probe)?;
        tried
    }

    /// Size and free space of the file system under the store.
    pub fn file_system(&self) -> Result<FileSystemSize, Error> {
        fs::file_system(&self.root)
    }

    /// Disk space the index takes, in bytes.
    pub fn index_bytes(&self) -> u64 {
        let files = keys::index_files(&self.root).into_iter().chain(keys::index_files(&keys::quarantine(&self.root)));
        files.chain([keys::names(&self.root)]).filter_map(|path| fs::path_allocated_bytes(&path)).sum()
    }

    /// Moves what there is of the index into quarantine, in the place of what was set aside before.
    pub fn set_index_aside(&self) -> Result<(), Error> {
        let aside = keys::quarantine(&self.root);
        for (from, to) in keys::index_files(&self.root).iter().zip(keys::index_files(&aside)) {
            fs::remove(&to)?;
            if from.exists() {
                fs::rename(from, &to)?;
            }
        }
        fs::sync_folder(&aside)?;
        fs::sync_folder(&self.root)
    }

    /// Partial fills that an earlier process left, each cut down to what has no gap. Files with foreign names are removed.
    pub fn list_partial_fills(&self) -> Result<Vec<PartialFill>, Error> {
        let mut found = Vec::new();
        let folder = self.root.join("staging/fills");
        for record in fs::list(&folder)? {
            let Some(staged) = keys::of_front(&record) else { continue };
            if staged.exists() {
                front::settle(&fs::open_staging(&staged)?.0, &staged)?;
            }
        }
        for path in fs::list(&folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match keys::parse_digest(name) {
                Some(digest) => {
                    found.push(PartialFill { digest, stored_bytes: fs::path_allocated_bytes(&path).unwrap_or(0) });
                }
                None => fs::remove(&path)?,
            }
        }
        Ok(found)
    }

    /// Upload sessions with a file, and the disk space it takes in bytes. Files with foreign names are removed.
    pub fn list_upload_files(&self) -> Result<Vec<(UploadId, u64)>, Error> {
        let mut found = Vec::new();
        for path in fs::list(&self.root.join("staging/uploads"))? {
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            match id {
                Some(id) => found.push((id, fs::path_allocated_bytes(&path).unwrap_or(0))),
                None => fs::remove(&path)?,
            }
        }
        Ok(found)
    }

    /// Removes the small blobs that a crash left on their way in.
    pub fn clear_puts(&self) -> Result<(), Error> {
        fs::list(&self.root.join("staging/puts"))?.iter().try_for_each(|path| fs::remove(path))
    }
}

#[cfg(test)]
mod tests;
