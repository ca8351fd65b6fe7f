//! The system calls of the store, each failing with the path it was about.
#![expect(clippy::disallowed_methods, reason = "this is the room of the file system")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Error, FileSize};

/// Size of a block of `st_blocks`, whatever the file system's own block size is (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Blocks beyond a file's end that are not worth giving back: less than file systems add by themselves.
const SPARE_BYTES: u64 = 64 << 10;

/// What `statvfs` says of the file system under the store, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct FileSystemSize {
    /// All of it.
    pub total_bytes: u64,
    /// Free for this process.
    pub free_bytes: u64,
}

/// Disk space that a file takes, in bytes: its blocks, not its length.
pub fn allocated_bytes(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(file.metadata().map_err(Error::io("reading the size of", path))?.blocks() * STAT_BLOCK_BYTES)
}

pub(super) fn path_allocated_bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.blocks() * STAT_BLOCK_BYTES)
}

/// Length and disk space of a file; `None` if it is gone.
pub(super) fn path_size(path: &Path) -> Option<FileSize> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(FileSize { length_bytes: metadata.len(), stored_bytes: metadata.blocks() * STAT_BLOCK_BYTES })
}

/// Which file a name means, by device and inode; `None` if there is none.
pub(super) fn identity(path: &Path) -> Result<Option<(u64, u64)>, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("looking at", path)(error)),
    }
}

/// Takes the lock of a store; `None` if somebody has it.
pub(super) fn lock(path: &Path) -> Result<Option<File>, Error> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(Error::io("opening", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::io("locking", path)(errno.into())),
    }
}

/// Makes folders, parents first, and makes them durable.
pub(super) fn create_folders(root: &Path, folders: &[PathBuf]) -> Result<(), Error> {
    for folder in folders {
        std::fs::create_dir_all(folder).map_err(Error::io("making folder", folder))?;
    }
    let mut parents: Vec<&Path> = folders.iter().filter_map(|folder| folder.parent()).collect();
    parents.sort_unstable();
    parents.dedup();
    parents.into_iter().filter(|parent| parent.starts_with(root)).try_for_each(sync_folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = File::open(path).map_err(Error::io("opening folder", path))?;
    folder.sync_all().map_err(Error::io("syncing folder", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::io("renaming to", to))
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading", path)(error)),
    }
}

/// Replaces a small file so that a crash leaves the old one or the new one.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let staged = path.with_extension("new");
    let mut file = File::create(&staged).map_err(Error::io("making", &staged))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("writing", &staged))?;
    rename(&staged, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

pub(super) fn open_read(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("opening", path)(error)),
    }
}

pub(super) fn open_staging(path: &Path) -> Result<(File, u64), Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::io("opening", path))?;
    let length_bytes = file.metadata().map_err(Error::io("reading the size of", path))?.len();
    Ok((file, length_bytes))
}

/// Cuts a file that is longer than this.
pub(super) fn shorten(file: &File, path: &Path, length_bytes: u64) -> Result<(), Error> {
    if file.metadata().map_err(Error::io("reading the size of", path))?.len() > length_bytes {
        file.set_len(length_bytes).map_err(Error::io("shortening", path))?;
    }
    Ok(())
}

pub(super) fn preallocate(file: &File, path: &Path, length_bytes: u64) -> Result<bool, Error> {
    if length_bytes == 0 {
        return Ok(true);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length_bytes) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(errno) => Err(Error::io("taking space for", path)(errno.into())),
    }
}

/// Gives back the blocks beyond a file's end.
pub(super) fn trim(file: &File, path: &Path) -> Result<(), Error> {
    let metadata = file.metadata().map_err(Error::io("reading the size of", path))?;
    if metadata.blocks() * STAT_BLOCK_BYTES >= metadata.len().saturating_add(SPARE_BYTES) {
        file.set_len(metadata.len()).map_err(Error::io("trimming", path))?;
    }
    Ok(())
}

pub(super) fn file_system(path: &Path) -> Result<FileSystemSize, Error> {
    let found =
        rustix::fs::statvfs(path).map_err(|errno| Error::io("reading the file system of", path)(errno.into()))?;
    Ok(FileSystemSize { total_bytes: found.f_blocks * found.f_frsize, free_bytes: found.f_bavail * found.f_frsize })
}

/// Everything in a folder; a folder that is not there has nothing in it.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing", folder)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("listing", folder))).collect()
}
