//! A layout in a tar archive, read where its members lie: from a file in any order, from a pipe as they come.
#![expect(clippy::disallowed_methods, reason = "a layout is read from where the user says, outside of any store")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use tar::Archive;

use super::{Error, INDEX, INDEX_BYTES_MAX, Member, Part, read_bounded};
use crate::oci::Digest;

/// Where a member's bytes are.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start: u64,
    size_bytes: u64,
}

/// A layout in a tar file. It was read through once for where everything is.
#[derive(Debug)]
pub struct TarFile {
    path: PathBuf,
    index: Extent,
    blobs: HashMap<Digest, Extent>,
}

impl TarFile {
    /// Finds out what is in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::at("opening", path))?;
        let length_bytes = file.metadata().map_err(Error::at("measuring", path))?.len();
        let (mut index, mut blobs) = (None, HashMap::new());
        let mut archive = Archive::new(file);
        let mut seen = Seen::default();
        for entry in archive.entries_with_seek().map_err(Error::at("reading", path))? {
            let entry = entry.map_err(Error::at("reading", path))?;
            let member = Member::of(&entry.path_bytes(), entry.header().entry_type())?;
            let extent = Extent { start: entry.raw_file_position(), size_bytes: entry.size() };
            let is_inside = extent.start.checked_add(extent.size_bytes).is_some_and(|end| end <= length_bytes);
            if !is_inside {
                let member = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                return Err(Error::Member { member, problem: "claims more bytes than the archive has" });
            }
            seen.note(member, &entry.path_bytes())?;
            match member {
                Member::Index => index = Some(extent),
                Member::Blob(digest) => {
                    blobs.insert(digest, extent);
                }
                Member::Marker | Member::Other => {}
            }
        }
        let index = index.ok_or_else(|| Error::NoLayout { what: path.display().to_string(), missing: INDEX })?;
        Ok(Self { path: path.to_owned(), index, blobs })
    }

    pub(super) fn index_bytes(&self) -> Result<Vec<u8>, Error> {
        read_bounded(INDEX, self.index.size_bytes, INDEX_BYTES_MAX, self.part(self.index)?)
    }

    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Part>, Error> {
        let Some(extent) = self.blobs.get(digest) else { return Ok(None) };
        Ok(Some((extent.size_bytes, Box::new(self.part(*extent)?))))
    }

    fn part(&self, extent: Extent) -> Result<io::Take<File>, Error> {
        let mut file = File::open(&self.path).map_err(Error::at("opening", &self.path))?;
        file.seek(SeekFrom::Start(extent.start)).map_err(Error::at("reading", &self.path))?;
        Ok(file.take(extent.size_bytes))
    }
}

/// Members that may come once only.
#[derive(Default)]
struct Seen {
    index: bool,
    blobs: std::collections::HashSet<Digest>,
}

impl Seen {
    fn note(&mut self, member: Member, path: &[u8]) -> Result<(), Error> {
        let is_first = match member {
            Member::Index => !std::mem::replace(&mut self.index, true),
            Member::Blob(digest) => self.blobs.insert(digest),
            Member::Marker | Member::Other => true,
        };
        let member = String::from_utf8_lossy(path).into_owned();
        if is_first { Ok(()) } else { Err(Error::Member { member, problem: "comes twice" }) }
    }
}

/// Hands every member of an archive that comes through a pipe to `take`, with its length and its bytes, in their order.
pub async fn read_members<E: From<Error>>(
    pipe: impl Read,
    mut take: impl AsyncFnMut(Member, u64, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let failed = || Error::io("reading", "the archive");
    let mut archive = Archive::new(pipe);
    let mut seen = Seen::default();
    for entry in archive.entries().map_err(failed())? {
        let mut entry = entry.map_err(failed())?;
        let member = Member::of(&entry.path_bytes(), entry.header().entry_type())?;
        seen.note(member, &entry.path_bytes())?;
        let size_bytes = entry.size();
        take(member, size_bytes, &mut entry).await?;
    }
    Ok(())
}
