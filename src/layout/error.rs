//! What can be wrong with a layout.

use std::io;
use std::path::{Path, PathBuf};

use crate::oci::Digest;

/// Why a layout could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation} {what}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The directory has other things in it.
    #[error("{} is not empty and is no OCI image layout (it has no oci-layout): name an empty or a new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// There is no layout.
    #[error("{what} is no OCI image layout: it has no {missing}")]
    NoLayout {
        /// Where one was expected.
        what: String,
        /// The file that would make it one.
        missing: &'static str,
    },
    /// `index.json` says nothing.
    #[error("index.json is not valid: {reason}")]
    Index {
        /// What is wrong with it.
        reason: String,
    },
    /// A part is larger than any such part is.
    #[error("{what} says it has {size_bytes} bytes, of which at most {max_bytes} are read")]
    TooLarge {
        /// The part.
        what: String,
        /// Its length.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// An archive that no honest program writes.
    #[error("the archive is refused: its member \"{member}\" {problem}")]
    Member {
        /// The member, shortened.
        member: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The bytes are not what they are named after.
    #[error("blob {expected} is corrupt: its bytes have digest {actual}")]
    Mismatch {
        /// What they should be.
        expected: Digest,
        /// What they are.
        actual: Digest,
    },
    /// The length is not what was said.
    #[error("blob {digest} has {actual_bytes} bytes where {stated_bytes} were stated")]
    Length {
        /// The blob.
        digest: Digest,
        /// What was stated.
        stated_bytes: u64,
        /// What came.
        actual_bytes: u64,
    },
}

impl Error {
    pub(super) fn io(operation: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { operation, what, source }
    }

    pub(super) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(operation, path.display().to_string())
    }
}
