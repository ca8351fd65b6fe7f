//! What came through a pipe before anybody knew what it was for, in a file without a name: it ends with the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use super::{Error, Part};
use crate::oci::Digest;

/// Parts of an archive that wait on the disk, in the system's folder for temporary files.
#[derive(Debug, Default)]
pub struct Spool {
    file: Option<File>,
    end: u64,
    parts: HashMap<Digest, (u64, u64)>,
}

impl Spool {
    /// Keeps a part.
    pub fn keep(&mut self, digest: Digest, size_bytes: u64, reader: &mut dyn Read) -> Result<(), Error> {
        let failed = || Error::io("keeping", format!("{digest} in a temporary file (TMPDIR says where)"));
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile().map_err(failed())?),
        };
        file.seek(SeekFrom::Start(self.end)).map_err(failed())?;
        let kept_bytes = io::copy(&mut reader.take(size_bytes), file).map_err(failed())?;
        if kept_bytes != size_bytes {
            return Err(Error::Length { digest, stated_bytes: size_bytes, actual_bytes: kept_bytes });
        }
        self.parts.insert(digest, (self.end, size_bytes));
        self.end += size_bytes;
        Ok(())
    }

    /// A part that was kept. One part is read at a time.
    pub fn part(&self, digest: &Digest) -> Result<Option<Part>, Error> {
        let (Some(file), Some((start, size_bytes))) = (&self.file, self.parts.get(digest)) else { return Ok(None) };
        let failed = || Error::io("reading", format!("{digest} from a temporary file"));
        let mut file = file.try_clone().map_err(failed())?;
        file.seek(SeekFrom::Start(*start)).map_err(failed())?;
        Ok(Some((*size_bytes, Box::new(file.take(*size_bytes)))))
    }
}
