//! The system calls of the store, each failing with the path it was about.
#![expect(clippy::disallowed_methods, reason = "this is the room of the file system")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Error, FileSize};
use crate::fault;

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

/// Makes a system call that concerns `path`, and names both if it fails.
fn call<T>(operation: &'static str, path: &Path, call: impl FnOnce() -> io::Result<T>) -> Result<T, Error> {
    fault::before(operation, path).and_then(|()| call()).map_err(Error::io(operation, path))
}

/// As [`call`]; a file that is not there is none.
fn call_if_there<T>(
    operation: &'static str,
    path: &Path,
    call: impl FnOnce() -> io::Result<T>,
) -> Result<Option<T>, Error> {
    match fault::before(operation, path).and_then(|()| call()) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(operation, path)(error)),
    }
}

/// Disk space that a file takes, in bytes: its blocks, not its length.
pub fn allocated_bytes(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(call("reading the size of", path, || file.metadata())?.blocks() * STAT_BLOCK_BYTES)
}

pub(super) fn path_allocated_bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.blocks() * STAT_BLOCK_BYTES)
}

/// Length, disk space and time of the last write of a file; `None` if it is gone.
pub(super) fn path_size(path: &Path) -> Option<FileSize> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(FileSize {
        length_bytes: metadata.len(),
        stored_bytes: metadata.blocks() * STAT_BLOCK_BYTES,
        written_ms: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
    })
}

/// Which file a name means, by device and inode; `None` if there is none.
pub(super) fn identity(path: &Path) -> Result<Option<(u64, u64)>, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("looking at", path)(error)),
    }
}

/// The same of a file that is open.
pub(super) fn identity_of(file: &File, path: &Path) -> Result<(u64, u64), Error> {
    let metadata = call("looking at", path, || file.metadata())?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Takes the lock of a store; `None` if somebody has it.
pub(super) fn lock(path: &Path) -> Result<Option<File>, Error> {
    let file = call("opening", path, || OpenOptions::new().create(true).truncate(false).write(true).open(path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::io("locking", path)(errno.into())),
    }
}

/// Makes folders, parents first, and makes them durable.
pub(super) fn create_folders(root: &Path, folders: &[PathBuf]) -> Result<(), Error> {
    for folder in folders {
        call("making folder", folder, || std::fs::create_dir_all(folder))?;
    }
    let mut parents: Vec<&Path> = folders.iter().filter_map(|folder| folder.parent()).collect();
    parents.sort_unstable();
    parents.dedup();
    parents.into_iter().filter(|parent| parent.starts_with(root)).try_for_each(sync_folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = call("opening folder", path, || File::open(path))?;
    call("syncing folder", path, || folder.sync_all())
}

/// Makes the bytes of a file durable.
pub(super) fn sync(file: &File, path: &Path) -> Result<(), Error> {
    call("syncing", path, || file.sync_all())
}

/// Makes the bytes of a file durable, and of the rest what it takes to read them.
pub(super) fn sync_bytes(file: &File, path: &Path) -> Result<(), Error> {
    call("syncing", path, || file.sync_data())
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    call("renaming to", to, || std::fs::rename(from, to))
}

/// Gives a finished file its name, in a folder of the operator's. Durable when it returns. Returns its length in bytes.
pub fn publish(partial: &Path, target: &Path) -> Result<u64, Error> {
    let file = File::open(partial).map_err(Error::io("opening", partial))?;
    file.sync_all().map_err(Error::io("syncing", partial))?;
    rename(partial, target)?;
    sync_folder(target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(file.metadata().map_err(Error::io("reading the size of", target))?.len())
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    call_if_there("removing", path, || std::fs::remove_file(path)).map(|_| ())
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    call_if_there("reading", path, || std::fs::read(path))
}

/// Makes an empty file; that it is there already is fine.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    call("making", path, || File::create(path)).map(|_| ())
}

/// Replaces a small file so that a crash leaves the old one or the new one.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let staged = path.with_extension("new");
    let mut file = call("making", &staged, || File::create(&staged))?;
    call("writing", &staged, || file.write_all(bytes).and_then(|()| file.sync_all()))?;
    fault::point("start: marker written");
    rename(&staged, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// As [`write_durably`], for a file that nobody but our user may read at any moment.
pub(super) fn write_privately(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let staged = path.with_extension("new");
    // One that is there already has the rights that it has.
    remove(&staged)?;
    let open = || OpenOptions::new().create_new(true).write(true).mode(0o600).open(&staged);
    let mut file = call("making", &staged, open)?;
    call("writing", &staged, || file.write_all(bytes).and_then(|()| file.sync_all()))?;
    rename(&staged, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

pub(super) fn open_read(path: &Path) -> Result<Option<File>, Error> {
    call_if_there("opening", path, || File::open(path))
}

pub(super) fn open_staging(path: &Path) -> Result<(File, u64), Error> {
    let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let file = call("opening", path, open)?;
    let length_bytes = call("reading the size of", path, || file.metadata())?.len();
    Ok((file, length_bytes))
}

/// Writes over a part of a file.
pub(super) fn write_at(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    call("writing", path, || file.write_all_at(bytes, offset))
}

/// Cuts a file that is longer than this.
pub(super) fn shorten(file: &File, path: &Path, length_bytes: u64) -> Result<(), Error> {
    if call("reading the size of", path, || file.metadata())?.len() > length_bytes {
        call("shortening", path, || file.set_len(length_bytes))?;
    }
    Ok(())
}

pub(super) fn preallocate(file: &File, path: &Path, length_bytes: u64) -> Result<bool, Error> {
    if length_bytes == 0 {
        return Ok(true);
    }
    call("taking space for", path, || match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length_bytes) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    })
}

/// Gives back the blocks beyond a file's end.
pub(super) fn trim(file: &File, path: &Path) -> Result<(), Error> {
    let metadata = call("reading the size of", path, || file.metadata())?;
    if metadata.blocks() * STAT_BLOCK_BYTES >= metadata.len().saturating_add(SPARE_BYTES) {
        call("trimming", path, || file.set_len(metadata.len()))?;
    }
    Ok(())
}

pub(super) fn file_system(path: &Path) -> Result<FileSystemSize, Error> {
    let found = call("reading the file system of", path, || Ok(rustix::fs::statvfs(path)?))?;
    Ok(FileSystemSize { total_bytes: found.f_blocks * found.f_frsize, free_bytes: found.f_bavail * found.f_frsize })
}

/// Everything in a folder; a folder that is not there has nothing in it.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let Some(entries) = call_if_there("listing", folder, || std::fs::read_dir(folder))? else { return Ok(Vec::new()) };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("listing", folder))).collect()
}
