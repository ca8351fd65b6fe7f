//! Files being written: one per fill, one per upload session.

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Error, blocking};
use crate::fault;
use crate::oci::{Algorithm, Digester};
use crate::storage::{self, Store};

/// Slices that one call may write: the system's own limit.
const IOV_MAX: usize = 1024;
/// Bytes read at a time when a file is read through.
const READ_BYTES: usize = 256 << 10;

/// A file in `staging/`. Its length is how far it has come, also after a crash: it is appended to, and where a fill writes ahead of
/// its front, that front is recorded beside it, and what lies beyond goes when the fill ends or the next process starts.
#[derive(Clone, Debug)]
pub struct Staging {
    pub(super) store: Arc<Store>,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) length_bytes: u64,
}

impl Staging {
    pub(super) async fn open(store: Arc<Store>, path: PathBuf) -> Result<Self, Error> {
        blocking("opening a staging file", move || {
            let (file, length_bytes) = store.open_staging(&path).map_err(Error::Storage)?;
            Ok(Self { store, path, file: Arc::new(file), length_bytes })
        })
        .await
    }

    /// How many bytes are in the file.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// A handle for readers; it stays good over a commit and over a removal.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Forgets what lies beyond the front, gives back the blocks beyond it, and returns how many bytes there are then. Nothing may write meanwhile. No reader
    /// has been told of what goes.
    pub async fn settle(&self) -> Result<u64, Error> {
        let (store, file, path) = (Arc::clone(&self.store), Arc::clone(&self.file), self.path.clone());
        blocking("settling a staging file", move || {
            // It has got its blob's name, or none: there is nothing here to go on with.
            if !path.exists() {
                return Ok(0);
            }
            store.settle_front(&file, &path).map_err(Error::Storage)?;
            store.trim(&file, &path).map_err(Error::Storage)?;
            length_bytes(&file, &path)
        })
        .await
    }

    /// Disk space the file takes by now, in bytes.
    pub async fn allocated_bytes(&self) -> Result<u64, Error> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking("measuring a staging file", move || storage::allocated_bytes(&file, &path).map_err(Error::Storage))
            .await
    }

    /// Takes disk space for a file of this length. False if the file system cannot do this.
    pub async fn preallocate(&self, length_bytes: u64) -> Result<bool, Error> {
        let (store, file, path) = (Arc::clone(&self.store), Arc::clone(&self.file), self.path.clone());
        blocking("taking space for a staging file", move || {
            store.preallocate(&file, &path, length_bytes).map_err(Error::Storage)
        })
        .await
    }

    /// Removes the file; whoever has it open reads on.
    pub async fn remove(&self) -> Result<(), Error> {
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        blocking("removing a staging file", move || store.remove_staged(&path).map_err(Error::Storage)).await
    }

    /// Digests what is in the file.
    pub(super) async fn digest(&self, algorithm: Algorithm) -> Result<Digester, Error> {
        let (file, path, length_bytes) = (Arc::clone(&self.file), self.path.clone(), self.length_bytes);
        blocking("reading a staging file", move || {
            let mut digester = Digester::new(algorithm);
            digest_range(&file, &path, &mut digester, 0..length_bytes)?;
            Ok(digester)
        })
        .await
    }

    /// Digests a part of the file. Blocks.
    pub(super) fn digest_range(&self, digester: &mut Digester, range: Range<u64>) -> Result<(), Error> {
        digest_range(&self.file, &self.path, digester, range)
    }
}

pub(super) fn digest_range(file: &File, path: &Path, digester: &mut Digester, range: Range<u64>) -> Result<(), Error> {
    fault::before("reading", path).map_err(failed("reading", path))?;
    let mut piece = vec![0; READ_BYTES];
    let mut position = range.start;
    while position < range.end {
        let left = usize::try_from(range.end - position).unwrap_or(READ_BYTES).min(READ_BYTES);
        let piece = &mut piece[..left];
        file.read_exact_at(piece, position).map_err(failed("reading", path))?;
        digester.update(piece);
        position += left as u64;
    }
    Ok(())
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Storage(storage::Error::Io { operation, path, source })
}

pub(super) fn length_bytes(file: &File, path: &Path) -> Result<u64, Error> {
    fault::before("reading the size of", path)
        .and_then(|()| file.metadata())
        .map(|metadata| metadata.len())
        .map_err(failed("reading the size of", path))
}

/// Writes chunks one behind the other, in as few and as large calls as the system allows: the page cache keeps what is
/// written together in larger pieces, which are cheaper to send.
pub(super) fn write_at(file: &File, path: &Path, offset: u64, chunks: &[Bytes]) -> Result<(), Error> {
    fault::before("writing", path).map_err(failed("writing", path))?;
    let mut position = offset;
    for part in chunks.chunks(IOV_MAX) {
        let mut slices: Vec<IoSlice<'_>> = part.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut left = &mut slices[..];
        while left.iter().any(|slice| !slice.is_empty()) {
            let written = match rustix::io::pwritev(file, left, position) {
                Ok(0) => return Err(failed("writing", path)(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(failed("writing", path)(errno.into())),
            };
            position += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
    }
    Ok(())
}

pub(super) fn read_all(file: &File, path: &Path, size_bytes: u64) -> Result<Bytes, Error> {
    fault::before("reading", path).map_err(failed("reading", path))?;
    let mut bytes = vec![0; usize::try_from(size_bytes).expect("only small blobs are read into memory")];
    file.read_exact_at(&mut bytes, 0).map_err(failed("reading", path))?;
    Ok(bytes.into())
}
