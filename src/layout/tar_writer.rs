//! A layout as a tar archive: `index.json` first, so that whoever reads it from a pipe knows what comes.
#![expect(clippy::disallowed_methods, reason = "an archive is written where the user says, outside of any store")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::{Entry, Error, INDEX, MARKER, MARKER_TEXT, blob_name, write_index};
use crate::oci::{Digest, Digester};

/// Members begin at multiples of this.
const BLOCK_BYTES: usize = 512;
/// Names up to this length stand in a header; longer ones (sha512) in one before it.
const NAME_BYTES_MAX: usize = 100;
/// Bytes written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A tar archive being written.
pub struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive with what it names.
    pub fn begin(out: W, entries: &[Entry]) -> Result<Self, Error> {
        let mut archive = Self { out };
        archive.small(MARKER, MARKER_TEXT)?;
        archive.small(INDEX, &write_index(entries))?;
        Ok(archive)
    }

    /// Begins a blob of exactly this length.
    pub fn blob(&mut self, digest: Digest, size_bytes: u64) -> Result<TarBlob<'_, W>, Error> {
        self.header(&blob_name(&digest), size_bytes)?;
        let digester = Digester::new(digest.algorithm());
        Ok(TarBlob { archive: self, digester, digest, size_bytes, length_bytes: 0 })
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W, Error> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        self.out.flush().map_err(Error::io("ending", "the archive"))?;
        Ok(self.out)
    }

    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.header(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn header(&mut self, name: &str, size_bytes: u64) -> Result<(), Error> {
        let failed = || Error::io("writing", name);
        let mut header = Header::new_ustar();
        let short = if name.len() > NAME_BYTES_MAX {
            // A builder would end the archive when it is dropped, also after an error.
            let mut before = Builder::new(Vec::new());
            before.append_pax_extensions([("path", name.as_bytes())]).map_err(failed())?;
            self.write(before.get_ref())?;
            &name[..NAME_BYTES_MAX]
        } else {
            name
        };
        header.set_path(short).map_err(failed())?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(size_bytes);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::io("writing", "the archive"))
    }

    fn pad(&mut self, length_bytes: u64) -> Result<(), Error> {
        let rest = length_bytes.next_multiple_of(BLOCK_BYTES as u64) - length_bytes;
        self.write(&[0; BLOCK_BYTES][..usize::try_from(rest).unwrap_or(0)])
    }
}

impl<W: Write> std::fmt::Debug for TarWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TarWriter")
    }
}

/// A tar archive in a file, which has its name once it is whole, or on its way through a pipe.
pub struct TarOut {
    archive: Option<TarWriter<Box<dyn Write>>>,
    file: Option<(File, PathBuf, PathBuf)>,
}

impl TarOut {
    /// Begins an archive in a file.
    pub fn create(path: &Path, entries: &[Entry]) -> Result<Self, Error> {
        let partial = path.with_added_extension("partial");
        let file = File::create(&partial).map_err(Error::at("making", &partial))?;
        let out = file.try_clone().map_err(Error::at("making", &partial))?;
        let mut this = Self { archive: None, file: Some((file, partial, path.to_owned())) };
        let out: Box<dyn Write> = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        this.archive = Some(TarWriter::begin(out, entries)?);
        Ok(this)
    }

    /// Begins an archive in a pipe.
    pub fn pipe(pipe: impl Write + 'static, entries: &[Entry]) -> Result<Self, Error> {
        let out: Box<dyn Write> = Box::new(BufWriter::with_capacity(BUFFER_BYTES, pipe));
        Ok(Self { archive: Some(TarWriter::begin(out, entries)?), file: None })
    }

    /// The archive.
    pub fn archive(&mut self) -> &mut TarWriter<Box<dyn Write>> {
        self.archive.as_mut().expect("it is taken when the archive ends")
    }

    /// Ends it; a file gets its name.
    pub fn finish(mut self) -> Result<(), Error> {
        if let Some(archive) = self.archive.take() {
            archive.finish()?;
        }
        let Some((file, partial, path)) = self.file.take() else { return Ok(()) };
        file.sync_all().map_err(Error::at("syncing", &partial))?;
        fs::rename(&partial, &path).map_err(Error::at("renaming to", &path))
    }
}

impl Drop for TarOut {
    fn drop(&mut self) {
        // Half an archive is none.
        if let Some((_, partial, _)) = &self.file {
            let _ = fs::remove_file(partial);
        }
    }
}

impl std::fmt::Debug for TarOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TarOut")
    }
}

/// A blob on its way into an archive.
#[derive(Debug)]
pub struct TarBlob<'a, W: Write> {
    archive: &'a mut TarWriter<W>,
    digester: Digester,
    digest: Digest,
    size_bytes: u64,
    length_bytes: u64,
}

impl<W: Write> TarBlob<'_, W> {
    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.length_bytes += bytes.len() as u64;
        if self.length_bytes > self.size_bytes {
            return Err(self.wrong_length());
        }
        self.digester.update(bytes);
        self.archive.write(bytes)
    }

    /// Ends the blob. After an error the archive is worth nothing.
    pub fn finish(self) -> Result<u64, Error> {
        if self.length_bytes != self.size_bytes {
            return Err(self.wrong_length());
        }
        self.archive.pad(self.size_bytes)?;
        let actual = self.digester.finish();
        if actual == self.digest { Ok(self.size_bytes) } else { Err(Error::Mismatch { expected: self.digest, actual }) }
    }

    fn wrong_length(&self) -> Error {
        Error::Length { digest: self.digest, stated_bytes: self.size_bytes, actual_bytes: self.length_bytes }
    }
}
