//! The record of names as whoever writes it holds it: without keeping the store, and its lock, from being given back.

use std::io;
use std::sync::{Arc, Weak};

use super::Blobs;
use crate::storage::Store;

/// The record of names of a store that is open elsewhere. Every method blocks, and fails once the store is closed.
#[derive(Clone, Debug)]
pub struct NameFile(Weak<Store>);

impl Blobs {
    /// The record of names beside the blobs.
    pub fn name_file(&self) -> NameFile {
        NameFile(Arc::downgrade(&self.store))
    }
}

impl NameFile {
    /// All of it; `None` if there is none.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.store()?.read_names()?)
    }

    /// Adds lines; durable when it returns.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        Ok(self.store()?.append_names(lines)?)
    }

    /// Replaces all of it; durable when it returns.
    pub fn replace(&self, lines: &[u8]) -> io::Result<()> {
        Ok(self.store()?.replace_names(lines)?)
    }

    fn store(&self) -> io::Result<Arc<Store>> {
        self.0.upgrade().ok_or_else(|| io::Error::other("the store is closed"))
    }
}
