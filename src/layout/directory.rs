//! A layout in a directory. An interrupted export leaves whole blobs and at most one `….partial` beside them, and goes on
//! from there; `index.json` is written last, so that what it names is there.
#![expect(clippy::disallowed_methods, reason = "a layout is written where the user says, outside of any store")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use super::{
    Entry, Error, INDEX, INDEX_BYTES_MAX, MARKER, MARKER_TEXT, Part, blob_name, parse_index, read_bounded, write_index,
};
use crate::oci::{Algorithm, Digest, Digester};

/// Bytes digested at a time.
const PIECE_BYTES: usize = 256 << 10;

/// A layout in a directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

/// A blob on its way into a directory.
#[derive(Debug)]
pub struct Landing {
    file: File,
    digester: Digester,
    length_bytes: u64,
    digest: Digest,
    partial: PathBuf,
    path: PathBuf,
}

impl Directory {
    /// Makes a layout, or takes one up that is there.
    pub fn create(root: &Path) -> Result<Self, Error> {
        let marker = root.join(MARKER);
        let is_empty = || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        if root.exists() && !marker.exists() && !is_empty() {
            return Err(Error::Foreign { path: root.to_owned() });
        }
        for algorithm in Algorithm::ALL {
            let folder = root.join("blobs").join(algorithm.as_str());
            fs::create_dir_all(&folder).map_err(Error::at("making", &folder))?;
        }
        fs::write(&marker, MARKER_TEXT).map_err(Error::at("writing", &marker))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Opens a layout.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for missing in [MARKER, INDEX] {
            if !root.join(missing).exists() {
                return Err(Error::NoLayout { what: root.display().to_string(), missing });
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(super) fn index_bytes(&self) -> Result<Vec<u8>, Error> {
        let path = self.root.join(INDEX);
        let file = File::open(&path).map_err(Error::at("opening", &path))?;
        let size_bytes = file.metadata().map_err(Error::at("measuring", &path))?.len();
        read_bounded(INDEX, size_bytes, INDEX_BYTES_MAX, file)
    }

    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Part>, Error> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("opening", &path)(error)),
        };
        let metadata = file.metadata().map_err(Error::at("measuring", &path))?;
        if !metadata.is_file() {
            return Err(Error::Member { member: blob_name(digest), problem: "is neither a file nor a folder" });
        }
        Ok(Some((metadata.len(), Box::new(file))))
    }

    /// Is the blob here, whole? It is read through: a file that is not what it is named after is removed.
    pub fn holds(&self, digest: &Digest) -> Result<bool, Error> {
        let Some((_, mut file)) = self.blob(digest)? else { return Ok(false) };
        let path = self.path(digest);
        let mut digester = Digester::new(digest.algorithm());
        digest_all(&mut file, &mut digester).map_err(Error::at("reading", &path))?;
        let holds = digester.finish() == *digest;
        if !holds {
            fs::remove_file(&path).map_err(Error::at("removing", &path))?;
        }
        Ok(holds)
    }

    /// Begins a blob, or takes up what an interrupted export left of it.
    pub fn begin(&self, digest: &Digest) -> Result<Landing, Error> {
        let path = self.path(digest);
        let partial = path.with_extension("partial");
        let opened = OpenOptions::new().create(true).truncate(false).read(true).append(true).open(&partial);
        let mut file = opened.map_err(Error::at("opening", &partial))?;
        let mut digester = Digester::new(digest.algorithm());
        let length_bytes = digest_all(&mut file, &mut digester).map_err(Error::at("reading", &partial))?;
        Ok(Landing { file, digester, length_bytes, digest: *digest, partial, path })
    }

    /// Takes a blob over from a file of the same machine: shared by a hard link if that is wanted, as a copy on write where
    /// the file system can. False if it could not, and nothing is left.
    pub fn share(&self, digest: &Digest, from: &Path, by_link: bool) -> Result<bool, Error> {
        let (path, staged) = (self.path(digest), self.path(digest).with_extension("partial"));
        let _ = fs::remove_file(&staged);
        let is_shared = if by_link { fs::hard_link(from, &staged).is_ok() } else { reflink(from, &staged) };
        if !is_shared {
            let _ = fs::remove_file(&staged);
            return Ok(false);
        }
        let mut digester = Digester::new(digest.algorithm());
        let mut file = File::open(&staged).map_err(Error::at("opening", &staged))?;
        digest_all(&mut file, &mut digester).map_err(Error::at("reading", &staged))?;
        let actual = digester.finish();
        if actual != *digest {
            let _ = fs::remove_file(&staged);
            return Err(Error::Mismatch { expected: *digest, actual });
        }
        fs::rename(&staged, &path).map_err(Error::at("renaming to", &path))?;
        Ok(true)
    }

    /// Makes everything durable, and then names it. What the layout named before stays, but for names that are given anew.
    pub fn finish(&self, entries: &[Entry]) -> Result<(), Error> {
        let (path, staged) = (self.root.join(INDEX), self.root.join("index.json.partial"));
        let before = if path.exists() { parse_index(&self.index_bytes()?)? } else { Vec::new() };
        let is_replaced = |old: &Entry| entries.iter().any(|new| old.name().is_some() && old.name() == new.name());
        let mut all: Vec<Entry> =
            before.into_iter().filter(|old| !is_replaced(old) && !entries.contains(old)).collect();
        all.extend_from_slice(entries);
        let mut file = File::create(&staged).map_err(Error::at("making", &staged))?;
        file.write_all(&write_index(&all)).map_err(Error::at("writing", &staged))?;
        rustix::fs::syncfs(&file).map_err(|errno| Error::at("syncing", &self.root)(errno.into()))?;
        fs::rename(&staged, &path).map_err(Error::at("renaming to", &path))?;
        let folder = File::open(&self.root).map_err(Error::at("opening", &self.root))?;
        folder.sync_all().map_err(Error::at("syncing", &self.root))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_name(digest))
    }
}

impl Landing {
    /// How many bytes are there already.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Forgets what is there: whoever sends it begins anew.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::at("shortening", &self.partial))?;
        (self.length_bytes, self.digester) = (0, Digester::new(self.digest.algorithm()));
        Ok(())
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::at("writing", &self.partial))?;
        self.digester.update(bytes);
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives the blob its name, if it is what it should be; else nothing stays of it.
    pub fn finish(self) -> Result<u64, Error> {
        let actual = self.digester.finish();
        if actual != self.digest {
            fs::remove_file(&self.partial).map_err(Error::at("removing", &self.partial))?;
            return Err(Error::Mismatch { expected: self.digest, actual });
        }
        fs::rename(&self.partial, &self.path).map_err(Error::at("renaming to", &self.path))?;
        Ok(self.length_bytes)
    }
}

fn digest_all(reader: &mut impl Read, digester: &mut Digester) -> io::Result<u64> {
    let (mut piece, mut length_bytes) = (vec![0; PIECE_BYTES], 0);
    loop {
        let n = reader.read(&mut piece)?;
        if n == 0 {
            return Ok(length_bytes);
        }
        digester.update(&piece[..n]);
        length_bytes += n as u64;
    }
}

fn reflink(from: &Path, to: &Path) -> bool {
    let (Ok(from), Ok(to)) = (File::open(from), File::create(to)) else { return false };
    rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}
