//! OCI image layouts (image-spec, "OCI Image Layout"): written and read as a directory or a tar archive, byte for byte.
//!
//! What leaves is compared with its digest on the way. What comes is found by its digest and never unpacked under a name of
//! the archive's choosing; whoever takes it in compares the digest again.

mod directory;
mod error;
mod index;
mod member;
mod spool;
mod tar_reader;
mod tar_writer;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use crate::oci::Digest;

pub use directory::{Directory, Landing};
pub use error::Error;
pub use index::{Entry, IMAGE_NAME, REF_NAME, parse_index, write_index};
pub use member::Member;
pub use spool::Spool;
pub use tar_reader::{TarFile, read_members};
pub use tar_writer::{TarOut, TarWriter};

/// Bytes of `index.json` that are read: hundreds of thousands of names.
pub const INDEX_BYTES_MAX: u64 = 256 << 20;

/// The file that says what the directory is.
const MARKER: &str = "oci-layout";
const MARKER_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The file that names what is in it.
const INDEX: &str = "index.json";

/// Where a layout keeps a blob.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// A blob's length and its bytes, of which none is compared with anything yet.
pub type Part = (u64, Box<dyn Read>);

/// A layout whose parts can be read in any order.
#[derive(Debug)]
pub enum Layout {
    /// In a directory.
    Directory(Directory),
    /// In a tar file.
    File(TarFile),
}

impl Layout {
    /// Opens what is at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() { Directory::open(path).map(Self::Directory) } else { TarFile::open(path).map(Self::File) }
    }

    /// The bytes of `index.json`.
    pub fn index(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Directory(directory) => directory.index_bytes(),
            Self::File(file) => file.index_bytes(),
        }
    }

    /// A blob; `None` if it is not there.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Part>, Error> {
        match self {
            Self::Directory(directory) => directory.blob(digest),
            Self::File(file) => file.blob(digest),
        }
    }
}

/// Reads at most `max_bytes` from a part that says it has `size_bytes`.
fn read_bounded(what: &str, size_bytes: u64, max_bytes: u64, reader: impl Read) -> Result<Vec<u8>, Error> {
    let too_large = || Error::TooLarge { what: what.to_owned(), size_bytes, max_bytes };
    if size_bytes > max_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    reader.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("reading", what))?;
    if bytes.len() as u64 > max_bytes { Err(too_large()) } else { Ok(bytes) }
}

/// The bytes of an `index.json` that says it has so many.
pub fn read_index(size_bytes: u64, reader: impl Read) -> Result<Vec<u8>, Error> {
    read_bounded(INDEX, size_bytes, INDEX_BYTES_MAX, reader)
}

/// A list of digests, one a line.
#[expect(clippy::disallowed_methods, reason = "a list that the user names, outside of any store")]
pub fn read_digests(path: &Path) -> Result<HashSet<Digest>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::at("reading", path))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        line.parse().map_err(|invalid: crate::oci::DigestInvalid| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, invalid);
            Error::at("reading", path)(source)
        })
    });
    parsed.collect()
}

/// Reads a manifest and compares it with its digest: nothing is believed of bytes that are not what they are named after.
pub fn read_manifest(digest: &Digest, size_bytes: u64, max_bytes: u64, reader: impl Read) -> Result<Vec<u8>, Error> {
    let bytes = read_bounded(&digest.to_string(), size_bytes, max_bytes, reader)?;
    let actual = Digest::of(digest.algorithm(), &bytes);
    if actual == *digest { Ok(bytes) } else { Err(Error::Mismatch { expected: *digest, actual }) }
}
