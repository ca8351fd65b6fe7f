//! Reading a file through to see whether it is sound, without pushing out of memory what others read.
//!
//! What is in the page cache already is read from there and left there; what is not is read from the disk and given back. So a
//! check of the whole store leaves the page cache as it found it, and bytes that nobody asks for are looked at on the disk.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::{Error, fs};

/// A file being read through, with a handle of its own: what is advised for it concerns no other reader.
#[derive(Debug)]
pub struct Inspection {
    file: File,
    path: PathBuf,
    length_bytes: u64,
}

impl Inspection {
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let Some(file) = fs::open_read(path)? else { return Ok(None) };
        let length_bytes = file.metadata().map_err(Error::io("reading the size of", path))?.len();
        // Only hints. Read-ahead would leave pages behind that look as if somebody wanted them.
        let _ = fadvise(&file, 0, None, Advice::Random);
        let _ = fadvise(&file, 0, None, Advice::NoReuse);
        Ok(Some(Self { file, path: path.to_owned(), length_bytes }))
    }

    /// Its length when it was opened, in bytes.
    pub const fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Does the name still mean this very file?
    pub fn is_in_place(&self) -> Result<bool, Error> {
        let ours = self.file.metadata().map_err(Error::io("reading the size of", &self.path))?;
        let Some(named) = fs::identity(&self.path)? else { return Ok(false) };
        Ok(named == (ours.dev(), ours.ino()))
    }

    /// Reads up to the buffer's length, less only at the end of the file. Blocks.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match self.read_some(&mut buffer[filled..], at).map_err(Error::io("reading", &self.path))? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let cached = preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
        match cached {
            Ok(read) => Ok(read),
            Err(Errno::WOULDBLOCK) => {
                let read = self.file.read_at(buffer, offset)?;
                let _ = fadvise(&self.file, offset, NonZeroU64::new(read as u64), Advice::DontNeed);
                Ok(read)
            }
            // A file system that cannot tell what is in memory: better to leave too much there than to take it from others.
            Err(_) => self.file.read_at(buffer, offset),
        }
    }
}
