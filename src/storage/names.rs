//! The record of names: a file of lines beside the index, appended to and now and then written anew.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::{Error, Store, fs, keys};

/// The record of one store, open for appending once it has been.
#[derive(Debug, Default)]
pub(super) struct NameFile(Mutex<Option<(File, u64)>>);

impl Store {
    /// All of the record; `None` if there is none.
    pub fn read_names(&self) -> Result<Option<Vec<u8>>, Error> {
        fs::read(&keys::names(&self.root))
    }

    /// Adds lines to the record; durable when it returns. If that fails the record is as before, as far as the disk lets it.
    pub fn append_names(&self, lines: &[u8]) -> Result<(), Error> {
        let path = keys::names(&self.root);
        let mut open = self.names.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, length) = match &mut *open {
            Some(open) => open,
            none => {
                let opened = fs::open_staging(&path)?;
                // Its name, should this have made it.
                fs::sync_folder(&self.root)?;
                none.insert(opened)
            }
        };
        match fs::write_at(file, &path, *length, lines).and_then(|()| fs::sync_bytes(file, &path)) {
            Ok(()) => {
                *length += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would be told by its checksum; this only tidies up.
                let _ = file.set_len(*length);
                *open = None;
                Err(error)
            }
        }
    }

    /// Replaces the record; durable when it returns.
    pub fn replace_names(&self, lines: &[u8]) -> Result<(), Error> {
        let mut open = self.names.0.lock().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        fs::write_durably(&keys::names(&self.root), lines)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
